"""Steps on the candidates of a detector: their parts, levels joined to one list, and those at some indices."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, Literal, Self

import numpy as np

from pp_graph.errors import OpsetError, PostProcessorError
from pp_graph.model.opset_raising import HOW_TO_RAISE
from pp_graph.steps.step import Accepts, Array, Step, require_whole

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.operators.emitter import Emitter
    from pp_graph.values import ValueType

NO_SCORE: Final = np.float32(-(2.0**126))
"""Score of a candidate that does not pass; exact in bfloat16. Lower scores do not pass either."""
_GATHER_ELEMENTS: Final = 11
_GATHER_ROWS: Final = 12
_F32, _I64 = np.dtype(np.float32), np.dtype(np.int64)
WITH_PARTS: Final = ("NKP", "NPK")
WITH_CLASSES: Final = ("NKC", "NCK")
PARTS = Accepts(axes=WITH_PARTS, known_rank=True)
"""Parts of each candidate, in either order of axes."""
SCORES = Accepts(axes=(*WITH_CLASSES, "NK"), known_rank=True)
"""Scores of each candidate: one for each class, or one."""
PASSING = Accepts(dtypes=("bool",), axes=(*WITH_CLASSES, "NK"), known_rank=True)
"""A decision for each score."""
BEST = Accepts(axes=("NK",), known_rank=True)
"""One number for each candidate."""
PLACES = Accepts(dtypes=("int64",), axes=("NK",), known_rank=True)
"""Indices of candidates."""


def require_gathering(op: Emitter, target: str) -> None:
    """Raise `OpsetError` if the graph's opset is too low to choose candidates."""
    if op.opset < _GATHER_ELEMENTS:
        raise OpsetError(
            f"The model is at opset {op.opset}, expected {_GATHER_ELEMENTS} or later to choose candidates for "
            f"'{target}'. Fuse with {HOW_TO_RAISE}, or export it again with opset_version={_GATHER_ELEMENTS} or later."
        )


def pairwise(
    op: Emitter,
    kind: Literal["Add", "Equal", "Less", "Max", "Min"],
    a: ir.Value,
    b: ir.Value,
    dtype: np.dtype[np.generic] = _F32,
) -> ir.Value:
    """Apply an operator to all pairs: `result[n, i, j] = a[n, i] kind b[n, j]`."""
    shape, other = op.shape_of(a), op.shape_of(b)
    pairs = None if shape is None or other is None else (*shape, other[1])
    return op.node(kind, [op.unsqueeze(a, (2,)), op.unsqueeze(b, (1,))], {}, dtype, pairs)


def earlier_first(op: Emitter, count: int) -> ir.Value:
    """Mark the pairs (i, j) with i < j; bool, (count, count). Computed, so that no large constant is stored."""
    order = np.arange(count, dtype=np.float32)
    first, second = op.array(order[:, None], "first"), op.array(order, "second")
    return op.node("Less", [first, second], {}, np.dtype(np.bool_), (count, count))


@dataclass(frozen=True)
class TakeParts(Step):
    """Take some parts of each candidate: x[..., start:stop] along the axis of parts or classes.

    Attributes:
        source: Name of the candidates, float32, (N,K,P), (N,P,K), (N,K,C) or (N,C,K).
        target: Name of the parts; a single part, without `classes`, loses its axis: (N,K).
        start: First part.
        stop: End of the parts, exclusive; None for the last, and -1 to leave out the last.
        classes: True if the parts are the scores of classes: (N,K,C) or (N,C,K).
        axes: Axes of the candidates; None until the step is bound.
        size: Number of parts; None until the step is bound.
    """

    pointwise: ClassVar[bool] = False
    keeps_scale: ClassVar[bool] = True
    accepts: ClassVar[tuple[Accepts, ...]] = (Accepts(axes=(*WITH_PARTS, *WITH_CLASSES), known_rank=True),)
    settled: ClassVar[frozenset[str]] = frozenset({"axes", "size"})
    source: str
    target: str
    start: int
    stop: int | None = None
    classes: bool = False
    axes: str | None = None
    size: int | None = None

    def __post_init__(self) -> None:
        """Check the parts."""
        require_whole(self.start, f"start of '{self.target}'", 0)
        if self.stop is not None and self.stop != -1:
            require_whole(self.stop, f"stop of '{self.target}'", self.start + 1)

    def bind(self, value: ValueType) -> Self:
        """Bind the step to its input.

        Raises:
            PostProcessorError: The number of parts is open, or there are fewer.
        """
        parts = value.size("P" if "P" in value.axes else "C")
        if parts is None:
            raise PostProcessorError(f"the number of parts of {value} is open, expected a known one.")
        stop = parts if self.stop is None else parts - 1 if self.stop == -1 else self.stop
        if not self.start < stop <= parts:
            raise PostProcessorError(f"{value} has {parts} parts, expected more than {max(self.start, stop - 1)}.")
        return dataclasses.replace(self, stop=stop, axes=value.known_axes, size=parts)

    @property
    def _axis(self) -> int:
        axes = self.axes or "NKP"
        return axes.index("P" if "P" in axes else "C")

    @property
    def _single(self) -> bool:
        return not self.classes and self.stop == self.start + 1

    def output_type(self, value: ValueType) -> ValueType:
        """float32; the parts that are taken."""
        if self._single:
            return value.reduced("PC")
        count = (self.stop or 0) - self.start
        taken = value.resized(P=count, C=count)
        return dataclasses.replace(taken, axes=taken.axes.replace("P", "C")) if self.classes else taken

    def reference(self, array: Array) -> Array:
        """Take parts of an array."""
        taken: Array = np.moveaxis(np.moveaxis(array, self._axis, -1)[..., self.start : self.stop], -1, self._axis)
        return taken.squeeze(self._axis) if self._single else taken

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write Split, Slice or Gather.

        OpenVINO 2026.4 fails on a GatherElements that follows a Slice of another axis.
        """
        assert self.stop is not None, "bind() sets it"
        if self.classes and self.start and self.stop == self.size:
            return op.after_first(value, self.start, self._axis, self.size)
        if self.classes:
            return op.slice(value, (self.start,), (self.stop,), (self._axis,))
        shape = op.shape_of(value)
        before, after = (None, None) if shape is None else (shape[: self._axis], shape[self._axis + 1 :])
        if self._single:
            known = None if before is None or after is None else (*before, *after)
            return op.gather(value, op.constant(np.int64(self.start), "part"), self._axis, known)
        known = None if before is None or after is None else (*before, self.stop - self.start, *after)
        return op.gather(value, op.constant(tuple(range(self.start, self.stop)), "parts"), self._axis, known)


@dataclass(frozen=True)
class ScaleScores(Step):
    """Multiply the score of each class by one number for each candidate, such as its objectness.

    Source: YOLOv5 (`x[:, 5:] *= x[:, 4:5]`), YOLOX.

    Attributes:
        source: Name of the scores, float32, (N,K,C) or (N,C,K).
        target: Name of the products; same shape.
        factor: Name of the factors, float32, (N,K).
        axes: Axes of the scores; None until the step is bound.
    """

    pointwise: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (Accepts(axes=WITH_CLASSES, known_rank=True), BEST)
    source: str
    target: str
    factor: str
    axes: str | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        """Scores and factors."""
        return (self.source, self.factor)

    @property
    def _axis(self) -> int:
        return (self.axes or "NKC").index("C")

    def reference(self, array: Array, factor: Array) -> Array:
        """Multiply arrays."""
        with np.errstate(invalid="ignore", over="ignore"):
            product: Array = array * np.expand_dims(factor, self._axis)
        return product

    def emit(self, op: Emitter, value: ir.Value, factor: ir.Value) -> ir.Value:
        """Write Mul."""
        return op.mul(value, op.unsqueeze(factor, (self._axis,)))


@dataclass(frozen=True)
class GatherCandidates(Step):
    """Take the candidates that a list of indices names.

    Source: `numpy.take_along_axis`.

    Attributes:
        source: Name of the candidates, float32: (N,K), (N,K,P), (N,P,K), (N,K,C) or (N,C,K).
        target: Name of those listed; same axes.
        places: Name of the indices, int64, (N,k).
        axes: Axes of the candidates; None until the step is bound.
        size: Number of parts or classes; None until the step is bound.
        count: Number of candidates; None until the step is bound, or if it is open.
    """

    pointwise: ClassVar[bool] = False
    keeps_scale: ClassVar[bool] = True
    accepts: ClassVar[tuple[Accepts, ...]] = (
        Accepts(axes=("NK", *WITH_PARTS, *WITH_CLASSES), known_rank=True),
        PLACES,
    )
    settled: ClassVar[frozenset[str]] = frozenset({"axes", "size", "count"})
    source: str
    target: str
    places: str
    axes: str | None = None
    size: int | None = None
    count: int | None = None

    def bind(self, value: ValueType, places: ValueType) -> Self:
        """Bind the step to its inputs."""
        del places
        other = value.reduced("NK")
        size = other.sizes[0] if other.axes else 1
        return dataclasses.replace(self, axes=value.known_axes, size=size, count=value.size("K"))

    @property
    def reads(self) -> tuple[str, ...]:
        """Candidates and indices."""
        return (self.source, self.places)

    @property
    def _axis(self) -> int:
        return (self.axes or "NK").index("K")

    def output_type(self, value: ValueType, places: ValueType) -> ValueType:
        """float32, as many candidates as indices."""
        return value.resized(K=places.size("K"))

    def reference(self, array: Array, places: Array) -> Array:
        """Take candidates from an array."""
        if array.ndim == 3:
            places = np.expand_dims(places, 3 - self._axis)
        return np.take_along_axis(array, places, axis=self._axis)

    def emit(self, op: Emitter, value: ir.Value, places: ir.Value) -> ir.Value:
        """Write GatherElements, or for whole rows the quicker GatherND."""
        require_gathering(op, self.target)
        if self.axes in ("NKP", "NKC") and op.opset >= _GATHER_ROWS:
            shape = op.shape_of(places)
            rows = None if shape is None else (*shape, self.size)
            return op.node("GatherND", [value, op.unsqueeze(places, (2,))], {"batch_dims": 1}, _F32, rows)
        if self.axes in ("NPK", "NCK") and self.size is not None and self.count is not None:
            return self._emit_flat(op, value, places)
        if len(self.axes or "NK") == 3:
            assert self.size is not None, "the number of parts is known"
            places = op.repeated(op.unsqueeze(places, (3 - self._axis,)), 3 - self._axis, self.size, rank=3)
        return op.node("GatherElements", [value, places], {"axis": self._axis}, _F32, op.shape_of(places))

    def _emit_flat(self, op: Emitter, value: ir.Value, places: ir.Value) -> ir.Value:
        """Write Gather on the flattened candidates, which OpenVINO runs several times faster than GatherElements."""
        assert self.size is not None, "the number of parts is known"
        assert self.count is not None, "the number of candidates is known"
        shape = op.shape_of(places)
        whole = None if shape is None else (shape[0], self.size, shape[1])
        images = op.node("Gather", [op.sizes_of(value), op.constant(np.int64(0), "axis")], {"axis": 0}, _I64, ())
        bounds = [op.constant(np.int64(0), "first"), images, op.constant(np.int64(1), "step")]
        image = op.node("Range", bounds, {}, _I64, (None,))
        image = op.node("Mul", [image, op.constant(np.int64(self.size * self.count), "of_image")], {}, _I64, (None,))
        part = op.constant(tuple(range(0, self.size * self.count, self.count)), "parts")
        part = op.node("Reshape", [part, op.constant((1, -1, 1), "column")], {}, _I64, (1, self.size, 1))
        image = op.node("Reshape", [image, op.constant((-1, 1, 1), "images")], {}, _I64, (None, 1, 1))
        start = op.node("Add", [image, part], {}, _I64, (None, self.size, 1))
        index = op.node("Add", [op.unsqueeze(places, (1,)), start], {}, _I64, whole)
        return op.gather(op.reshape(value, (-1,)), index, 0, whole)
