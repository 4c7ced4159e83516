"""What people look at: pictures of predictions."""

from __future__ import annotations

from pp_graph.report.pictures import prediction_panel, stack_panels

__all__ = ["prediction_panel", "stack_panels"]
