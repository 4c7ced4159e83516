"""Steps that arrange the candidates of a detector: levels and maps joined to one list, and its parts in order."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, Self

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.steps.candidates import NO_SCORE, PARTS, PLACES, WITH_CLASSES, WITH_PARTS
from pp_graph.steps.step import Accepts, Array, Step, as_float32, require_whole

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.operators.emitter import Emitter
    from pp_graph.values import ValueType

_F32, _I64 = np.dtype(np.float32), np.dtype(np.int64)
_LIST: Final = Accepts(axes=(*WITH_PARTS, *WITH_CLASSES), known_rank=True)
_OF_ONE_IMAGE: Final = ("KP", "KC")
_LEVEL: Final = Accepts(axes=(*WITH_PARTS, *WITH_CLASSES, *_OF_ONE_IMAGE), known_rank=True)


@dataclass(frozen=True)
class JoinCandidates(Step):
    """Join the candidates of several levels to one list, in order.

    Source: `numpy.concatenate`.

    Attributes:
        source: Name of the first level's candidates, float32, (N,K,P), (N,P,K) or (N,K,C), or of one image (K,P) or
            (K,C).
        target: Name of all candidates; they get an axis of images if they have none.
        others: Names of the other levels' candidates, of the same axes and parts.
        axes: Axes of the candidates; None until the step is bound.
        size: Number of parts or classes of candidates of one image; None until the step is bound.
    """

    pointwise: ClassVar[bool] = False
    settled: ClassVar[frozenset[str]] = frozenset({"axes", "size"})
    source: str
    target: str
    others: tuple[str, ...]
    axes: str | None = None
    size: int | None = None

    @property
    def accepts(self) -> tuple[Accepts, ...]:  # type: ignore[override]
        """Candidates of each level."""
        return (_LEVEL,) * len(self.reads)

    @property
    def reads(self) -> tuple[str, ...]:
        """The levels."""
        return (self.source, *self.others)

    @property
    def _axis(self) -> int:
        return (self.axes or "NKP").index("K")

    def bind(self, *values: ValueType) -> Self:
        """Bind the step to its inputs.

        Raises:
            PostProcessorError: Levels have different axes or numbers of parts.
        """
        for value in values[1:]:
            if value.axes != values[0].axes or value.resized(K=None) != values[0].resized(K=None):
                raise PostProcessorError(f"levels are {values[0]} and {value}, expected the same axes and parts.")
        axes = values[0].known_axes
        if axes not in _OF_ONE_IMAGE:
            return dataclasses.replace(self, axes=axes)
        if values[0].size(axes[1]) is None:
            raise PostProcessorError(f"the number of parts of {values[0]} is open, expected a known one.")
        return dataclasses.replace(self, axes=axes, size=values[0].size(axes[1]))

    def output_type(self, *values: ValueType) -> ValueType:
        """float32; all candidates."""
        sizes = [value.size("K") for value in values]
        known = [size for size in sizes if size is not None]
        joined = values[0].resized(K=sum(known) if len(known) == len(sizes) else None)
        return (
            joined
            if "N" in joined.axes
            else dataclasses.replace(joined, axes=f"N{joined.axes}", sizes=(1, *joined.sizes))
        )

    def reference(self, *arrays: Array) -> Array:
        """Join arrays."""
        joined = np.concatenate(arrays, axis=self._axis)
        return joined[None] if self.axes in _OF_ONE_IMAGE else joined

    def emit(self, op: Emitter, *values: ir.Value) -> ir.Value:
        """Write Concat, and Unsqueeze for an axis of images."""
        joined = op.concat(values, self._axis)
        return op.unsqueeze(joined, (0,)) if self.axes in _OF_ONE_IMAGE else joined


@dataclass(frozen=True)
class PadCandidates(Step):
    """Append candidates that hold one number, so that there are at least as many as a later step selects.

    Source: `numpy.pad`.

    Attributes:
        source: Name of the candidates, float32, (N,K,P), (N,P,K), (N,K,C) or (N,C,K).
        target: Name of the longer list; same axes.
        more: Number of candidates to append.
        value: The number, which must not pass as a score.
        axes: Axes of the candidates; None until the step is bound.
    """

    pointwise: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (_LIST,)
    source: str
    target: str
    more: int
    value: float = 0.0
    axes: str | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        require_whole(self.more, f"more of '{self.target}'", 1)
        as_float32(self.value, f"value of '{self.target}'")

    @property
    def _axis(self) -> int:
        return (self.axes or "NKP").index("K")

    def output_type(self, value: ValueType) -> ValueType:
        """float32; the longer list."""
        count = value.size("K")
        return value.resized(K=None if count is None else count + self.more)

    def reference(self, array: Array) -> Array:
        """Pad an array."""
        pads = [(0, self.more if axis == self._axis else 0) for axis in range(3)]
        return np.pad(array, pads, constant_values=np.float32(self.value))

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write Pad."""
        return op.pad_end(value, self._axis, self.more, rank=3, value=self.value)


@dataclass(frozen=True)
class FlattenMap(Step):
    """List the pixels of a map as candidates, row by row.

    Source: `numpy.reshape`; heads that predict at each pixel, such as CenterNet.

    Attributes:
        source: Name of the map, float32, (N,C,H,W).
        target: Name of the candidates, float32: scores (N,C,K), or with `parts` (N,P,K).
        parts: True if channels are parts of a candidate, not classes.
        channels: Number of channels; None until the step is bound.
    """

    pointwise: ClassVar[bool] = False
    keeps_scale: ClassVar[bool] = True
    accepts: ClassVar[tuple[Accepts, ...]] = (Accepts(axes=("NCHW",), known_rank=True),)
    settled: ClassVar[frozenset[str]] = frozenset({"channels"})
    source: str
    target: str
    parts: bool = False
    channels: int | None = None

    def bind(self, value: ValueType) -> Self:
        """Bind the step to its input.

        Raises:
            PostProcessorError: The number of channels is open.
        """
        if value.size("C") is None:
            raise PostProcessorError(f"the number of channels of {value} is open, expected a known one.")
        return dataclasses.replace(self, channels=value.size("C"))

    def output_type(self, value: ValueType) -> ValueType:
        """float32, (N,C,K) or (N,P,K)."""
        count = None if value.map_size is None else value.map_size[0] * value.map_size[1]
        sizes = (value.size("N"), value.size("C"), count)
        return dataclasses.replace(value, axes="NPK" if self.parts else "NCK", sizes=sizes)

    def reference(self, array: Array) -> Array:
        """Reshape an array."""
        return array.reshape(*array.shape[:2], -1)

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write Reshape."""
        assert self.channels is not None, "bind() sets it"
        return op.reshape(value, (0, self.channels, -1))


@dataclass(frozen=True)
class KeepPeaks(Step):
    """Keep the numbers of a map that none of the eight neighbours exceeds; `NO_SCORE` elsewhere and for NaN.

    Source: CenterNet (Zhou et al., "Objects as Points", 2019), which compares with a max pooling of 3x3.

    Attributes:
        source: Name of the map, float32, (N,C,H,W).
        target: Name of the peaks, same shape.
    """

    pointwise: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (Accepts(axes=("NCHW",), known_rank=True),)
    source: str
    target: str

    def reference(self, array: Array) -> Array:
        """Find the peaks of an array."""
        numbers = np.where(array > NO_SCORE, array, NO_SCORE)
        padded = np.pad(numbers, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=NO_SCORE)
        height, width = array.shape[2:]
        around = [padded[:, :, row : row + height, column : column + width] for row in range(3) for column in range(3)]
        return np.where(numbers < np.max(around, axis=0), NO_SCORE, numbers)

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write MaxPool and a comparison; Less is false for NaN in every runtime."""
        none = op.constant(NO_SCORE, "no_score")
        numbers = op.where(op.less(none, value), value, none)
        below = op.below_other(numbers, op.greatest_around(numbers, 3, 3), numbers)
        return op.where(below, none, numbers)


@dataclass(frozen=True)
class JoinParts(Step):
    """Join the parts of candidates from two values, in an order.

    Source: `numpy.concatenate` and indexing.

    Attributes:
        source: Name of the first parts, float32, (N,K,P) or (N,P,K).
        target: Name of the joined parts; same axes.
        other: Name of the further parts; same axes.
        order: Index of each resulting part among those of both.
        axes: Axes of the parts; None until the step is bound.
    """

    pointwise: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (PARTS, PARTS)
    source: str
    target: str
    other: str
    order: tuple[int, ...]
    axes: str | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        """Both values."""
        return (self.source, self.other)

    @property
    def _axis(self) -> int:
        return (self.axes or "NKP").index("P")

    def bind(self, value: ValueType, other: ValueType) -> Self:
        """Bind the step to its inputs.

        Raises:
            PostProcessorError: They have different axes, or too few parts.
        """
        parts = [each.size("P") for each in (value, other)]
        if value.axes != other.axes or None in parts or max(self.order) >= sum(size or 0 for size in parts):
            raise PostProcessorError(
                f"parts are {value} and {other}, expected the same axes and at least {max(self.order) + 1} parts."
            )
        return dataclasses.replace(self, axes=value.known_axes)

    def output_type(self, value: ValueType, other: ValueType) -> ValueType:
        """float32; the joined parts."""
        del other
        return value.resized(P=len(self.order))

    def reference(self, array: Array, other: Array) -> Array:
        """Join arrays."""
        return np.take(np.concatenate([array, other], self._axis), self.order, self._axis)

    def emit(self, op: Emitter, value: ir.Value, other: ir.Value) -> ir.Value:
        """Write Concat and Gather."""
        joined = op.concat([value, other], self._axis)
        shape = op.shape_of(joined)
        known = None if shape is None else (*shape[: self._axis], len(self.order), *shape[self._axis + 1 :])
        return op.gather(joined, op.constant(self.order, "order"), self._axis, known)


@dataclass(frozen=True)
class FlattenScores(Step):
    """List the score of each candidate and class, in the order of the axes.

    Source: `numpy.reshape`; detectors that return a box for each class that passes.

    Attributes:
        source: Name of the scores, float32, (N,K,C) or (N,C,K).
        target: Name of the list, float32, (N,K*C).
    """

    pointwise: ClassVar[bool] = False
    keeps_scale: ClassVar[bool] = True
    accepts: ClassVar[tuple[Accepts, ...]] = (Accepts(axes=WITH_CLASSES, known_rank=True),)
    source: str
    target: str

    def output_type(self, value: ValueType) -> ValueType:
        """float32, (N,K*C)."""
        classes, count = value.size("C"), value.size("K")
        pairs = None if classes is None or count is None else classes * count
        return value.reduced("C").resized(K=pairs)

    def reference(self, array: Array) -> Array:
        """Reshape an array."""
        return array.reshape(len(array), -1)

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write Reshape."""
        return op.reshape(value, (0, -1))


@dataclass(frozen=True)
class DivideIndices(Step):
    """Divide indices by a number, and take the quotient or the remainder.

    Source: `numpy.divmod`; the candidate and the class of an index in a flattened list.

    Attributes:
        source: Name of the indices, int64, (N,K), not negative.
        target: Name of the result, (N,K).
        divisor: The number.
        remainder: True for the remainder.
        number: True to return float32 instead of int64.
    """

    pointwise: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (PLACES,)
    source: str
    target: str
    divisor: int
    remainder: bool = False
    number: bool = False

    def __post_init__(self) -> None:
        """Check the number."""
        require_whole(self.divisor, f"divisor of '{self.target}'", 1)

    def output_type(self, value: ValueType) -> ValueType:
        """int64 or float32, (N,K)."""
        return value.as_dtype("float32" if self.number else "int64")

    def reference(self, array: Array) -> Array:
        """Divide an array."""
        quotient, remainder = np.divmod(array, self.divisor)
        return (remainder if self.remainder else quotient).astype(np.float32 if self.number else np.int64)

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write Div or Mod."""
        divisor = op.constant(np.int64(self.divisor), "divisor")
        result = op.node("Mod" if self.remainder else "Div", [value, divisor], {}, _I64, op.shape_of(value))
        return op.cast(result, _F32) if self.number else result
