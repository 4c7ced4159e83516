"""Steps that compute a mask for each detection, from prototypes that all share and coefficients of each."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.steps.boxes import BOXES
from pp_graph.steps.candidates import PARTS
from pp_graph.steps.step import Accepts, Array, Step, as_float32, require_whole

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.operators.emitter import Emitter
    from pp_graph.values import ValueType

_F32, _BOOL, _I64 = np.dtype(np.float32), np.dtype(np.bool_), np.dtype(np.int64)


@dataclass(frozen=True)
class MaskLogits(Step):
    """Compute the sum of prototypes for each detection, weighted by its coefficients.

    Source: YOLACT (Bolya et al., 2019); Ultralytics' `process_mask`.

    Attributes:
        source: Name of the parts of each detection, float32, (N,D,P) or (N,P,D).
        target: Name of the logits, float32, (N,D,H,W).
        prototypes: Name of the prototypes, float32, (N,C,H,W), one for each coefficient.
        start: First coefficient among the parts; as many as prototypes follow.
        axes: Axes of the parts; None until the step is bound.
        size: Number of detections and coefficients, height and width of the prototypes; None until the step is bound.
    """

    exact: ClassVar[bool] = False
    pointwise: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (PARTS, Accepts(axes=("NCHW",), known_rank=True))
    settled: ClassVar[frozenset[str]] = frozenset({"axes", "size"})
    source: str
    target: str
    prototypes: str
    start: int = 0
    axes: str | None = None
    size: tuple[int, int, int, int] | None = None

    def __post_init__(self) -> None:
        """Check the first coefficient."""
        require_whole(self.start, f"start of '{self.target}'", 0)

    @property
    def reads(self) -> tuple[str, ...]:
        """Coefficients and prototypes."""
        return (self.source, self.prototypes)

    def bind(self, value: ValueType, prototypes: ValueType) -> Self:
        """Bind the step to its inputs.

        Raises:
            PostProcessorError: Their numbers differ, or a size is open.
        """
        count, parts, pixels = value.size("K"), value.size("P") or 0, prototypes.map_size
        weights = prototypes.size("C")
        if count is None or pixels is None or weights is None or parts < self.start + weights:
            raise PostProcessorError(
                f"'{self.target}' is computed from {value} and {prototypes}, expected a coefficient for each prototype "
                f"from part {self.start} on, and known sizes. Export the model with fixed sizes."
            )
        return dataclasses.replace(self, axes=value.known_axes, size=(count, weights, *pixels))

    def output_type(self, value: ValueType, prototypes: ValueType) -> ValueType:
        """float32, (N,D,H,W)."""
        sizes = (value.size("N"), value.size("K"), *prototypes.sizes[2:])
        return dataclasses.replace(value, axes="NKHW", sizes=sizes)

    def reference(self, array: Array, prototypes: Array) -> Array:
        """Multiply arrays, in float32."""
        parts = array if self.axes != "NPK" else np.moveaxis(array, 1, 2)
        weights = parts[..., self.start : self.start + prototypes.shape[1]]
        with np.errstate(invalid="ignore", over="ignore"):
            logits = weights @ prototypes.reshape(*prototypes.shape[:2], -1)
        return np.asarray(logits.reshape(*logits.shape[:2], *prototypes.shape[2:]), np.float32)

    def emit(self, op: Emitter, value: ir.Value, prototypes: ir.Value) -> ir.Value:
        """Write a MatMul in a Loop of one round.

        OpenVINO 2026.4 keeps in float32 what lies between the last product of a network and its outputs. A MatMul
        there would be the last product, and what comes before it would be rounded to bf16 with the network. In a Loop,
        it is not seen, unless the number of rounds is a constant. A Transpose right before a MatMul costs it the
        mark of float32, so a Gather lies between them.
        """
        assert self.size is not None, "bind() sets it"
        count, weights, height, width = self.size
        if self.axes == "NPK":
            value = op.transpose(value, (0, 2, 1))
        shape = op.shape_of(value)
        known = None if shape is None else (*shape[:2], weights)
        taken = op.gather(value, op.constant(tuple(range(self.start, self.start + weights)), "weights"), 2, known)
        flat = op.reshape(prototypes, (0, 0, height * width))
        first = op.slice(taken, (0,), (1,), (2,))
        none = op.repeated(op.repeated(op.unsqueeze(first, (3,)), 2, height, rank=4), 3, width, rank=4)
        largest = op.reduce("ReduceMax", first, (0, 1, 2))
        numbers = (op.constant(np.float32(number), "rounds") for number in (1.25, 1.5))
        rounds = op.cast(op.where(op.is_nan(largest), *numbers), _I64)

        def product(state: ir.Value, turn: ir.Value) -> ir.Value:
            del state, turn
            return op.reshape(op.matmul(taken, flat), (-1, count, height, width))

        return op.repeat(rounds, none, product)


@dataclass(frozen=True)
class CropMasks(Step):
    """Decide which pixels belong to each detection: those of a logit above 0 in its box.

    Column x is in the box if x1 <= x < x2 in pixels of the mask, and likewise for rows. A NaN is in no
    mask; boxes hold none.

    Source: Ultralytics' `process_mask` and `crop_mask`.

    Attributes:
        source: Name of the logits, float32, (N,D,H,W).
        target: Name of the masks, bool, (N,D,H,W).
        boxes: Name of the boxes, corners, float32, (N,D,4). Those that are 0 have an empty mask.
        scale: Pixels of the mask in a pixel of the boxes, by width and height.
        size: Height and width of the masks; None until the step is bound.
    """

    pointwise: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (Accepts(axes=("NKHW",), known_rank=True), BOXES)
    settled: ClassVar[frozenset[str]] = frozenset({"size"})
    source: str
    target: str
    boxes: str
    scale: tuple[float, float] = (1.0, 1.0)
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Check the factors."""
        factors = tuple(float(as_float32(factor, f"scale of '{self.target}'")) for factor in self.scale)
        object.__setattr__(self, "scale", factors)

    @property
    def reads(self) -> tuple[str, ...]:
        """Logits and boxes."""
        return (self.source, self.boxes)

    def bind(self, value: ValueType, boxes: ValueType) -> Self:
        """Bind the step to its inputs."""
        del boxes
        return dataclasses.replace(self, size=value.map_size)

    def output_type(self, value: ValueType, boxes: ValueType) -> ValueType:
        """bool, (N,D,H,W)."""
        del boxes
        return value.as_dtype("bool")

    def reference(self, array: Array, boxes: Array) -> Array:
        """Crop an array."""
        with np.errstate(invalid="ignore", over="ignore"):
            scaled = boxes * np.array([*self.scale, *self.scale], np.float32)
            x1, y1, x2, y2 = (each[..., None] for each in np.moveaxis(scaled, -1, 0))
            rows, columns = (np.arange(size, dtype=np.float32) for size in array.shape[2:])
            in_rows, in_columns = ~(rows < y1) & (rows < y2), ~(columns < x1) & (columns < x2)
            inside: Array = (array > 0) & in_rows[..., None] & in_columns[:, :, None]
        return inside

    def emit(self, op: Emitter, value: ir.Value, boxes: ir.Value) -> ir.Value:
        """Write comparisons of rows and columns with the box, and one of each logit."""
        assert self.size is not None, "bind() sets it"
        height, width = self.size
        shape = op.shape_of(value)
        factors = op.array(np.array([*self.scale, *self.scale]), "scale")
        scaled = op.unsqueeze(op.mul(boxes, factors), (3,))
        x1, y1, x2, y2 = (op.slice(scaled, (part,), (part + 1,), (2,)) for part in range(4))
        known = None if shape is None else shape[:2]

        def inside(low: ir.Value, high: ir.Value, places: Array) -> ir.Value:
            place = op.array(places.astype(np.float32), "places")
            sizes = None if known is None else (*known, *places.shape)
            from_low = op.node("Less", [place, low], {}, _BOOL, sizes)
            return op.logical_and(op.node("Less", [place, high], {}, _BOOL, sizes), op.logical_not(from_low))

        rows, columns = inside(y1, y2, np.arange(height)[:, None]), inside(x1, x2, np.arange(width)[None])
        found = op.less(op.constant(np.float32(0), "none"), value)
        for condition in (rows, columns):
            found = op.node("And", [found, condition], {}, _BOOL, shape)
        return found
