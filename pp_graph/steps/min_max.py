"""Normalise by a range: min-max with and without a threshold, by image, and z-score."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.steps.bounded import BoundedStep, as_location, as_width
from pp_graph.steps.compare import find_cutoff
from pp_graph.steps.step import MAPS, Accepts, Array, MonotoneStep, OnNaN, Step, as_float32, check_on_nan
from pp_graph.values import Scale, spatial_axes

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.operators.emitter import Emitter


_ZERO, _HALF, _ONE = np.float32(0), np.float32(0.5), np.float32(1)

_LARGEST_FOLDED_OFFSET: Final = 4
"""Largest |offset| / width at which we let OpenVINO fold `(x - offset) / width` into one multiply-add.

Above it, an operator without effect prevents the folding. Largest error of a normalised value in OpenVINO 2026.4 on
CPU: 3e-7 at 4, 5e-7 at 8, 4e-6 at 100. Without folding it is 6e-8 at any offset.
"""


@dataclass(frozen=True)
class MinMaxNormalize(BoundedStep):
    """Map raw values to [0, 1] with the threshold at 0.5.

    `clip((x - threshold) / (max - min) + 0.5, 0, 1)`, in exactly this order of float32 operations. If `max == min`: 1
    above the threshold, 0 below it, 0.5 at it. Source: Anomalib 2.7, `PostProcessor._normalize`.

    Attributes:
        source: Name of the raw value; any shape, float32.
        target: Name of the normalised value; same shape, float32, in [0, 1].
        threshold: Raw value that maps to 0.5.
        minimum: Smallest raw value of the calibration.
        maximum: Largest raw value of the calibration, at least `minimum`.
        on_nan: Result for NaN: 1 with `"anomalous"`, 0 with `"normal"`.

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
        """Check the numbers and the range."""
        check_on_nan(self.on_nan, self.target)
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
        """Threshold, minimum and maximum."""
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

    def _compute(self, x: Array) -> Array:
        threshold = np.float32(self.threshold)
        if self.range == 0:
            return np.where(x > threshold, _ONE, np.where(x < threshold, _ZERO, _HALF))
        normalized: Array = np.clip((x - threshold) / self.range + _HALF, _ZERO, _ONE)
        return normalized

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write Where for NaN, then Sub, Div, Add and Clip.

        OpenVINO folds Sub, Div and Add into one multiply-add. If the threshold is large compared with the range, its
        constant cancels digits; a Clip that changes no result then prevents the folding.
        """
        threshold = np.float32(self.threshold)
        if self.range == 0:
            nan = op.constant(self._result_for_nan, "nan_counts_as")
            at = op.constant(threshold, "threshold")
            not_below = op.where(op.less(at, value), op.constant(_ONE, "one"), op.constant(_HALF, "half"))
            normalized = op.where(op.less(value, at), op.constant(_ZERO, "zero"), not_below)
            return op.where(op.is_nan(value), nan, normalized)
        # Replacing NaN first lets runtimes fuse the rest into one pass. Here, NaN and all numbers from the saturation
        # on become a number that clips to 1; with on_nan="normal", NaN becomes one that clips to 0.
        if self.on_nan == "anomalous":
            # Less is false for NaN in every runtime.
            below = op.less(value, op.constant(self._saturation, "saturation"))
            value = op.where(below, value, op.constant(self._above, "above"))
        else:
            value = op.where(op.is_nan(value), op.constant(self._below, "below"), value)
        centered = op.sub(value, op.constant(threshold, "threshold"))
        if abs(float(threshold)) > _LARGEST_FOLDED_OFFSET * float(self.range):
            centered = op.clip(centered, -float(self.range), float(self.range))
        scaled = op.div(centered, op.constant(self.range, "range"))
        shifted = op.add(scaled, op.constant(_HALF, "half"))
        return op.clip(shifted, 0.0, 1.0)

    @property
    def _above(self) -> np.float32:
        """A raw value that every runtime maps to 1, however it rounds."""
        with np.errstate(over="ignore"):
            far = np.float32(self.threshold) + np.float32(2) * self.range
            return max(far, np.nextafter(self._saturation, np.float32(np.inf)))

    @property
    def _below(self) -> np.float32:
        """A raw value that every runtime maps to 0, however it rounds."""
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
    `MinMaxScaler(clip=True)`. Unlike `MinMaxNormalize`, it does not move the threshold to 0.5.

    Attributes:
        source: Name of the raw value; any shape, float32.
        target: Name of the normalised value; same shape, float32, in [0, 1].
        minimum: Raw value that maps to 0.
        maximum: Raw value that maps to 1, above `minimum`.
        on_nan: Result for NaN: 1 with `"anomalous"`, 0 with `"normal"`.

    Raises:
        PostProcessorError: A number or the range is not finite or too large, or the range is not positive.
    """

    source: str
    target: str
    minimum: float
    maximum: float
    on_nan: OnNaN = "anomalous"

    def __post_init__(self) -> None:
        """Check the numbers and the range."""
        check_on_nan(self.on_nan, self.target)
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
        """Write Where for NaN, then Sub, Clip, Div and Clip."""
        above = self._emit_distance(op, value, float(np.float32(self.minimum)), 2 * self.span)
        return op.clip(op.div(above, op.constant(np.float32(self.span), "range")), 0.0, 1.0)


_LIMIT: Final = np.float32(2.0**125)
"""The range of numbers of at most this magnitude is finite, and so is its reciprocal."""
_LEAST_RANGE: Final = np.float32(2.0**-100)
"""Above this range, numbers that OpenVINO flushes to 0 (below 2^-126) change no digit of the result."""


@dataclass(frozen=True)
class PerImageMinMax(Step):
    """Map each image's own range to [0, 1]: `(x - min) / (max - min)` over height and width.

    Source: `normPRED` of U2-Net and IS-Net. Each class has its own range. A constant map, or one whose range is at most
    2^-100, becomes 0 (in the source: NaN). Magnitudes above 2^125 (4e37), including infinity, count as 2^125. NaN is
    left out of the range.

    The largest pixel of every image becomes 1, even in a normal image, so a later threshold always finds something.

    Attributes:
        source: Name of the map, float32: (N,H,W), (N,C,H,W) or (N,H,W,C).
        target: Name of the normalised map; same shape, float32, in [0, 1].
        on_nan: Result for NaN: 1 with `"anomalous"`, 0 with `"normal"`.
        axes: Axes of the map; None until the step is bound.

    Raises:
        PostProcessorError: `on_nan` is unknown.
    """

    exact: ClassVar[bool] = False
    pointwise: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (MAPS,)
    source: str
    target: str
    on_nan: OnNaN = "anomalous"
    axes: str | None = None

    def __post_init__(self) -> None:
        """Check `on_nan`."""
        check_on_nan(self.on_nan, self.target)

    @property
    def _nan(self) -> np.float32:
        return np.float32(1 if self.on_nan == "anomalous" else 0)

    def output_scale(self, *scales: Scale | None) -> Scale | None:
        """0 to 1."""
        del scales
        return Scale(0.0, 1.0)

    def reference(self, array: Array) -> Array:
        """Normalise an array."""
        axes = spatial_axes(self.axes or "NHW")
        x = np.clip(np.asarray(array, np.float32), -_LIMIT, _LIMIT)
        nan = np.isnan(x)
        lowest = np.where(nan, _LIMIT, x).min(axis=axes, keepdims=True)
        highest = np.where(nan, -_LIMIT, x).max(axis=axes, keepdims=True)
        extent = highest - lowest
        # Dividing the pixels of a constant map by this gives 0.
        divisor = np.where(extent > _LEAST_RANGE, extent, 2 * _LIMIT)
        with np.errstate(under="ignore"):
            return np.where(nan, self._nan, (x - lowest) / divisor).astype(np.float32)

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write the range without NaN, then Sub, Div and Where for NaN."""
        axes = spatial_axes(self.axes or "NHW")
        nan = op.is_nan(value)
        above = op.clip(op.where(nan, op.constant(_LIMIT, "above_all"), value), -float(_LIMIT), float(_LIMIT))
        lowest = op.reduce("ReduceMin", above, axes, keepdims=True)
        below = op.where(nan, op.constant(-_LIMIT, "below_all"), above)
        extent = op.sub(op.reduce("ReduceMax", below, axes, keepdims=True), lowest)
        wide = op.less(op.constant(_LEAST_RANGE, "least_range"), extent)
        divisor = op.where(wide, extent, op.constant(np.float32(2) * _LIMIT, "makes_0"))
        return op.where(nan, op.constant(self._nan, "nan_counts_as"), op.div(op.sub(above, lowest), divisor))


@dataclass(frozen=True)
class ZScore(MonotoneStep):
    """Standardise: `(x - mean) / std`, in this order of float32 operations; not bounded.

    Source: scikit-learn, `StandardScaler`. NaN and infinities pass through unchanged in every runtime; `on_nan` of the
    step that compares them decides how NaN is classified. A result beyond the largest float32 is infinite.

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
        """Check both numbers."""
        as_location(self.mean, f"mean of '{self.target}'")
        as_width(self.std, f"std of '{self.target}'")

    @property
    def span(self) -> float:
        """One standard deviation."""
        return float(self.std)

    @property
    def bends(self) -> tuple[float, ...]:
        """The mean, and four standard deviations to both sides, although the step is linear."""
        return (self.mean - 4 * self.std, self.mean, self.mean + 4 * self.std)

    def reference(self, array: Array) -> Array:
        """Standardise an array; float32 of any shape to float32 of the same shape."""
        x = np.asarray(array, np.float32)
        with np.errstate(over="ignore", under="ignore"):
            standardised: Array = (x - np.float32(self.mean)) / np.float32(self.std)
        return standardised

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write Sub and Div.

        OpenVINO folds them into one multiply-add, whose constant cancels digits if the mean is large compared with the
        deviation. A Where with two equal branches then prevents the folding: unlike a Clip it passes NaN through, and
        it is not optimised away.
        """
        centered = op.sub(value, op.constant(np.float32(self.mean), "mean"))
        if abs(self.mean) > _LARGEST_FOLDED_OFFSET * self.std:
            centered = op.where(op.less(centered, op.constant(np.float32(0), "zero")), centered, centered)
        return op.div(centered, op.constant(np.float32(self.std), "std"))
