"""The threshold that maximises F1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pp_graph.calibration.estimator import MaximumEstimator, Objective

if TYPE_CHECKING:
    from pp_graph.calibration.score_counts import Counts


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
