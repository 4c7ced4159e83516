"""What tasks use. The fork server imports it once, so that no task has to."""

from __future__ import annotations

import sys
from typing import Any

_modules: dict[str, Any] = sys.modules
# Its telemetry starts a thread and a process when OpenVINO is imported; a fork would lose the one and double the other.
_modules.setdefault("openvino_telemetry", None)

import onnx  # noqa: E402, F401
import openvino  # noqa: E402, F401
import PIL.Image  # noqa: E402, F401

import pp_graph.fleet.work  # noqa: E402, F401
from pp_graph.model.light_onnx_ir import import_onnx_ir  # noqa: E402

# onnxruntime is not among them: importing it starts a thread, too.
import_onnx_ir()
