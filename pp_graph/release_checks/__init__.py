"""Check models before a release: decisions, drift and latency against limits in a file."""

from pp_graph.release_checks.checking import check_release
from pp_graph.release_checks.limits import Check, Limits, read_limits
from pp_graph.release_checks.report import CheckedModel, Finding, ReleaseReport

__all__ = ["Check", "CheckedModel", "Finding", "Limits", "ReleaseReport", "check_release", "read_limits"]
