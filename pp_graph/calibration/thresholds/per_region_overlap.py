"""The threshold for masks with the largest per-region overlap at a given false-positive rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pp_graph.calibration.estimator import CutEstimator
from pp_graph.calibration.parameters import require_rate
from pp_graph.calibration.thresholds.false_positive_rate import first_within

if TYPE_CHECKING:
    from pp_graph.calibration.score_counts import Flags, ScoreCounts


@dataclass(frozen=True)
class PerRegionOverlap(CutEstimator):
    """The highest of the thresholds that reach the largest per-region overlap within a false-positive rate.

    The per-region overlap (PRO) is the mean, over connected regions of the ground truth, of the share of a region that
    is found; every region counts alike, however small. It grows with each anomalous pixel that is found, so within the
    rate it is largest, and first reached, at the lowest score of an anomalous pixel. Source: P. Bergmann et al., The
    MVTec Anomaly Detection Dataset, IJCV 2021, section 5.2.

    Attributes:
        rate: Largest share of normal pixels called anomalous, in [0, 1).

    Raises:
        CalibrationError: `rate` is outside [0, 1).
    """

    name: ClassVar[str] = "pro"
    needs_scipy: ClassVar[bool] = True
    needs_anomalous: ClassVar[bool] = True
    rate: float = 0.05

    def __post_init__(self) -> None:
        """Refuse what is no rate."""
        require_rate("rate", self.rate)

    def choose(self, counts: ScoreCounts) -> int:
        """The first anomalous score within the rate."""
        first = first_within(counts, self.rate)
        found = np.flatnonzero(counts.anomalous[first:])
        return first + int(found[0]) if len(found) else len(counts)

    def candidates(self, counts: ScoreCounts) -> Flags:
        """From the interval within which the rate is crossed to the first anomalous score behind."""
        index = np.arange(len(counts))
        return (index >= first_within(counts, self.rate) - 1) & (index <= self.choose(counts))
