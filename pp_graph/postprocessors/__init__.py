"""The sentences of post-processing: steps composed for a purpose.

A new post-processor is one file and one entry in `POST_PROCESSORS`; provenance finds it, and those of users, by class.
"""

from __future__ import annotations

from pp_graph.postprocessors.compilation import OUTPUT_NAMES, CompiledSteps, compile_steps
from pp_graph.postprocessors.layout import RAW_MAP, RAW_SCORE, RawLayout
from pp_graph.postprocessors.lookup import class_name, find_post_processor, post_processor_names
from pp_graph.postprocessors.one_class import OneClassPostProcessor
from pp_graph.postprocessors.packing import PACKED_NAME, check_packed, unpack
from pp_graph.postprocessors.post_processor import POSTPROCESSED_NAMES, PostProcessor
from pp_graph.postprocessors.predictions import Predictions
from pp_graph.postprocessors.recipe import RecipePostProcessor

POST_PROCESSORS: tuple[type[PostProcessor], ...] = (OneClassPostProcessor, RecipePostProcessor)

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
    "RecipePostProcessor",
    "check_packed",
    "class_name",
    "compile_steps",
    "find_post_processor",
    "post_processor_names",
    "unpack",
]
