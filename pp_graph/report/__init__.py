"""Pictures and tables of predictions, and calibration reports."""

from __future__ import annotations

from pp_graph.report.calibration import write_calibration_report
from pp_graph.report.pictures import mask_picture, overlay_picture, prediction_panel, stack_panels
from pp_graph.report.prediction_folder import WrittenPredictions, write_predictions

__all__ = [
    "WrittenPredictions",
    "mask_picture",
    "overlay_picture",
    "prediction_panel",
    "stack_panels",
    "write_calibration_report",
    "write_predictions",
]
