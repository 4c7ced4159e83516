"""Crop and resize maps."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

import numpy as np
import numpy.typing as npt

from pp_graph.errors import PostProcessorError
from pp_graph.steps.step import (
    MAP_AXES,
    MAPS_AND_MASKS,
    Accepts,
    Array,
    Step,
    require_size,
    require_whole,
)
from pp_graph.values import ValueType, spatial_axes

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from pp_graph.steps.operators.emitter import Emitter


_WIDEST: Final = 2**16


@dataclass(frozen=True)
class CropBorder(Step):
    """Cut pixels off at the sides of a map or a mask.

    Source: NumPy's `map[..., top : H - bottom, left : W - right]`. Other pixels, NaN included, stay the same. At least
    one pixel must be left.

    Attributes:
        source: Name of the map or mask: (N,H,W), (N,C,H,W) or (N,H,W,C), of any element type.
        target: Name of the cropped map or mask, of the same axes and element type.
        border: Number of pixels to cut off at each side, or four numbers: top, bottom, left, right.
        axes: Axes of the map; None until the step is bound.

    Raises:
        PostProcessorError: A number of pixels is not a whole number from 0 on, or there are not one or four numbers.
    """

    pointwise: ClassVar[bool] = False
    keeps_scale: ClassVar[bool] = True
    selects: ClassVar[bool] = True
    accepts: ClassVar[tuple[Accepts, ...]] = (MAPS_AND_MASKS,)
    source: str
    target: str
    border: int | Sequence[int]
    axes: str | None = None

    def __post_init__(self) -> None:
        """Check the border."""
        if isinstance(self.border, list):
            # Files hold lists.
            object.__setattr__(self, "border", tuple(self.border))
        if isinstance(self.border, tuple) and len(self.border) != 4:
            raise PostProcessorError(
                f"border of '{self.target}' is {self.border!r}, expected one number of pixels, or four: top, bottom, "
                "left, right."
            )
        for side, pixels in zip(("top", "bottom", "left", "right"), self._sides, strict=True):
            require_whole(pixels, f"border of '{self.target}' at the {side}", 0, _WIDEST)

    @property
    def _sides(self) -> tuple[int, int, int, int]:
        """Pixels at the top, bottom, left and right."""
        top, bottom, left, right = self.border if isinstance(self.border, tuple) else (self.border,) * 4
        return top, bottom, left, right

    @property
    def _smallest(self) -> tuple[int, int]:
        top, bottom, left, right = self._sides
        return top + bottom + 1, left + right + 1

    @property
    def least_size(self) -> int:
        """One pixel more than are cut off on both sides."""
        return max(self._smallest)

    def bind(self, value: ValueType) -> Self:
        """Bind the step to a map; raise `PostProcessorError` if no pixel is left."""
        require_size(value.map_size, self._smallest, self.target, "for one to be left")
        return super().bind(value)

    def output_type(self, value: ValueType) -> ValueType:
        """Type of the cropped map."""
        if value.map_size is None:
            return value
        top, bottom, left, right = self._sides
        height, width = value.map_size
        return value.resized(H=height - top - bottom, W=width - left - right)

    def reference(self, array: Array) -> Array:
        """Crop an array of any element type."""
        rows, columns = spatial_axes(self.axes)
        size = (array.shape[rows], array.shape[columns])
        require_size(size, self._smallest, self.target, "for one to be left")
        top, bottom, left, right = self._sides
        cut = [slice(None)] * array.ndim
        cut[rows] = slice(top, array.shape[rows] - bottom)
        cut[columns] = slice(left, array.shape[columns] - right)
        return np.ascontiguousarray(array[tuple(cut)])

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write Slice. If a size is open, a Pad before it fails if nothing would be left.

        An empty map would pass for a normal one. Mirroring as many pixels as are cut off requires one pixel more.
        """
        top, bottom, left, right = self._sides
        before, behind = [top, left], [bottom, right]
        axes = spatial_axes(self.axes)
        shape = op.shape_of(value)
        open_axes = [axis for axis in axes if shape is None or not isinstance(shape[axis], int)]
        dtype = None if value.dtype is None else value.dtype.numpy()
        # Runtimes mirror float32 only.
        casts = bool(open_axes) and dtype is not None and dtype != np.float32
        cut = op.cast(value, np.dtype(np.float32)) if casts else value
        for place, axis in enumerate(axes):
            lost = before[place] + behind[place]
            if lost and axis in open_axes:
                cut = op.pad(cut, (axis,), lost, "reflect", rank=len(self.axes or "NCHW"))
                before[place] += lost
                behind[place] += lost
        cut = op.shortened(cut, axes, before, behind)
        return op.cast(cut, dtype) if casts and dtype is not None else cut


_MOST_PIXELS: Final = 2**27
_LONGEST_SIDE: Final = 2**20
"""The step stores two positions and a weight for each pixel of a side."""


@dataclass(frozen=True)
class ResizeMap(Step):
    """Resize a map, bilinear between the centres of its pixels, without smoothing.

    Source: ONNX `Resize` with `linear` and `half_pixel`, which is `torch.nn.functional.interpolate(mode="bilinear",
    align_corners=False)`. Runtimes round the weighted sums differently, so the step is not exact. Shrinking a map
    samples it and can lose the pixels between the samples.

    Attributes:
        source: Name of the map, float32: (N,H,W), (N,C,H,W), (N,H,W,C) or (N,K,H,W).
        target: Name of the resized map, float32, of the same layout.
        height: New height in pixels.
        width: New width in pixels.
        axes: Axes of the map; None until the step is bound.
        from_size: Height and width of the input; None if unknown.

    Raises:
        PostProcessorError: A size is not a whole number above 0, or the map would be too large.
    """

    exact: ClassVar[bool] = False
    pointwise: ClassVar[bool] = False
    keeps_scale: ClassVar[bool] = True
    accepts: ClassVar[tuple[Accepts, ...]] = (Accepts(needs="HW", axes=(*MAP_AXES, "NKHW"), known_rank=True),)
    settled: ClassVar[frozenset[str]] = frozenset({"axes", "from_size"})
    source: str
    target: str
    height: int
    width: int
    axes: str | None = None
    from_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Check the size."""
        for name in ("height", "width"):
            require_whole(getattr(self, name), f"{name} of '{self.target}'", 1)
        if self.height * self.width > _MOST_PIXELS or max(self.height, self.width) > _LONGEST_SIDE:
            raise PostProcessorError(
                f"Size of '{self.target}' is {self.height}x{self.width}, expected at most {_MOST_PIXELS:,} pixels, and "
                f"{_LONGEST_SIDE:,} a side."
            )

    def bind(self, value: ValueType) -> ResizeMap:
        """Bind the step to a map."""
        return dataclasses.replace(self, axes=value.known_axes, from_size=value.map_size)

    def output_type(self, value: ValueType) -> ValueType:
        """A map of the new size."""
        return value.resized(H=self.height, W=self.width)

    def reference(self, array: Array) -> Array:
        """Resize an array."""
        x = np.asarray(array, np.float32)
        rows, columns = spatial_axes(self.axes)
        return _resized(_resized(x, rows, self.height), columns, self.width)

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write the reference's operations; if the map's size is open, write Resize.

        OpenVINO may run the operators before a Resize in bf16, which is hard to prevent.
        """
        if self.from_size is not None:
            rows, columns = spatial_axes(self.axes)
            return self._emit_along(op, self._emit_along(op, value, rows, 0), columns, 1)
        if self.axes == "NHW":
            return op.squeeze(op.resize(op.unsqueeze(value, (1,)), self.height, self.width), 1)
        if self.axes != "NHWC":
            return op.resize(value, self.height, self.width)
        resized = op.resize(op.transpose(value, (0, 3, 1, 2)), self.height, self.width)
        return op.transpose(resized, (0, 2, 3, 1))

    def _emit_along(self, op: Emitter, value: ir.Value, axis: int, which: int) -> ir.Value:
        """Resize along one axis, as `_resized` does."""
        assert self.from_size is not None
        old, size = self.from_size[which], (self.height, self.width)[which]
        if old == size:
            return value
        below, above, weight = _neighbours(old, size)
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


def _neighbours(old: int, size: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The two neighbouring input pixels of each output pixel, and the weight of the second."""
    position = np.clip((np.arange(size) + 0.5) * (old / size) - 0.5, 0, old - 1)
    below = np.floor(position).astype(np.int64)
    return below, np.minimum(below + 1, old - 1), (position - below).astype(np.float32)


def _resized(x: npt.NDArray[np.float32], axis: int, size: int) -> npt.NDArray[np.float32]:
    """Resize along one axis."""
    old = x.shape[axis]
    if old == size:
        return x
    below, above, weight = _neighbours(old, size)
    shape = [1] * x.ndim
    shape[axis] = size
    weight = weight.reshape(shape)
    one = np.float32(1)
    with np.errstate(invalid="ignore", over="ignore"):
        result: npt.NDArray[Any] = np.take(x, below, axis) * (one - weight) + np.take(x, above, axis) * weight
    return result.astype(np.float32, copy=False)
