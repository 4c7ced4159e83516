"""Sketches of the end of a model's graph, as SVG."""

from __future__ import annotations

from pp_graph.sketching.drawing import draw
from pp_graph.sketching.network import layers_of_ir, layers_of_onnx
from pp_graph.sketching.parts import Part, linked, sketched, unfused

__all__ = ["Part", "draw", "layers_of_ir", "layers_of_onnx", "linked", "sketched", "unfused"]
