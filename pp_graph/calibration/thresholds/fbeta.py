"""The threshold that maximises F-beta: recall counts beta times as much as precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pp_graph.calibration.estimator import MaximumEstimator, Objective
from pp_graph.calibration.parameters import require_positive

if TYPE_CHECKING:
    from pp_graph.calibration.score_counts import Counts


@dataclass(frozen=True)
class FBeta(MaximumEstimator):
    """`(1 + beta^2) TP / ((1 + beta^2) TP + beta^2 FN + FP)`, largest; at the lowest score where there are several.

    Source: C. J. van Rijsbergen, Information Retrieval, 1979, chapter 7.

    Attributes:
        beta: How many times recall counts as much as precision, above 0: 2 where a missed defect is worse than a false
            alarm, 0.5 where it is the other way round.

    Raises:
        CalibrationError: `beta` is not above 0.
    """

    name: ClassVar[str] = "fbeta"
    beta: float = 2.0

    def __post_init__(self) -> None:
        """Refuse a weight that means nothing."""
        require_positive("beta", self.beta)

    def objective(self, true_positives: Counts, false_positives: Counts, anomalies: int, normals: int) -> Objective:
        """F-beta, float64."""
        weight = self.beta**2
        found = (1 + weight) * true_positives
        total = found + weight * (anomalies - true_positives) + false_positives
        return found / np.maximum(total, np.finfo(np.float64).tiny)
