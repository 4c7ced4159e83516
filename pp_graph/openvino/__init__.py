"""OpenVINO: artifacts that it runs, its sessions and devices, and the f32 island.

Every quirk of that runtime is handled in this package and nowhere else.
"""

from __future__ import annotations

from pp_graph.openvino.model import OpenVINOModel
from pp_graph.openvino.session import OpenVINOSession

__all__ = ["OpenVINOModel", "OpenVINOSession"]
