"""Pictures and tables of predictions, and HTML reports."""

from __future__ import annotations

from pp_graph.report.benchmark import write_benchmark_report
from pp_graph.report.calibration import write_calibration_report
from pp_graph.report.gallery import write_gallery
from pp_graph.report.pictures import mask_picture, overlay_picture, prediction_panel, stack_panels
from pp_graph.report.prediction_folder import WrittenPredictions, write_predictions
from pp_graph.report.verification import write_verification_report

__all__ = [
    "WrittenPredictions",
    "mask_picture",
    "overlay_picture",
    "prediction_panel",
    "stack_panels",
    "write_benchmark_report",
    "write_calibration_report",
    "write_gallery",
    "write_predictions",
    "write_verification_report",
]
