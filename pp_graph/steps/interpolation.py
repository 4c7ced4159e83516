"""Normalise by interpolation between given points."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from pp_graph.errors import PostProcessorError
from pp_graph.steps.bounded import BEYOND, BoundedStep, as_location
from pp_graph.steps.compare import normal_above
from pp_graph.steps.step import check_on_nan

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.operators.emitter import Emitter
    from pp_graph.steps.step import Array, OnNaN


_MOST_KNOTS: Final = 2**16
_PROBED_KNOTS: Final = 65
"""Largest number of bends."""


@dataclass(frozen=True, eq=False)
class Knots:
    """A non-decreasing, piecewise linear function through knots, constant outside them.

    If several knots have the same place, the function jumps there; at the place itself it has the last value.

    Attributes:
        places: Places of the knots, float32, non-decreasing. Subnormal ones move up to the next number that is not
            subnormal, which changes no value at other numbers: OpenVINO flushes such constants to 0 in some graphs.
        values: Values at the knots, float64, non-decreasing.
    """

    places: npt.NDArray[np.float32]
    values: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        """Move subnormal places."""
        object.__setattr__(self, "places", normal_above(self.places))

    @cached_property
    def _segments(self) -> tuple[Array, Array, Array, Array]:
        """Start, slope, first and last value of each segment: before the first knot, then after each knot."""
        ends = self.places.astype(np.float64)
        width = np.diff(ends)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            slopes = np.where(width > 0, np.diff(self.values) / width, 0.0)
        # Steeper segments are narrower than the spacing of float32 numbers, so capping their slope changes nothing.
        slopes = np.minimum(slopes, float(np.finfo(np.float32).max))
        return (
            np.concatenate([ends[:1], ends]),
            np.concatenate([[0.0], slopes, [0.0]]),
            np.concatenate([self.values[:1], self.values]),
            np.concatenate([self.values[:1], self.values[1:], self.values[-1:]]),
        )

    def interpolate(self, x: Array) -> Array:
        """Interpolate float32 numbers without NaN; float64 of the same shape."""
        starts, slopes, first, last = self._segments
        segment = np.searchsorted(self.places, x, side="right")
        within = np.clip(x, self.places[0], self.places[-1]).astype(np.float64)
        # Rounding must not lift a segment above the next one.
        value: Array = np.minimum(first[segment] + (within - starts[segment]) * slopes[segment], last[segment])
        return value

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write a bisection over the knots, then the line of the segment. The input has no NaN."""
        starts, slopes, first, _ = self._segments
        levels = len(self.places).bit_length()
        missing = 2**levels - len(starts)
        # The knot at which each segment begins. No input reaches the padding.
        begins = np.concatenate([[-float(BEYOND)], self.places, np.full(missing, np.finfo(np.float32).max)])
        tables = {
            name: op.array(np.pad(table, (0, missing), mode="edge"), name)
            for name, table in (("starts", starts), ("slopes", slopes), ("values", first))
        }
        knots = op.array(begins, "knots")
        # Infinity times a slope of 0 would be NaN.
        x = op.clip(value, -float(BEYOND), float(BEYOND))
        step = 2 ** (levels - 1)
        below = op.less(x, op.constant(np.float32(begins[step]), "middle"))
        segment = op.where(below, op.constant(np.int64(0), "first"), op.constant(np.int64(step), "step"))
        while step > 1:
            step //= 2
            next_one = op.add(segment, op.constant(np.int64(step), "step"))
            segment = op.where(op.less(x, op.look_up(knots, next_one)), segment, next_one)
        start, slope, base = (op.look_up(table, segment) for table in tables.values())
        line = op.add(op.mul(op.sub(x, start), slope), base)
        return op.clip(line, float(np.float32(self.values[0])), float(np.float32(self.values[-1])))


class KnotStep(BoundedStep):
    """Base class of functions through knots."""

    @property
    def _knots(self) -> Knots:
        raise NotImplementedError

    @property
    def bounds(self) -> tuple[float, float]:
        """Values at the first and last knot."""
        return float(self._knots.values[0]), float(self._knots.values[-1])

    @property
    def span(self) -> float:
        """Distance between the first and last knot."""
        places = self._knots.places
        return float(places[-1]) - float(places[0])

    @property
    def bends(self) -> tuple[float, ...]:
        """The knots; if there are many, an evenly spaced subset."""
        places = self._knots.places
        subset = np.unique(np.linspace(0, len(places) - 1, min(len(places), _PROBED_KNOTS)).astype(np.int64))
        return tuple(float(place) for place in places[subset])

    def _compute(self, x: Array) -> Array:
        return self._knots.interpolate(x)

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write Where for NaN, a search for the segment, and its line."""
        return self._knots.emit(op, self._emit_without_nan(op, value))

    def _check_rising(self, name: str) -> None:
        """Check that a field holds non-decreasing numbers, and convert it to a tuple."""
        given: Any = getattr(self, name)
        what = f"{name} of '{self.target}'"
        if not isinstance(given, Sequence | np.ndarray) or isinstance(given, str):
            raise PostProcessorError(f"{what} is {given!r}, expected numbers.")
        if not 2 <= len(given) <= _MOST_KNOTS:
            raise PostProcessorError(f"{what} holds {len(given):,} numbers, expected 2 to {_MOST_KNOTS:,}.")
        numbers = tuple(as_location(number, f"Number {index} in {what}") for index, number in enumerate(given))
        for index, (one, next_one) in enumerate(itertools.pairwise(numbers)):
            if one > next_one:
                raise PostProcessorError(
                    f"{what} falls from {one} to {next_one} at number {index + 1}, expected non-decreasing numbers."
                )
        object.__setattr__(self, name, numbers)


@dataclass(frozen=True)
class PiecewiseLinear(KnotStep):
    """Interpolate between knots, in float64, rounded once to float32; constant outside of them.

    Source: scikit-learn, `IsotonicRegression(out_of_bounds="clip")`, whose knots are `X_thresholds_` and
    `y_thresholds_`. Inputs are rounded to float32 first. At an input that occurs several times, also after rounding,
    the function jumps, and its value is the largest of the outputs there.

    Attributes:
        source: Name of the raw value; any shape, float32.
        target: Name of the mapped value; same shape, float32, between the first and the last output.
        inputs: Raw values of the knots, non-decreasing; 2 to 65,536.
        outputs: Value at each knot, non-decreasing.
        on_nan: Result for NaN: the last output with `"anomalous"`, the first with `"normal"`.

    Raises:
        PostProcessorError: Numbers fall or are not finite, or inputs and outputs differ in length.
    """

    source: str
    target: str
    inputs: tuple[float, ...]
    outputs: tuple[float, ...]
    on_nan: OnNaN = "anomalous"

    def __post_init__(self) -> None:
        """Check the knots."""
        check_on_nan(self.on_nan, self.target)
        self._check_rising("inputs")
        self._check_rising("outputs")
        if len(self.inputs) != len(self.outputs):
            raise PostProcessorError(
                f"outputs of '{self.target}' holds {len(self.outputs):,} numbers, expected {len(self.inputs):,}, one "
                "for each input."
            )

    @cached_property
    def _knots(self) -> Knots:
        return Knots(np.array(self.inputs, np.float32), np.array(self.outputs, np.float64))


@dataclass(frozen=True)
class QuantileMap(KnotStep):
    """Map a raw value to the share of calibrated values at or below it, interpolated between evenly spaced quantiles.

    The first of K quantiles, the minimum, maps to 0, quantile k to `k / (K - 1)`, and the last, the maximum, to 1.
    Between them the step interpolates linearly in float64 and rounds once to float32. Source: scikit-learn,
    `QuantileTransformer(output_distribution="uniform")`. Use its `quantiles_`, or
    `numpy.quantile(values, numpy.linspace(0, 1, K))`.

    A raw value that equals several quantiles, also after rounding to float32, maps to the last of them: the share of
    calibrated values at or below it, as in `scipy.stats.ecdf`. scikit-learn takes the middle of the first and last.

    Attributes:
        source: Name of the raw value; any shape, float32.
        target: Name of the share; same shape, float32, in [0, 1].
        quantiles: Quantiles of the calibration, non-decreasing; 2 to 65,536.
        on_nan: Result for NaN: 1 with `"anomalous"`, 0 with `"normal"`.

    Raises:
        PostProcessorError: Quantiles fall or are not finite, or there are too few or too many.
    """

    source: str
    target: str
    quantiles: tuple[float, ...]
    on_nan: OnNaN = "anomalous"

    def __post_init__(self) -> None:
        """Check the quantiles."""
        check_on_nan(self.on_nan, self.target)
        self._check_rising("quantiles")

    @cached_property
    def _knots(self) -> Knots:
        return Knots(np.array(self.quantiles, np.float32), np.linspace(0.0, 1.0, len(self.quantiles)))
