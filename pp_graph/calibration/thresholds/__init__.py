"""Threshold estimators. A new one is a file here and one more line in `THRESHOLDS`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pp_graph.calibration.estimator import ThresholdEstimator, build_estimator
from pp_graph.calibration.thresholds.extreme_values import ExtremeValue
from pp_graph.calibration.thresholds.from_both_classes import F1, FBeta, Precision, Recall, Youden
from pp_graph.calibration.thresholds.from_normal import FalsePositiveRate, MaxNormal, Quantile, Sigma
from pp_graph.calibration.thresholds.per_region_overlap import PerRegionOverlap

if TYPE_CHECKING:
    from collections.abc import Mapping

THRESHOLDS: tuple[type[ThresholdEstimator], ...] = (
    F1,
    FBeta,
    Youden,
    FalsePositiveRate,
    Recall,
    Precision,
    Quantile,
    Sigma,
    MaxNormal,
    ExtremeValue,
    PerRegionOverlap,
)


def threshold_estimator(
    name: str | ThresholdEstimator, parameters: Mapping[str, Any] | None = None
) -> ThresholdEstimator:
    """Build a threshold estimator, such as `threshold_estimator("fpr", {"rate": 0.001})`.

    Args:
        name: Name of an estimator in `THRESHOLDS`. An estimator is returned as it is.
        parameters: Its parameters.

    Raises:
        CalibrationError: The name or a parameter is not known, or a value is out of range.
    """
    if isinstance(name, ThresholdEstimator):
        return name
    return build_estimator("Threshold estimator", THRESHOLDS, name, parameters or {})
