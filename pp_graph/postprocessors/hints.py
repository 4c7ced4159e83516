"""Propose a task for a raw model that is no anomaly model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pp_graph.postprocessors.classification import classifier_hint
from pp_graph.postprocessors.detection import detector_hint
from pp_graph.postprocessors.segmentation import segmentation_hint

if TYPE_CHECKING:
    from pp_graph.model import RawModel


def task_hint(raw: RawModel) -> str:
    """Return a sentence that names the task of a raw model and its option; empty if none fits."""
    return classifier_hint(raw) or detector_hint(raw) or segmentation_hint(raw)
