"""Take single pixels that stand out away from a map, and leave its edges sharp."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from pp_graph.steps.accepts import MAPS
from pp_graph.steps.checks import require_whole
from pp_graph.steps.selection_network import Node, median_network
from pp_graph.steps.step import Array, Step
from pp_graph.values import spatial_axes

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.model import Shape
    from pp_graph.steps.accepts import Accepts
    from pp_graph.steps.emitter import Emitter
    from pp_graph.values import Scale

_LARGEST_WINDOW: Final = 9
_MOST_NUMBERS: Final = 2**24
"""Up to how many numbers of windows are held at once."""


@dataclass(frozen=True)
class MedianFilter(Step):
    """Replace each pixel by the median of the square window around it.

    Beyond its border the map goes on with its outermost pixels. A window that holds a NaN gives NaN, as `numpy.median`
    does: what is broken is not smoothed away. Infinities are numbers like others. Source:
    `scipy.ndimage.median_filter(map, size, mode="nearest")`, which is also how OpenCV's `medianBlur` treats borders;
    scipy says nothing about NaN.

    Attributes:
        source: Name of the map, float32: (N,H,W), (N,C,H,W) or (N,H,W,C), each channel by itself.
        target: Name of the filtered map, float32, of the same shape.
        size: Height and width of the window in pixels, odd, from 3 to 9.
        axes: Axes of the map; None until it is known.

    Raises:
        PostProcessorError: The window is even, or too small or large.
    """

    pointwise: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (MAPS,)
    source: str
    target: str
    size: int
    axes: str | None = None

    def __post_init__(self) -> None:
        """Refuse a window without a middle, or one that would take too long."""
        require_whole(self.size, f"size of '{self.target}'", 3, _LARGEST_WINDOW, odd=True)

    @property
    def least_size(self) -> int:
        """Any will do; at this one the middle of the map sees a whole window."""
        return self.size

    def output_scale(self, *scales: Scale | None) -> Scale | None:
        """That of what it reads."""
        return scales[0]

    def reference(self, array: Array) -> Array:
        """Filter an array."""
        x = np.asarray(array, np.float32)
        axes = spatial_axes(self.axes)
        padded = np.pad(x, [(self.size // 2,) * 2 if axis in axes else (0, 0) for axis in range(x.ndim)], mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, (self.size, self.size), axes)
        found = np.empty(x.shape, np.float32)
        middle = self.size**2 // 2
        # In strips of rows, for memory's sake.
        rows = x.shape[axes[0]]
        at_once = max(1, _MOST_NUMBERS * rows // max(1, windows.size))
        for start in range(0, rows, at_once):
            strip = (*(slice(None),) * axes[0], slice(start, start + at_once))
            each = windows[strip].reshape(*windows[strip].shape[:-2], self.size**2)
            median = np.partition(each, middle, axis=-1)[..., middle]
            found[strip] = np.where(np.isnan(each).any(axis=-1), np.float32(np.nan), median)
        return found

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write Pad and a network of Min and Max, and carry NaN past it: what these make of it depends on the runtime.

        TopK over the windows takes longer: in OpenVINO 2026.4 on CPU 1.3 times as long at size 3, 8 times at size 5.
        """
        axes = spatial_axes(self.axes)
        padded = op.pad(value, axes, self.size // 2, "edge", rank=len(self.axes or "NCHW"))
        broken = op.is_nan(padded)
        zero = op.constant(np.float32(0), "zero")
        median = self._emit_network(op, op.where(broken, zero, padded), op.shape_of(value))
        # A sum of zeros, or NaN where one of them is.
        carried = op.where(broken, padded, zero)
        for axis in axes:
            cuts = [op.shortened(carried, (axis,), (at,), (self.size - 1 - at,)) for at in range(self.size)]
            carried = functools.reduce(op.add, cuts)
        return op.add(median, carried)

    def _emit_network(self, op: Emitter, padded: ir.Value, shape: Shape | None) -> ir.Value:
        height, width = spatial_axes(self.axes)
        values: dict[Node, ir.Value] = {}
        network = median_network(self.size)
        for node in network:
            parts = [values[part] for part in node.parts]
            if node.kind == "rows":
                behind = self.size - 1 - node.start
                values[node] = op.shortened(padded, (height,), (node.start,), (behind,))
            elif node.kind == "columns":
                behind = node.lost - node.parts[0].lost - node.start
                whole = shape if node.lost == self.size - 1 else None
                values[node] = op.shortened(parts[0], (width,), (node.start,), (behind,), whole)
            else:
                values[node] = (op.minimum if node.kind == "min" else op.maximum)(*parts)
        return values[network[-1]]
