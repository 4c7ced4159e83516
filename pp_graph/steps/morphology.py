"""Erode, dilate, open and close masks."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from pp_graph.steps.step import MASK, Accepts, Step, require_one_of, require_whole

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.operators.emitter import Emitter


Mask = npt.NDArray[np.bool_]

_CHANNEL = {"NHW": None, "NCHW": 1, "NHWC": 3, None: 1}


def without_channel(mask: npt.ArrayLike, axes: str | None) -> Mask:
    """A mask as (N,H,W); (N,1,H,W) where its axes are not known and it has four."""
    array = np.asarray(mask, np.bool_)
    place = _CHANNEL[axes]
    return array if place is None or array.ndim == 3 else array.squeeze(place)


def like(images: Mask, mask: Any) -> Mask:
    """A mask (N,H,W) with the axes of another."""
    return images.reshape(np.shape(mask))


def emit_without_channel(op: Emitter, mask: ir.Value, axes: str | None) -> ir.Value:
    """Reshape a mask to (N,H,W)."""
    place = _CHANNEL[axes]
    return mask if place is None else op.squeeze(mask, place)


def emit_with_channel(op: Emitter, images: ir.Value, axes: str | None) -> ir.Value:
    """Reshape a mask of (N,H,W) to its own axes."""
    place = _CHANNEL[axes]
    return images if place is None else op.unsqueeze(images, (place,))


NeighbourhoodShape = Literal["square", "cross", "disk"]
"""Which pixels around one count: all in the square, those in its row or column, or those within half its side."""

_LARGEST: Final = 255


def neighbourhood(size: int, shape: NeighbourhoodShape) -> Mask:
    """The pixels around the one in the middle that count; bool (size, size).

    Source: `skimage.morphology.footprint_rectangle`, the arms of a plus, and `skimage.morphology.disk(size // 2)`:
    `x * x + y * y <= r * r`.
    """
    around = np.arange(size) - size // 2
    y, x = np.meshgrid(around, around, indexing="ij")
    if shape == "cross":
        return np.asarray((y == 0) | (x == 0))
    return np.asarray(y * y + x * x <= (size // 2) ** 2) if shape == "disk" else np.ones((size, size), np.bool_)


@dataclass(frozen=True)
class MorphologyStep(Step):
    """Base class of steps that look at the neighbourhood of each pixel of a mask.

    What lies outside of the map has no say: it counts as normal where regions grow, and as anomalous where they shrink.
    That is what OpenCV does by default, scikit-image's `dilation`, `erosion`, `opening` and `closing` with
    `mode="ignore"`, and SciPy's `binary_dilation` with `border_value=0` and `binary_erosion` with `border_value=1`.

    Attributes:
        source: Name of the mask, bool: (N,H,W), (N,1,H,W) or (N,H,W,1).
        target: Name of the new mask, bool, of the same shape.
        size: Height and width of the neighbourhood in pixels, odd.
        shape: Its shape; see `neighbourhood`.
        axes: Axes of the mask; None until they are known.

    Raises:
        PostProcessorError: `size` is no odd number from 1 to 255, or `shape` is not known.
    """

    pointwise: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (MASK,)
    source: str
    target: str
    size: int = 3
    shape: NeighbourhoodShape = "square"
    axes: str | None = None

    def __post_init__(self) -> None:
        """Refuse neighbourhoods that have no middle."""
        require_whole(self.size, f"size of '{self.target}'", 1, _LARGEST, odd=True)
        require_one_of(self.shape, f"shape of '{self.target}'", get_args(NeighbourhoodShape))

    @abstractmethod
    def _reference(self, mask: Mask) -> Mask:
        """Compute the step on (N,H,W)."""

    @abstractmethod
    def _emit(self, op: Emitter, mask: ir.Value) -> ir.Value:
        """Write the step, on bool (N,1,H,W)."""

    def reference(self, mask: Mask) -> Mask:
        """Compute the step on an array."""
        return like(self._reference(without_channel(mask, self.axes)), mask)

    def emit(self, op: Emitter, mask: ir.Value) -> ir.Value:
        """Write the step, on (N,1,H,W)."""
        if self.axes in ("NCHW", None):
            return self._emit(op, mask)
        images = emit_without_channel(op, mask, self.axes)
        return emit_with_channel(op, op.squeeze(self._emit(op, op.unsqueeze(images, (1,))), 1), self.axes)

    def _dilated(self, mask: Mask) -> Mask:
        if self.shape == "square":
            line = np.ones((self.size, 1), np.bool_)
            return _spread(_spread(mask, line), line.T)
        return _spread(mask, neighbourhood(self.size, self.shape))

    def _eroded(self, mask: Mask) -> Mask:
        # Shapes are symmetric: what grows outside is what shrinks inside.
        return ~self._dilated(~mask)

    def _emit_dilated(self, op: Emitter, mask: ir.Value) -> ir.Value:
        """Write the search for an anomalous pixel around each.

        Masks become 0 and 1, which any precision holds; sums of ones stay above 1/2 in all of them, too.
        """
        numbers = op.cast(mask, np.dtype(np.float32))
        half = op.constant(np.float32(0.5), "half")
        if self.shape == "square":
            return op.less(half, op.greatest_around(numbers, self.size, self.size))
        if self.shape == "cross":
            column = op.less(half, op.greatest_around(numbers, self.size, 1))
            return op.logical_or(column, op.less(half, op.greatest_around(numbers, 1, self.size)))
        kernel = neighbourhood(self.size, self.shape)[None, None].astype(np.float32)
        weights, margin = op.array(kernel, "neighbourhood"), [self.size // 2] * 4
        counts = op.node("Conv", [numbers, weights], {"pads": margin}, np.dtype(np.float32), op.shape_of(mask))
        return op.less(half, counts)

    def _emit_eroded(self, op: Emitter, mask: ir.Value) -> ir.Value:
        return op.logical_not(self._emit_dilated(op, op.logical_not(mask)))


@dataclass(frozen=True)
class DilateMask(MorphologyStep):
    """Call a pixel anomalous if any in its neighbourhood is: regions grow. See `MorphologyStep` for fields.

    Source: `cv2.dilate`, `scipy.ndimage.binary_dilation`.
    """

    def _reference(self, mask: Mask) -> Mask:
        return self._dilated(mask)

    def _emit(self, op: Emitter, mask: ir.Value) -> ir.Value:
        return self._emit_dilated(op, mask)


@dataclass(frozen=True)
class ErodeMask(MorphologyStep):
    """Call a pixel anomalous if all in its neighbourhood are: regions shrink. See `MorphologyStep` for fields.

    Source: `cv2.erode`, `scipy.ndimage.binary_erosion(border_value=1)`.
    """

    def _reference(self, mask: Mask) -> Mask:
        return self._eroded(mask)

    def _emit(self, op: Emitter, mask: ir.Value) -> ir.Value:
        return self._emit_eroded(op, mask)


@dataclass(frozen=True)
class OpenMask(MorphologyStep):
    """Erode, then dilate: what is too thin for the neighbourhood vanishes. See `MorphologyStep` for fields.

    Source: `cv2.morphologyEx` with `MORPH_OPEN`.
    """

    def _reference(self, mask: Mask) -> Mask:
        return self._dilated(self._eroded(mask))

    def _emit(self, op: Emitter, mask: ir.Value) -> ir.Value:
        return self._emit_dilated(op, self._emit_eroded(op, mask))


@dataclass(frozen=True)
class CloseMask(MorphologyStep):
    """Dilate, then erode: gaps too narrow for the neighbourhood are filled. See `MorphologyStep` for fields.

    Source: `cv2.morphologyEx` with `MORPH_CLOSE`.
    """

    def _reference(self, mask: Mask) -> Mask:
        return self._eroded(self._dilated(mask))

    def _emit(self, op: Emitter, mask: ir.Value) -> ir.Value:
        return self._emit_eroded(op, self._emit_dilated(op, mask))


def _spread(mask: Mask, around: Mask) -> Mask:
    """Dilate (N,H,W) with the neighbourhood `around`."""
    found = np.zeros_like(mask)
    height, width = mask.shape[1:]
    for y, x in np.argwhere(around) - np.array(around.shape) // 2:
        rows, columns = max(0, height - abs(y)), max(0, width - abs(x))
        top, left = max(0, y), max(0, x)
        here = np.s_[:, max(0, -y) : max(0, -y) + rows, max(0, -x) : max(0, -x) + columns]
        found[here] |= mask[:, top : top + rows, left : left + columns]
    return found
