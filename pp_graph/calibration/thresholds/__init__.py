"""Ways to estimate a threshold, a file each. A new one is one more line in `THRESHOLDS`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pp_graph.calibration.thresholds.extreme_values import ExtremeValue
from pp_graph.calibration.thresholds.from_both_classes import F1, FBeta, Recall, Youden
from pp_graph.calibration.thresholds.from_normal import FalsePositiveRate, MaxNormal, Quantile, Sigma
from pp_graph.calibration.thresholds.per_region_overlap import PerRegionOverlap

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
