"""Steps on boxes and on lists of detections of fixed size."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.steps.candidates import BEST, NO_SCORE, PARTS, PLACES, require_gathering
from pp_graph.steps.step import Accepts, Array, Step, as_float32, require_one_of, require_whole

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.operators.emitter import Emitter
    from pp_graph.values import ValueType

BoxForm = Literal["xyxy", "xywh", "cxcywh"]
"""Form of a box: two corners, a corner and sizes, or the centre and sizes."""

_MOST = np.float32(2**24)
_F32, _I64 = np.dtype(np.float32), np.dtype(np.int64)
BOXES = Accepts(axes=("NKP",), known_rank=True)
"""Boxes, (N,K,4)."""


def check_boxes(value: ValueType, target: str) -> None:
    """Raise `PostProcessorError` unless candidates have four parts."""
    if value.size("P") != 4:
        raise PostProcessorError(f"'{target}' is computed from {value}, expected the four numbers of a box.")


@dataclass(frozen=True)
class ConvertBoxes(Step):
    """Convert boxes to another form, and scale them: corners first, then one multiplication.

    Source: `torchvision.ops.box_convert`.

    Attributes:
        source: Name of the boxes, float32, (N,K,4) or (N,4,K).
        target: Name of the converted boxes, float32, (N,K,4).
        form: Form of the input.
        to: Form of the result.
        scale: Factors of x and y, such as width and height of the image for boxes in [0, 1].
        axes: Axes of the boxes; None until the step is bound.

    Raises:
        PostProcessorError: A form is unknown, or a factor is not finite.
    """

    pointwise: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (PARTS,)
    source: str
    target: str
    form: BoxForm = "cxcywh"
    to: BoxForm = "xyxy"
    scale: tuple[float, float] = (1.0, 1.0)
    axes: str | None = None

    def __post_init__(self) -> None:
        """Check the forms."""
        for name in ("form", "to"):
            require_one_of(getattr(self, name), f"{name} of '{self.target}'", ("xyxy", "xywh", "cxcywh"))
        factors = tuple(float(as_float32(factor, f"scale of '{self.target}'")) for factor in self.scale)
        object.__setattr__(self, "scale", factors)

    def bind(self, value: ValueType) -> Self:
        """Bind the step to its input."""
        check_boxes(value, self.target)
        return dataclasses.replace(self, axes=value.known_axes)

    def output_type(self, value: ValueType) -> ValueType:
        """float32, (N,K,4)."""
        return dataclasses.replace(value, axes="NKP", sizes=(value.size("N"), value.size("K"), 4))

    def reference(self, array: Array) -> Array:
        """Convert an array."""
        with np.errstate(invalid="ignore", over="ignore"):
            parts = np.moveaxis(array.astype(np.float32), (self.axes or "NKP").index("P"), 0)
            low, high = parts[:2], parts[2:]
            half = np.float32(0.5)
            if self.form == self.to:
                pass
            elif self.form == "cxcywh":
                low, high = low - high * half, low + high * half
            elif self.form == "xywh":
                high = low + high
            if self.form == self.to:
                pass
            elif self.to == "cxcywh":
                low, high = low * half + high * half, high - low
            elif self.to == "xywh":
                high = high - low
            scaled = np.concatenate([low, high]) * np.array([*self.scale, *self.scale], np.float32)[:, None, None]
        return np.ascontiguousarray(np.moveaxis(scaled, 0, -1))

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write Slice, arithmetic and Concat."""
        axis = (self.axes or "NKP").index("P")
        if self.form != self.to:
            low, high = (op.slice(value, (start,), (start + 2,), (axis,)) for start in (0, 2))
            half = op.constant(np.float32(0.5), "half")
            if self.form == "cxcywh":
                reach = op.mul(high, half)
                low, high = op.sub(low, reach), op.add(low, reach)
            elif self.form == "xywh":
                high = op.add(low, high)
            if self.to == "cxcywh":
                low, high = op.add(op.mul(low, half), op.mul(high, half)), op.sub(high, low)
            elif self.to == "xywh":
                high = op.sub(high, low)
            value = op.concat([low, high], axis)
        if axis == 1:
            value = op.transpose(value, (0, 2, 1))
        if self.scale != (1.0, 1.0):
            value = op.mul(value, op.array(np.array([*self.scale, *self.scale]), "scale"))
        return value


@dataclass(frozen=True)
class PlacesOfPassing(Step):
    """List the indices of the candidates that pass, in order, for heads whose boxes do not overlap.

    Attributes:
        source: Name of the best scores, float32, (N,K), the passing ones first; `NO_SCORE` where none passes.
        target: Name of the indices, int64, (N,D); -1 after the last.
        most: Largest number D of candidates.
        count: Number of candidates; None until the step is bound.
    """

    pointwise: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (BEST,)
    settled: ClassVar[frozenset[str]] = frozenset({"count"})
    source: str
    target: str
    most: int
    count: int | None = None

    def __post_init__(self) -> None:
        """Check the number."""
        require_whole(self.most, f"most of '{self.target}'", 1)

    def bind(self, value: ValueType) -> Self:
        """Bind the step to its input."""
        if value.size("K") is None:
            raise PostProcessorError(f"the number of candidates of {value} is open, expected a known one.")
        return dataclasses.replace(self, count=value.size("K"))

    def output_type(self, value: ValueType) -> ValueType:
        """int64, (N,D)."""
        return value.resized(K=self.most).as_dtype("int64")

    def reference(self, array: Array) -> Array:
        """List the indices of an array."""
        places = np.full((len(array), self.most), -1, np.int64)
        taken = min(self.most, array.shape[1])
        places[:, :taken] = np.where(array[:, :taken] > NO_SCORE, np.arange(taken), -1)
        return places

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write Where over constant indices."""
        assert self.count is not None, "bind() sets it"
        index = op.array(np.arange(1, self.count + 1, dtype=np.float32), "numbers")
        none = op.constant(np.float32(0), "none")
        numbers = op.where(op.less(op.constant(NO_SCORE, "no_score"), value), index, none)
        if self.most > self.count:
            numbers = op.pad_end(numbers, 1, self.most - self.count, rank=2)
        elif self.most < self.count:
            numbers = op.slice(numbers, (0,), (self.most,), (1,))
        return op.cast(op.sub(numbers, op.constant(np.float32(1), "one")), _I64)


@dataclass(frozen=True)
class TakeDetections(Step):
    """Take the boxes, scores or classes at some indices; an index of -1 gives a constant.

    Attributes:
        source: Name of the numbers, float32, (N,K) or (N,K,P).
        target: Name of the result, (N,D) or (N,D,P).
        places: Name of the indices, int64, (N,D).
        padding: Number for an index of -1.
        whole: True to return int32 numbers from -1 to 2^24, such as classes.
        axes: Axes of the numbers; None until the step is bound.
        size: Number of parts; None until the step is bound.
    """

    pointwise: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (Accepts(axes=("NK", "NKP"), known_rank=True), PLACES)
    settled: ClassVar[frozenset[str]] = frozenset({"axes", "size"})
    source: str
    target: str
    places: str
    padding: float = 0.0
    whole: bool = False
    axes: str | None = None
    size: int | None = None

    def bind(self, value: ValueType, places: ValueType) -> Self:
        """Bind the step to its inputs."""
        del places
        return dataclasses.replace(self, axes=value.known_axes, size=value.size("P"))

    @property
    def reads(self) -> tuple[str, ...]:
        """Numbers and indices."""
        return (self.source, self.places)

    def output_type(self, value: ValueType, places: ValueType) -> ValueType:
        """float32 or int32, as many as there are indices."""
        return value.resized(K=places.size("K")).as_dtype("int32" if self.whole else "float32")

    def reference(self, array: Array, places: Array) -> Array:
        """Take numbers from an array."""
        listed = places if array.ndim == 2 else places[..., None]
        taken = np.take_along_axis(array, np.maximum(listed, 0), axis=1)
        filled = np.where(listed < 0, np.float32(self.padding), taken)
        if not self.whole:
            return filled.astype(np.float32)
        least = np.where(filled > -1, filled, np.float32(-1))
        return np.where(least < _MOST, least, _MOST).astype(np.int32)

    def emit(self, op: Emitter, value: ir.Value, places: ir.Value) -> ir.Value:
        """Write GatherElements and Where."""
        require_gathering(op, self.target)
        first, zero = op.constant(np.int64(0), "first"), op.constant(np.float32(0), "none")
        absent = op.less(op.cast(places, _F32), zero)
        index = op.where(absent, first, places)
        if self.axes == "NKP":
            assert self.size is not None, "the number of parts is known"
            index = op.repeated(op.unsqueeze(index, (2,)), 2, self.size, rank=3)
            absent = op.repeated(op.unsqueeze(absent, (2,)), 2, self.size, rank=3)
        taken = op.node("GatherElements", [value, index], {"axis": 1}, _F32, op.shape_of(index))
        filled = op.where(absent, op.constant(np.float32(self.padding), "padding"), taken)
        if not self.whole:
            return filled
        # Less is false for NaN in every runtime.
        least, most = op.constant(np.float32(-1), "least"), op.constant(_MOST, "most")
        filled = op.where(op.less(least, filled), filled, least)
        return op.cast(op.where(op.less(filled, most), filled, most), np.dtype(np.int32))


@dataclass(frozen=True)
class CountPlaces(Step):
    """Count the indices that are not -1.

    Attributes:
        source: Name of the indices, int64, (N,D).
        target: Name of the counts, int32, (N,).
    """

    pointwise: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (PLACES,)
    source: str
    target: str

    def output_type(self, value: ValueType) -> ValueType:
        """int32, (N,)."""
        return value.reduced("K").as_dtype("int32")

    def reference(self, array: Array) -> Array:
        """Count in an array."""
        counts: Array = (array >= 0).sum(axis=1).astype(np.int32)
        return counts

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write a sum of ones."""
        one, none = op.constant(np.float32(1), "one"), op.constant(np.float32(0), "none")
        found = op.where(op.less(op.cast(value, _F32), none), none, one)
        return op.cast(op.reduce("ReduceSum", found, (1,)), np.dtype(np.int32))
