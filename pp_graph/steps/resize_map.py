"""Give a map another size, such as that of the image it belongs to."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

from pp_graph.errors import PostProcessorError
from pp_graph.steps.accepts import MAP, Accepts
from pp_graph.steps.step import Array, Step
from pp_graph.values import ValueType, spatial_axes

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.emitter import Emitter
    from pp_graph.values import Scale

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
        from_size: Height and width of the map that is read; None where they are not known.

    Raises:
        PostProcessorError: A size is no whole number above 0, or together they are too large.
    """

    exact: ClassVar[bool] = False
    pointwise: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (MAP,)
    settled: ClassVar[frozenset[str]] = frozenset({"axes", "from_size"})
    source: str
    target: str
    height: int
    width: int
    axes: str | None = None
    from_size: tuple[int, int] | None = None

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

    def bind(self, value: ValueType) -> ResizeMap:
        """This step for a map of known axes, and of a known size where there is one."""
        return dataclasses.replace(self, axes=value.known_axes, from_size=value.map_size)

    def output_type(self, value: ValueType) -> ValueType:
        """A map of the new size."""
        return value.resized(H=self.height, W=self.width)

    def output_scale(self, *scales: Scale | None) -> Scale | None:
        """That of what it reads."""
        return scales[0]

    def reference(self, array: Array) -> Array:
        """Resize an array."""
        x = np.asarray(array, np.float32)
        rows, columns = spatial_axes(self.axes)
        return _along(_along(x, rows, self.height), columns, self.width)

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write what the reference does, or where the map's own size is open Resize, on (N,1,H,W).

        OpenVINO runs what stands before a Resize in bf16 where it prefers that, and little keeps it from doing so.
        """
        if self.from_size is not None:
            rows, columns = (1, 2) if self.axes in ("NHW", "NHWC") else (2, 3)
            return self._emit_along(op, self._emit_along(op, value, rows, 0), columns, 1)
        if self.axes == "NHW":
            return op.squeeze(op.resize(op.unsqueeze(value, (1,)), self.height, self.width), 1)
        if self.axes != "NHWC":
            return op.resize(value, self.height, self.width)
        resized = op.resize(op.transpose(value, (0, 3, 1, 2)), self.height, self.width)
        return op.transpose(resized, (0, 2, 3, 1))

    def _emit_along(self, op: Emitter, value: ir.Value, axis: int, which: int) -> ir.Value:
        """Resize along one axis, as `_along` does."""
        assert self.from_size is not None
        has, size = self.from_size[which], (self.height, self.width)[which]
        if has == size:
            return value
        below, above, weight = _places(has, size)
        shape = [1] * len(self.axes or "NCHW")
        shape[axis] = size
        before = op.shape_of(value)
        after = None if before is None else (*before[:axis], size, *before[axis + 1 :])
        low = op.gather(value, op.constant(tuple(below.tolist()), f"below_{which}"), axis, after)
        high = op.gather(value, op.constant(tuple(above.tolist()), f"above_{which}"), axis, after)
        complement = (np.float32(1) - weight).reshape(shape)
        return op.add(
            op.mul(low, op.array(complement, f"complement_{which}")),
            op.mul(high, op.array(weight.reshape(shape), f"weight_{which}")),
        )


def _places(has: int, size: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """For each new place the two old ones that it lies between, and the weight of the latter."""
    position = np.clip((np.arange(size) + 0.5) * (has / size) - 0.5, 0, has - 1)
    below = np.floor(position).astype(np.int64)
    return below, np.minimum(below + 1, has - 1), (position - below).astype(np.float32)


def _along(x: npt.NDArray[np.float32], axis: int, size: int) -> npt.NDArray[np.float32]:
    """Resize along one axis."""
    has = x.shape[axis]
    if has == size:
        return x
    below, above, weight = _places(has, size)
    shape = [1] * x.ndim
    shape[axis] = size
    weight = weight.reshape(shape)
    one = np.float32(1)
    with np.errstate(invalid="ignore", over="ignore"):
        result: npt.NDArray[Any] = np.take(x, below, axis) * (one - weight) + np.take(x, above, axis) * weight
    return result.astype(np.float32, copy=False)
