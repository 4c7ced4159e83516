"""Fuse a post-processor into a raw model, record how in its provenance, and strip it again."""

from __future__ import annotations

from pp_graph.fusion.artifact import Artifact
from pp_graph.fusion.fused_model import FusedModel, fuse
from pp_graph.fusion.provenance import Provenance, RawOutputRecord
from pp_graph.fusion.runtime_cutoffs import cutoffs_for, retuned_program, sensitivities
from pp_graph.fusion.stripping import extract_post_processing, strip
from pp_graph.model import METADATA_KEY

__all__ = [
    "METADATA_KEY",
    "Artifact",
    "FusedModel",
    "Provenance",
    "RawOutputRecord",
    "cutoffs_for",
    "extract_post_processing",
    "fuse",
    "retuned_program",
    "sensitivities",
    "strip",
]
