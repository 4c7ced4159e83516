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
from pp_graph.targets.onnxruntime_session import OnnxSession
from pp_graph.targets.openvino_compiling import INFERENCE_PRECISIONS
from pp_graph.targets.openvino_model import OpenVINOModel
from pp_graph.targets.openvino_session import OpenVINOSession
from pp_graph.targets.quantization.quantization import PRESETS, Quantization
from pp_graph.targets.raw_values import RawValues, open_raw_values
from pp_graph.targets.retuning.files import RetunedFile, Retuning, prepare_retuning, retune_file
from pp_graph.targets.retuning.retuning import retune
from pp_graph.targets.session import Session, cut_to_batch, run_in_batches
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
    "OnnxSession",
    "OpenVINOModel",
    "OpenVINOSession",
    "Quantization",
    "RawValues",
    "RetunedFile",
    "Retuning",
    "Session",
    "available_devices",
    "check_for_device",
    "convert",
    "cut_to_batch",
    "describe_device",
    "device_profile",
    "island_precisions",
    "list_devices",
    "open_raw_values",
    "prepare_retuning",
    "recommended_properties",
    "retune",
    "retune_file",
    "run_in_batches",
    "usage_path",
]
