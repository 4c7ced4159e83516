"""`verify`: prove that an artifact decides as the raw model and its statistics do."""

from __future__ import annotations

from pp_graph.verification.parts import BoundaryReport, DecisionReport, ErrorReport, FlipLimit
from pp_graph.verification.report import VerificationReport
from pp_graph.verification.verifier import Progress, verify

__all__ = ["BoundaryReport", "DecisionReport", "ErrorReport", "FlipLimit", "Progress", "VerificationReport", "verify"]
