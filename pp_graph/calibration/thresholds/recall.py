"""The highest threshold with at least a given recall."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pp_graph.calibration.estimator import CutEstimator
from pp_graph.calibration.parameters import require_share

if TYPE_CHECKING:
    from pp_graph.calibration.score_counts import Flags, ScoreCounts


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
        """Refuse what is no recall."""
        require_share("recall", self.recall)

    def choose(self, counts: ScoreCounts) -> int:
        """The last cut that still has the recall."""
        reached = counts.true_positives[:-1] / max(counts.anomalies, 1) >= self.recall
        return int(np.flatnonzero(reached)[-1])

    def candidates(self, counts: ScoreCounts) -> Flags:
        """The interval within which the recall is lost."""
        return np.equal(np.arange(len(counts)), self.choose(counts))
