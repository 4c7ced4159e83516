"""Give a map another size, such as that of the image it belongs to."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

from pp_graph.errors import PostProcessorError
from pp_graph.steps.form import MAP, Accepts, Form, MapAxes, spatial_axes
from pp_graph.steps.step import Array, Step

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.emitter import Emitter

_MOST_PIXELS: Final = 2**27


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
        axes: Axes of the map; None until it is known.

    Raises:
        PostProcessorError: A size is no whole number above 0, or together they are too large.
    """

    exact: ClassVar[bool] = False
    pointwise: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (MAP,)
    source: str
    target: str
    height: int
    width: int
    axes: MapAxes | None = None

    def __post_init__(self) -> None:
        """Refuse sizes that do not exist."""
        for name in ("height", "width"):
            size = getattr(self, name)
            if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
                raise PostProcessorError(
                    f"{name} of '{self.target}' is {size!r}, expected a whole number of pixels above 0."
                )
        if self.height * self.width > _MOST_PIXELS:
            raise PostProcessorError(
                f"Size of '{self.target}' is {self.height}x{self.width}, expected at most {_MOST_PIXELS:,} pixels."
            )

    def form(self, form: Form) -> Form:
        """A map of the new size."""
        return dataclasses.replace(form, size=(self.height, self.width))

    def reference(self, array: Array) -> Array:
        """Resize an array."""
        x = np.asarray(array, np.float32)
        rows, columns = spatial_axes(self.axes)
        return _along(_along(x, rows, self.height), columns, self.width)

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write Resize, on (N,1,H,W)."""
        if self.axes == "NHW":
            return op.squeeze(op.resize(op.unsqueeze(value, (1,)), self.height, self.width), 1)
        if self.axes != "NHWC":
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
