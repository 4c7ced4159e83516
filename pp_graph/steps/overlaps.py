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

    from pp_graph.model import Shape
    from pp_graph.steps.operators.emitter import Emitter
    from pp_graph.values import ValueType

MOST_UNROLLED: Final = 100
"""Largest number of detections that `loop_free` finds, one after the other."""

_BLOCK: Final = 128
"""Number of boxes that are settled together."""
_FEW: Final = 320
"""Number of boxes up to which one block of all is quicker."""
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
        runtime: Make the threshold an input of the graph, named `iou_threshold`, with `iou` as default.

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
    runtime: bool = False

    @property
    def input_name(self) -> str:
        """Name of the graph input for the threshold, if `runtime` is set."""
        return "iou_threshold"

    @property
    def runtime_cutoff(self) -> np.float32:
        """Default of the graph input."""
        return np.float32(self.iou)

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
        parts = self._emit_parts(op, boxes, classes)
        descending = op.array(np.arange(self.count, 0, -1, dtype=np.float32), "descending")
        if self.loop_free:
            overlaps = op.cast(self._emit_overlaps(op, parts, parts, self._emit_limit(op)), _F32)
            return self._emit_unrolled(op, valid, overlaps, descending)
        settle = self._emit_at_once if self.count <= _FEW else self._emit_in_blocks
        key = op.mul(settle(op, valid, passing, parts), descending)
        if self.most > self.count:
            key = op.pad_end(key, 1, self.most - self.count, rank=2)
        values, places = op.top_k_places(key, self.most, 1)
        return op.where(op.less(none, values), places, op.constant(np.int64(-1), "padding"))

    def _emit_at_once(self, op: Emitter, valid: ir.Value, passing: ir.Value, parts: list[ir.Value]) -> ir.Value:
        """Write the fixpoint over all boxes."""
        del passing
        assert self.count is not None, "bind() sets it"
        overlaps = self._emit_overlaps(op, parts, parts, self._emit_limit(op))
        before = op.logical_and(overlaps, earlier_first(op, self.count))
        return self._emit_fixpoint(op, valid, op.cast(before, _F32), self.count)

    def _emit_fixpoint(self, op: Emitter, valid: ir.Value, suppresses: ir.Value, count: int) -> ir.Value:
        """Write rounds that find which of `count` boxes are kept, (N,K), given which suppress which, (N,K,K)."""
        one, none = op.constant(np.float32(1), "one"), op.constant(np.float32(0), "none")

        def settle(keep: ir.Value) -> tuple[ir.Value, ir.Value]:
            new = op.where(op.less(self._emit_beaten(op, suppresses, keep), one), valid, none)
            change = op.sub(new, keep)
            return op.less(none, op.reduce("ReduceMax", op.mul(change, change), (0, 1))), new

        return op.loop(count + 1, valid, settle)

    def _emit_beaten(self, op: Emitter, suppresses: ir.Value, keep: ir.Value) -> ir.Value:
        """Write which boxes a kept one suppresses, as 1 or 0."""
        return op.reduce("ReduceMax", op.mul(suppresses, op.unsqueeze(keep, (2,))), (1,))

    def _emit_in_blocks(self, op: Emitter, valid: ir.Value, passing: ir.Value, parts: list[ir.Value]) -> ir.Value:
        """Write a loop over blocks of boxes that settles one block after the other, as far as boxes pass.

        Boxes of earlier blocks are settled, so they suppress a block once. A loop inside then settles the block itself.
        Most scenes need one or two blocks.
        """
        assert self.count is not None, "bind() sets it"
        size = _BLOCK
        blocks = -(-self.count // size)
        padding = blocks * size - self.count
        one, none = op.constant(np.float32(1), "one"), op.constant(np.float32(0), "none")
        if padding:
            valid, *parts = (op.pad_end(each, 1, padding, rank=2) for each in (valid, *parts))
        order = np.arange(blocks * size, dtype=np.float32)
        places = op.array(order, "places")
        inside = op.array(np.arange(size, dtype=np.float32), "inside")
        width = op.constant(np.float32(size), "width")
        most = op.reduce("ReduceMax", op.reduce("ReduceSum", passing, (1,)), (0,))
        # The number of blocks, rounded up: the product is half a box away from a whole number, or more.
        nearly_one = op.constant(np.float32(size - 0.5), "nearly_one_more")
        share = op.mul(op.add(most, nearly_one), op.constant(np.float32(1 / size), "share"))
        # OpenVINO moves a constant that only a Loop reads into its body, where it cannot become a state. A product does
        # not change the number, and stays outside.
        limit = op.mul(self._emit_limit(op), one) if self.runtime else self._emit_limit(op)

        def settle(keep: ir.Value, turn: ir.Value) -> ir.Value:
            start = op.mul(op.cast(turn, _F32), width)
            index = op.node("Add", [inside, start], {}, _F32, (size,))
            where = op.cast(index, _I64)
            block = [op.gather(each, where, 1, _with(op.shape_of(each), size)) for each in parts]
            overlaps = self._emit_overlaps(op, parts, block, limit)
            kept_before = op.node("Where", [op.less(places, start), keep, none], {}, _F32, op.shape_of(keep))
            beaten = self._emit_beaten(op, op.cast(overlaps, _F32), kept_before)
            valid_inside = op.gather(valid, where, 1, _with(op.shape_of(valid), size))
            alive = op.where(op.less(beaten, one), valid_inside, none)
            earlier = op.logical_and(self._emit_overlaps(op, block, block, limit), earlier_first(op, size))
            suppresses = op.cast(earlier, _F32)
            offset = op.node("Sub", [places, start], {}, _F32, (blocks * size,))
            after, before = op.less(offset, width), op.less(offset, none)
            in_block = op.logical_and(after, op.logical_not(before))
            back = op.cast(op.where(in_block, offset, none), _I64)

            settled = op.gather(self._emit_fixpoint(op, alive, suppresses, size), back, 1, op.shape_of(keep))
            return op.node("Where", [in_block, settled, keep], {}, _F32, op.shape_of(keep))

        keep = op.repeat(op.cast(share, _I64), valid, settle)
        return op.slice(keep, (0,), (self.count,), (1,)) if padding else keep

    def _emit_parts(self, op: Emitter, boxes: ir.Value, classes: ir.Value | None) -> list[ir.Value]:
        """Write corners within limits, area and class of each box, (N,K) each."""
        none = op.constant(np.float32(0), "none")
        low, high = op.constant(-_FARTHEST, "lowest"), op.constant(_FARTHEST, "highest")
        # Less is false for NaN in every runtime; Clip, Min and Max may return it or not.
        bounded = op.where(op.less(low, boxes), boxes, low)
        bounded = op.where(op.less(bounded, high), bounded, high)
        shape = op.shape_of(boxes)
        known = None if shape is None else shape[:2]
        x1, y1, x2, y2 = (op.gather(bounded, op.constant(np.int64(part), "part"), 2, known) for part in range(4))
        area = op.mul(_positive(op, op.sub(x2, x1), none), _positive(op, op.sub(y2, y1), none))
        return [x1, y1, x2, y2, area, *([] if classes is None else [classes])]

    def _emit_limit(self, op: Emitter) -> ir.Value:
        iou = np.float32(self.iou)
        return op.adjustable(iou, self.input_name) if self.runtime else op.constant(iou, "iou")

    def _emit_overlaps(self, op: Emitter, parts: list[ir.Value], others: list[ir.Value], limit: ir.Value) -> ir.Value:
        """Write which boxes overlap which others by more than a limit; bool, (N,K,M)."""
        none = op.constant(np.float32(0), "none")
        (x1, y1, x2, y2, area, *kinds), (u1, v1, u2, v2, size, *sorts) = parts, others
        sides = [
            _positive(op, op.sub(pairwise(op, "Min", last, end), pairwise(op, "Max", first, start)), none)
            for first, last, start, end in ((x1, x2, u1, u2), (y1, y2, v1, v2))
        ]
        shared = op.mul(*sides)
        union = op.sub(pairwise(op, "Add", area, size), shared)
        overlaps = op.below_other(op.mul(union, limit), shared, shared)
        if not kinds:
            return overlaps
        return op.logical_and(overlaps, pairwise(op, "Equal", kinds[0], sorts[0], _BOOL))

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


def _with(shape: Shape | None, size: int) -> Shape | None:
    return None if shape is None else (shape[0], size)


def _positive(op: Emitter, value: ir.Value, none: ir.Value) -> ir.Value:
    return op.node("Max", [value, none], {}, _F32, op.shape_of(value))
