"""Thresholds from normal scores: false-positive rate, quantile, sigma, maximum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from pp_graph.calibration.estimator import (
    CutEstimator,
    ValueEstimator,
    require_flag,
    require_positive,
    require_rate,
    require_share,
)
from pp_graph.calibration.score_counts import quantile_bounds, quantile_candidates, weighted_quantile, weighted_ranks
from pp_graph.calibration.sketches import Moments

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from pp_graph.calibration.score_counts import Flags, ScoreCounts
    from pp_graph.calibration.sketches import Sketch


@dataclass(frozen=True)
class FalsePositiveRate(CutEstimator):
    """The lowest score at and above which at most a share `rate` of the normal scores lies.

    Attributes:
        rate: Largest share of normal scores called anomalous, in [0, 1).

    Raises:
        CalibrationError: `rate` is outside [0, 1).
    """

    name: ClassVar[str] = "fpr"
    needs_anomalous: ClassVar[bool] = False
    rate: float = 0.01

    def __post_init__(self) -> None:
        """Check the parameters."""
        require_rate("rate", self.rate)

    def choose(self, counts: ScoreCounts) -> int:
        """The first cut that is within the rate."""
        return first_within(counts, self.rate)

    def candidates(self, counts: ScoreCounts) -> Flags:
        """The interval within which the rate is crossed, and the one behind."""
        chosen = self.choose(counts)
        index = np.arange(len(counts))
        return np.equal(index, chosen) | np.equal(index, chosen - 1)


def first_within(counts: ScoreCounts, rate: float) -> int:
    """Index of the first interval whose smallest score has at most a share of the normal scores at or above it."""
    return int(np.argmax(counts.false_positives / max(counts.normals, 1) <= rate))


@dataclass(frozen=True)
class Quantile(ValueEstimator):
    """`factor` times the `q` quantile of the normal scores, interpolated as `numpy.quantile` does.

    Attributes:
        q: The quantile, in (0, 1].
        factor: What it is multiplied with, above 0.

    Raises:
        CalibrationError: A parameter is outside its range.
    """

    name: ClassVar[str] = "quantile"
    q: float = 0.99
    factor: float = 1.0

    def __post_init__(self) -> None:
        """Check the parameters."""
        require_share("q", self.q)
        require_positive("factor", self.factor)

    def candidates(self, counts: ScoreCounts) -> Flags:
        """The intervals of the scores that are interpolated."""
        return quantile_candidates(counts.normal, self.q)

    def bounds(self, counts: ScoreCounts, sketches: Mapping[type[Sketch], Sketch]) -> tuple[float, float]:
        """The quantile with each interval at its lower, and at its upper end."""
        low, high = quantile_bounds(counts, counts.normal, self.q)
        return self.factor * low, self.factor * high


_MAD_TO_SIGMA: Final = 1.4826
"""The MAD of a normal distribution is 1 / 1.4826 of its standard deviation (P. Rousseeuw, C. Croux, JASA 88, 1993)."""


@dataclass(frozen=True)
class Sigma(ValueEstimator):
    """`mean + k * std` of the normal scores, or `median + k * 1.4826 * MAD`, which outliers do not move.

    The standard deviation is that of the scores as a population (NumPy's default).

    Attributes:
        k: How many standard deviations, above 0.
        robust: Whether median and MAD stand for mean and standard deviation.

    Raises:
        CalibrationError: A parameter is outside its range.
    """

    name: ClassVar[str] = "sigma"
    k: float = 3.0
    robust: bool = False

    def __post_init__(self) -> None:
        """Refuse a threshold below the mean."""
        require_positive("k", self.k)
        require_flag("robust", self.robust)

    def sketches(self) -> tuple[type[Sketch], ...]:
        """Mean and standard deviation come from exact sums."""
        return () if self.robust else (Moments,)

    def candidates(self, counts: ScoreCounts) -> Flags:
        """With the median, its interval, and those as far from it as the MAD may be."""
        if not self.robust:
            return np.zeros(len(counts), np.bool_)
        near, far = _distances(counts)
        smallest, _, _ = weighted_ranks(near, counts.normal, 0.5)
        _, largest, _ = weighted_ranks(far, counts.normal, 0.5)
        as_far_as_mad = (counts.normal > 0) & (far >= smallest) & (near <= largest)
        return quantile_candidates(counts.normal, 0.5) | as_far_as_mad

    def bounds(self, counts: ScoreCounts, sketches: Mapping[type[Sketch], Sketch]) -> tuple[float, float]:
        """Exact for mean and standard deviation."""
        if not self.robust:
            moments = sketches[Moments]
            assert isinstance(moments, Moments)
            exact = moments.mean + self.k * moments.std
            return exact, exact
        low, high = quantile_bounds(counts, counts.normal, 0.5)
        near, far = _distances(counts)
        factor = self.k * _MAD_TO_SIGMA
        return (
            low + factor * weighted_quantile(near, counts.normal, 0.5),
            high + factor * weighted_quantile(far, counts.normal, 0.5),
        )


def _distances(counts: ScoreCounts) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Bound the distance of each interval's scores from the median."""
    low, high = quantile_bounds(counts, counts.normal, 0.5)
    lower, upper = counts.lower.astype(np.float64), counts.upper.astype(np.float64)
    near = np.maximum(np.maximum(low - upper, lower - high), 0)
    far = np.maximum(np.abs(upper - low), np.abs(high - lower))
    return near, far


@dataclass(frozen=True)
class MaxNormal(ValueEstimator):
    """The largest normal score itself, which the strict `>` of inference calls normal."""

    name: ClassVar[str] = "max-normal"

    def candidates(self, counts: ScoreCounts) -> Flags:
        """The last interval with normal scores."""
        return quantile_candidates(counts.normal, 1.0)

    def bounds(self, counts: ScoreCounts, sketches: Mapping[type[Sketch], Sketch]) -> tuple[float, float]:
        """The ends of that interval."""
        return quantile_bounds(counts, counts.normal, 1.0)
