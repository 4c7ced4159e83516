"""Models loaded into a runtime: the abstract `Session`, and `OnnxSession` for onnxruntime."""

from __future__ import annotations

from pp_graph.sessions.onnxruntime import OnnxSession, require_onnxruntime
from pp_graph.sessions.session import Session, cut_to_batch, run_in_batches

__all__ = ["OnnxSession", "Session", "cut_to_batch", "require_onnxruntime", "run_in_batches"]
