"""Smooth a map with a Gaussian, as anomaly models do before they hand their map out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Final, Self

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.steps.accepts import MAPS
from pp_graph.steps.checks import require_array_size, require_size, require_whole
from pp_graph.steps.step import Array, Step, as_float32
from pp_graph.values import ValueType, spatial_axes

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.accepts import Accepts
    from pp_graph.steps.emitter import Emitter
    from pp_graph.values import Scale

_LARGEST_KERNEL: Final = 255


@dataclass(frozen=True)
class GaussianBlur(Step):
    """Replace each pixel by a weighted mean of its neighbours, with weights that fall off as a Gaussian.

    Along the height, then along the width: `y[i] = sum_k w[k] * x[i + k]`, `w[k]` in proportion to
    `exp(-k**2 / (2 * sigma**2))` and of sum 1, `|k| <= kernel_size // 2`. Beyond its border the map is mirrored without
    its outermost pixel, so it must be larger than `kernel_size // 2`. Source: Anomalib 2.7, `GaussianBlur2d`, which is
    kornia's `gaussian_blur2d` with `border_type="reflect"`; that multiplies both kernels first, and so differs by
    rounding.

    Weights are computed in float64 and rounded to float32; those that are then no normal number are left out. The two
    pixels at the same distance are added first: above half the largest float32 the sum is infinite. NaN spreads to
    every pixel whose kernel covers it, as do infinities; two of opposite sign give NaN.

    Attributes:
        source: Name of the map, float32: (N,H,W), (N,C,H,W) or (N,H,W,C), each channel by itself.
        target: Name of the smoothed map, float32, of the same shape.
        sigma: Standard deviation in pixels, above 0.
        kernel_size: Size of the kernel in pixels, odd, up to 255; None for Anomalib's, `2 * int(4 * sigma + 0.5) + 1`.
        axes: Axes of the map; None until it is known.

    Raises:
        PostProcessorError: `sigma` is not above 0, or the kernel's size is even or too large.
    """

    exact: ClassVar[bool] = False
    pointwise: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (MAPS,)
    source: str
    target: str
    sigma: float
    kernel_size: int | None = None
    axes: str | None = None

    def __post_init__(self) -> None:
        """Refuse a kernel that does not exist, or that would take too long."""
        if as_float32(self.sigma, f"sigma of '{self.target}'") <= 0:
            raise PostProcessorError(f"sigma of '{self.target}' is {self.sigma}, expected a number above 0.")
        if self.kernel_size is not None:
            require_whole(self.kernel_size, f"kernel_size of '{self.target}'", 1, _LARGEST_KERNEL, odd=True)
        elif self._size > _LARGEST_KERNEL:
            raise PostProcessorError(
                f"sigma of '{self.target}' is {self.sigma}, which asks for a kernel of {self._size} pixels, expected "
                f"at most {_LARGEST_KERNEL}. Give a smaller sigma, or a kernel_size."
            )

    @property
    def _size(self) -> int:
        return 2 * int(4.0 * self.sigma + 0.5) + 1 if self.kernel_size is None else int(self.kernel_size)

    @cached_property
    def _weights(self) -> Array:
        """Weights at distance 0, 1, 2, ... from the middle, float32."""
        distance = np.arange(self._size // 2 + 1, dtype=np.float64)
        with np.errstate(under="ignore"):
            weights = np.exp(-((distance / float(self.sigma)) ** 2) / 2)
            rounded = (weights / (weights[0] + 2 * weights[1:].sum())).astype(np.float32)
        kept: Array = rounded[rounded >= np.finfo(np.float32).smallest_normal]
        return kept

    @property
    def _radius(self) -> int:
        return len(self._weights) - 1

    @property
    def least_size(self) -> int:
        """One pixel more than are mirrored."""
        return self._radius + 1

    def bind(self, value: ValueType) -> Self:
        """The blur of a map of known axes, which is large enough if its size is known."""
        require_size(value, (self.least_size, self.least_size), f"to be mirrored by {self._radius}")
        return super().bind(value)

    def output_scale(self, *scales: Scale | None) -> Scale | None:
        """That of what it reads."""
        return scales[0]

    def reference(self, array: Array) -> Array:
        """Smooth an array."""
        x = np.asarray(array, np.float32)
        axes = spatial_axes(self.axes)
        require_array_size(x, axes, (self.least_size, self.least_size), self.target)
        radius = self._radius
        for axis in axes:
            pads = [(radius, radius) if each == axis else (0, 0) for each in range(x.ndim)]
            taps = np.moveaxis(np.pad(x, pads, mode="reflect"), axis, 0)
            size = x.shape[axis]
            with np.errstate(invalid="ignore", over="ignore", under="ignore"):
                total = taps[radius : radius + size] * self._weights[0]
                for k in range(1, radius + 1):
                    pair = taps[radius - k : radius - k + size] + taps[radius + k : radius + k + size]
                    total = total + pair * self._weights[k]
            x = np.moveaxis(total, 0, axis)
        return np.ascontiguousarray(x)

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write Pad, and a sum of shifted cuts times weights, along each axis.

        Two convolutions take no less time (256 x 256 pixels, 33 weights, one thread of OpenVINO 2026.4: 1.0 to 1.6 ms,
        the sum 0.8 to 1.3), need other layouts than (N,H,W) and (N,H,W,1), and make OpenVINO run what stands before
        them in the network's precision. Elementwise operators do neither.
        """
        shape = op.shape_of(value)
        radius = self._radius
        for axis in spatial_axes(self.axes):
            padded = op.pad(value, (axis,), radius, "reflect", rank=len(self.axes or "NCHW")) if radius else value
            total = None
            for k, weight in enumerate(self._weights):
                cuts = [
                    op.shortened(padded, (axis,), (radius + shift,), (radius - shift,), shape)
                    for shift in dict.fromkeys((-k, k))
                ]
                pair = cuts[0] if k == 0 else op.add(*cuts)
                term = op.mul(pair, op.constant(weight, f"weight_{k}"))
                total = term if total is None else op.add(total, term)
            assert total is not None, "a kernel has a middle"
            value = total
        return value
