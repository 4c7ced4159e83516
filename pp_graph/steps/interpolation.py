"""Normalise by interpolating between given points."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from pp_graph.errors import PostProcessorError
from pp_graph.steps.min_max import BEYOND, BoundedStep, as_location
from pp_graph.steps.step import checked_on_nan

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.operators.emitter import Emitter
    from pp_graph.steps.step import Array, OnNaN


_MOST_KNOTS: Final = 2**16
_PROBED_KNOTS: Final = 65
"""How many knots `verify` tries out at most."""


@dataclass(frozen=True, eq=False)
class Knots:
    """A non-decreasing function through knots: straight between them, constant before the first and behind the last.

    Where several knots are at one place, the function jumps there, and has the value behind the jump at that place.

    Attributes:
        places: Where the knots are, float32, non-decreasing.
        values: Their values, float64, non-decreasing.
    """

    places: npt.NDArray[np.float32]
    values: npt.NDArray[np.float64]

    @cached_property
    def _segments(self) -> tuple[Array, Array, Array, Array]:
        """Start, slope, and first and last value of the segment that begins at each knot, and before all of them."""
        ends = self.places.astype(np.float64)
        width = np.diff(ends)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            slopes = np.where(width > 0, np.diff(self.values) / width, 0.0)
        # A segment that is steeper than float32 can say is narrower than any number but 0 can tell.
        slopes = np.minimum(slopes, float(np.finfo(np.float32).max))
        return (
            np.concatenate([ends[:1], ends]),
            np.concatenate([[0.0], slopes, [0.0]]),
            np.concatenate([self.values[:1], self.values]),
            np.concatenate([self.values[:1], self.values[1:], self.values[-1:]]),
        )

    def interpolate(self, x: Array) -> Array:
        """Interpolate float32 numbers without NaN; float64 of that shape."""
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
        # The knot at which each segment begins; none is reached behind the last.
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
    """A step that is a function through knots."""

    @property
    def _knots(self) -> Knots:
        raise NotImplementedError

    @property
    def bounds(self) -> tuple[float, float]:
        """The values of the first and the last knot."""
        return float(self._knots.values[0]), float(self._knots.values[-1])

    @property
    def span(self) -> float:
        """From the first knot to the last."""
        places = self._knots.places
        return float(places[-1]) - float(places[0])

    @property
    def bends(self) -> tuple[float, ...]:
        """The knots; of many, some that are spread evenly."""
        places = self._knots.places
        chosen = np.unique(np.linspace(0, len(places) - 1, min(len(places), _PROBED_KNOTS)).astype(np.int64))
        return tuple(float(place) for place in places[chosen])

    def _compute(self, x: Array) -> Array:
        return self._knots.interpolate(x)

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write a Where that settles NaN, a search for the segment, and its line."""
        return self._knots.emit(op, self._emit_settled(op, value))

    def _settle_numbers(self, name: str) -> None:
        """Check a field of numbers that do not fall, and make a tuple of a list."""
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
                    f"{what} falls from {one} to {next_one} at number {index + 1}, expected numbers that do not fall."
                )
        object.__setattr__(self, name, numbers)


@dataclass(frozen=True)
class PiecewiseLinear(KnotStep):
    """Interpolate between knots, in float64, rounded once to float32; constant outside of them.

    Source: scikit-learn, `IsotonicRegression(out_of_bounds="clip")`, whose knots are `X_thresholds_` and
    `y_thresholds_`. Inputs are rounded to float32 first. Where an input comes several times, also after rounding, the
    function jumps, and at the input itself it has the largest of the outputs there.

    Attributes:
        source: Name of the raw value; any shape, float32.
        target: Name of the mapped value; same shape, float32, between the first and the last output.
        inputs: Raw values of the knots, non-decreasing; 2 to 65,536.
        outputs: What each maps to, as many, non-decreasing.
        on_nan: What NaN counts as: the last output with `"anomalous"`, the first with `"normal"`.

    Raises:
        PostProcessorError: Numbers fall, are not finite, or are not as many.
    """

    source: str
    target: str
    inputs: tuple[float, ...]
    outputs: tuple[float, ...]
    on_nan: OnNaN = "anomalous"

    def __post_init__(self) -> None:
        """Refuse knots that are no function that rises."""
        checked_on_nan(self.on_nan, self.target)
        self._settle_numbers("inputs")
        self._settle_numbers("outputs")
        if len(self.inputs) != len(self.outputs):
            raise PostProcessorError(
                f"outputs of '{self.target}' holds {len(self.outputs):,} numbers, expected {len(self.inputs):,}, one "
                "for each of inputs."
            )

    @cached_property
    def _knots(self) -> Knots:
        return Knots(np.array(self.inputs, np.float32), np.array(self.outputs, np.float64))


@dataclass(frozen=True)
class QuantileMap(KnotStep):
    """The share of calibrated values that a raw value reaches, between quantiles that are spread evenly.

    The first of K quantiles, the minimum, maps to 0, number k to `k / (K - 1)`, and the last, the maximum, to 1;
    between them the line is straight, in float64, rounded once to float32. Source: scikit-learn,
    `QuantileTransformer(output_distribution="uniform")`, whose `quantiles_` they are; so are
    `numpy.quantile(values, numpy.linspace(0, 1, K))`.

    A raw value that several quantiles have, also after rounding to float32, maps to the last of them: that is the
    share of calibrated values at or below it, as `scipy.stats.ecdf` defines it. scikit-learn takes the middle of the
    first and the last there.

    Attributes:
        source: Name of the raw value; any shape, float32.
        target: Name of the share; same shape, float32, in [0, 1].
        quantiles: Quantiles of the calibration, non-decreasing; 2 to 65,536.
        on_nan: What NaN counts as: 1 with `"anomalous"`, 0 with `"normal"`.

    Raises:
        PostProcessorError: Quantiles fall or are not finite, or there are too few or too many.
    """

    source: str
    target: str
    quantiles: tuple[float, ...]
    on_nan: OnNaN = "anomalous"

    def __post_init__(self) -> None:
        """Refuse quantiles that fall."""
        checked_on_nan(self.on_nan, self.target)
        self._settle_numbers("quantiles")

    @cached_property
    def _knots(self) -> Knots:
        return Knots(np.array(self.quantiles, np.float32), np.linspace(0.0, 1.0, len(self.quantiles)))
