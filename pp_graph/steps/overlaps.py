"""Greedy non-maximum suppression.

The operator NonMaxSuppression is not used: OpenVINO 2026.4 suppresses at an IoU equal to the threshold, onnxruntime
only above it. Here, boxes are in the order of their scores, and the suppressed ones are found as a fixpoint:

    keep[j] = valid[j] and no box i < j with keep[i] overlaps box j

After r rounds the first r boxes are settled, so k rounds suffice; real scenes take two to four. Overlap is
`threshold * union < intersection`, without a division.

Source of the greedy rule: `torchvision.ops.nms`, OpenCV's `NMSBoxes`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, Self

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.steps.boxes import BOXES, check_boxes
from pp_graph.steps.candidates import BEST, NO_SCORE, earlier_first, pairwise, require_gathering
from pp_graph.steps.step import Accepts, Array, Step, as_float32, require_whole

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.operators.emitter import Emitter
    from pp_graph.values import ValueType

MOST_UNROLLED: Final = 100
"""Largest number of detections that `loop_free` finds, one after the other."""

_FARTHEST: Final = np.float32(2.0**20)
"""Coordinates are limited to this magnitude when overlaps are computed, so that areas stay finite."""
_F32, _BOOL, _I64 = np.dtype(np.float32), np.dtype(np.bool_), np.dtype(np.int64)


@dataclass(frozen=True)
class SuppressOverlaps(Step):
    """Find the boxes that greedy non-maximum suppression keeps, in the order of their scores.

    A box is suppressed if its IoU with a kept box of a larger score exceeds the threshold, strictly. Boxes whose score
    does not pass and boxes with a NaN are never kept.

    Attributes:
        source: Name of the boxes, float32, (N,K,4), corners, in the order of their scores.
        target: Name of the indices of the first kept boxes, int64, (N,D); -1 after the last.
        scores: Name of the best scores, float32, (N,K), with `NO_SCORE` where none passes.
        most: Largest number D of boxes to keep.
        iou: The threshold, from 0 to 1.
        classes: Name of the class of each box, float32, (N,K): boxes of different classes do not suppress each other.
            None lets all boxes suppress each other.
        loop_free: Find the boxes one after the other, without the operator Loop; `most` is then at most 100.
        count: Number of boxes; None until the step is bound.

    Raises:
        PostProcessorError: The threshold is outside [0, 1], or `most` is too large.
    """

    pointwise: ClassVar[bool] = False
    settled: ClassVar[frozenset[str]] = frozenset({"count"})
    source: str
    target: str
    scores: str
    most: int
    iou: float
    classes: str | None = None
    loop_free: bool = False
    count: int | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        threshold = as_float32(self.iou, f"iou of '{self.target}'")
        if not 0 <= threshold <= 1:
            raise PostProcessorError(f"iou of '{self.target}' is {self.iou!r}, expected a number from 0 to 1.")
        require_whole(self.most, f"most of '{self.target}'", 1, MOST_UNROLLED if self.loop_free else None)

    @property
    def accepts(self) -> tuple[Accepts, ...]:  # type: ignore[override]
        """Boxes, scores and classes."""
        return (BOXES, *(BEST,) * (len(self.reads) - 1))

    @property
    def reads(self) -> tuple[str, ...]:
        """Boxes, scores, and the classes if they count."""
        return (self.source, self.scores, *(() if self.classes is None else (self.classes,)))

    def bind(self, value: ValueType, *_: ValueType) -> Self:
        """Bind the step to its inputs.

        Raises:
            PostProcessorError: These are not boxes, or their number is open.
        """
        check_boxes(value, self.target)
        if value.size("K") is None:
            raise PostProcessorError(
                f"the number of boxes of {value} is open, expected a known one. Select some first."
            )
        return dataclasses.replace(self, count=value.size("K"))

    def output_type(self, value: ValueType, *_: ValueType) -> ValueType:
        """int64, (N,D)."""
        return value.reduced("P").resized(K=self.most).as_dtype("int64")

    def reference(self, boxes: Array, scores: Array, classes: Array | None = None) -> Array:
        """Suppress the boxes of a batch, one after the other."""
        found = np.full((len(boxes), self.most), -1, np.int64)
        for image, places in enumerate(found):
            alive = (scores[image] > NO_SCORE) & ~np.isnan(boxes[image]).any(axis=1)
            x1, y1, x2, y2 = _bounded(boxes[image]).T
            area = np.maximum(x2 - x1, np.float32(0)) * np.maximum(y2 - y1, np.float32(0))
            for turn in range(self.most):
                if not alive.any():
                    break
                best = places[turn] = alive.argmax()
                width = np.minimum(x2, x2[best]) - np.maximum(x1, x1[best])
                height = np.minimum(y2, y2[best]) - np.maximum(y1, y1[best])
                shared = np.maximum(width, np.float32(0)) * np.maximum(height, np.float32(0))
                overlaps = (area + area[best] - shared) * np.float32(self.iou) < shared
                if classes is not None:
                    overlaps &= classes[image] == classes[image][best]
                alive &= ~overlaps
                alive[best] = False
        return found

    def emit(self, op: Emitter, boxes: ir.Value, scores: ir.Value, classes: ir.Value | None = None) -> ir.Value:
        """Write the overlaps of all pairs, and the fixpoint."""
        require_gathering(op, self.target)
        assert self.count is not None, "bind() sets it"
        one, none = op.constant(np.float32(1), "one"), op.constant(np.float32(0), "none")
        nan = op.reduce("ReduceMax", op.where(op.is_nan(boxes), one, none), (2,))
        passing = op.where(op.less(op.constant(NO_SCORE, "no_score"), scores), one, none)
        valid = op.where(op.less(nan, one), passing, none)
        overlaps = self._emit_overlaps(op, boxes, classes)
        descending = op.array(np.arange(self.count, 0, -1, dtype=np.float32), "descending")
        if self.loop_free:
            return self._emit_unrolled(op, valid, op.where(overlaps, one, none), descending)
        suppresses = op.where(op.logical_and(overlaps, earlier_first(op, self.count)), one, none)

        def suppress(keep: ir.Value) -> tuple[ir.Value, ir.Value]:
            beaten = op.reduce("ReduceMax", op.mul(suppresses, op.unsqueeze(keep, (2,))), (1,))
            new = op.where(op.less(beaten, one), valid, none)
            change = op.sub(new, keep)
            changes = op.reduce("ReduceMax", op.mul(change, change), (0, 1))
            return op.less(none, changes), new

        key = op.mul(op.loop(self.count + 1, valid, suppress), descending)
        if self.most > self.count:
            key = op.pad_end(key, 1, self.most - self.count, rank=2)
        values, places = op.top_k_places(key, self.most, 1)
        return op.where(op.less(none, values), places, op.constant(np.int64(-1), "padding"))

    def _emit_overlaps(self, op: Emitter, boxes: ir.Value, classes: ir.Value | None) -> ir.Value:
        """Write which pairs of boxes overlap too much; bool, (N,K,K)."""
        none = op.constant(np.float32(0), "none")
        low, high = op.constant(-_FARTHEST, "lowest"), op.constant(_FARTHEST, "highest")
        # Less is false for NaN in every runtime; Clip, Min and Max may return it or not.
        bounded = op.where(op.less(low, boxes), boxes, low)
        bounded = op.where(op.less(bounded, high), bounded, high)
        x1, y1, x2, y2 = (op.squeeze(op.slice(bounded, (part,), (part + 1,), (2,)), 2) for part in range(4))
        area = op.mul(_positive(op, op.sub(x2, x1), none), _positive(op, op.sub(y2, y1), none))
        sides = [
            _positive(op, op.sub(pairwise(op, "Min", last, last), pairwise(op, "Max", first, first)), none)
            for first, last in ((x1, x2), (y1, y2))
        ]
        shared = op.mul(*sides)
        union = op.sub(pairwise(op, "Add", area, area), shared)
        overlaps = op.below_other(op.mul(union, op.constant(np.float32(self.iou), "iou")), shared, shared)
        if classes is None:
            return overlaps
        return op.logical_and(overlaps, pairwise(op, "Equal", classes, classes, _BOOL))

    def _emit_unrolled(self, op: Emitter, alive: ir.Value, overlaps: ir.Value, descending: ir.Value) -> ir.Value:
        """Write one turn for each detection: the first box alive, and the end of those that it overlaps."""
        assert self.count is not None, "bind() sets it"
        one, none = op.constant(np.float32(1), "one"), op.constant(np.float32(0), "none")
        size, last = op.constant(np.float32(self.count), "size"), op.constant(np.float32(self.count - 1), "last")
        minus_one = op.constant(np.float32(-1), "minus_one")
        found = []
        for _ in range(self.most):
            first = op.reduce("ReduceMax", op.mul(alive, descending), (1,), keepdims=True)
            # `first` is 0 if no box is alive.
            none_alive = op.less(first, one)
            place = op.add(op.mul(first, minus_one), size)
            found.append(op.where(none_alive, minus_one, place))
            row = op.cast(op.where(none_alive, last, place), _I64)
            row = op.repeated(op.unsqueeze(row, (2,)), 2, self.count, rank=3)
            shape = op.shape_of(row)
            beaten = op.squeeze(op.node("GatherElements", [overlaps, row], {"axis": 1}, _F32, shape), 1)
            behind = op.below_other(descending, first, alive)
            alive = op.where(op.logical_and(behind, op.less(beaten, one)), alive, none)
        return op.cast(op.concat(found, 1) if len(found) > 1 else found[0], _I64)


def _bounded(boxes: Array) -> Array:
    low = np.where(boxes > -_FARTHEST, boxes, -_FARTHEST)
    bounded: Array = np.where(low < _FARTHEST, low, _FARTHEST)
    return bounded


def _positive(op: Emitter, value: ir.Value, none: ir.Value) -> ir.Value:
    return op.node("Max", [value, none], {}, _F32, op.shape_of(value))
