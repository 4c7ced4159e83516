"""Min-max normalisation around the threshold, as Anomalib calibrates it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.steps.cutoff import find_cutoff
from pp_graph.steps.step import Array, MonotoneStep, OnNaN, as_float32, checked_on_nan
from pp_graph.values import Scale

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.emitter import Emitter

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
