"""Ways to estimate a threshold, a file each. A new one is one more line in `THRESHOLDS`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pp_graph.calibration.thresholds.evt import ExtremeValue
from pp_graph.calibration.thresholds.f1 import F1
from pp_graph.calibration.thresholds.false_positive_rate import FalsePositiveRate
from pp_graph.calibration.thresholds.fbeta import FBeta
from pp_graph.calibration.thresholds.max_normal import MaxNormal
from pp_graph.calibration.thresholds.per_region_overlap import PerRegionOverlap
from pp_graph.calibration.thresholds.quantile import Quantile
from pp_graph.calibration.thresholds.recall import Recall
from pp_graph.calibration.thresholds.sigma import Sigma
from pp_graph.calibration.thresholds.youden import Youden

if TYPE_CHECKING:
    from pp_graph.calibration.estimator import ThresholdEstimator

THRESHOLDS: tuple[type[ThresholdEstimator], ...] = (
    F1,
    FBeta,
    Youden,
    FalsePositiveRate,
    Recall,
    Quantile,
    Sigma,
    MaxNormal,
    ExtremeValue,
    PerRegionOverlap,
)

__all__ = [
    "F1",
    "THRESHOLDS",
    "ExtremeValue",
    "FBeta",
    "FalsePositiveRate",
    "MaxNormal",
    "PerRegionOverlap",
    "Quantile",
    "Recall",
    "Sigma",
    "Youden",
]
