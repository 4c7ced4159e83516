"""How long a model takes, against the raw model and others, in a way that can be believed."""

from __future__ import annotations

from pp_graph.benchmark.comparison import compare_reports
from pp_graph.benchmark.report import BenchmarkReport, ContenderReport, load_report
from pp_graph.benchmark.runner import Progress, run_benchmark

__all__ = ["BenchmarkReport", "ContenderReport", "Progress", "compare_reports", "load_report", "run_benchmark"]
