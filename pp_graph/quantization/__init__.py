"""Quantise the layers of a converted model to int8. Operators after the last layer stay float32."""

from __future__ import annotations

from pp_graph.quantization.quantization import PRESETS, Quantization

__all__ = ["PRESETS", "Quantization"]
