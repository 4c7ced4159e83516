"""Normalise raw values to [0, 1] by the smallest and the largest one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.steps.bounded import BoundedStep, as_location, as_width
from pp_graph.steps.step import checked_on_nan

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.emitter import Emitter
    from pp_graph.steps.step import Array, OnNaN


@dataclass(frozen=True)
class PlainMinMax(BoundedStep):
    """Map raw values to [0, 1], the smallest one of the calibration to 0 and the largest to 1.

    `clip((x - min) / (max - min), 0, 1)`, in exactly this order of float32 operations. Source: scikit-learn,
    `MinMaxScaler(clip=True)`. The threshold lies wherever it lies; `MinMaxNormalize` puts it at 0.5.

    Attributes:
        source: Name of the raw value; any shape, float32.
        target: Name of the normalised value; same shape, float32, in [0, 1].
        minimum: Raw value that maps to 0.
        maximum: Raw value that maps to 1, above `minimum`.
        on_nan: What NaN counts as: 1 with `"anomalous"`, 0 with `"normal"`.

    Raises:
        PostProcessorError: A number or the range is not finite or too large, or the range is not positive.
    """

    source: str
    target: str
    minimum: float
    maximum: float
    on_nan: OnNaN = "anomalous"

    def __post_init__(self) -> None:
        """Refuse a range that cannot be divided by."""
        checked_on_nan(self.on_nan, self.target)
        for name in ("minimum", "maximum"):
            as_location(getattr(self, name), f"{name} of '{self.target}'")
        if np.float32(self.minimum) >= np.float32(self.maximum):
            raise PostProcessorError(
                f"minimum of '{self.target}' is {self.minimum}, expected a number below the maximum, {self.maximum}, "
                "in float32."
            )
        as_width(self.span, f"maximum - minimum of '{self.target}'")

    @property
    def span(self) -> float:
        """The calibrated range, subtracted in float32."""
        return float(np.float32(self.maximum) - np.float32(self.minimum))

    @property
    def bends(self) -> tuple[float, ...]:
        """Both ends of the range."""
        return (self.minimum, self.maximum)

    def _compute(self, x: Array) -> Array:
        scaled: Array = (x - np.float32(self.minimum)) / np.float32(self.span)
        return np.clip(scaled, np.float32(0), np.float32(1))

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write a Where that settles NaN, Sub, Clip, Div and Clip."""
        above = self._emit_distance(op, value, float(np.float32(self.minimum)), 2 * self.span)
        return op.clip(op.div(above, op.constant(np.float32(self.span), "range")), 0.0, 1.0)
