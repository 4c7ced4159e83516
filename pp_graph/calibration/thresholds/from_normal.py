"""Thresholds from normal scores: false-positive rate, quantile, sigma, maximum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from pp_graph.calibration.estimator import CutEstimator, ValueEstimator, require_number
from pp_graph.calibration.score_counts import quantile_bounds, quantile_candidates, weighted_quantile, weighted_ranks
from pp_graph.calibration.sketches import Moments
from pp_graph.errors import CalibrationError

if TYPE_CHECKING:
    import numpy.typing as npt

    from pp_graph.calibration.score_counts import Flags, ScoreCounts
    from pp_graph.calibration.sketches import Sketch


@dataclass(frozen=True)
class FalsePositiveRate(CutEstimator):
    """The lowest score with at most a share `rate` of the normal scores at or above it.

    Attributes:
        rate: Largest share of normal scores called anomalous, in [0, 1).

    Raises:
        CalibrationError: `rate` is out of range.
    """

    name: ClassVar[str] = "fpr"
    needs_anomalous: ClassVar[bool] = False
    rate: float = 0.01

    def __post_init__(self) -> None:
        """Check the parameters."""
        require_number("rate", self.rate, 0, 1, closed="left")

    def choose(self, counts: ScoreCounts) -> int:
        """The first interval within the rate."""
        return first_within(counts, self.rate)

    def candidates(self, counts: ScoreCounts) -> Flags:
        """The first interval within the rate, and the one below, in which the rate is crossed."""
        chosen = self.choose(counts)
        index = np.arange(len(counts))
        return np.equal(index, chosen) | np.equal(index, chosen - 1)


def first_within(counts: ScoreCounts, rate: float) -> int:
    """Index of the first interval with at most a share `rate` of the normal scores at or above its lower end."""
    return int(np.argmax(counts.false_positives / max(counts.normals, 1) <= rate))


@dataclass(frozen=True)
class Quantile(ValueEstimator):
    """`factor` times the `q` quantile of the normal scores, as `numpy.quantile`.

    Attributes:
        q: The quantile, in (0, 1].
        factor: Factor of the quantile, in (0, 1e6].

    Raises:
        CalibrationError: A parameter is out of range.
    """

    name: ClassVar[str] = "quantile"
    q: float = 0.99
    factor: float = 1.0

    def __post_init__(self) -> None:
        """Check the parameters."""
        require_number("q", self.q, 0, 1)
        require_number("factor", self.factor, 0, 1e6)

    def candidates(self, counts: ScoreCounts) -> Flags:
        """Intervals of the scores that the quantile interpolates."""
        return quantile_candidates(counts.normal, self.q)

    def bounds(self, counts: ScoreCounts, sketch: Sketch | None) -> tuple[float, float]:
        """The quantile with all scores at the lower, and at the upper, end of their interval."""
        low, high = quantile_bounds(counts, counts.normal, self.q)
        return self.factor * low, self.factor * high


_MAD_TO_SIGMA: Final = 1.4826
"""Standard deviation of a normal distribution divided by its MAD (P. Rousseeuw, C. Croux, JASA 88, 1993)."""


@dataclass(frozen=True)
class Sigma(ValueEstimator):
    """`mean + k * std` of the normal scores, or, robust to outliers, `median + k * 1.4826 * MAD`.

    The standard deviation is the population's, NumPy's default. MAD is the median absolute deviation from the median.

    Attributes:
        k: Number of standard deviations, in (0, 1e6].
        robust: True uses median and MAD.

    Raises:
        CalibrationError: A parameter is out of range.
    """

    name: ClassVar[str] = "sigma"
    k: float = 3.0
    robust: bool = False

    def __post_init__(self) -> None:
        """Check the parameters."""
        require_number("k", self.k, 0, 1e6)
        if not isinstance(self.robust, bool):
            raise CalibrationError(f"Parameter 'robust' is {self.robust!r}, expected True or False.")

    def new_sketch(self) -> Sketch | None:
        """Exact sums for mean and standard deviation."""
        return None if self.robust else Moments()

    def candidates(self, counts: ScoreCounts) -> Flags:
        """If robust, the interval of the median, and the intervals that may be one MAD away from it."""
        if not self.robust:
            return np.zeros(len(counts), np.bool_)
        near, far = _distances(counts)
        smallest, _, _ = weighted_ranks(near, counts.normal, 0.5)
        _, largest, _ = weighted_ranks(far, counts.normal, 0.5)
        one_mad_away = (counts.normal > 0) & (far >= smallest) & (near <= largest)
        return quantile_candidates(counts.normal, 0.5) | one_mad_away

    def bounds(self, counts: ScoreCounts, sketch: Sketch | None) -> tuple[float, float]:
        """Exact for mean and standard deviation."""
        if not self.robust:
            assert isinstance(sketch, Moments)
            exact = sketch.mean + self.k * sketch.std
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
    """The largest normal score. Inference compares with `>`, so it calls this score normal."""

    name: ClassVar[str] = "max-normal"

    def candidates(self, counts: ScoreCounts) -> Flags:
        """The last interval with normal scores."""
        return quantile_candidates(counts.normal, 1.0)

    def bounds(self, counts: ScoreCounts, sketch: Sketch | None) -> tuple[float, float]:
        """Ends of the last interval with normal scores."""
        return quantile_bounds(counts, counts.normal, 1.0)
