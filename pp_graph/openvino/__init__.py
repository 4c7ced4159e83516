"""OpenVINO: its models, sessions and devices, and the f32 island.

No other package works around quirks of that runtime.
"""

from __future__ import annotations

from pp_graph.openvino.model import OpenVINOModel
from pp_graph.openvino.session import OpenVINOSession

__all__ = ["OpenVINOModel", "OpenVINOSession"]
