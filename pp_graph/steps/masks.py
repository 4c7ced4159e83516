"""Erode, dilate, open and close masks, and empty those of normal images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from pp_graph.steps.step import MASK, Accepts, Array, Step, require_one_of, require_whole

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.operators.emitter import Emitter


Mask = npt.NDArray[np.bool_]

_CHANNEL = {"NHW": None, "NCHW": 1, "NHWC": 3, None: 1}


def without_channel(mask: npt.ArrayLike, axes: str | None) -> Mask:
    """Drop the channel of a mask: (N,H,W). Four axes are (N,1,H,W) if unknown."""
    array = np.asarray(mask, np.bool_)
    channel = _CHANNEL[axes]
    return array if channel is None or array.ndim == 3 else array.squeeze(channel)


def emit_without_channel(op: Emitter, mask: ir.Value, axes: str | None) -> ir.Value:
    """Reshape a mask to (N,H,W)."""
    channel = _CHANNEL[axes]
    return mask if channel is None else op.squeeze(mask, channel)


def emit_with_channel(op: Emitter, images: ir.Value, axes: str | None) -> ir.Value:
    """Reshape a mask (N,H,W) to its original axes."""
    channel = _CHANNEL[axes]
    return images if channel is None else op.unsqueeze(images, (channel,))


NeighbourhoodShape = Literal["square", "cross", "disk"]
"""Neighbours of a pixel: all in the square, its row and column, or those within half a side."""

_LARGEST: Final = 255


def neighbourhood(size: int, shape: NeighbourhoodShape) -> Mask:
    """Structuring element: the neighbours of the pixel in the middle; bool (size, size).

    Source: `skimage.morphology.footprint_rectangle` for a square, and `skimage.morphology.disk(size // 2)`,
    `x * x + y * y <= r * r`, for a disk.
    """
    around = np.arange(size) - size // 2
    y, x = np.meshgrid(around, around, indexing="ij")
    if shape == "cross":
        return np.asarray((y == 0) | (x == 0))
    return np.asarray(y * y + x * x <= (size // 2) ** 2) if shape == "disk" else np.ones((size, size), np.bool_)


@dataclass(frozen=True)
class MorphologyStep(Step):
    """Base class of steps that look at the neighbourhood of each pixel of a mask.

    Pixels outside the map are ignored: they count as normal in a dilation and as anomalous in an erosion. So do OpenCV
    by default, scikit-image's `dilation`, `erosion`, `opening` and `closing` with `mode="ignore"`, and SciPy's
    `binary_dilation` with `border_value=0` and `binary_erosion` with `border_value=1`.

    Attributes:
        operations: Dilations and erosions, in order.
        source: Name of the mask, bool: (N,H,W), (N,1,H,W) or (N,H,W,1).
        target: Name of the new mask, bool, of the same shape.
        size: Height and width of the neighbourhood in pixels, odd.
        shape: Shape of the neighbourhood; see `neighbourhood`.
        axes: Axes of the mask; None until the step is bound.

    Raises:
        PostProcessorError: `size` is not an odd number from 1 to 255, or `shape` is unknown.
    """

    pointwise: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (MASK,)
    operations: ClassVar[tuple[Literal["dilate", "erode"], ...]]
    source: str
    target: str
    size: int = 3
    shape: NeighbourhoodShape = "square"
    axes: str | None = None

    def __post_init__(self) -> None:
        """Check the neighbourhood."""
        require_whole(self.size, f"size of '{self.target}'", 1, _LARGEST, odd=True)
        require_one_of(self.shape, f"shape of '{self.target}'", get_args(NeighbourhoodShape))

    def reference(self, mask: Mask) -> Mask:
        """Compute the step on an array."""
        images = without_channel(mask, self.axes)
        for operation in self.operations:
            # Neighbourhoods are symmetric, so eroding the mask is dilating its complement.
            images = self._dilated(images) if operation == "dilate" else ~self._dilated(~images)
        return images.reshape(np.shape(mask))

    def emit(self, op: Emitter, mask: ir.Value) -> ir.Value:
        """Write the operations on (N,1,H,W)."""
        if self.axes in ("NCHW", None):
            return self._emit_operations(op, mask)
        images = op.unsqueeze(emit_without_channel(op, mask, self.axes), (1,))
        return emit_with_channel(op, op.squeeze(self._emit_operations(op, images), 1), self.axes)

    def _dilated(self, mask: Mask) -> Mask:
        if self.shape == "square":
            line = np.ones((self.size, 1), np.bool_)
            return _dilate(_dilate(mask, line), line.T)
        return _dilate(mask, neighbourhood(self.size, self.shape))

    def _emit_operations(self, op: Emitter, mask: ir.Value) -> ir.Value:
        for operation in self.operations:
            if operation == "dilate":
                mask = self._emit_dilated(op, mask)
            else:
                mask = op.logical_not(self._emit_dilated(op, op.logical_not(mask)))
        return mask

    def _emit_dilated(self, op: Emitter, mask: ir.Value) -> ir.Value:
        """Write a test for anomalous neighbours.

        Masks become 0 and 1, which every precision represents; a sum of ones is above 1/2 in each of them.
        """
        numbers = op.cast(mask, np.dtype(np.float32))
        half = op.constant(np.float32(0.5), "half")
        if self.shape == "square":
            return op.less(half, op.greatest_around(numbers, self.size, self.size))
        if self.shape == "cross":
            column = op.less(half, op.greatest_around(numbers, self.size, 1))
            return op.logical_or(column, op.less(half, op.greatest_around(numbers, 1, self.size)))
        kernel = neighbourhood(self.size, self.shape)[None, None].astype(np.float32)
        weights, pads = op.array(kernel, "neighbourhood"), [self.size // 2] * 4
        counts = op.node("Conv", [numbers, weights], {"pads": pads}, np.dtype(np.float32), op.shape_of(mask))
        return op.less(half, counts)


@dataclass(frozen=True)
class DilateMask(MorphologyStep):
    """Call a pixel anomalous if any in its neighbourhood is: regions grow.

    See `MorphologyStep` for the fields.

    Source: `cv2.dilate`, `scipy.ndimage.binary_dilation`.
    """

    operations = ("dilate",)


@dataclass(frozen=True)
class ErodeMask(MorphologyStep):
    """Call a pixel anomalous if all in its neighbourhood are: regions shrink.

    See `MorphologyStep` for the fields.

    Source: `cv2.erode`, `scipy.ndimage.binary_erosion(border_value=1)`.
    """

    operations = ("erode",)


@dataclass(frozen=True)
class OpenMask(MorphologyStep):
    """Erode, then dilate: what is too thin for the neighbourhood vanishes.

    See `MorphologyStep` for the fields.

    Source: `cv2.morphologyEx` with `MORPH_OPEN`.
    """

    operations = ("erode", "dilate")


@dataclass(frozen=True)
class CloseMask(MorphologyStep):
    """Dilate, then erode: gaps too narrow for the neighbourhood are filled.

    See `MorphologyStep` for the fields.

    Source: `cv2.morphologyEx` with `MORPH_CLOSE`.
    """

    operations = ("dilate", "erode")


def _dilate(mask: Mask, element: Mask) -> Mask:
    """Dilate (N,H,W) with a structuring element."""
    dilated = np.zeros_like(mask)
    height, width = mask.shape[1:]
    for y, x in np.argwhere(element) - np.array(element.shape) // 2:
        rows, columns = max(0, height - abs(y)), max(0, width - abs(x))
        top, left = max(0, y), max(0, x)
        here = np.s_[:, max(0, -y) : max(0, -y) + rows, max(0, -x) : max(0, -x) + columns]
        dilated[here] |= mask[:, top : top + rows, left : left + columns]
    return dilated


_LABEL: Final = Accepts(dtypes=("bool",), axes=("N", "NC"), lacks="HW", single="C")


@dataclass(frozen=True)
class MaskByLabel(Step):
    """Empty the mask of each image whose label is normal: `mask and label`.

    Without it, label and mask can contradict each other if the score is not the map's maximum.

    Attributes:
        source: Name of the mask, bool: (N,H,W), (N,1,H,W) or (N,H,W,1).
        label: Name of the label, bool: (N,) or (N,1).
        target: Name of the new mask, bool, of the same shape as the old one.
        axes: Axes of the mask; None until the step is bound.
    """

    accepts: ClassVar[tuple[Accepts, ...]] = (MASK, _LABEL)
    source: str
    label: str
    target: str
    axes: str | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        """The mask and the label."""
        return (self.source, self.label)

    def reference(self, mask: Array, label: Array) -> Array:
        """Clear the masks of images with a normal label."""
        masks = np.asarray(mask, np.bool_)
        return masks & np.asarray(label, np.bool_).reshape(-1, *(1,) * (masks.ndim - 1))

    def emit(self, op: Emitter, mask: ir.Value, label: ir.Value) -> ir.Value:
        """Write And, with the label broadcast over each image."""
        ones = (1, 1) if self.axes == "NHW" else (1, 1, 1)
        per_image = op.arranged(label, op.constant((-1, *ones), "one_an_image"), (None, *ones))
        return op.logical_and(mask, per_image)
