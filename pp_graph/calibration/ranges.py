"""Estimators of the range that scores are normalised with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pp_graph.calibration.estimator import RangeEstimator, build_estimator
from pp_graph.calibration.score_counts import quantile_bounds, quantile_candidates
from pp_graph.errors import CalibrationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pp_graph.calibration.score_counts import Flags, ScoreCounts


@dataclass(frozen=True)
class MinMax(RangeEstimator):
    """The smallest and the largest score of any class, as Anomalib's `MinMax` metric."""

    name: ClassVar[str] = "minmax"

    def candidates(self, counts: ScoreCounts) -> Flags:
        """No interval: the outermost ones end at the smallest and the largest score."""
        return np.zeros(len(counts), np.bool_)

    def bounds(self, counts: ScoreCounts) -> tuple[tuple[float, float], tuple[float, float]]:
        """Exact after one pass."""
        smallest, largest = float(counts.lower[0]), float(counts.upper[-1])
        return (smallest, smallest), (largest, largest)


@dataclass(frozen=True)
class Percentile(RangeEstimator):
    """Percentiles of the scores of all classes, as `numpy.percentile`. Normalisation clips scores outside.

    Attributes:
        low: Percentile of the minimum, in [0, 100).
        high: Percentile of the maximum, above `low`, in (0, 100].

    Raises:
        CalibrationError: The percentiles are not in this order within [0, 100].
    """

    name: ClassVar[str] = "percentile"
    low: float = 0.1
    high: float = 99.9

    def __post_init__(self) -> None:
        """Check the parameters."""
        if not 0 <= self.low < self.high <= 100:
            raise CalibrationError(
                f"Percentiles are {self.low!r} and {self.high!r}, expected low below high, both within 0 and 100."
            )

    def candidates(self, counts: ScoreCounts) -> Flags:
        """Intervals of the scores that the percentiles interpolate."""
        return quantile_candidates(counts.total, self.low / 100) | quantile_candidates(counts.total, self.high / 100)

    def bounds(self, counts: ScoreCounts) -> tuple[tuple[float, float], tuple[float, float]]:
        """Each percentile with all scores at the lower, and at the upper, end of their interval."""
        return (
            quantile_bounds(counts, counts.total, self.low / 100),
            quantile_bounds(counts, counts.total, self.high / 100),
        )


RANGES: tuple[type[RangeEstimator], ...] = (MinMax, Percentile)


def range_estimator(name: str | RangeEstimator, parameters: Mapping[str, Any] | None = None) -> RangeEstimator:
    """Build a range estimator, such as `range_estimator("percentile", {"low": 1})`.

    Args:
        name: Name of an estimator in `RANGES`. An estimator is returned as it is.
        parameters: Its parameters.

    Raises:
        CalibrationError: The name or a parameter is not known, or a value is out of range.
    """
    if isinstance(name, RangeEstimator):
        return name
    return build_estimator("Range estimator", RANGES, name, parameters or {})
