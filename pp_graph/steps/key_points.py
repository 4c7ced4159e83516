"""Steps on what a detector returns for each detection besides its box: its place among all candidates, key points."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.steps.boxes import BOXES
from pp_graph.steps.candidates import PARTS, PLACES, require_gathering
from pp_graph.steps.step import Accepts, Array, Step, require_one_of

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.operators.emitter import Emitter
    from pp_graph.values import ValueType

_F32, _I64 = np.dtype(np.float32), np.dtype(np.int64)


@dataclass(frozen=True)
class FoundPlaces(Step):
    """Find the place of each detection among all candidates, from its place among the chosen ones.

    Attributes:
        source: Name of the indices of the chosen candidates, int64, (N,K).
        target: Name of the indices of the detections, int64, (N,D); 0 where there is none.
        kept: Name of the detections' places among the chosen ones, int64, (N,D); -1 for none.
    """

    pointwise: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (PLACES, PLACES)
    source: str
    target: str
    kept: str

    @property
    def reads(self) -> tuple[str, ...]:
        """Indices of the chosen ones and of those kept."""
        return (self.source, self.kept)

    def output_type(self, value: ValueType, kept: ValueType) -> ValueType:
        """int64, (N,D)."""
        del value
        return kept

    def reference(self, array: Array, kept: Array) -> Array:
        """Look indices up in an array."""
        return np.where(kept < 0, 0, np.take_along_axis(array, np.maximum(kept, 0), axis=1))

    def emit(self, op: Emitter, value: ir.Value, kept: ir.Value) -> ir.Value:
        """Write GatherElements and Where."""
        require_gathering(op, self.target)
        first = op.constant(np.int64(0), "first")
        absent = op.less(op.cast(kept, _F32), op.constant(np.float32(0), "none"))
        index = op.where(absent, first, kept)
        found = op.node("GatherElements", [value, index], {"axis": 1}, _I64, op.shape_of(kept))
        return op.where(absent, first, found)


@dataclass(frozen=True)
class KeyPoints(Step):
    """Arrange the key points of detections, in pixels of the model's input.

    Source: Ultralytics' pose head (numbers as they are), MediaPipe's `TensorsToDetectionsCalculator` (offsets from
    anchors), SCRFD and RetinaFace (likewise, in strides or shares of anchors), CenterFace's `decode` (shares of the
    box, from its upper left corner).

    Attributes:
        source: Name of the numbers of each detection, float32, (N,D,J*P) or (N,J*P,D), point by point.
        target: Name of the key points, float32, (N,D,J,P): x, y, and possibly visibility; 0 where there is none.
        kept: Name of the detections' indices, int64, (N,D); -1 for none.
        numbers: Number P of each point, 2 or 3.
        y_first: True if y comes before x.
        boxes: Name of the boxes, corners, float32, (N,D,4), if the numbers are shares of their sizes.
        places: Name of the detections' places among all candidates, int64, (N,D), if the numbers are offsets.
        anchors: x and y from which each candidate's offsets count, and possibly their unit in pixels.
        axes: Axes of the numbers; None until the step is bound.
        size: Number of detections, and of their numbers; None until the step is bound.

    Raises:
        PostProcessorError: `numbers` is neither 2 nor 3, or is 3 with shares or offsets.
    """

    exact: ClassVar[bool] = False
    pointwise: ClassVar[bool] = False
    settled: ClassVar[frozenset[str]] = frozenset({"axes", "size"})
    source: str
    target: str
    kept: str
    numbers: int = 2
    y_first: bool = False
    boxes: str | None = None
    places: str | None = None
    anchors: tuple[tuple[float, ...], ...] = ()
    axes: str | None = None
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Check the numbers of a point."""
        plain = self.boxes is None and self.places is None
        require_one_of(self.numbers, f"numbers of '{self.target}'", (2, 3) if plain and not self.y_first else (2,))

    @property
    def accepts(self) -> tuple[Accepts, ...]:  # type: ignore[override]
        """Numbers, indices, and boxes or places."""
        boxes = () if self.boxes is None else (BOXES,)
        return (PARTS, PLACES, *boxes, *(() if self.places is None else (PLACES,)))

    @property
    def reads(self) -> tuple[str, ...]:
        """Numbers, indices, and boxes or places."""
        return (self.source, self.kept, *(name for name in (self.boxes, self.places) if name is not None))

    def bind(self, value: ValueType, *_: ValueType) -> Self:
        """Bind the step to its inputs.

        Raises:
            PostProcessorError: The numbers are not a multiple of those of a point, or a size is open.
        """
        parts, count = value.size("P"), value.size("K")
        if parts is None or count is None or parts % self.numbers:
            raise PostProcessorError(
                f"'{self.target}' is computed from {value}, expected {self.numbers} numbers for each key point."
            )
        return dataclasses.replace(self, axes=value.known_axes, size=(count, parts))

    def output_type(self, value: ValueType, *_: ValueType) -> ValueType:
        """float32, (N,D,J,P)."""
        points = (value.size("P") or 0) // self.numbers
        return dataclasses.replace(value, axes="NKJP", sizes=(value.size("N"), value.size("K"), points, self.numbers))

    def reference(self, array: Array, kept: Array, other: Array | None = None) -> Array:
        """Arrange an array."""
        x = array if self.axes != "NPK" else np.moveaxis(array, 1, 2)
        points = x.reshape(*x.shape[:2], -1, self.numbers)
        if self.y_first:
            points = points[..., ::-1]
        with np.errstate(invalid="ignore", over="ignore"):
            if self.boxes is not None and other is not None:
                low = other[:, :, None, :2]
                points = points * (other[:, :, None, 2:] - low) + low
            elif other is not None:
                found = np.array(self.anchors, np.float32)[other][:, :, None]
                points = points * found[..., 2:] + found[..., :2] if found.shape[-1] == 3 else points + found
        return np.where(kept[:, :, None, None] < 0, np.float32(0), points).astype(np.float32)

    def emit(self, op: Emitter, value: ir.Value, kept: ir.Value, other: ir.Value | None = None) -> ir.Value:
        """Write Reshape, and arithmetic where points are relative."""
        assert self.size is not None, "bind() sets it"
        count, parts = self.size
        if self.axes == "NPK":
            value = op.transpose(value, (0, 2, 1))
        points = op.reshape(value, (0, count, parts // self.numbers, self.numbers))
        shape = op.shape_of(points)
        if self.y_first:
            points = op.gather(points, op.constant((1, 0), "order"), 3, shape)
        if self.boxes is not None and other is not None:
            low, high = (op.slice(other, (start,), (start + 2,), (2,)) for start in (0, 2))
            extent = op.unsqueeze(op.sub(high, low), (2,))
            points = op.add(op.mul(points, extent), op.unsqueeze(low, (2,)))
        elif other is not None:
            columns = np.array(self.anchors, np.float32).T
            looked_up = [op.look_up(op.array(np.ascontiguousarray(column), "anchors"), other) for column in columns]
            anchors = op.concat([op.unsqueeze(each, (2,)) for each in looked_up[:2]], 2)
            if len(looked_up) == 3:
                points = op.mul(points, op.unsqueeze(looked_up[2], (2, 3)))
            points = op.add(points, op.unsqueeze(anchors, (2,)))
        none = op.constant(np.float32(0), "none")
        absent = op.unsqueeze(op.less(op.cast(kept, _F32), none), (2, 3))
        return op.node("Where", [absent, none, points], {}, _F32, shape)
