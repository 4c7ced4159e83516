"""Give a map another size, such as that of the image it belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from pp_graph.errors import PostProcessorError
from pp_graph.steps.step import Array, Step

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.emitter import Emitter

MapLayout = Literal["NHW", "NCHW", "NHWC"]
"""Axes of a map; C is 1."""


@dataclass(frozen=True)
class ResizeMap(Step):
    """Resize a map, bilinear between the centres of its pixels, without smoothing.

    Source: ONNX `Resize` with `linear` and `half_pixel`, which is `torch.nn.functional.interpolate(mode="bilinear",
    align_corners=False)`. Runtimes round the weighted sums differently, so the step is not exact. A size below the
    map's own takes samples and can lose what lies between them.

    Attributes:
        source: Name of the map, float32: (N,H,W), (N,1,H,W) or (N,H,W,1).
        target: Name of the resized map, float32, of the same layout.
        height: New height in pixels.
        width: New width in pixels.
        layout: Axes of the map.

    Raises:
        PostProcessorError: A size is below 1, or the layout is not known.
    """

    exact: ClassVar[bool] = False
    source: str
    target: str
    height: int
    width: int
    layout: MapLayout = "NCHW"

    def __post_init__(self) -> None:
        """Refuse sizes and layouts that do not exist."""
        if self.height < 1 or self.width < 1:
            raise PostProcessorError(
                f"Size of '{self.target}' is {self.height}x{self.width}, expected at least one pixel each way."
            )
        if self.layout not in ("NHW", "NCHW", "NHWC"):
            raise PostProcessorError(f"layout of '{self.target}' is {self.layout!r}, expected NHW, NCHW or NHWC.")

    def reference(self, array: Array) -> Array:
        """Resize an array."""
        x = np.asarray(array, np.float32)
        rows, columns = (1, 2) if self.layout in ("NHW", "NHWC") else (2, 3)
        return _along(_along(x, rows, self.height), columns, self.width)

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write Resize, on (N,1,H,W)."""
        if self.layout == "NHW":
            return op.squeeze(op.resize(op.unsqueeze(value, (1,)), self.height, self.width), 1)
        if self.layout == "NCHW":
            return op.resize(value, self.height, self.width)
        resized = op.resize(op.transpose(value, (0, 3, 1, 2)), self.height, self.width)
        return op.transpose(resized, (0, 2, 3, 1))


def _along(x: npt.NDArray[np.float32], axis: int, size: int) -> npt.NDArray[np.float32]:
    """Resize along one axis."""
    has = x.shape[axis]
    position = np.clip((np.arange(size) + 0.5) * (has / size) - 0.5, 0, has - 1)
    below = np.floor(position).astype(np.int64)
    above = np.minimum(below + 1, has - 1)
    shape = [1] * x.ndim
    shape[axis] = size
    weight = (position - below).astype(np.float32).reshape(shape)
    one = np.float32(1)
    with np.errstate(invalid="ignore", over="ignore"):
        result: npt.NDArray[Any] = np.take(x, below, axis) * (one - weight) + np.take(x, above, axis) * weight
    return result.astype(np.float32, copy=False)
