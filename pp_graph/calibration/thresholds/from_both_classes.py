"""Thresholds that need anomalous scores: F1, F-beta, Youden, recall, precision."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from pp_graph.calibration.estimator import CutEstimator, require_number

if TYPE_CHECKING:
    from pp_graph.calibration.score_counts import Counts, Flags, ScoreCounts

Objective = npt.NDArray[np.floating[Any]]


class MaximumEstimator(CutEstimator):
    """Cuts at the largest objective; at the lowest score if several reach it, as `argmax`.

    Attributes:
        rounding: Bound on the relative error of the computed objective.
        floor: Smallest objective to which that relative error applies; below, the error is `rounding * floor`.
    """

    needs_anomalous = True
    rounding: ClassVar[float] = 1e-12
    floor: ClassVar[float] = 1.0

    @abstractmethod
    def objective(self, true_positives: Counts, false_positives: Counts, anomalies: int, normals: int) -> Objective:
        """Objective of each pair of counts. It must not fall with true positives, nor rise with false ones."""

    def candidates(self, counts: ScoreCounts) -> Flags:
        """Intervals whose upper bound of the objective reaches the largest lower bound."""
        true, false = counts.true_positives, counts.false_positives
        totals = counts.anomalies, counts.normals
        reached = self.objective(true[:-1], false[:-1], *totals).astype(np.float64)
        # A cut within an interval finds at most all its anomalous scores, and may spare all its normal ones.
        possible = self.objective(true[:-1], false[1:], *totals).astype(np.float64)
        best = float(reached.max())
        slack = self.rounding * max(abs(best), self.floor)
        promising: Flags = np.where(counts.exact, reached, possible) >= best - slack
        return promising

    def choose(self, counts: ScoreCounts) -> int:
        """The first interval with the largest objective."""
        true, false = counts.true_positives[:-1], counts.false_positives[:-1]
        return int(np.argmax(self.objective(true, false, counts.anomalies, counts.normals)))


@dataclass(frozen=True)
class F1(MaximumEstimator):
    """Largest `2 * precision * recall / (precision + recall)`; at the lowest score if several reach it.

    Computed in float32 and in the order of operations of Anomalib 2.7 (`_F1AdaptiveThreshold.compute`, on the curve of
    torchmetrics' `_binary_clf_curve`), so that ties in float32 are decided as there: the first one wins.
    """

    name: ClassVar[str] = "f1"
    # Ten roundings to 24 bits at most, on either side.
    rounding: ClassVar[float] = 2e-6
    floor: ClassVar[float] = 0.0

    def objective(self, true_positives: Counts, false_positives: Counts, anomalies: int, normals: int) -> Objective:
        """F1, float32."""
        true = true_positives.astype(np.float32)
        false = (true_positives + false_positives).astype(np.float32) - true
        with np.errstate(invalid="ignore"):
            precision = true / (true + false)
            recall = true / np.float32(anomalies)
            return np.nan_to_num(2 * precision * recall / (precision + recall + np.float32(1e-10)), nan=0.0)


@dataclass(frozen=True)
class FBeta(MaximumEstimator):
    """Largest `(1 + beta^2) TP / ((1 + beta^2) TP + beta^2 FN + FP)`; at the lowest score if several reach it.

    Source: C. J. van Rijsbergen, Information Retrieval, 1979, chapter 7.

    Attributes:
        beta: Weight of recall relative to precision, in (0, 1e6]. Use 2 if a missed defect is worse than a false alarm,
            0.5 for the opposite.

    Raises:
        CalibrationError: `beta` is out of range.
    """

    name: ClassVar[str] = "fbeta"
    beta: float = 2.0

    def __post_init__(self) -> None:
        """Check the parameters."""
        require_number("beta", self.beta, 0, 1e6)

    def objective(self, true_positives: Counts, false_positives: Counts, anomalies: int, normals: int) -> Objective:
        """F-beta, float64."""
        weight = self.beta**2
        weighted = (1 + weight) * true_positives
        total = weighted + weight * (anomalies - true_positives) + false_positives
        return weighted / np.maximum(total, np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class Youden(MaximumEstimator):
    """Largest difference of true-positive and false-positive rate; at the lowest score if several reach it.

    It does not depend on the share of anomalous scores. Source: W. J. Youden, Index for rating diagnostic tests,
    Cancer 3, 1950.
    """

    name: ClassVar[str] = "youden"

    def objective(self, true_positives: Counts, false_positives: Counts, anomalies: int, normals: int) -> Objective:
        """Youden's index, float64."""
        return true_positives / max(anomalies, 1) - false_positives / max(normals, 1)


@dataclass(frozen=True)
class Recall(CutEstimator):
    """The highest score with at least a share `recall` of the anomalous scores at or above it.

    Attributes:
        recall: Smallest share of anomalous scores called anomalous, in (0, 1].

    Raises:
        CalibrationError: `recall` is out of range.
    """

    name: ClassVar[str] = "recall"
    needs_anomalous: ClassVar[bool] = True
    recall: float = 0.99

    def __post_init__(self) -> None:
        """Check the parameters."""
        require_number("recall", self.recall, 0, 1)

    def choose(self, counts: ScoreCounts) -> int:
        """The last interval that reaches the recall."""
        reached = counts.true_positives[:-1] / max(counts.anomalies, 1) >= self.recall
        return int(np.flatnonzero(reached)[-1])

    def candidates(self, counts: ScoreCounts) -> Flags:
        """The last interval that reaches the recall."""
        return np.equal(np.arange(len(counts)), self.choose(counts))


@dataclass(frozen=True)
class Precision(CutEstimator):
    """The lowest score from which on at least a share `precision` of the scores is anomalous.

    This finds the most anomalous scores that the precision allows; a higher score may miss it again. Where no score
    reaches it, the cut is at the score with the largest precision, the lowest of equal ones.

    Attributes:
        precision: Smallest share of anomalous scores among those at or above the cut, in (0, 1].

    Raises:
        CalibrationError: `precision` is out of range.
    """

    name: ClassVar[str] = "precision"
    needs_anomalous: ClassVar[bool] = True
    precision: float = 0.95

    def __post_init__(self) -> None:
        """Check the parameters."""
        require_number("precision", self.precision, 0, 1)

    def choose(self, counts: ScoreCounts) -> int:
        """The first interval that reaches the precision, or that comes closest."""
        true, false = counts.true_positives[:-1], counts.false_positives[:-1]
        return int(np.argmax(np.minimum(true / np.maximum(true + false, 1), self.precision)))

    def candidates(self, counts: ScoreCounts) -> Flags:
        """Intervals whose upper bound of the precision reaches that of the chosen one, up to it if that is enough."""
        true, false = counts.true_positives, counts.false_positives
        reached = np.minimum(true[:-1] / np.maximum(true[:-1] + false[:-1], 1), self.precision)
        # A cut within an interval may spare all its normal scores.
        possible = np.minimum(true[:-1] / np.maximum(true[:-1] + false[1:], 1), self.precision)
        best = self.choose(counts)
        promising: Flags = np.where(counts.exact, reached, possible) >= reached[best]
        if reached[best] >= self.precision:
            promising[best + 1 :] = False
        return promising
