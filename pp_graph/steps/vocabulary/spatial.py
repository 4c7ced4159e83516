"""Operators over the height and width of a map."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pp_graph.errors import OpsetError
from pp_graph.model.opset_raising import HOW_TO_RAISE
from pp_graph.steps.vocabulary.shaping import Shaping

if TYPE_CHECKING:
    import onnx_ir as ir


_RESIZE_TAKES_SIZES = 11
_RESIZE_INPUTS_ARE_OPTIONAL = 13


class Spatial(Shaping):
    """Convolution and resizing."""

    def convolution(self, a: ir.Value, kernel: ir.Value, **attributes: int | list[int]) -> ir.Value:
        """A convolution over the last two axes; float32. Without attributes: no padding, stride 1, one group."""
        return self.node("Conv", [a, kernel], attributes, np.dtype(np.float32), None)

    def greatest_around(self, a: ir.Value, height: int, width: int) -> ir.Value:
        """The greatest number in a window around each place of (N,C,H,W), where nothing lies outside; float32.

        Both sizes of the window are odd. What it makes of NaN depends on the runtime.
        """
        sides = [height // 2, width // 2]
        attributes = {"kernel_shape": [height, width], "pads": [*sides, *sides], "strides": [1, 1]}
        return self.node("MaxPool", [a], attributes, np.dtype(np.float32), self.shape_of(a))

    def resize(self, a: ir.Value, height: int, width: int) -> ir.Value:
        """`a` of (N,C,H,W) with other sizes of H and W, bilinear between centres of pixels; float32.

        Raises:
            OpsetError: The opset has no such operator.
        """
        if self.opset < _RESIZE_TAKES_SIZES:
            raise OpsetError(
                f"The model is at opset {self.opset}, expected {_RESIZE_TAKES_SIZES} or later to resize its map. "
                f"Fuse with {HOW_TO_RAISE}, export it again with opset_version={_RESIZE_TAKES_SIZES} or later, or "
                "leave out --map-size."
            )
        whole = self.node("Shape", [a], {}, np.dtype(np.int64), (4,))
        bounds = [self.constant((number,), name) for number, name in ((0, "start"), (2, "end"), (0, "axis"))]
        kept = self.node("Slice", [whole, *bounds], {}, np.dtype(np.int64), (2,))
        size = self.constant((height, width), "size")
        sizes = self.node("Concat", [kept, size], {"axis": 0}, np.dtype(np.int64), (4,))
        # Between opsets 11 and 12 the region of interest must be there, and is not looked at.
        roi = self.array(np.empty(0), "no_region")
        scales = self.array(np.empty(0), "no_scales") if self.opset < _RESIZE_INPUTS_ARE_OPTIONAL else None
        roi_or_none = roi if scales is not None else None
        before = self.shape_of(a)
        shape = None if before is None else (*before[:2], height, width)
        attributes = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
        return self.node("Resize", [a, roi_or_none, scales, sizes], attributes, np.dtype(np.float32), shape)
