"""The threshold that maximises Youden's index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pp_graph.calibration.estimator import MaximumEstimator, Objective

if TYPE_CHECKING:
    from pp_graph.calibration.score_counts import Counts


@dataclass(frozen=True)
class Youden(MaximumEstimator):
    """True-positive rate minus false-positive rate, largest; at the lowest score where there are several.

    Does not depend on how many of the calibration's scores are anomalous. Source: W. J. Youden, Index for rating
    diagnostic tests, Cancer 3, 1950.
    """

    name: ClassVar[str] = "youden"

    def objective(self, true_positives: Counts, false_positives: Counts, anomalies: int, normals: int) -> Objective:
        """Youden's index, float64."""
        return true_positives / max(anomalies, 1) - false_positives / max(normals, 1)
