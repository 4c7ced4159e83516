"""Turn scores and logits into probabilities: sigmoid, Platt scaling, temperature, normal distribution."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from pp_graph.steps.bounded import BoundedStep, as_location, as_width
from pp_graph.steps.step import Array, MonotoneStep, check_on_nan

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.operators.emitter import Emitter
    from pp_graph.steps.step import OnNaN


@dataclass(frozen=True)
class Sigmoid(BoundedStep):
    """The logistic function, `1 / (1 + exp(-x))`, in float64 and rounded once to float32.

    Source: `torch.sigmoid`, `scipy.special.expit`.

    Attributes:
        source: Name of the logits; any shape, float32.
        target: Name of the probabilities; same shape, float32, in [0, 1].
        on_nan: Result for NaN: 1 with `"anomalous"`, 0 with `"normal"`.

    Raises:
        PostProcessorError: `on_nan` is unknown.
    """

    source: str
    target: str
    on_nan: OnNaN = "anomalous"

    def __post_init__(self) -> None:
        """Check `on_nan`."""
        check_on_nan(self.on_nan, self.target)

    @property
    def span(self) -> float:
        """Width of a line from 0 to 1 with the slope of the middle."""
        return 4.0

    @property
    def bends(self) -> tuple[float, ...]:
        """Logits between which the probability changes."""
        return (-8.0, 0.0, 8.0)

    def _compute(self, x: Array) -> Array:
        return logistic(x.astype(np.float64))

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write Where for NaN, then the formula; see `emit_logistic`."""
        negative = op.mul(self._emit_without_nan(op, value), op.constant(np.float32(-1), "minus_one"))
        return emit_logistic(op, negative)


def logistic(z: Array) -> Array:
    """`1 / (1 + exp(-z))` in float64; 0 if the exponential overflows."""
    result: Array = 1 / (1 + np.exp(-z))
    return result


def emit_logistic(op: Emitter, negative: ir.Value) -> ir.Value:
    """Write `1 / (1 + exp(negative))`.

    The operator Sigmoid of onnxruntime 1.32 returns 0 below -17.5 and has large relative errors above it, so small
    probabilities would be noise. Exp is precise, and 1 / infinity is 0 in every runtime.
    """
    one = op.constant(np.float32(1), "one")
    plus_one = op.add(op.exp(negative), one)
    return op.node("Div", [one, plus_one], {}, np.dtype(np.float32), op.shape_of(negative))


@dataclass(frozen=True)
class SquareRoot(MonotoneStep):
    """The square root, as the geometric mean of two probabilities is the root of their product; 0 for NaN.

    Source: OpenCV's `FaceDetectorYN` (YuNet).

    Attributes:
        source: Name of the numbers; any shape, float32.
        target: Name of their roots; same shape, float32. Numbers below 0 count as 0.
    """

    source: str
    target: str

    @property
    def bends(self) -> tuple[float, ...]:
        """Where it begins to grow."""
        return (0.0,)

    def reference(self, array: Array) -> Array:
        """Compute the roots of an array."""
        x = np.asarray(array, np.float32)
        return np.sqrt(np.where(x > 0, x, np.float32(0)))

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write Where and Sqrt."""
        zero = op.constant(np.float32(0), "zero")
        positive = op.where(op.less(zero, value), value, zero)
        return op.node("Sqrt", [positive], {}, np.dtype(np.float32), op.shape_of(value))


_SATURATED: Final = 104
"""Magnitude of a logit beyond which its probability is 0 or 1 in float32."""


@dataclass(frozen=True)
class PlattScaling(BoundedStep):
    """Map a score to a probability: `1 / (1 + exp(-(slope * x + intercept)))`, in float64 and rounded once to float32.

    Source: Platt, "Probabilistic outputs for support vector machines", 1999. Platt's A and B (`a_` and `b_` in
    scikit-learn's `CalibratedClassifierCV(method="sigmoid")`) have the opposite sign: `slope = -a_`,
    `intercept = -b_`. `coef_` and `intercept_` of a logistic regression on the score have the same sign.

    Attributes:
        source: Name of the score or map; any shape, float32.
        target: Name of the probability; same shape, float32, in [0, 1].
        slope: Increase of the logit per unit of the score; above 0, because larger scores are more anomalous.
        intercept: Logit of a score of 0.
        on_nan: Result for NaN: 1 with `"anomalous"`, 0 with `"normal"`.

    Raises:
        PostProcessorError: A number is not finite or too large, or the slope is not positive.
    """

    source: str
    target: str
    slope: float
    intercept: float
    on_nan: OnNaN = "anomalous"

    def __post_init__(self) -> None:
        """Check slope and intercept."""
        check_on_nan(self.on_nan, self.target)
        as_width(self.slope, f"slope of '{self.target}'")
        as_location(self.intercept, f"intercept of '{self.target}'")
        as_location(self._center, f"-intercept / slope of '{self.target}'")

    @property
    def _center(self) -> float:
        """Score with probability 0.5."""
        return -self.intercept / self.slope

    @property
    def span(self) -> float:
        """Width of a line from 0 to 1 with the slope of the middle."""
        return 4 / self.slope

    @property
    def bends(self) -> tuple[float, ...]:
        """Scores between which the probability changes."""
        return (self._center - 8 / self.slope, self._center, self._center + 8 / self.slope)

    def _compute(self, x: Array) -> Array:
        return logistic(x.astype(np.float64) * self.slope + self.intercept)

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write the logistic function of `(x - center) * slope`; `slope * x + intercept` would cancel digits."""
        distance = self._emit_distance(op, value, self._center, _SATURATED / self.slope)
        return emit_logistic(op, op.mul(distance, op.constant(np.float32(-self.slope), "minus_slope")))


@dataclass(frozen=True)
class Temperature(MonotoneStep):
    """Divide logits by a temperature: `x / T`, in float32; also of several classes.

    Source: Guo et al., "On Calibration of Modern Neural Networks", 2017. The temperature is fitted on validation data;
    a sigmoid or softmax follows. NaN and infinities pass through unchanged. A result beyond the largest float32 is
    infinite.

    Attributes:
        source: Name of the logits; any shape, float32.
        target: Name of the divided logits; same shape, float32.
        temperature: The temperature, above 0. Above 1 it makes probabilities less extreme.

    Raises:
        PostProcessorError: The temperature is not finite or not positive.
    """

    source: str
    target: str
    temperature: float

    def __post_init__(self) -> None:
        """Check the temperature."""
        as_width(self.temperature, f"temperature of '{self.target}'")

    @property
    def span(self) -> float:
        """The temperature, so that margins are measured in divided logits."""
        return float(self.temperature)

    @property
    def bends(self) -> tuple[float, ...]:
        """Logits between which a following sigmoid changes, although the step is linear."""
        return (-8 * self.temperature, 0.0, 8 * self.temperature)

    def reference(self, array: Array) -> Array:
        """Divide an array; float32 of any shape to float32 of the same shape."""
        with np.errstate(over="ignore", under="ignore"):
            divided: Array = np.asarray(array, np.float32) / np.float32(self.temperature)
        return divided

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write Div."""
        return op.div(value, op.constant(np.float32(self.temperature), "temperature"))


_SATURATED_TAIL: Final = 16
"""Number of standard deviations beyond which the result is 0 or 1 in float32."""

_ERFC: Final = (
    0.17087277, -0.82215223, 1.48851587, -1.13520398, 0.27886807, -0.18628806, 0.09678418, 0.37409196, 1.00002368,
    -1.26551223,
)  # fmt: skip
"""Coefficients of the complementary error function, highest power first; see `GaussianCDF.emit`."""

_erfc = np.frompyfunc(math.erfc, 1, 1)


@dataclass(frozen=True)
class GaussianCDF(BoundedStep):
    """Map a value to the share of a normal distribution below it: `Phi((x - mean) / std)`, in float64, rounded once.

    Source: `torch.distributions.Normal.cdf`. The `cdf` normalisation of Anomalib up to 1.x applies it to the logarithm
    of the raw value.

    Attributes:
        source: Name of the raw value; any shape, float32.
        target: Name of the normalised value; same shape, float32, in [0, 1].
        mean: Mean of the distribution; it maps to 0.5.
        std: Standard deviation, above 0.
        on_nan: Result for NaN: 1 with `"anomalous"`, 0 with `"normal"`.

    Raises:
        PostProcessorError: A number is not finite or too large, or the deviation is not positive.
    """

    source: str
    target: str
    mean: float
    std: float
    on_nan: OnNaN = "anomalous"

    def __post_init__(self) -> None:
        """Check mean and deviation."""
        check_on_nan(self.on_nan, self.target)
        as_location(self.mean, f"mean of '{self.target}'")
        as_width(self.std, f"std of '{self.target}'")

    @property
    def span(self) -> float:
        """Width of a line from 0 to 1 with the slope of the middle."""
        return self.std * math.sqrt(2 * math.pi)

    @property
    def bends(self) -> tuple[float, ...]:
        """Raw values between which the result changes."""
        return (self.mean - 4 * self.std, self.mean, self.mean + 4 * self.std)

    def _compute(self, x: Array) -> Array:
        z = (x.astype(np.float64) - self.mean) / self.std
        tail: npt.NDArray[Any] = np.asarray(_erfc(z * -math.sqrt(0.5)), np.float64)
        return tail / 2

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write the tail of the distribution on the nearer side; the other side is one minus it.

        `erfc(w) = t * exp(polynomial(t) - w * w)` with `t = 1 / (1 + w / 2)` has a relative error of at most 1.2e-7;
        source: Press et al., "Numerical Recipes", 6.2. With the operator Erf, `1 + erf(-w)` would cancel digits, so
        that small results would be noise, and OpenVINO 2026.4 adds an error of 4e-7.
        """

        def constant(number: float, name: str) -> ir.Value:
            return op.constant(np.float32(number), name)

        distance = self._emit_distance(op, value, self.mean, _SATURATED_TAIL * self.std)
        scaled = op.mul(distance, constant(math.sqrt(0.5) / self.std, "scale"))
        magnitude = op.node("Abs", [scaled], {}, np.dtype(np.float32), op.shape_of(scaled))
        one, half = constant(1, "one"), constant(0.5, "half")
        inverse = op.add(op.mul(magnitude, half), one)
        t = op.node("Div", [one, inverse], {}, np.dtype(np.float32), op.shape_of(inverse))
        exponent = op.mul(t, constant(_ERFC[0], "coefficient"))
        for coefficient in _ERFC[1:-1]:
            exponent = op.mul(op.add(exponent, constant(coefficient, "coefficient")), t)
        exponent = op.add(exponent, constant(_ERFC[-1], "coefficient"))
        tail = op.mul(op.mul(op.exp(op.sub(exponent, op.mul(magnitude, magnitude))), t), half)
        upper = op.node("Sub", [one, tail], {}, np.dtype(np.float32), op.shape_of(tail))
        return op.where(op.less(scaled, constant(0, "zero")), tail, upper)
