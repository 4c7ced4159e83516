"""Run the operators of a post-processor in torch: the graph that `fuse` writes, one operator at a time."""

from __future__ import annotations

from pp_graph.integrations.torch.interpreter.graph import TorchGraph, compile_post_processor
from pp_graph.integrations.torch.interpreter.table import OPERATORS, OPSET
from pp_graph.integrations.torch.interpreter.tracing import (
    is_exporting,
    is_jit_traced,
    is_strict_trace,
    is_traced,
    known_sizes,
    without_trace_warnings,
)

__all__ = [
    "OPERATORS",
    "OPSET",
    "TorchGraph",
    "compile_post_processor",
    "is_exporting",
    "is_jit_traced",
    "is_strict_trace",
    "is_traced",
    "known_sizes",
    "without_trace_warnings",
]
