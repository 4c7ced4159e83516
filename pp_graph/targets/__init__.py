"""Runtimes and devices: every quirk of OpenVINO and onnxruntime lives in this room and nowhere else."""

from __future__ import annotations

from pp_graph.targets.conversion import PRECISIONS, convert
from pp_graph.targets.devices import DEVICES, DeviceInfo, DeviceProfile, available_devices, list_devices
from pp_graph.targets.island_precision import island_precisions
from pp_graph.targets.onnxruntime_session import OnnxSession
from pp_graph.targets.openvino_model import OpenVINOModel
from pp_graph.targets.openvino_session import INFERENCE_PRECISIONS, OpenVINOSession
from pp_graph.targets.quantization import PRESETS, Quantization
from pp_graph.targets.raw_values import RawValues, open_raw_values
from pp_graph.targets.retuning import retune
from pp_graph.targets.session import Session, run_in_batches

__all__ = [
    "DEVICES",
    "INFERENCE_PRECISIONS",
    "PRECISIONS",
    "PRESETS",
    "DeviceInfo",
    "DeviceProfile",
    "OnnxSession",
    "OpenVINOModel",
    "OpenVINOSession",
    "Quantization",
    "RawValues",
    "Session",
    "available_devices",
    "convert",
    "island_precisions",
    "list_devices",
    "open_raw_values",
    "retune",
    "run_in_batches",
]
