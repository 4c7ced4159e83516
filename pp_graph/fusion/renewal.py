"""The post-processing of a fused model with other statistics or parameters; all else stays as it was fused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pp_graph.errors import PostProcessorError
from pp_graph.fusion.injection import fuse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pp_graph.fusion.fused_model import FusedModel
    from pp_graph.fusion.provenance import Provenance
    from pp_graph.postprocessors import PostProcessor
    from pp_graph.statistics import Statistics


def renewed_post_processor(
    provenance: Provenance, statistics: Statistics | None, changes: Mapping[str, Any]
) -> PostProcessor:
    """The post-processor of a model, with some things changed.

    Args:
        provenance: What was fused.
        statistics: Other statistics; None keeps those it has.
        changes: Other values of some of its parameters.

    Raises:
        ProvenanceError: Its class or its parameters are not known to this version.
        PostProcessorError: It does not take a value, or a sensitivity has nothing to move.
    """
    for parameter, decision in (("image_sensitivity", "pred_label"), ("pixel_sensitivity", "pred_mask")):
        if parameter in changes and not _writes(provenance, decision):
            raise PostProcessorError(
                f"{parameter} is given, and the model writes no {decision}, which it would move. Leave it out."
            )
    kept = provenance.statistics if statistics is None else statistics
    return provenance.renewed_post_processor(kept, changes)


def _writes(provenance: Provenance, decision: str) -> bool:
    """Whether a model has an output that decides, be it that a later step changes what a comparison writes."""
    if decision in provenance.cutoffs:
        return True
    post = provenance.renewed_post_processor(provenance.statistics, {}).bound(provenance.layout)
    return decision in post.decisions(provenance.layout)


def fuse_anew(fused: FusedModel, post: PostProcessor) -> FusedModel:
    """Take the post-processing out of a model and write another in, with all other choices as they were.

    Raises:
        PPGraphError: See `fuse`.
    """
    raw = fused.provenance.raw
    outputs = set(fused.output_names)
    return fuse(
        fused,
        post,
        score_output=None if raw.score is None else raw.score.name,
        map_output=None if raw.map is None else raw.map.name,
        keep_raw=any(record.tensor in outputs for record in raw.read.values()),
        replace=True,
        tail=bool(fused.provenance.tail),
        raise_opset=None if fused.provenance.raised is None else fused.provenance.raised.after,
    )
