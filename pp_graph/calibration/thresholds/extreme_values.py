"""Extreme-value theory: thresholds for false-alarm rates too small to count in the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from pp_graph.calibration.estimator import ValueEstimator, require_number
from pp_graph.calibration.score_counts import quantile_bounds, quantile_candidates
from pp_graph.calibration.sketches import TAIL_SIZE, LargestScores
from pp_graph.errors import CalibrationError
from pp_graph.extras import require_extra

if TYPE_CHECKING:
    from pp_graph.calibration.score_counts import Flags, ScoreCounts
    from pp_graph.calibration.sketches import Sketch

_SMALLEST_TAIL: Final = 10
_MOST_SIGMAS: Final = 6
"""Standard deviations by which the number of flagged scores may exceed the fit."""


@dataclass(frozen=True)
class ExtremeValue(ValueEstimator):
    """A generalised Pareto distribution, fitted to the upper tail of the normal scores by maximum likelihood.

    The tail consists of the largest scores: a share `tail` of all `n` normal scores, at most 9,999. `u` is the next
    lower score, and `k` scores of the tail exceed it. The distribution is fitted to their excesses over `u` and gives
    a shape `c` and a scale `s`. A share `rate` of all normal scores exceeds `u + s / c * ((rate * n / k)^-c - 1)`,
    the threshold. If the rate is not smaller than the tail's share, the threshold is the quantile `1 - rate` of the
    data. Sources: J. Pickands, Annals of Statistics 3, 1975; A. Siffer et al., Anomaly Detection in Streams with
    Extreme Value Theory, KDD 2017.

    Attributes:
        rate: Share of normal scores to call anomalous, in (0, 1].
        tail: Share of normal scores to fit, in (0, 1].

    Raises:
        CalibrationError: A parameter is out of range.
    """

    name: ClassVar[str] = "evt"
    needs_scipy: ClassVar[bool] = True
    rate: float = 0.001
    tail: float = 0.1

    def __post_init__(self) -> None:
        """Check the parameters."""
        require_number("rate", self.rate, 0, 1)
        require_number("tail", self.tail, 0, 1)

    def new_sketch(self) -> Sketch:
        """The tail."""
        return LargestScores()

    def candidates(self, counts: ScoreCounts) -> Flags:
        """No interval if the tail is fitted; otherwise those of the quantile."""
        if self._rarer_than_the_tail(counts.normals):
            return np.zeros(len(counts), np.bool_)
        return quantile_candidates(counts.normal, 1 - self.rate)

    def bounds(self, counts: ScoreCounts, sketch: Sketch | None) -> tuple[float, float]:
        """Exact if the tail is fitted; otherwise the bounds of the quantile.

        Raises:
            CalibrationError: The tail has too few distinct scores, or does not follow the distribution.
            ExtraError: SciPy is not installed.
        """
        n = counts.normals
        if not self._rarer_than_the_tail(n):
            return quantile_bounds(counts, counts.normal, 1 - self.rate)
        assert isinstance(sketch, LargestScores)
        size = self._tail_size(n)
        if size < _SMALLEST_TAIL:
            raise CalibrationError(
                f"The tail has {size} of {n} normal scores, expected at least {_SMALLEST_TAIL} to fit a distribution. "
                "Add normal data, use a larger tail, or use max-normal."
            )
        tail = sketch.largest(size + 1).astype(np.float64)
        start = tail[0]
        # The likelihood has no maximum if an excess is 0.
        excesses = tail[tail > start] - start
        exceeding = len(excesses)
        if exceeding < _SMALLEST_TAIL:
            raise CalibrationError(
                f"Of the {size + 1} largest normal scores {size + 1 - exceeding} are {start:.6g}, expected distinct "
                "scores. The model may saturate: use max-normal."
            )
        stats = require_extra("scipy.stats", "calibration", "the 'evt' estimator")
        unit = excesses.mean()
        shape, _, scale = stats.genpareto.fit(excesses / unit, floc=0)
        threshold = float(start + unit * stats.genpareto.isf(min(self.rate * n / exceeding, 1.0), shape, scale=scale))
        if not abs(threshold) <= np.finfo(np.float32).max:
            raise CalibrationError(
                f"The fitted tail (shape {shape:.3g}, scale {scale:.3g}) gives the threshold {threshold:.3g} for a "
                f"rate of {self.rate:g}, expected a number within float32. Use a larger rate, or max-normal."
            )
        flagged, expected = int((tail > np.float32(threshold)).sum()), self.rate * n
        if flagged > expected + _MOST_SIGMAS * np.sqrt(expected) + 1:
            raise CalibrationError(
                f"The fitted tail gives the threshold {threshold:.6g}, which flags {flagged:,} of {n:,} normal scores, "
                f"expected about {expected:.3g} at a rate of {self.rate:g}. The tail of the scores is not smooth (few "
                "distinct values, or clipped): use quantile or max-normal."
            )
        return threshold, threshold

    def _tail_size(self, n: int) -> int:
        return min(int(self.tail * n), TAIL_SIZE - 1, n - 1)

    def _rarer_than_the_tail(self, n: int) -> bool:
        size = self._tail_size(n)
        return self.rate * n < size or (self.rate < self.tail and size < _SMALLEST_TAIL)
