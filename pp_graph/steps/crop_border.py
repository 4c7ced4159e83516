"""Leave out the border of a map or a mask, where a network sees its own padding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, Self

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.steps.accepts import MAPS_AND_MASKS, Accepts
from pp_graph.steps.checks import require_array_size, require_size, require_whole
from pp_graph.steps.step import Array, Step
from pp_graph.values import ValueType, spatial_axes

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from pp_graph.steps.emitter import Emitter
    from pp_graph.values import Scale

_WIDEST: Final = 2**16


@dataclass(frozen=True)
class CropBorder(Step):
    """Cut pixels off at the sides of a map or a mask.

    Source: NumPy's `map[..., top : H - bottom, left : W - right]`. What is left is smaller; nothing else changes, NaN
    included. At least one pixel must be left.

    Attributes:
        source: Name of the map or mask: (N,H,W), (N,C,H,W) or (N,H,W,C), of any element type.
        target: Name of what is left, of the same axes and element type.
        border: Pixels to cut off, at each side; or those at the top, bottom, left and right.
        axes: Axes of the map; None until it is known.

    Raises:
        PostProcessorError: A number of pixels is no whole number from 0 on, or there are not one or four of them.
    """

    pointwise: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (MAPS_AND_MASKS,)
    source: str
    target: str
    border: int | Sequence[int]
    axes: str | None = None

    def __post_init__(self) -> None:
        """Refuse what is no number of pixels."""
        if isinstance(self.border, list):
            # A file gives a list.
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
    def _least(self) -> tuple[int, int]:
        top, bottom, left, right = self._sides
        return top + bottom + 1, left + right + 1

    @property
    def least_size(self) -> int:
        """One pixel more than are cut off."""
        return max(self._least)

    def bind(self, value: ValueType) -> Self:
        """The crop of a map of known axes, of which something is left if its size is known."""
        require_size(value, self._least, "for one to be left")
        return super().bind(value)

    def output_type(self, value: ValueType) -> ValueType:
        """A map of what is left."""
        if value.map_size is None:
            return value
        top, bottom, left, right = self._sides
        height, width = value.map_size
        return value.resized(H=height - top - bottom, W=width - left - right)

    def output_scale(self, *scales: Scale | None) -> Scale | None:
        """That of what it reads."""
        return scales[0]

    def reference(self, array: Array) -> Array:
        """Cut an array; its element type stays."""
        rows, columns = spatial_axes(self.axes)
        require_array_size(array, (rows, columns), self._least, self.target)
        top, bottom, left, right = self._sides
        cut = [slice(None)] * array.ndim
        cut[rows] = slice(top, array.shape[rows] - bottom)
        cut[columns] = slice(left, array.shape[columns] - right)
        return np.ascontiguousarray(array[tuple(cut)])

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write Slice; where a size is open, behind a Pad that fails if nothing would be left.

        A cut of too much is empty in every runtime, and an empty map would pass for a normal one. Mirroring as many
        pixels as are cut off asks for one more than these.
        """
        top, bottom, left, right = self._sides
        before, behind = [top, left], [bottom, right]
        axes = spatial_axes(self.axes)
        shape = op.shape_of(value)
        open_axes = [axis for axis in axes if shape is None or not isinstance(shape[axis], int)]
        dtype = None if value.dtype is None else value.dtype.numpy()
        # Runtimes mirror numbers; decisions are such for as long.
        number = (
            value if not open_axes or dtype is None or dtype == np.float32 else op.cast(value, np.dtype(np.float32))
        )
        cut = number
        for place, axis in enumerate(axes):
            lost = before[place] + behind[place]
            if lost and axis in open_axes:
                cut = op.pad(cut, (axis,), lost, "reflect", rank=len(self.axes or "NCHW"))
                before[place] += lost
                behind[place] += lost
        cut = op.shortened(cut, axes, before, behind)
        return cut if number is value or dtype is None else op.cast(cut, dtype)
