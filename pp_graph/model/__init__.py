"""The raw model: open it safely, and find out its outputs, shapes and batch axes."""

from __future__ import annotations

from pp_graph.model.batch import BatchPlace, batch_places, fixed_batch, image_input
from pp_graph.model.graphs import NameScope
from pp_graph.model.outputs import OutputInfo, describe_outputs
from pp_graph.model.raw_model import METADATA_KEY, FrameFormat, ModelInput, Port, RawModel
from pp_graph.model.shapes import Dimension, Shape, format_shape

__all__ = [
    "METADATA_KEY",
    "BatchPlace",
    "Dimension",
    "FrameFormat",
    "ModelInput",
    "NameScope",
    "OutputInfo",
    "Port",
    "RawModel",
    "Shape",
    "batch_places",
    "describe_outputs",
    "fixed_batch",
    "format_shape",
    "image_input",
]
