"""Runtimes and devices: every quirk of OpenVINO and onnxruntime lives in this room and nowhere else."""

from __future__ import annotations

from pp_graph.targets.conversion import PRECISIONS, convert
from pp_graph.targets.devices.check import DeviceCheck, Finding, check_for_device
from pp_graph.targets.devices.devices import (
    MODES,
    DeviceInfo,
    available_devices,
    describe_device,
    device_profile,
    list_devices,
    recommended_properties,
)
from pp_graph.targets.devices.profiles import DEVICES, DeviceProfile
from pp_graph.targets.island.precision import island_precisions
from pp_graph.targets.opening import kind_of, open_artifact
from pp_graph.targets.openvino_compiling import INFERENCE_PRECISIONS
from pp_graph.targets.openvino_model import OpenVINOModel
from pp_graph.targets.openvino_session import OpenVINOSession
from pp_graph.targets.quantization.quantization import PRESETS, Quantization
from pp_graph.targets.raw_values import RawValues, open_raw_values
from pp_graph.targets.retuning.files import RetunedFile, Retuning, prepare_retuning, retune
from pp_graph.targets.usage.text import usage_path

__all__ = [
    "DEVICES",
    "INFERENCE_PRECISIONS",
    "MODES",
    "PRECISIONS",
    "PRESETS",
    "DeviceCheck",
    "DeviceInfo",
    "DeviceProfile",
    "Finding",
    "OpenVINOModel",
    "OpenVINOSession",
    "Quantization",
    "RawValues",
    "RetunedFile",
    "Retuning",
    "available_devices",
    "check_for_device",
    "convert",
    "describe_device",
    "device_profile",
    "island_precisions",
    "kind_of",
    "list_devices",
    "open_artifact",
    "open_raw_values",
    "prepare_retuning",
    "recommended_properties",
    "retune",
    "usage_path",
]
