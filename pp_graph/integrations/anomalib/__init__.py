"""Anomalib 2.x: export its models in one call, and use our post-processor inside them.

    from pp_graph.integrations.anomalib import AnomalibPostProcessor, export

    result = export("model.ckpt", "model.xml", model_class="Padim", images="images/")
    print(result)

    model = Patchcore(post_processor=AnomalibPostProcessor(image_sensitivity=0.6))

Importing this module needs neither Anomalib nor torch; `AnomalibPostProcessor` and checkpoints do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pp_graph.extras import check_extra
from pp_graph.integrations.anomalib.comparison import ModelComparison, ModelDecision
from pp_graph.integrations.anomalib.exporting import export
from pp_graph.integrations.anomalib.settings import read_post_processor
from pp_graph.integrations.exporting import ExportResult

if TYPE_CHECKING:
    from pp_graph.integrations.anomalib.post_processor import AnomalibPostProcessor
    from pp_graph.integrations.anomalib.post_processor import AnomalibPostProcessor as OneClassPostProcessor

__all__ = [
    "AnomalibPostProcessor",
    "ExportResult",
    "ModelComparison",
    "ModelDecision",
    "OneClassPostProcessor",
    "export",
    "read_post_processor",
]


def __getattr__(name: str) -> Any:
    # `OneClassPostProcessor` is Anomalib's name for it.
    if name in ("AnomalibPostProcessor", "OneClassPostProcessor"):
        for library in ("anomalib", "torch"):
            check_extra(library, "anomalib", "a post-processor for Anomalib's models")
        from pp_graph.integrations.anomalib.post_processor import AnomalibPostProcessor

        return AnomalibPostProcessor
    raise AttributeError(f"module '{__name__}' has no attribute {name!r}")
