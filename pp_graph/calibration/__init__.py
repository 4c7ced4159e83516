"""From scores and labels to statistics: exact, in batches, in bounded memory."""

from __future__ import annotations

from pp_graph.calibration.box_matches import AveragePrecision, average_precision
from pp_graph.calibration.box_thresholds import BoxCalibration, ClassConfidence, ConfidenceGoal, calibrate_boxes
from pp_graph.calibration.box_truth import BoxTruth
from pp_graph.calibration.calibration import calibrate, calibrate_scores
from pp_graph.calibration.calibrator import Calibrator
from pp_graph.calibration.classification import ClassifierCalibration, calibrate_classifier
from pp_graph.calibration.detectors import calibrate_detector
from pp_graph.calibration.ranges import RANGES, range_estimator
from pp_graph.calibration.result import CalibrationResult, LevelResult
from pp_graph.calibration.thresholds import THRESHOLDS, threshold_estimator

__all__ = [
    "RANGES",
    "THRESHOLDS",
    "AveragePrecision",
    "BoxCalibration",
    "BoxTruth",
    "CalibrationResult",
    "Calibrator",
    "ClassConfidence",
    "ClassifierCalibration",
    "ConfidenceGoal",
    "LevelResult",
    "average_precision",
    "calibrate",
    "calibrate_boxes",
    "calibrate_classifier",
    "calibrate_detector",
    "calibrate_scores",
    "range_estimator",
    "threshold_estimator",
]
