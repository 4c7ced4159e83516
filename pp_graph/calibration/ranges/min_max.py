"""The smallest and the largest score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pp_graph.calibration.estimator import RangeEstimator

if TYPE_CHECKING:
    from pp_graph.calibration.score_counts import Flags, ScoreCounts


@dataclass(frozen=True)
class MinMax(RangeEstimator):
    """The smallest and the largest score of any class, as Anomalib's `MinMax` metric."""

    name: ClassVar[str] = "minmax"

    def candidates(self, counts: ScoreCounts) -> Flags:
        """None: counts begin at the smallest score and end at the largest."""
        return np.zeros(len(counts), np.bool_)

    def bounds(self, counts: ScoreCounts) -> tuple[tuple[float, float], tuple[float, float]]:
        """Exact after one pass."""
        smallest, largest = float(counts.lower[0]), float(counts.upper[-1])
        return (smallest, smallest), (largest, largest)
