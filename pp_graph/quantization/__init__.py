"""Quantise a converted model's network to int8; what follows its last layer stays in float32."""

from __future__ import annotations

from pp_graph.quantization.quantization import PRESETS, Quantization

__all__ = ["PRESETS", "Quantization"]
