"""The sentences of post-processing: steps composed for a purpose.

A new post-processor is one file and one entry in `POST_PROCESSORS`, by which provenance finds it again.
"""

from __future__ import annotations

from pp_graph.postprocessors.compilation import OUTPUT_NAMES, CompiledSteps, compile_steps
from pp_graph.postprocessors.layout import RAW_MAP, RAW_SCORE, RawLayout
from pp_graph.postprocessors.one_class import OneClassPostProcessor
from pp_graph.postprocessors.packing import PACKED_NAME, check_packed, unpack
from pp_graph.postprocessors.post_processor import POSTPROCESSED_NAMES, PostProcessor
from pp_graph.postprocessors.predictions import Predictions

POST_PROCESSORS: tuple[type[PostProcessor], ...] = (OneClassPostProcessor,)

__all__ = [
    "OUTPUT_NAMES",
    "PACKED_NAME",
    "POSTPROCESSED_NAMES",
    "POST_PROCESSORS",
    "RAW_MAP",
    "RAW_SCORE",
    "CompiledSteps",
    "OneClassPostProcessor",
    "PostProcessor",
    "Predictions",
    "RawLayout",
    "check_packed",
    "compile_steps",
    "unpack",
]
