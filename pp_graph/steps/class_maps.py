"""Steps of segmentation: class maps and mattes as bytes, and the number of pixels of each class."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from pp_graph.errors import OpsetError
from pp_graph.model.opset_raising import HOW_TO_RAISE
from pp_graph.steps.masks import emit_without_channel
from pp_graph.steps.step import MAP_AXES, MAPS, Accepts, Array, Step, require_whole

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.operators.emitter import Emitter
    from pp_graph.values import ValueType

MOST_CLASSES: Final = 256
_BYTE = np.dtype(np.uint8)
_ROUND_OPSET, _SCATTER_ADDS = 11, 16
_CHANNEL: Final = {"NCHW": 1, "NHWC": 3}


@dataclass(frozen=True)
class ClassMap(Step):
    """Write the class of each pixel as a byte. Classes below 0 become 0, those above 255 become 255.

    Attributes:
        source: Name of the classes, int64: (N,H,W), (N,1,H,W) or (N,H,W,1).
        target: Name of the class map, uint8, (N,H,W).
        axes: Axes of the classes; None until the step is bound.
    """

    accepts: ClassVar[tuple[Accepts, ...]] = (
        Accepts(dtypes=("int64",), needs="HW", axes=MAP_AXES, single="C", known_rank=True),
    )
    source: str
    target: str
    axes: str | None = None

    def output_type(self, value: ValueType) -> ValueType:
        """uint8, (N,H,W)."""
        return value.reduced("C").as_dtype("uint8")

    def reference(self, array: Array) -> Array:
        """Convert an array."""
        channel = _CHANNEL.get(self.axes or "")
        classes = array if channel is None else array.squeeze(channel)
        return np.clip(classes, 0, MOST_CLASSES - 1).astype(np.uint8)

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write Clip and Cast; through float32, in which OpenVINO compares integers anyway."""
        number = op.clip(op.number(emit_without_channel(op, value, self.axes)), 0.0, MOST_CLASSES - 1.0)
        return op.cast(number, _BYTE)


@dataclass(frozen=True)
class Matte(Step):
    """Write the opacity of each pixel as a byte: `round(255 * clip(x, 0, 1))`, halves to even; NaN becomes 0.

    The step needs opset 11.

    Attributes:
        source: Name of the opacity, float32, in [0, 1]: (N,H,W), (N,C,H,W) or (N,H,W,C).
        target: Name of the bytes, uint8, of the same shape.
    """

    accepts: ClassVar[tuple[Accepts, ...]] = (MAPS,)
    source: str
    target: str

    def output_type(self, value: ValueType) -> ValueType:
        """uint8, in the input's shape."""
        return value.as_dtype("uint8")

    def reference(self, array: Array) -> Array:
        """Convert an array."""
        x = np.asarray(array, np.float32)
        bounded = np.clip(np.where(np.isnan(x), np.float32(0), x), 0, 1)
        return np.round(bounded * np.float32(255)).astype(np.uint8)

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write Clip, Mul, Round and Cast.

        Raises:
            OpsetError: The graph's opset is below 11.
        """
        _require(op, _ROUND_OPSET, f"write the matte '{self.target}'")
        x = op.where(op.is_nan(value), op.constant(np.float32(0), "nothing"), value)
        scaled = op.mul(op.clip(x, 0.0, 1.0), op.constant(np.float32(255), "opaque"))
        rounded = op.node("Round", [scaled], {}, np.dtype(np.float32), op.shape_of(value))
        return op.cast(rounded, _BYTE)


@dataclass(frozen=True)
class ClassAreas(Step):
    """Count the pixels of each class in a class map. Pixels of other classes are not counted.

    Source: `numpy.bincount(x, minlength=classes)[:classes]` for each image. The step needs opset 16.

    Attributes:
        source: Name of the class map, uint8, (N,H,W); less than 2**30 pixels in a batch.
        target: Name of the counts, int32, (N,C).
        classes: Number of classes C, at most 256.

    Raises:
        PostProcessorError: `classes` is not a whole number from 1 to 256.
    """

    pointwise: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (Accepts(dtypes=("uint8",), axes=("NHW",), known_rank=True),)
    source: str
    target: str
    classes: int

    def __post_init__(self) -> None:
        """Check the number."""
        require_whole(self.classes, f"classes of '{self.target}'", 1, MOST_CLASSES)

    def output_type(self, value: ValueType) -> ValueType:
        """int32, (N,C)."""
        return dataclasses.replace(value, axes="NC", sizes=(value.size("N"), self.classes), dtype="int32")

    def reference(self, array: Array) -> Array:
        """Count in an array."""
        counts = [np.bincount(image.ravel(), minlength=self.classes)[: self.classes] for image in array]
        return np.array(counts, np.int32).reshape(len(array), self.classes)

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write ScatterElements that adds.

        Raises:
            OpsetError: The graph's opset is below 16.
        """
        _require(op, _SCATTER_ADDS, f"count the pixels of each class in '{self.target}'")
        shape, bins = op.shape_of(value), self.classes + 1
        batch = op.slice(op.sizes_of(value), (0,), (1,), (0,), (1,))
        flat = op.arranged(op.counted(value), op.joined(batch, op.constant((-1,), "rest")), (None, None))
        # Other classes go into one more bin.
        known = op.least(flat, op.integer(self.classes, "other_classes"))
        first = op.mul(op.numbered(op.filled(batch, np.int32(0))), op.integer(bins, "bins"))
        places = op.listed(op.add(known, op.unsqueeze(first, (1,))))
        size = op.mul(batch, op.constant((bins,), "bins_of_an_image"))
        counts = op.put(op.filled(size, np.int32(0)), places, op.filled(op.sizes_of(places), np.int32(1)), "add")
        batch_size = None if shape is None else shape[0]
        rows = op.node("Reshape", [counts, op.constant((-1, bins), "rows")], {}, np.dtype(np.int32), (batch_size, bins))
        return op.slice(rows, (0,), (self.classes,), (1,))


@dataclass(frozen=True)
class MaskAreas(Step):
    """Count the true pixels in the mask of each class.

    Source: `numpy.count_nonzero(x, axis=(height, width))`.

    Attributes:
        source: Name of the masks, bool: (N,H,W), (N,C,H,W) or (N,H,W,C); at most 2**24 pixels each.
        target: Name of the counts, int32, (N,) or (N,C).
        axes: Axes of the masks; None until the step is bound.
    """

    pointwise: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (Accepts(dtypes=("bool",), needs="HW", axes=MAP_AXES, known_rank=True),)
    source: str
    target: str
    axes: str | None = None

    def output_type(self, value: ValueType) -> ValueType:
        """int32, without height and width."""
        return value.reduced("HW").as_dtype("int32")

    def reference(self, array: Array) -> Array:
        """Count in an array."""
        counts: Array = np.count_nonzero(array, axis=self._pixels).astype(np.int32)
        return counts

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write ReduceSum of zeros and ones, which float32 adds exactly."""
        ones = op.where(value, op.constant(np.float32(1), "one"), op.constant(np.float32(0), "zero"))
        return op.counted(op.reduce("ReduceSum", ones, self._pixels))

    @property
    def _pixels(self) -> tuple[int, int]:
        axes = self.axes or "NCHW"
        return axes.index("H"), axes.index("W")


def _require(op: Emitter, opset: int, what: str) -> None:
    if op.opset < opset:
        raise OpsetError(
            f"The model is at opset {op.opset}, expected {opset} or later to {what}. Fuse with {HOW_TO_RAISE}, export "
            f"it again with opset_version={opset} or later, or leave the step out."
        )
