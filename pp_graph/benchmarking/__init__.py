"""Benchmarks: time artifacts against the raw model, post-processing on the host and other models."""

from __future__ import annotations

from pp_graph.benchmarking.report import BenchmarkReport, ContenderReport, compare_reports, load_report
from pp_graph.benchmarking.runner import Progress, benchmark

__all__ = ["BenchmarkReport", "ContenderReport", "Progress", "benchmark", "compare_reports", "load_report"]
