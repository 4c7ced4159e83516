"""Spread each map over [0, 1], from its own smallest number to its own largest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from pp_graph.steps.accepts import MAPS, Accepts
from pp_graph.steps.step import Array, OnNaN, Step, checked_on_nan
from pp_graph.values import Scale

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.emitter import Emitter

_LIMIT: Final = np.float32(2.0**125)
"""The range of numbers within it, either way, is finite, and so is one divided by it."""
_LEAST_RANGE: Final = np.float32(2.0**-100)
"""Above it, what OpenVINO takes for 0 (numbers below 2^-126) shows in no digit of the result."""


@dataclass(frozen=True)
class PerImageMinMax(Step):
    """Map each image's own range to [0, 1]: `(x - min) / (max - min)` over height and width.

    Source: `normPRED` of U2-Net and IS-Net. Each class of a map with classes is spread by itself. A map that is
    constant, which has no range, becomes 0 (there it becomes NaN); so does one whose range is at most 2^-100. Infinite
    numbers, and all beyond 2^125 (4e37), count as that. NaN takes no part in the range.

    It makes the largest pixel of every image 1, also of a normal one: a threshold behind it always finds something.

    Attributes:
        source: Name of the map, float32: (N,H,W), (N,C,H,W) or (N,H,W,C).
        target: Name of the spread map; same shape, float32, in [0, 1].
        on_nan: What NaN counts as: 1 with `anomalous`, 0 with `normal`.
        axes: Axes of the map; None until they are known.

    Raises:
        PostProcessorError: `on_nan` is neither.
    """

    exact: ClassVar[bool] = False
    pointwise: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (MAPS,)
    source: str
    target: str
    on_nan: OnNaN = "anomalous"
    axes: str | None = None

    def __post_init__(self) -> None:
        """Refuse another meaning of NaN."""
        checked_on_nan(self.on_nan, self.target)

    @property
    def _spatial(self) -> tuple[int, int]:
        return (2, 3) if self.axes == "NCHW" else (1, 2)

    @property
    def _nan(self) -> np.float32:
        return np.float32(1 if self.on_nan == "anomalous" else 0)

    def output_scale(self, *scales: Scale | None) -> Scale | None:
        """0 to 1."""
        del scales
        return Scale(0.0, 1.0)

    def reference(self, array: Array) -> Array:
        """Spread an array."""
        x = np.clip(np.asarray(array, np.float32), -_LIMIT, _LIMIT)
        nan = np.isnan(x)
        lowest = np.where(nan, _LIMIT, x).min(axis=self._spatial, keepdims=True)
        highest = np.where(nan, -_LIMIT, x).max(axis=self._spatial, keepdims=True)
        extent = highest - lowest
        # Numbers of a constant map divided by this are 0.
        divisor = np.where(extent > _LEAST_RANGE, extent, 2 * _LIMIT)
        with np.errstate(under="ignore"):
            return np.where(nan, self._nan, (x - lowest) / divisor).astype(np.float32)

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write the range without NaN, then Sub, Div and a Where that settles NaN."""
        nan = op.is_nan(value)
        above = op.clip(op.where(nan, op.constant(_LIMIT, "above_all"), value), -float(_LIMIT), float(_LIMIT))
        lowest = op.reduce("ReduceMin", above, self._spatial, keepdims=True)
        below = op.where(nan, op.constant(-_LIMIT, "below_all"), above)
        extent = op.sub(op.reduce("ReduceMax", below, self._spatial, keepdims=True), lowest)
        wide = op.less(op.constant(_LEAST_RANGE, "least_range"), extent)
        divisor = op.where(wide, extent, op.constant(np.float32(2) * _LIMIT, "makes_0"))
        return op.where(nan, op.constant(self._nan, "nan_counts_as"), op.div(op.sub(above, lowest), divisor))
