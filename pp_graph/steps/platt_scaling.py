"""Turn scores into calibrated probabilities with a fitted logistic function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from pp_graph.steps.bounded import BoundedStep, as_location, as_width
from pp_graph.steps.sigmoid import emit_logistic, logistic
from pp_graph.steps.step import checked_on_nan

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.emitter import Emitter
    from pp_graph.steps.step import Array, OnNaN

_SATURATED: Final = 104
"""Beyond, float32 holds 0 or 1."""


@dataclass(frozen=True)
class PlattScaling(BoundedStep):
    """A probability from a score: `1 / (1 + exp(-(slope * x + intercept)))`, in float64 and rounded once to float32.

    Source: Platt, "Probabilistic outputs for support vector machines", 1999. His A and B, which are `a_` and `b_` of
    scikit-learn's `CalibratedClassifierCV(method="sigmoid")`, have the other sign: `slope = -a_`, `intercept = -b_`.
    `coef_` and `intercept_` of a logistic regression on the score have this one.

    Attributes:
        source: Name of the score or map; any shape, float32.
        target: Name of the probability; same shape, float32, in [0, 1].
        slope: How much the logit grows with the score; above 0, as anomalous scores are the larger ones.
        intercept: The logit of a score of 0.
        on_nan: What NaN counts as: 1 with `"anomalous"`, 0 with `"normal"`.

    Raises:
        PostProcessorError: A number is not finite or too large, or the slope is not positive.
    """

    source: str
    target: str
    slope: float
    intercept: float
    on_nan: OnNaN = "anomalous"

    def __post_init__(self) -> None:
        """Refuse a slope that would turn the order around."""
        checked_on_nan(self.on_nan, self.target)
        as_width(self.slope, f"slope of '{self.target}'")
        as_location(self.intercept, f"intercept of '{self.target}'")
        as_location(self._center, f"-intercept / slope of '{self.target}'")

    @property
    def _center(self) -> float:
        """The score with a probability of 0.5."""
        return -self.intercept / self.slope

    @property
    def span(self) -> float:
        """Width of a straight line from 0 to 1 that is as steep as the middle."""
        return 4 / self.slope

    @property
    def bends(self) -> tuple[float, ...]:
        """Scores between which it moves."""
        return (self._center - 8 / self.slope, self._center, self._center + 8 / self.slope)

    def _compute(self, x: Array) -> Array:
        return logistic(x.astype(np.float64) * self.slope + self.intercept)

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write `(x - center) * slope`, as `slope * x + intercept` cancels, and the logistic function of it."""
        distance = self._emit_distance(op, value, self._center, _SATURATED / self.slope)
        return emit_logistic(op, op.mul(distance, op.constant(np.float32(-self.slope), "minus_slope")))
