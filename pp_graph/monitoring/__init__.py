"""Compare scores from the field with those that a model was calibrated with."""

from __future__ import annotations

from pp_graph.monitoring.drifting import drift
from pp_graph.monitoring.monitor import DriftMonitor
from pp_graph.monitoring.report import DriftReport

__all__ = ["DriftMonitor", "DriftReport", "drift"]
