"""Extreme-value theory: the threshold for a wanted false-alarm rate that may be rarer than the data can show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from pp_graph.calibration.estimator import ValueEstimator, require_share
from pp_graph.calibration.score_counts import quantile_bounds, quantile_candidates
from pp_graph.calibration.sketches import TAIL_SIZE, LargestScores
from pp_graph.errors import CalibrationError
from pp_graph.extras import require_extra

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pp_graph.calibration.score_counts import Flags, ScoreCounts
    from pp_graph.calibration.sketches import Sketch

_SMALLEST_TAIL: Final = 10
_MOST_SIGMAS: Final = 6
"""Standard deviations of the number of flagged scores by which the data may disagree with the fit."""


@dataclass(frozen=True)
class ExtremeValue(ValueEstimator):
    """A generalised Pareto distribution, fitted to the upper tail of the normal scores by maximum likelihood.

    Of `n` normal scores the largest, a share `tail` of them and fewer than 10,000, are the tail, and `u` is the next
    one below. `k` of the tail exceed `u`. With the shape `c` and the scale `s` fitted to what they exceed it by, the
    threshold that a share `rate` of all exceeds is `u + s / c * ((rate * n / k)^-c - 1)`. Where the rate is not rarer
    than the tail, the data themselves answer, and the threshold is their quantile `1 - rate`. Sources: J. Pickands,
    Annals of Statistics 3, 1975; A. Siffer et al., Anomaly Detection in Streams with Extreme Value Theory, KDD 2017.

    Attributes:
        rate: Wanted share of normal scores called anomalous, in (0, 1].
        tail: Share of the normal scores to fit, in (0, 1].

    Raises:
        CalibrationError: A parameter is outside its range.
    """

    name: ClassVar[str] = "evt"
    needs_scipy: ClassVar[bool] = True
    rate: float = 0.001
    tail: float = 0.1

    def __post_init__(self) -> None:
        """Check the parameters."""
        require_share("rate", self.rate)
        require_share("tail", self.tail)

    def sketches(self) -> tuple[type[Sketch], ...]:
        """The tail itself is kept."""
        return (LargestScores,)

    def candidates(self, counts: ScoreCounts) -> Flags:
        """None, unless the data themselves answer."""
        if self._rarer_than_the_tail(counts.normals):
            return np.zeros(len(counts), np.bool_)
        return quantile_candidates(counts.normal, 1 - self.rate)

    def bounds(self, counts: ScoreCounts, sketches: Mapping[type[Sketch], Sketch]) -> tuple[float, float]:
        """Exact where the tail is fitted.

        Raises:
            CalibrationError: The tail has too few scores that differ, or is no such distribution.
            ExtraError: SciPy is not installed.
        """
        n = counts.normals
        if not self._rarer_than_the_tail(n):
            return quantile_bounds(counts, counts.normal, 1 - self.rate)
        largest = sketches[LargestScores]
        assert isinstance(largest, LargestScores)
        size = self._tail_size(n)
        if size < _SMALLEST_TAIL:
            raise CalibrationError(
                f"The tail holds {size} of {n} normal scores, expected at least {_SMALLEST_TAIL} to fit a distribution "
                "to. Give more normal data, a larger tail, or use max-normal."
            )
        tail = largest.largest(size + 1).astype(np.float64)
        start = tail[0]
        # Scores that equal the start do not exceed it; a density fitted to excesses of 0 has no maximum.
        excesses = tail[tail > start] - start
        exceeding = len(excesses)
        if exceeding < _SMALLEST_TAIL:
            raise CalibrationError(
                f"Of the {size + 1} largest normal scores {size + 1 - exceeding} are {start:.6g}, expected scores that "
                "differ. Does the model saturate? Use max-normal."
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
                f"expected about {expected:.3g} at a rate of {self.rate:g}. The scores have no smooth tail (few "
                "distinct values, or cut off above): use quantile or max-normal."
            )
        return threshold, threshold

    def _tail_size(self, n: int) -> int:
        return min(int(self.tail * n), TAIL_SIZE - 1, n - 1)

    def _rarer_than_the_tail(self, n: int) -> bool:
        size = self._tail_size(n)
        return self.rate * n < size or (self.rate < self.tail and size < _SMALLEST_TAIL)
