"""Post-processors: compositions of steps, with the roles they read and the outputs they write.

To add one, write a file and an entry in `POST_PROCESSORS`.
"""

from __future__ import annotations

from pp_graph.postprocessors.anomaly import (
    CLASS_ROLES,
    DECISION_NAMES,
    MAP,
    MAPS,
    OUTPUT_NAMES,
    OUTPUTS,
    RAW_MAP,
    RAW_SCORE,
    ROLES,
    SCORE,
    SCORES,
    merged_roles,
)
from pp_graph.postprocessors.classification import RAW_LOGITS, ClassificationPostProcessor
from pp_graph.postprocessors.detection import DetectionPostProcessor
from pp_graph.postprocessors.detection_heads import HEADS
from pp_graph.postprocessors.head_finding import RAW_BOXES, RAW_CANDIDATES, RAW_SCORES
from pp_graph.postprocessors.lookup import class_name, find_post_processor, post_processor_names
from pp_graph.postprocessors.one_class import OneClassPostProcessor
from pp_graph.postprocessors.onnx_model import OnnxPostProcessor
from pp_graph.postprocessors.post_processor import PostProcessor
from pp_graph.postprocessors.recipe import RecipePostProcessor
from pp_graph.postprocessors.regions import RegionsPostProcessor
from pp_graph.postprocessors.segmentation import PIXEL_CLASSES, PIXEL_LOGITS, SegmentationPostProcessor
from pp_graph.postprocessors.sequence import SequencePostProcessor

POST_PROCESSORS: tuple[type[PostProcessor], ...] = (
    OneClassPostProcessor,
    ClassificationPostProcessor,
    DetectionPostProcessor,
    SegmentationPostProcessor,
    RegionsPostProcessor,
    SequencePostProcessor,
    RecipePostProcessor,
)

__all__ = [
    "CLASS_ROLES",
    "DECISION_NAMES",
    "HEADS",
    "MAP",
    "MAPS",
    "OUTPUTS",
    "OUTPUT_NAMES",
    "PIXEL_CLASSES",
    "PIXEL_LOGITS",
    "POST_PROCESSORS",
    "RAW_BOXES",
    "RAW_CANDIDATES",
    "RAW_LOGITS",
    "RAW_MAP",
    "RAW_SCORE",
    "RAW_SCORES",
    "ROLES",
    "SCORE",
    "SCORES",
    "ClassificationPostProcessor",
    "DetectionPostProcessor",
    "OneClassPostProcessor",
    "OnnxPostProcessor",
    "PostProcessor",
    "RecipePostProcessor",
    "RegionsPostProcessor",
    "SegmentationPostProcessor",
    "SequencePostProcessor",
    "class_name",
    "find_post_processor",
    "merged_roles",
    "post_processor_names",
]
