"""Steps that arrange what a model lists after its own suppression: detections of six numbers, (N,K,6)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, Self

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.steps.candidates import NO_SCORE
from pp_graph.steps.step import Accepts, Array, Step, require_whole

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.operators.emitter import Emitter
    from pp_graph.values import ValueType

_F32, _I64 = np.dtype(np.float32), np.dtype(np.int64)
_NUMBERS: Final = ("float32", "int32", "int64")


def _only_listed(op: Emitter, listed: ir.Value, scores: ir.Value) -> ir.Value:
    return op.where(listed, scores, op.constant(NO_SCORE, "no_score"))


@dataclass(frozen=True)
class JoinDetections(Step):
    """Join boxes, scores and classes of detections that come as outputs of their own.

    Source: torchvision's detectors (without an axis of images, as many detections as were found), TensorFlow's Object
    Detection API and TensorRT's EfficientNMS (a fixed number, and how many of them are meant), MMDeploy (scores after
    corners).

    Attributes:
        source: Name of the boxes, float32, (N,K,4), or (K,4) of one image; without `scores` these come as fifth number.
        target: Name of the detections, float32, (N,K,P): corners, score, class, and then the numbers of `points`.
        scores: Name of the scores, float32, (N,K) or (K,); None if the boxes hold them.
        classes: Name of the classes, numbers, (N,K) or (K,).
        count: Name of the number of detections that are meant, (N,) or (N,1); the scores of others become `NO_SCORE`.
            None if all are.
        points: Name of key points, float32, (K,J,P) of one image; None without.
        order: Place of each of the numbers x, y, x, y and possibly score in a box.
        axes: Axes of the boxes; None until the step is bound.
        size: Number of detections; None until the step is bound, or if it is open.
        numbers: Number of all numbers of the key points; None until the step is bound.
    """

    pointwise: ClassVar[bool] = False
    settled: ClassVar[frozenset[str]] = frozenset({"axes", "size", "numbers"})
    source: str
    target: str
    scores: str | None
    classes: str
    count: str | None = None
    points: str | None = None
    order: tuple[int, ...] = (0, 1, 2, 3)
    axes: str | None = None
    size: int | None = None
    numbers: int | None = None

    @property
    def accepts(self) -> tuple[Accepts, ...]:  # type: ignore[override]
        """Boxes, possibly scores, classes, and possibly their number and key points."""
        needed = (
            Accepts(axes=("NKP", "KP"), known_rank=True),
            *([Accepts(axes=("NK", "K"), known_rank=True)] if self.scores else []),
            Accepts(dtypes=_NUMBERS, axes=("NK", "K"), known_rank=True),
        )
        counts = Accepts(dtypes=_NUMBERS, axes=("N", "NP"), known_rank=True)
        points = Accepts(axes=("KJP",), known_rank=True)
        return (*needed, *([counts] if self.count else []), *([points] if self.points else []))

    @property
    def reads(self) -> tuple[str, ...]:
        """Boxes, possibly scores, classes, and possibly their number and key points."""
        return tuple(filter(None, (self.source, self.scores, self.classes, self.count, self.points)))

    def bind(self, *values: ValueType) -> Self:
        """Bind the step to its inputs.

        Raises:
            PostProcessorError: Some have an axis of images and others do not, or sizes do not fit.
        """
        boxes, *others = values
        if boxes.size("P") != len(self.order):
            raise PostProcessorError(f"boxes are {boxes}, expected {len(self.order)} numbers in each.")
        if any(("N" in other.axes) != ("N" in boxes.axes) for other in others):
            listed = ", ".join(map(str, values))
            raise PostProcessorError(f"values are {listed}, expected an axis of images in all of them or in none.")
        numbers = 0
        if self.points is not None:
            joints, each = values[-1].size("J"), values[-1].size("P")
            if joints is None or each is None:
                raise PostProcessorError(f"the number of key points of {values[-1]} is open, expected a known one.")
            numbers = joints * each
        # Exports without an axis of images declare the number of detections of the image they were traced with.
        size = boxes.size("K") if "N" in boxes.axes else None
        return dataclasses.replace(self, axes=boxes.known_axes, size=size, numbers=numbers)

    def output_type(self, *values: ValueType) -> ValueType:
        """float32, (N,K,P)."""
        sizes = (values[0].size("N") if "N" in values[0].axes else 1, self.size, 6 + (self.numbers or 0))
        return dataclasses.replace(values[0], axes="NKP", sizes=sizes)

    def reference(self, *arrays: Array) -> Array:
        """Join arrays."""
        boxes, *rest = arrays if arrays[0].ndim == 3 else [array[None] for array in arrays]
        boxes = boxes[..., self.order]
        scores = rest.pop(0) if self.scores else boxes[..., 4]
        classes = rest.pop(0)
        if self.count:
            counts = rest.pop(0).reshape(-1, 1).astype(np.float32)
            scores = np.where(np.arange(scores.shape[1], dtype=np.float32) < counts, scores, NO_SCORE)
        columns = [boxes[..., :4], scores[..., None], classes[..., None].astype(np.float32)]
        columns += [points.reshape(1, points.shape[1], self.numbers or 0) for points in rest]
        return np.concatenate(columns, axis=2)

    def emit(self, op: Emitter, *values: ir.Value) -> ir.Value:
        """Write Concat, and a comparison with the number of detections."""
        boxes, *rest = values
        scores = rest.pop(0) if self.scores else None
        classes = rest.pop(0)
        classes = classes if op.dtype_of(classes) == _F32 else op.cast(classes, _F32)
        if self.axes == "KP":
            boxes, classes = self._one_image(op, boxes, len(self.order)), self._one_image(op, classes)
            scores = None if scores is None else self._one_image(op, scores)
        shape = op.shape_of(boxes)
        if self.order != tuple(range(len(self.order))):
            boxes = op.gather(boxes, op.constant(self.order, "order"), 2, shape)
        if scores is None:
            scores = op.gather(boxes, op.constant(np.int64(4), "score"), 2, None if shape is None else shape[:2])
            known = None if shape is None else (*shape[:2], 4)
            boxes = op.gather(boxes, op.constant((0, 1, 2, 3), "corners"), 2, known)
        if self.count:
            counts = rest.pop(0)
            counts = counts if op.dtype_of(counts) == _F32 else op.cast(counts, _F32)
            column = op.node("Reshape", [counts, op.constant((-1, 1), "column")], {}, _F32, (None, 1))
            scores = _only_listed(op, op.below_other(self._index(op, scores), column, scores), scores)
        columns = [boxes, op.unsqueeze(scores, (2,)), op.unsqueeze(classes, (2,))]
        for points in rest:
            assert self.numbers is not None, "bind() sets it"
            columns.append(self._one_image(op, points, self.numbers))
        return op.concat(columns, 2)

    def _one_image(self, op: Emitter, value: ir.Value, *parts: int) -> ir.Value:
        return op.node("Reshape", [value, op.constant((1, -1, *parts), "one_image")], {}, _F32, (1, None, *parts))

    def _index(self, op: Emitter, scores: ir.Value) -> ir.Value:
        if self.size is not None:
            return op.array(np.arange(self.size, dtype=np.float32), "index")
        size = op.node("Gather", [op.sizes_of(scores), op.constant(np.int64(1), "axis")], {"axis": 0}, _I64, ())
        bounds = [op.constant(np.int64(0), "first"), size, op.constant(np.int64(1), "step")]
        return op.cast(op.node("Range", bounds, {}, _I64, (None,)), _F32)


@dataclass(frozen=True)
class TakeRows(Step):
    """Arrange detections that come as rows; the first row of a negative image ends the list.

    Source: Caffe's and OpenVINO's DetectionOutput, (1,1,K,7); YOLOv7's export with suppression inside, (K,7).

    Attributes:
        source: Name of the rows of one image, float32, (N,C,K,P) or (K,P); the first number of each is its image.
        target: Name of the detections, float32, (N,K,6): corners, score, class. Scores after the end are `NO_SCORE`.
        order: Place of each of these six numbers in a row.
        axes: Axes of the rows; None until the step is bound.
        size: Number of numbers in a row; None until the step is bound.
    """

    pointwise: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (Accepts(axes=("NCKP", "KP"), single="C", known_rank=True),)
    settled: ClassVar[frozenset[str]] = frozenset({"axes", "size"})
    source: str
    target: str
    order: tuple[int, ...]
    axes: str | None = None
    size: int | None = None

    def __post_init__(self) -> None:
        """Check the order."""
        for place in self.order:
            require_whole(place, f"order of '{self.target}'", 0)

    def bind(self, value: ValueType) -> Self:
        """Bind the step to its input.

        Raises:
            PostProcessorError: Rows are too short, or their length is open.
        """
        size = value.size("P")
        if len(self.order) != 6 or size is None or size <= max(self.order):
            raise PostProcessorError(f"rows are {value}, expected {max(self.order) + 1} numbers in each.")
        return dataclasses.replace(self, axes=value.known_axes, size=size)

    def output_type(self, value: ValueType) -> ValueType:
        """float32, (N,K,6)."""
        sizes = (value.size("N"), None if self.axes == "KP" else value.size("K"), 6)
        return dataclasses.replace(value, axes="NKP", sizes=sizes)

    def reference(self, array: Array) -> Array:
        """Arrange an array."""
        rows = array[None] if self.axes == "KP" else array[:, 0]
        found = rows[..., self.order].copy()
        ended = np.cumsum(rows[..., 0] < 0, axis=1) > 0
        found[..., 4] = np.where(ended, NO_SCORE, found[..., 4])
        return found

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write Gather, and a running count of the rows that end the list."""
        assert self.size is not None, "bind() sets it"
        first = 1 if self.axes == "KP" else 0
        shape = op.shape_of(value)
        known = (1, None) if self.axes == "KP" or shape is None else (shape[0], shape[2])
        rows = op.node("Reshape", [value, op.constant((first, -1, self.size), "rows")], {}, _F32, (*known, self.size))
        image = op.gather(rows, op.constant(np.int64(0), "image"), 2, known)
        zero = op.constant(np.float32(0), "none")
        ends = op.where(op.less(image, zero), op.constant(np.float32(1), "end"), zero)
        ended = op.node("CumSum", [ends, op.constant(np.int64(1), "along_list")], {}, _F32, known)
        corners = op.gather(rows, op.constant(self.order[:4], "corners"), 2, (*known, 4))
        scores = op.gather(rows, op.constant(np.int64(self.order[4]), "score"), 2, known)
        scores = _only_listed(op, op.less(ended, op.constant(np.float32(0.5), "half")), scores)
        classes = op.gather(rows, op.constant(self.order[5:], "class"), 2, (*known, 1))
        return op.concat([corners, op.unsqueeze(scores, (2,)), classes], 2)
