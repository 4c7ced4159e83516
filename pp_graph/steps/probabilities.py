"""Turn scores and logits into probabilities: sigmoid, Platt scaling, temperature, softmax, normal distribution."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

import numpy as np
import numpy.typing as npt

from pp_graph.errors import PostProcessorError
from pp_graph.steps.min_max import BoundedStep, as_location, as_width
from pp_graph.steps.step import CLASSES, Accepts, Array, MonotoneStep, Step, checked_on_nan
from pp_graph.values import Scale, ValueType

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
        on_nan: What NaN counts as: 1 with `"anomalous"`, 0 with `"normal"`.

    Raises:
        PostProcessorError: `on_nan` is not known.
    """

    source: str
    target: str
    on_nan: OnNaN = "anomalous"

    def __post_init__(self) -> None:
        """Refuse an unknown `on_nan`."""
        checked_on_nan(self.on_nan, self.target)

    @property
    def span(self) -> float:
        """Width of a straight line from 0 to 1 that is as steep as the middle."""
        return 4.0

    @property
    def bends(self) -> tuple[float, ...]:
        """Logits between which it moves."""
        return (-8.0, 0.0, 8.0)

    def _compute(self, x: Array) -> Array:
        return logistic(x.astype(np.float64))

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write a Where that settles NaN, and the formula; see `emit_logistic`."""
        negative = op.mul(self._emit_settled(op, value), op.constant(np.float32(-1), "minus_one"))
        return emit_logistic(op, negative)


def logistic(z: Array) -> Array:
    """`1 / (1 + exp(-z))` in float64; 0 where the exponential overflows."""
    result: Array = 1 / (1 + np.exp(-z))
    return result


def emit_logistic(op: Emitter, negative: ir.Value) -> ir.Value:
    """Write `1 / (1 + exp(negative))`.

    The operator Sigmoid of onnxruntime 1.32 gives 0 below -17.5, and is far off, seen from the number itself, before
    that: a map of small probabilities would be noise. Exp is precise, and 1 / infinity is 0 everywhere.
    """
    one = op.constant(np.float32(1), "one")
    plus_one = op.add(op.node("Exp", [negative], {}, np.dtype(np.float32), op.shape_of(negative)), one)
    return op.node("Div", [one, plus_one], {}, np.dtype(np.float32), op.shape_of(negative))


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


@dataclass(frozen=True)
class Temperature(MonotoneStep):
    """Divide logits by a temperature: `x / T`, in float32; also of several classes.

    Source: Guo et al., "On Calibration of Modern Neural Networks", 2017: a temperature fitted on validation data, in
    front of a sigmoid or softmax. NaN stays NaN, and infinity infinity. A result beyond the largest float32 is
    infinite.

    Attributes:
        source: Name of the logits; any shape, float32.
        target: Name of the divided logits; same shape, float32.
        temperature: The temperature, above 0; above 1 it softens.

    Raises:
        PostProcessorError: The temperature is not finite or not positive.
    """

    source: str
    target: str
    temperature: float

    def __post_init__(self) -> None:
        """Refuse a temperature that cannot be divided by."""
        as_width(self.temperature, f"temperature of '{self.target}'")

    @property
    def span(self) -> float:
        """The temperature: margins are measured in logits as they come out."""
        return float(self.temperature)

    @property
    def bends(self) -> tuple[float, ...]:
        """Logits between which a sigmoid or softmax behind it moves; it bends nowhere itself."""
        return (-8 * self.temperature, 0.0, 8 * self.temperature)

    def reference(self, array: Array) -> Array:
        """Divide an array; float32 of any shape to float32 of that shape."""
        with np.errstate(over="ignore", under="ignore"):
            divided: Array = np.asarray(array, np.float32) / np.float32(self.temperature)
        return divided

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write Div."""
        return op.div(value, op.constant(np.float32(self.temperature), "temperature"))


_LIMIT: Final = np.float32(2.0**126)
"""Two numbers within it, either way, differ by a finite float32."""


@dataclass(frozen=True)
class Softmax(Step):
    """Turn the numbers of the classes into probabilities that sum to 1, at each image or pixel.

    `exp(x - m) / sum(exp(x - m))` over the classes, with `m` the largest of them. Source: `torch.softmax`. An infinite
    number counts as +-2^126, so it takes or leaves all, where torch gives NaN. A NaN in one class makes all classes of
    that image or pixel NaN; what that counts as is said where they are compared.

    Attributes:
        source: Name of the numbers, float32: (N,C), (N,C,H,W) or (N,H,W,C), with C of 2 or more.
        target: Name of the probabilities; same shape, float32, in [0, 1].
        axes: Axes of what is read; None until they are known.
    """

    exact: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (CLASSES,)
    source: str
    target: str
    axes: str | None = None

    def bind(self, value: ValueType) -> Self:
        """The step with its axes.

        Raises:
            PostProcessorError: There are no classes.
        """
        if value.size("C") == 1:
            raise PostProcessorError(
                f"{value} has no classes, expected several, (N,C), (N,C,H,W) or (N,H,W,C): of one the probability "
                "is 1 everywhere. Take a sigmoid instead."
            )
        return dataclasses.replace(self, axes=value.known_axes)

    @property
    def _axis(self) -> int:
        return (self.axes or "NC").index("C")

    def output_scale(self, *scales: Scale | None) -> Scale | None:
        """0 to 1."""
        del scales
        return Scale(0.0, 1.0)

    def reference(self, array: Array) -> Array:
        """Compute the probabilities in float64, and round them once."""
        x = np.clip(np.asarray(array, np.float32), -_LIMIT, _LIMIT).astype(np.float64)
        powers = np.exp(x - x.max(axis=self._axis, keepdims=True))
        probabilities: Array = powers / powers.sum(axis=self._axis, keepdims=True)
        return probabilities.astype(np.float32)

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write the formula by hand: before opset 13, the operator Softmax flattens all axes behind the first.

        What ReduceMax, Clip and Exp make of NaN depends on the runtime. A sum of squares is NaN if and only if a number
        is, and dividing by it makes all classes NaN.
        """
        axes = (self._axis,)
        magnitudes = op.reduce("ReduceL2", value, axes, keepdims=True)
        bounded = op.clip(value, -float(_LIMIT), float(_LIMIT))
        largest = op.reduce("ReduceMax", bounded, axes, keepdims=True)
        powers = op.exp(op.sub(bounded, largest))
        total = op.reduce("ReduceSum", powers, axes, keepdims=True)
        # Less is false for NaN in every runtime.
        numbers = op.less(op.constant(np.float32(-1), "below_all"), magnitudes)
        return op.div(powers, op.where(numbers, total, magnitudes))


_SATURATED_TAIL: Final = 16
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

        distance = self._emit_distance(op, value, self.mean, _SATURATED_TAIL * self.std)
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
