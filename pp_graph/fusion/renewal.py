"""The post-processing of a fused model with other statistics or parameters; all else stays as it was fused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pp_graph.errors import PostProcessorError, ProvenanceError
from pp_graph.fusion.injection import fuse
from pp_graph.postprocessors import POST_PROCESSORS

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
    kind = next((kind for kind in POST_PROCESSORS if kind.__name__ == provenance.post_processor), None)
    if kind is None:
        raise ProvenanceError(
            f"Post-processor '{provenance.post_processor}' is not known, expected one of: "
            f"{', '.join(kind.__name__ for kind in POST_PROCESSORS)}. Use the version of pp_graph that wrote the model."
        )
    for parameter, decision in (("image_sensitivity", "pred_label"), ("pixel_sensitivity", "pred_mask")):
        if parameter in changes and decision not in provenance.cutoffs:
            raise PostProcessorError(
                f"{parameter} is given, and the model writes no {decision}, which it would move. Leave it out."
            )
    kept = provenance.statistics if statistics is None else statistics
    try:
        return kind.from_parameters(kept, {**provenance.parameters, **changes})
    except TypeError as error:
        raise ProvenanceError(
            f"Parameters of '{provenance.post_processor}' do not fit this version: {error}. They were written by "
            f"pp_graph {provenance.pp_graph_version}: use that version, or fuse the raw model again."
        ) from error


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
    )
