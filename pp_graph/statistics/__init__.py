"""Calibrated thresholds and ranges, and the files they come in."""

from __future__ import annotations

from pp_graph.statistics.histogram import ScoreHistogram
from pp_graph.statistics.provenance import CalibrationRecord, LevelRecord, StatisticsProvenance
from pp_graph.statistics.statistics import Level, LevelStatistics, Statistics

__all__ = [
    "CalibrationRecord",
    "Level",
    "LevelRecord",
    "LevelStatistics",
    "ScoreHistogram",
    "Statistics",
    "StatisticsProvenance",
]
