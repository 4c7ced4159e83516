"""What is in a model file: inputs, outputs and their roles, post-processing, and what fusing would rewrite."""

from __future__ import annotations

from pp_graph.inspection.inspecting import inspect
from pp_graph.inspection.result import Inspection

__all__ = ["Inspection", "inspect"]
