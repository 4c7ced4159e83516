"""Thresholds that need anomalous scores: F1, F-beta, Youden, recall."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pp_graph.calibration.estimator import CutEstimator, MaximumEstimator, Objective, require_positive, require_share

if TYPE_CHECKING:
    from pp_graph.calibration.score_counts import Counts, Flags, ScoreCounts


@dataclass(frozen=True)
class F1(MaximumEstimator):
    """`2 * precision * recall / (precision + recall)`, largest; at the lowest score where there are several.

    In float32 and in the order of operations of Anomalib 2.7, `_F1AdaptiveThreshold.compute`, on the curve of
    torchmetrics, `_binary_clf_curve`: scores so many that float32 cannot tell their F1 apart are ties there, and the
    first of them wins.
    """

    name: ClassVar[str] = "f1"
    # Ten roundings to 24 bits at most, on either side.
    rounding: ClassVar[float] = 2e-6
    floor: ClassVar[float] = 0.0

    def objective(self, true_positives: Counts, false_positives: Counts, anomalies: int, normals: int) -> Objective:
        """F1, float32."""
        found = true_positives.astype(np.float32)
        false = (true_positives + false_positives).astype(np.float32) - found
        with np.errstate(invalid="ignore"):
            precision = found / (found + false)
            recall = found / np.float32(anomalies)
            return np.nan_to_num(2 * precision * recall / (precision + recall + np.float32(1e-10)), nan=0.0)


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


@dataclass(frozen=True)
class Recall(CutEstimator):
    """The highest score at and above which at least a share `recall` of the anomalous scores lies.

    Attributes:
        recall: Smallest share of anomalous scores called anomalous, in (0, 1].

    Raises:
        CalibrationError: `recall` is outside (0, 1].
    """

    name: ClassVar[str] = "recall"
    needs_anomalous: ClassVar[bool] = True
    recall: float = 0.99

    def __post_init__(self) -> None:
        """Check the parameters."""
        require_share("recall", self.recall)

    def choose(self, counts: ScoreCounts) -> int:
        """The last cut that still has the recall."""
        reached = counts.true_positives[:-1] / max(counts.anomalies, 1) >= self.recall
        return int(np.flatnonzero(reached)[-1])

    def candidates(self, counts: ScoreCounts) -> Flags:
        """The interval within which the recall is lost."""
        return np.equal(np.arange(len(counts)), self.choose(counts))
