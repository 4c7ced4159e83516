"""Normalise raw values by the normal distribution of those of the calibration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from pp_graph.steps.bounded import BoundedStep, as_location, as_width
from pp_graph.steps.step import checked_on_nan

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.emitter import Emitter
    from pp_graph.steps.step import Array, OnNaN

_SATURATED: Final = 16
"""Standard deviations beyond which float32 holds 0 or 1."""

_ERFC: Final = (
    0.17087277, -0.82215223, 1.48851587, -1.13520398, 0.27886807, -0.18628806, 0.09678418, 0.37409196, 1.00002368,
    -1.26551223,
)  # fmt: skip
"""Coefficients of the complementary error function, of the highest power first; see `GaussianCDF.emit`."""

_erfc = np.frompyfunc(math.erfc, 1, 1)


@dataclass(frozen=True)
class GaussianCDF(BoundedStep):
    """The share of a normal distribution below a raw value: `Phi((x - mean) / std)`, in float64, rounded once.

    Source: `torch.distributions.Normal.cdf`; Anomalib up to 1.x normalises so with `cdf`, of the logarithm of the
    raw value.

    Attributes:
        source: Name of the raw value; any shape, float32.
        target: Name of the normalised value; same shape, float32, in [0, 1].
        mean: Mean of the distribution, which maps to 0.5.
        std: Its standard deviation, above 0.
        on_nan: What NaN counts as: 1 with `"anomalous"`, 0 with `"normal"`.

    Raises:
        PostProcessorError: A number is not finite or too large, or the deviation is not positive.
    """

    source: str
    target: str
    mean: float
    std: float
    on_nan: OnNaN = "anomalous"

    def __post_init__(self) -> None:
        """Refuse a deviation that cannot be divided by."""
        checked_on_nan(self.on_nan, self.target)
        as_location(self.mean, f"mean of '{self.target}'")
        as_width(self.std, f"std of '{self.target}'")

    @property
    def span(self) -> float:
        """Width of a straight line from 0 to 1 that is as steep as the middle."""
        return self.std * math.sqrt(2 * math.pi)

    @property
    def bends(self) -> tuple[float, ...]:
        """Raw values between which it moves."""
        return (self.mean - 4 * self.std, self.mean, self.mean + 4 * self.std)

    def _compute(self, x: Array) -> Array:
        z = (x.astype(np.float64) - self.mean) / self.std
        tail: npt.NDArray[Any] = np.asarray(_erfc(z * -math.sqrt(0.5)), np.float64)
        return tail / 2

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write the tail of the distribution on the nearer side, from which both sides follow.

        `erfc(w) = t * exp(polynomial(t) - w * w)` with `t = 1 / (1 + w / 2)`, off by at most 1.2e-7 of the number
        itself; source: Press et al., "Numerical Recipes", 6.2. The operator Erf will not do: `1 + erf(-w)` cancels, so
        a map of small numbers would be noise, and in OpenVINO 2026.4 it is off by 4e-7.
        """

        def constant(number: float, name: str) -> ir.Value:
            return op.constant(np.float32(number), name)

        def unary(kind: str, a: ir.Value) -> ir.Value:
            return op.node(kind, [a], {}, np.dtype(np.float32), op.shape_of(a))

        distance = self._emit_distance(op, value, self.mean, _SATURATED * self.std)
        scaled = op.mul(distance, constant(math.sqrt(0.5) / self.std, "scale"))
        away = unary("Abs", scaled)
        one, half = constant(1, "one"), constant(0.5, "half")
        inverse = op.add(op.mul(away, half), one)
        t = op.node("Div", [one, inverse], {}, np.dtype(np.float32), op.shape_of(inverse))
        exponent = op.mul(t, constant(_ERFC[0], "coefficient"))
        for coefficient in _ERFC[1:-1]:
            exponent = op.mul(op.add(exponent, constant(coefficient, "coefficient")), t)
        exponent = op.add(exponent, constant(_ERFC[-1], "coefficient"))
        tail = op.mul(op.mul(unary("Exp", op.sub(exponent, op.mul(away, away))), t), half)
        upper = op.node("Sub", [one, tail], {}, np.dtype(np.float32), op.shape_of(tail))
        return op.where(op.less(scaled, constant(0, "zero")), tail, upper)
