"""Steps on sequences: from the most probable class at each time to the tokens of a text.

Connectionist temporal classification (CTC; Graves et al., 2006) lets a network name a class at each time, or the
blank. A text has one token for each run of equal classes other than the blank.

All results have a fixed size: as many tokens as there are times, the first of them used. Tokens are placed by comparing
all pairs of times rather than with CumSum, Scatter or TopK: these need later opsets, and TopK is not stable in
OpenVINO. That takes memory in proportion to the square of the times; 1,500 times are 9 MB for each image.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, Self

import numpy as np

from pp_graph.steps.step import Accepts, Array, Step, require_whole

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.operators.emitter import Emitter
    from pp_graph.values import Scale, ValueType

_FLOAT32, _INT64 = np.dtype(np.float32), np.dtype(np.int64)
_ALIKE: Final = np.float32(0.5)
"""Squared differences of whole numbers below this are 0."""
_TIMES = Accepts(dtypes=("int64",), axes=("NT",), known_rank=True)
_PLACES = Accepts(dtypes=("int64",), axes=("NK",), known_rank=True)


class TimeStep(Step):
    """Base class of steps that compare all pairs of times."""

    settled: ClassVar[frozenset[str]] = frozenset({"axes", "times"})
    pointwise: ClassVar[bool] = False

    def bind(self, *values: ValueType) -> Self:
        """Record the number of times; None if it is open."""
        return dataclasses.replace(self, times=values[0].size("T"))  # type: ignore[type-var]

    def all_times(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write the index of each time, float32, (T,); a constant if their number is known, as an NPU needs it."""
        times: int | None = getattr(self, "times", None)
        if times is not None:
            return op.array(np.arange(times, dtype=np.float32), "times")
        count = op.node("Slice", *_first_size(op, value), _INT64, (1,))
        ones = op.node("ConstantOfShape", [count], {"value": _true()}, np.dtype(np.bool_), (None,))
        return op.cast(op.places_of(ones), _FLOAT32)


def _true() -> ir.TensorProtocol:
    import onnx_ir as ir

    return ir.tensor(np.array([True]))


def _first_size(op: Emitter, value: ir.Value) -> tuple[list[ir.Value | None], dict[str, list[int]]]:
    """Inputs and attributes of the Slice that takes the second size of a value."""
    sizes: list[ir.Value | None] = [op.sizes_of(value)]
    if op.opset < 10:
        return sizes, {"starts": [1], "ends": [2], "axes": [0]}
    return [*sizes, *(op.constant((number,), name) for number, name in ((1, "start"), (2, "end"), (0, "axis")))], {}


def _same(op: Emitter, a: ir.Value, b: ir.Value, like: tuple[int | str | None, ...] | None) -> ir.Value:
    """Write whether whole numbers are equal; Equal takes no float32 before opset 11."""
    apart = op.node("Sub", [a, b], {}, _FLOAT32, like)
    return op.less(op.mul(apart, apart), op.constant(_ALIKE, "alike"))


@dataclass(frozen=True)
class BatchFirst(Step):
    """Move the batch ahead of the times: (T,N,C) to (N,T,C), as recurrent networks export.

    Source: `numpy.swapaxes(x, 0, 1)`.

    Attributes:
        source: Name of the numbers, float32, (T,N,C).
        target: Name of the same numbers, float32, (N,T,C).
    """

    pointwise: ClassVar[bool] = False
    keeps_scale: ClassVar[bool] = True
    accepts: ClassVar[tuple[Accepts, ...]] = (Accepts(axes=("TNC",), known_rank=True),)
    source: str
    target: str

    def output_type(self, value: ValueType) -> ValueType:
        """float32, (N,T,C)."""
        times, images, classes = value.sizes
        return dataclasses.replace(value, axes="NTC", sizes=(images, times, classes))

    def reference(self, array: Array) -> Array:
        """Transpose an array."""
        return np.asarray(array, np.float32).swapaxes(0, 1)

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write Transpose."""
        return op.transpose(value, (1, 0, 2))


@dataclass(frozen=True)
class CollapseRepeats(TimeStep):
    """Find the times at which the tokens of a text begin: those of a class that is neither blank nor that before it.

    Source: the best path of Graves et al., "Connectionist Temporal Classification", 2006, section 3.2;
    `itertools.groupby`, then the blank dropped.

    Attributes:
        source: Name of the class at each time, int64, (N,T).
        target: Name of the times, ascending, int64, (N,K) with K = T; -1 after the last token.
        blank: The class that stands for no token.
        times: Number of times; None if it is open, or until the step is bound.

    Raises:
        PostProcessorError: `blank` is not a whole number from 0.
    """

    accepts: ClassVar[tuple[Accepts, ...]] = (_TIMES,)
    source: str
    target: str
    blank: int = 0
    times: int | None = None

    def __post_init__(self) -> None:
        """Check the blank."""
        require_whole(self.blank, f"blank of '{self.target}'", 0)
        object.__setattr__(self, "blank", int(self.blank))

    def output_type(self, value: ValueType) -> ValueType:
        """int64, (N,K)."""
        return dataclasses.replace(value, axes="NK")

    def reference(self, array: Array) -> Array:
        """Find the times in an array."""
        kept = array != self.blank
        kept[:, 1:] &= array[:, 1:] != array[:, :-1]
        order = np.argsort(~kept, axis=1, kind="stable")
        return np.where(np.take_along_axis(kept, order, 1), order, -1).astype(np.int64)

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write the number of tokens before each time, which is its place; then look for the time of each place."""
        shape = op.shape_of(value)
        classes, one = op.cast(value, _FLOAT32), op.constant(np.float32(1), "one")
        # Above 0, so that the first time differs from the zero before it.
        named = op.add(classes, one)
        before = op.slice(op.pad_start(named, 1, 1, rank=2), (0,), (-1,), (1,), shape)
        again = _same(op, named, before, shape)
        blank = _same(op, classes, op.constant(np.float32(self.blank), "blank"), shape)
        kept = op.logical_not(op.logical_or(again, blank))
        none = op.constant(np.float32(0), "none")
        times = self.all_times(op, value)
        earlier = op.node("Less", [times, op.unsqueeze(times, (1,))], {}, np.dtype(np.bool_), (self.times,) * 2)
        counted = op.unsqueeze(op.where(kept, one, none), (1,))
        pairs = op.node("Where", [earlier, counted, none], {}, _FLOAT32, _paired(shape))
        place = op.reduce("ReduceSum", pairs, (2,))
        place = op.where(kept, place, op.constant(np.float32(-1), "dropped"))
        found = _same(op, op.unsqueeze(place, (1,)), op.unsqueeze(times, (1,)), _paired(shape))
        counted_from_one = op.node("Where", [found, op.add(times, one), none], {}, _FLOAT32, _paired(shape))
        return op.cast(op.sub(op.reduce("ReduceSum", counted_from_one, (2,)), one), _INT64)


def _paired(shape: tuple[int | str | None, ...] | None) -> tuple[int | str | None, ...] | None:
    """Shape of a value for each pair of times: (N,T) to (N,T,T)."""
    return None if shape is None else (shape[0], shape[1], shape[1])


@dataclass(frozen=True)
class GatherTimes(TimeStep):
    """Take the numbers at the times that another value lists.

    Source: `numpy.take_along_axis(x, places, 1)`, padded.

    Attributes:
        source: Name of the numbers, float32 or int64 of at most 2^24, (N,T).
        target: Name of the numbers at the listed times, (N,K); where no time is listed, -1 if they are int64, else 0.
        places: Name of the times, int64, (N,K), such as the result of `CollapseRepeats`.
        times: Number of times; None if it is open, or until the step is bound.
    """

    keeps_scale: ClassVar[bool] = True
    accepts: ClassVar[tuple[Accepts, ...]] = (
        Accepts(dtypes=("float32", "int64"), axes=("NT",), known_rank=True),
        _PLACES,
    )
    source: str
    target: str
    places: str
    times: int | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        """Numbers and times."""
        return (self.source, self.places)

    def output_type(self, value: ValueType, places: ValueType) -> ValueType:
        """The element type of the numbers, (N,K)."""
        return places.as_dtype(value.dtype)

    def reference(self, array: Array, places: Array) -> Array:
        """Take the numbers from an array."""
        padding = array.dtype.type(-1 if array.dtype == _INT64 else 0)
        return np.where(places < 0, padding, np.take_along_axis(array, np.maximum(places, 0), 1))

    def emit(self, op: Emitter, value: ir.Value, places: ir.Value) -> ir.Value:
        """Write the sum over the number of the listed time and zeros, which no runtime rounds."""
        whole = op.dtype_of(value) != _FLOAT32
        one = op.constant(np.float32(1), "one")
        numbers = op.add(op.cast(value, _FLOAT32), one) if whole else value
        listed = op.unsqueeze(op.cast(places, _FLOAT32), (2,))
        pairs = _paired(op.shape_of(places))
        found = _same(op, listed, self.all_times(op, value), pairs)
        none = op.constant(np.float32(0), "none")
        chosen = op.node("Where", [found, op.unsqueeze(numbers, (1,)), none], {}, _FLOAT32, pairs)
        total = op.reduce("ReduceSum", chosen, (2,))
        return op.cast(op.sub(total, one), _INT64) if whole else total


@dataclass(frozen=True)
class CountTokens(Step):
    """Count the listed times, which is the length of a text.

    Source: `(places >= 0).sum(1)`.

    Attributes:
        source: Name of the times, int64, (N,K), -1 where there is none.
        target: Name of the count, int64, (N,).
    """

    pointwise: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (_PLACES,)
    source: str
    target: str

    def output_type(self, places: ValueType) -> ValueType:
        """int64, (N,)."""
        return places.reduced("K")

    def reference(self, places: Array) -> Array:
        """Count in an array."""
        return np.asarray((places >= 0).sum(1), np.int64)

    def emit(self, op: Emitter, places: ir.Value) -> ir.Value:
        """Write a sum of ones."""
        return op.cast(_counted(op, places), _INT64)


def _counted(op: Emitter, places: ir.Value) -> ir.Value:
    below = op.less(op.cast(places, _FLOAT32), op.constant(np.float32(-_ALIKE), "below_all"))
    ones = op.where(below, op.constant(np.float32(0), "none"), op.constant(np.float32(1), "one"))
    return op.reduce("ReduceSum", ones, (1,))


@dataclass(frozen=True)
class MeanOfTokens(Step):
    """Average the numbers of the tokens of a text; 0 for a text without tokens.

    Source: the score of a line in PP-OCR (`CTCLabelDecode`), which also averages only the times it keeps.

    Attributes:
        source: Name of the numbers, float32, (N,K), 0 where there is no token.
        target: Name of the mean, float32, (N,).
        places: Name of the times of the tokens, int64, (N,K), -1 where there is none.
    """

    exact: ClassVar[bool] = False
    pointwise: ClassVar[bool] = False
    keeps_scale: ClassVar[bool] = True
    accepts: ClassVar[tuple[Accepts, ...]] = (Accepts(axes=("NK",), known_rank=True), _PLACES)
    source: str
    target: str
    places: str

    @property
    def reads(self) -> tuple[str, ...]:
        """Numbers and times."""
        return (self.source, self.places)

    def output_scale(self, *scales: Scale | None) -> Scale | None:
        """The range of the numbers."""
        return scales[0]

    def output_type(self, value: ValueType, places: ValueType) -> ValueType:
        """float32, (N,)."""
        del places
        return value.reduced("K")

    def reference(self, array: Array, places: Array) -> Array:
        """Average in float64 and round once."""
        count = np.maximum((places >= 0).sum(1), 1)
        return np.asarray(array.astype(np.float64).sum(1) / count, np.float32)

    def emit(self, op: Emitter, value: ir.Value, places: ir.Value) -> ir.Value:
        """Write a sum divided by the count, or by 1."""
        count, one = _counted(op, places), op.constant(np.float32(1), "one")
        return op.div(op.reduce("ReduceSum", value, (1,)), op.where(op.less(count, one), one, count))
