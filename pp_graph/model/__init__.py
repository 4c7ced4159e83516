"""Open a raw ONNX export safely, and find out what its outputs mean."""

from __future__ import annotations

from pp_graph.model.names import NameScope
from pp_graph.model.outputs import OutputInfo, describe_outputs
from pp_graph.model.raw_model import METADATA_KEY, FrameFormat, ModelInput, RawModel
from pp_graph.model.shapes import Dimension, Shape, format_shape

__all__ = [
    "METADATA_KEY",
    "Dimension",
    "FrameFormat",
    "ModelInput",
    "NameScope",
    "OutputInfo",
    "RawModel",
    "Shape",
    "describe_outputs",
    "format_shape",
]
