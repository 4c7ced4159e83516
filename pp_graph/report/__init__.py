"""What people look at: pictures of predictions, reports of calibrations."""

from __future__ import annotations

from pp_graph.report.calibration import write_calibration_report
from pp_graph.report.pictures import prediction_panel, stack_panels

__all__ = ["prediction_panel", "stack_panels", "write_calibration_report"]
