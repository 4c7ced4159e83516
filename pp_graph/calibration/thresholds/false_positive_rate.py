"""The lowest threshold with at most a given false-positive rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pp_graph.calibration.estimator import CutEstimator
from pp_graph.calibration.parameters import require_rate

if TYPE_CHECKING:
    from pp_graph.calibration.score_counts import Flags, ScoreCounts


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
        """Refuse what is no rate."""
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
    """Index of the first interval at and above whose smallest score at most a share of the normal scores lies."""
    return int(np.argmax(counts.false_positives / max(counts.normals, 1) <= rate))
