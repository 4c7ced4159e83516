"""Normalise by a range: min-max with and without a threshold, by image, and z-score."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.steps.compare import find_cutoff
from pp_graph.steps.step import MAPS, Accepts, Array, MonotoneStep, OnNaN, Step, as_float32, checked_on_nan
from pp_graph.values import Scale

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.operators.emitter import Emitter


LARGEST_PARAMETER: Final = 2.0**100
"""Largest magnitude of a parameter; the smallest of a width is its reciprocal.

OpenVINO divides by multiplying with the reciprocal, and takes numbers below 1.2e-38 for 0: within these bounds neither
a parameter, nor its reciprocal, nor a product of two that are sensible together gets there.
"""
BEYOND: Final = np.float32(2.0**120)
"""A number that is above whatever a step tells apart."""


class BoundedStep(MonotoneStep):
    """A monotone step with bounded results. NaN becomes one of the bounds, in every runtime.

    Attributes:
        on_nan: What NaN counts as: the upper bound with `"anomalous"`, the lower one with `"normal"`.
    """

    on_nan: OnNaN

    @property
    def bounds(self) -> tuple[float, float]:
        """The smallest and the largest number that it writes."""
        return (0.0, 1.0)

    @abstractmethod
    def _compute(self, x: Array) -> Array:
        """Compute the step on float32 numbers without NaN, in float32 or float64."""

    def output_scale(self, *scales: Scale | None) -> Scale | None:
        """Between the bounds."""
        del scales
        return Scale(*self.bounds)

    def reference(self, array: Array) -> Array:
        """Compute the step; float32 of any shape to float32 of that shape, without NaN."""
        x = np.asarray(array, np.float32)
        nan = np.isnan(x)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            computed = self._compute(np.where(nan, np.float32(0), x)).astype(np.float32)
        return np.where(nan, np.float32(self.bounds[self.on_nan == "anomalous"]), computed)

    def _emit_settled(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Replace NaN by a number outside the range: runtimes disagree on Clip of NaN."""
        if self.on_nan == "anomalous":
            # Less is false for NaN in every runtime.
            return op.where(op.less(value, op.constant(BEYOND, "beyond")), value, op.constant(BEYOND, "beyond"))
        return op.where(op.is_nan(value), op.constant(-BEYOND, "beyond"), value)

    def _emit_distance(self, op: Emitter, value: ir.Value, center: float, reach: float) -> ir.Value:
        """Write `value - center` with full precision near the center, cut off where it is beyond `reach`.

        A center in float64 is subtracted in two parts. The Clip between them is not only there for infinity: OpenVINO
        folds what is subtracted and multiplied in a row into one multiply-add, whose constant cancels the digits that
        subtracting first would have kept.
        """
        high = np.float32(center)
        low = np.float32(center - float(high))
        limit = float(np.float32(reach + 2 * abs(float(low))))
        distance = self._emit_settled(op, value)
        if high != 0:
            distance = op.sub(distance, op.constant(high, "center"))
        distance = op.clip(distance, -limit, limit)
        return op.sub(distance, op.constant(low, "center_rest")) if low != 0 else distance


def as_location(number: float, what: str) -> float:
    """A parameter that is a place among the numbers.

    Raises:
        PostProcessorError: It is no number, or too large.
    """
    as_float32(number, what)
    if abs(number) > LARGEST_PARAMETER:
        raise PostProcessorError(f"{what} is {number}, expected a magnitude of at most {LARGEST_PARAMETER:.4g}.")
    return float(number)


def as_width(number: float, what: str) -> float:
    """A parameter that is a width, or the reciprocal of one: a positive number.

    Raises:
        PostProcessorError: It is not positive, or too small or large.
    """
    as_float32(number, what)
    if number <= 0:
        raise PostProcessorError(f"{what} is {number}, expected a number above 0.")
    if not 1 / LARGEST_PARAMETER <= number <= LARGEST_PARAMETER:
        raise PostProcessorError(
            f"{what} is {number}, expected a number from {1 / LARGEST_PARAMETER:.4g} to {LARGEST_PARAMETER:.4g}: "
            "float32 cannot divide by others in every runtime."
        )
    return float(number)


_ZERO, _HALF, _ONE = np.float32(0), np.float32(0.5), np.float32(1)

# |threshold| / range up to which folding may stand. Measured in OpenVINO 2026.4 on CPU, the largest error of the
# normalised value: 3e-7 at 4, 5e-7 at 8, 4e-6 at 100; 6e-8 at any with the Clip.
_FOLDING_COSTS_DIGITS = 4


@dataclass(frozen=True)
class MinMaxNormalize(MonotoneStep):
    """Map raw values to [0, 1] with the threshold at 0.5.

    `clip((x - threshold) / (max - min) + 0.5, 0, 1)`, in exactly this order of float32 operations.
    Where `max == min`: 1 above the threshold, 0 below it, 0.5 at it. Source: Anomalib 2.7,
    `PostProcessor._normalize`.

    NaN becomes 1 with `on_nan="anomalous"` and 0 with `"normal"`, in every runtime: runtimes
    disagree on what `Clip` makes of it.

    Attributes:
        source: Name of the raw value; any shape, float32.
        target: Name of the normalised value; same shape, float32, in [0, 1].
        threshold: Raw value that maps to 0.5.
        minimum: Smallest raw value of the calibration.
        maximum: Largest raw value of the calibration, at least `minimum`.
        on_nan: What NaN counts as.

    Raises:
        PostProcessorError: A number or the range is not finite in float32, or the range is negative.
    """

    source: str
    target: str
    threshold: float
    minimum: float
    maximum: float
    on_nan: OnNaN = "anomalous"

    def __post_init__(self) -> None:
        """Refuse a range that float32 cannot hold."""
        checked_on_nan(self.on_nan, self.target)
        for name in ("threshold", "minimum", "maximum"):
            as_float32(getattr(self, name), f"{name} of '{self.target}'")
        if self.minimum > self.maximum:
            raise PostProcessorError(
                f"minimum of '{self.target}' is {self.minimum}, expected at most the maximum, {self.maximum}."
            )
        as_float32(float(self.range), f"maximum - minimum of '{self.target}'")

    @property
    def range(self) -> np.float32:
        """`maximum - minimum`, subtracted in float32."""
        with np.errstate(over="ignore"):
            return np.float32(self.maximum) - np.float32(self.minimum)

    @property
    def span(self) -> float:
        """The calibrated range."""
        return float(self.range)

    @property
    def bends(self) -> tuple[float, ...]:
        """Threshold and range of the calibration."""
        return (self.threshold, self.minimum, self.maximum)

    @cached_property
    def _saturation(self) -> np.float32:
        """Smallest raw value that maps to 1."""
        cutoff = find_cutoff(lambda x: self.reference(x) >= _ONE)
        assert cutoff is not None, "infinity maps to 1"
        return cutoff

    def output_scale(self, *scales: Scale | None) -> Scale | None:
        """0 to 1, with the calibrated threshold at 0.5."""
        del scales
        return Scale(0.0, 1.0, threshold=0.5)

    def reference(self, array: Array) -> Array:
        """Normalise an array; float32 of any shape to float32 of that shape."""
        x = np.asarray(array, np.float32)
        threshold = np.float32(self.threshold)
        if self.range == 0:
            normalized = np.where(x > threshold, _ONE, np.where(x < threshold, _ZERO, _HALF))
        else:
            with np.errstate(over="ignore", invalid="ignore", under="ignore"):
                normalized = np.clip((x - threshold) / self.range + _HALF, _ZERO, _ONE)
        nan = _ONE if self.on_nan == "anomalous" else _ZERO
        return np.where(np.isnan(x), nan, normalized).astype(np.float32)

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write Sub, Div, Add, Clip and a Where that settles NaN.

        OpenVINO folds Sub, Div and Add into one multiply-add. With a threshold far from zero, seen from the
        range, its constant cancels digits that the two steps would have kept; there a Clip that changes
        nothing stands between them.
        """
        threshold = np.float32(self.threshold)
        if self.range == 0:
            nan = op.constant(_ONE if self.on_nan == "anomalous" else _ZERO, "nan_counts_as")
            at = op.constant(threshold, "threshold")
            not_below = op.where(op.less(at, value), op.constant(_ONE, "one"), op.constant(_HALF, "half"))
            normalized = op.where(op.less(value, at), op.constant(_ZERO, "zero"), not_below)
            return op.where(op.is_nan(value), nan, normalized)
        # NaN is settled first, so that all that follows is one pass: what is at least the saturation, or NaN, becomes a
        # number that clips to 1; or NaN becomes one that clips to 0.
        if self.on_nan == "anomalous":
            # Less is false for NaN in every runtime.
            below = op.less(value, op.constant(self._saturation, "saturation"))
            value = op.where(below, value, op.constant(self._above, "above"))
        else:
            value = op.where(op.is_nan(value), op.constant(self._below, "below"), value)
        centered = op.sub(value, op.constant(threshold, "threshold"))
        if abs(float(threshold)) > _FOLDING_COSTS_DIGITS * float(self.range):
            centered = op.clip(centered, -float(self.range), float(self.range))
        scaled = op.div(centered, op.constant(self.range, "range"))
        shifted = op.add(scaled, op.constant(_HALF, "half"))
        return op.clip(shifted, 0.0, 1.0)

    @property
    def _above(self) -> np.float32:
        """A raw value that maps to 1 however a runtime rounds."""
        with np.errstate(over="ignore"):
            far = np.float32(self.threshold) + np.float32(2) * self.range
            return max(far, np.nextafter(self._saturation, np.float32(np.inf)))

    @property
    def _below(self) -> np.float32:
        """A raw value that maps to 0 however a runtime rounds."""
        positive = find_cutoff(lambda x: self.reference(x) > _ZERO)
        assert positive is not None, "infinity maps to 1"
        lowest = np.float32(-np.inf)
        with np.errstate(over="ignore"):
            far = np.float32(self.threshold) - np.float32(2) * self.range
            return min(far, np.nextafter(np.nextafter(positive, lowest), lowest))


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


_SPREAD_COSTS_DIGITS: Final = 4
"""|mean| / std up to which folding may stand; see `MinMaxNormalize`."""


@dataclass(frozen=True)
class ZScore(MonotoneStep):
    """Standardise: `(x - mean) / std`, in this order of float32 operations; not bounded.

    Source: scikit-learn, `StandardScaler`. NaN stays NaN, and infinity infinity, in every runtime; what decides about
    them says by its own `on_nan` what NaN counts as. A result beyond the largest float32 is infinite.

    Attributes:
        source: Name of the raw value; any shape, float32.
        target: Name of the standardised value; same shape, float32.
        mean: Mean of the calibration.
        std: Standard deviation of the calibration, above 0.

    Raises:
        PostProcessorError: A number is not finite or too large, or the deviation is not positive.
    """

    source: str
    target: str
    mean: float
    std: float

    def __post_init__(self) -> None:
        """Refuse a deviation that cannot be divided by."""
        as_location(self.mean, f"mean of '{self.target}'")
        as_width(self.std, f"std of '{self.target}'")

    @property
    def span(self) -> float:
        """One standard deviation."""
        return float(self.std)

    @property
    def bends(self) -> tuple[float, ...]:
        """The mean, and four standard deviations to both sides; it bends nowhere."""
        return (self.mean - 4 * self.std, self.mean, self.mean + 4 * self.std)

    def reference(self, array: Array) -> Array:
        """Standardise an array; float32 of any shape to float32 of that shape."""
        x = np.asarray(array, np.float32)
        with np.errstate(over="ignore", under="ignore"):
            standardised: Array = (x - np.float32(self.mean)) / np.float32(self.std)
        return standardised

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write Sub and Div.

        OpenVINO folds them into one multiply-add, whose constant cancels digits where the mean is far from zero, seen
        from the deviation. There a choice between a number and itself stands between them: it lets NaN through,
        unlike a Clip, and is not optimised away.
        """
        centered = op.sub(value, op.constant(np.float32(self.mean), "mean"))
        if abs(self.mean) > _SPREAD_COSTS_DIGITS * self.std:
            centered = op.where(op.less(centered, op.constant(np.float32(0), "zero")), centered, centered)
        return op.div(centered, op.constant(np.float32(self.std), "std"))
