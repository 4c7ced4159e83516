"""Steps on oriented boxes: centre, size and angle in radians, (N,K,5), as Ultralytics' `xywhr`."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, Self

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.steps.boxes import BOXES, check_boxes
from pp_graph.steps.candidates import BEST, NO_SCORE, PARTS, earlier_first, pairwise, require_gathering
from pp_graph.steps.step import Accepts, Array, Step, as_float32, require_whole

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.operators.emitter import Emitter
    from pp_graph.values import ValueType

_F32: Final = np.dtype(np.float32)
_EPSILON: Final = 1e-7
_QUARTER: Final = np.float32(math.pi / 2)


@dataclass(frozen=True)
class OrientBoxes(Step):
    """Join upright boxes and angles, with the angle in [0, pi/2): a quarter turn swaps width and height.

    Source: Ultralytics 8.4, `regularize_rboxes`.

    Attributes:
        source: Name of centre and size of each box, float32, (N,K,4) or (N,4,K).
        target: Name of the oriented boxes, float32, (N,K,5).
        angles: Name of the angles in radians, float32, (N,K).
        axes: Axes of the boxes; None until the step is bound.
    """

    exact: ClassVar[bool] = False
    pointwise: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (PARTS, BEST)
    settled: ClassVar[frozenset[str]] = frozenset({"axes"})
    source: str
    target: str
    angles: str
    axes: str | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        """Boxes and angles."""
        return (self.source, self.angles)

    def bind(self, value: ValueType, angles: ValueType) -> Self:
        """Bind the step to its inputs."""
        del angles
        check_boxes(value, self.target)
        return dataclasses.replace(self, axes=value.known_axes)

    def output_type(self, value: ValueType, angles: ValueType) -> ValueType:
        """float32, (N,K,5)."""
        del angles
        return dataclasses.replace(value, axes="NKP", sizes=(value.size("N"), value.size("K"), 5))

    def reference(self, array: Array, angles: Array) -> Array:
        """Join arrays."""
        x = array if self.axes != "NPK" else np.moveaxis(array, 1, 2)
        with np.errstate(invalid="ignore", over="ignore"):
            turns = np.floor(angles * (np.float32(1) / _QUARTER))
            odd = turns - np.float32(2) * np.floor(turns * np.float32(0.5))
            swapped = (odd > np.float32(0.5))[..., None]
            angle = angles - turns * _QUARTER
        size = np.where(swapped, x[..., :1:-1], x[..., 2:])
        return np.concatenate([x[..., :2], size, angle[..., None]], -1).astype(np.float32)

    def emit(self, op: Emitter, value: ir.Value, angles: ir.Value) -> ir.Value:
        """Write Floor, arithmetic and Where."""
        if self.axes == "NPK":
            value = op.transpose(value, (0, 2, 1))
        shape, half = op.shape_of(angles), op.constant(np.float32(0.5), "half")
        quarters = op.mul(angles, op.constant(np.float32(1) / _QUARTER, "per_quarter"))
        turns = op.node("Floor", [quarters], {}, _F32, shape)
        pairs = op.node("Floor", [op.mul(turns, half)], {}, _F32, shape)
        swapped = op.unsqueeze(op.less(half, op.sub(turns, op.mul(pairs, op.constant(np.float32(2), "two")))), (2,))
        angle = op.sub(angles, op.mul(turns, op.constant(_QUARTER, "quarter")))
        centre, width, height = (op.slice(value, (a,), (b,), (2,)) for a, b in ((0, 2), (2, 3), (3, 4)))
        sizes = [op.where(swapped, height, width), op.where(swapped, width, height)]
        return op.concat([centre, *sizes, op.unsqueeze(angle, (2,))], 2)


@dataclass(frozen=True)
class OrientedDistances(Step):
    """Compute the Bhattacharyya distance of all pairs of oriented boxes, as normal distributions.

    Source: Llerena et al., "Gaussian Bounding Boxes and Probabilistic Intersection-over-Union", 2021, as Ultralytics
    8.4 computes it (`batch_probiou`). Sines and logarithms differ between runtimes.

    Attributes:
        source: Name of the boxes, float32, (N,K,5).
        target: Name of the distances, float32, (N,K,K).
    """

    exact: ClassVar[bool] = False
    pointwise: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (BOXES,)
    source: str
    target: str

    def bind(self, value: ValueType) -> Self:
        """Bind the step to its input.

        Raises:
            PostProcessorError: These are not oriented boxes, or their number is open.
        """
        if value.size("P") != 5 or value.size("K") is None:
            raise PostProcessorError(
                f"'{self.target}' is computed from {value}, expected a known number of boxes with five numbers each."
            )
        return self

    def output_type(self, value: ValueType) -> ValueType:
        """float32, (N,K,K)."""
        return value.resized(P=value.size("K"))

    def reference(self, array: Array) -> Array:
        """Compute the distances of an array, in float64."""
        x, y, width, height, angle = np.moveaxis(array.astype(np.float64), -1, 0)
        with np.errstate(all="ignore"):
            along, across, cos, sin = width**2 / 12, height**2 / 12, np.cos(angle), np.sin(angle)
            a, b = along * cos**2 + across * sin**2, along * sin**2 + across * cos**2
            c, root = (along - across) * cos * sin, np.abs(width * height) / 12
            dx, dy, sum_a, sum_b, sum_c = (
                each[:, :, None] + sign * each[:, None] for each, sign in ((x, -1), (y, -1), (a, 1), (b, 1), (c, 1))
            )
            both = sum_a * sum_b - sum_c**2
            apart = 0.25 * (sum_a * dy**2 + sum_b * dx**2) - 0.5 * sum_c * dx * dy
            size = 4 * root[:, :, None] * root[:, None] + _EPSILON
            distance = apart / (both + _EPSILON) + 0.5 * np.log(both / size + _EPSILON)
            return np.asarray(distance.astype(np.float32))

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write the formula."""
        shape = op.shape_of(value)
        known = None if shape is None else shape[:2]
        x, y, width, height, angle = (op.gather(value, op.constant(np.int64(i), "part"), 2, known) for i in range(5))
        cos, sin = (op.node(kind, [angle], {}, _F32, known) for kind in ("Cos", "Sin"))

        def scaled(number: float, a: ir.Value) -> ir.Value:
            return op.mul(a, op.constant(np.float32(number), "factor"))

        def more(a: ir.Value) -> ir.Value:
            return op.add(a, op.constant(np.float32(_EPSILON), "epsilon"))

        along, across = scaled(1 / 12, op.mul(width, width)), scaled(1 / 12, op.mul(height, height))
        cos2, sin2 = op.mul(cos, cos), op.mul(sin, sin)
        a = op.add(op.mul(along, cos2), op.mul(across, sin2))
        b = op.add(op.mul(along, sin2), op.mul(across, cos2))
        c = op.mul(op.mul(op.sub(along, across), cos), sin)
        # Turning a box keeps the determinant, so its root is a product: no root of a difference that cancels.
        root = scaled(1 / 12, op.node("Abs", [op.mul(width, height)], {}, _F32, known))
        minus = [scaled(-1.0, each) for each in (x, y)]
        dx, dy = (pairwise(op, "Add", one, other) for one, other in zip((x, y), minus, strict=True))
        sum_a, sum_b, sum_c = (pairwise(op, "Add", each, each) for each in (a, b, c))
        both = op.sub(op.mul(sum_a, sum_b), op.mul(sum_c, sum_c))
        straight = op.add(op.mul(sum_a, op.mul(dy, dy)), op.mul(sum_b, op.mul(dx, dx)))
        apart = op.sub(scaled(0.25, straight), scaled(0.5, op.mul(sum_c, op.mul(dx, dy))))
        pairs = op.shape_of(both)
        size = op.node("Mul", [op.unsqueeze(scaled(4.0, root), (2,)), op.unsqueeze(root, (1,))], {}, _F32, pairs)
        logarithm = op.node("Log", [more(op.div(both, more(size)))], {}, _F32, pairs)
        return op.add(op.div(apart, more(both)), scaled(0.5, logarithm))


@dataclass(frozen=True)
class SuppressClose(Step):
    """Find the oriented boxes to which no better one is close, in the order of their scores.

    A box is suppressed if its probabilistic IoU with a box of a larger score exceeds the threshold, even if that is
    suppressed, too. The IoU is `1 - sqrt(1 - exp(-distance) + 1e-7)`; the distance is compared instead.

    Source: Ultralytics 8.4, `TorchNMS.fast_nms`, which also suppresses at an IoU equal to the threshold.

    Attributes:
        source: Name of the distances of all pairs, float32, (N,K,K), in the order of scores.
        target: Name of the indices of the first kept boxes, int64, (N,D); -1 after the last.
        boxes: Name of the boxes, float32, (N,K,5); those with a NaN are never kept.
        scores: Name of the best scores, float32, (N,K), with `NO_SCORE` where none passes.
        most: Largest number D of boxes to keep.
        iou: The threshold, from 0 to 1.
        classes: Name of the class of each box, float32, (N,K), if only boxes of a class suppress each other.
        count: Number of boxes; None until the step is bound.

    Raises:
        PostProcessorError: The threshold is outside [0, 1].
    """

    pointwise: ClassVar[bool] = False
    settled: ClassVar[frozenset[str]] = frozenset({"count"})
    source: str
    target: str
    boxes: str
    scores: str
    most: int
    iou: float
    classes: str | None = None
    count: int | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 0 <= as_float32(self.iou, f"iou of '{self.target}'") <= 1:
            raise PostProcessorError(f"iou of '{self.target}' is {self.iou!r}, expected a number from 0 to 1.")
        require_whole(self.most, f"most of '{self.target}'", 1)

    @property
    def limit(self) -> np.float32:
        """Distance below which a box is suppressed."""
        return np.float32(-math.log(1 + _EPSILON - (1 - self.iou) ** 2))

    @property
    def accepts(self) -> tuple[Accepts, ...]:  # type: ignore[override]
        """Distances, boxes, scores and classes."""
        return (BOXES, BOXES, *(BEST,) * (len(self.reads) - 2))

    @property
    def reads(self) -> tuple[str, ...]:
        """Distances, boxes, scores, and the classes if they count."""
        return (self.source, self.boxes, self.scores, *(() if self.classes is None else (self.classes,)))

    def bind(self, value: ValueType, *_: ValueType) -> Self:
        """Bind the step to its inputs."""
        return dataclasses.replace(self, count=value.size("K"))

    def output_type(self, value: ValueType, *_: ValueType) -> ValueType:
        """int64, (N,D)."""
        return value.reduced("P").resized(K=self.most).as_dtype("int64")

    def reference(self, array: Array, boxes: Array, scores: Array, classes: Array | None = None) -> Array:
        """Find the boxes of a batch."""
        found = np.full((len(array), self.most), -1, np.int64)
        close = np.triu(array < self.limit, 1)
        if classes is not None:
            close &= classes[:, :, None] == classes[:, None]
        keep = (scores > NO_SCORE) & ~np.isnan(boxes).any(axis=2) & ~close.any(axis=1)
        for places, image in zip(found, keep, strict=True):
            kept = np.flatnonzero(image)[: self.most]
            places[: len(kept)] = kept
        return found

    def emit(
        self, op: Emitter, value: ir.Value, boxes: ir.Value, scores: ir.Value, classes: ir.Value | None = None
    ) -> ir.Value:
        """Write the comparison of all pairs, without a Loop."""
        require_gathering(op, self.target)
        assert self.count is not None, "bind() sets it"
        one, none = op.constant(np.float32(1), "one"), op.constant(np.float32(0), "none")
        close = op.logical_and(op.less(value, op.constant(self.limit, "limit")), earlier_first(op, self.count))
        if classes is not None:
            close = op.logical_and(close, pairwise(op, "Equal", classes, classes, np.dtype(np.bool_)))
        nan = op.reduce("ReduceMax", op.where(op.is_nan(boxes), one, none), (2,))
        beaten = op.add(op.reduce("ReduceMax", op.cast(close, _F32), (1,)), nan)
        passing = op.less(op.constant(NO_SCORE, "no_score"), scores)
        descending = op.array(np.arange(self.count, 0, -1, dtype=np.float32), "descending")
        key = op.mul(op.where(op.logical_and(op.less(beaten, one), passing), one, none), descending)
        if self.most > self.count:
            key = op.pad_end(key, 1, self.most - self.count, rank=2)
        values, places = op.top_k_places(key, self.most, 1)
        return op.where(op.less(none, values), places, op.constant(np.int64(-1), "padding"))
