"""Compute cutoffs for models with adjustable thresholds (`thresholds="runtime"`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pp_graph.errors import PostProcessorError, ProvenanceError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from pp_graph.fusion.provenance import Provenance
    from pp_graph.program import Program
    from pp_graph.statistics import Statistics

WITHOUT_STATISTICS: Final = frozenset({
    "ClassificationPostProcessor", "DetectionPostProcessor", "RegionsPostProcessor", "SegmentationPostProcessor",
    "SequencePostProcessor",
})  # fmt: skip
"""Post-processors whose limits are options of their own."""


def scores_anomalies(provenance: Provenance) -> bool:
    """Return True if a model's decisions are about anomalies, and not about classes, detections or regions."""
    return provenance.post_processor not in WITHOUT_STATISTICS and not any(
        output.classifies for output in provenance.outputs
    )


def cutoffs_for(
    provenance: Provenance,
    *,
    image_sensitivity: float | None = None,
    pixel_sensitivity: float | None = None,
    unknown_below: float | None = None,
    multi_label: float | Sequence[float] | None = None,
    confidence: float | Sequence[float] | None = None,
    iou: float | None = None,
    statistics: Statistics | None = None,
) -> dict[str, npt.NDArray[np.float32]]:
    """Compute the cutoffs of a model that was fused with `thresholds="runtime"`.

    A value is anomalous if `cutoff <= raw value`. With these cutoffs the model decides as if it had been fused again
    with the new settings. NaN means "never anomalous". Cutoffs do not affect normalised scores and maps, which follow
    from the statistics in the model.

    Args:
        provenance: Provenance of a fused or converted model (`model.provenance`).
        image_sensitivity: Sensitivity for images, in [0, 1]; None keeps the model's.
        pixel_sensitivity: Sensitivity for pixels, in [0, 1]; None keeps the model's.
        unknown_below: Probability below which a classifier calls an image unknown; None keeps the model's.
        multi_label: Threshold of a classifier for all classes, or one for each; None keeps the model's.
        confidence: Score that a detection exceeds, for all classes, or for each if the model has one for each; None
            keeps the model's.
        iou: Overlap above which a detector suppresses a box; None keeps the model's.
        statistics: Statistics to compute the cutoffs from; None keeps the model's.

    Returns:
        Arrays by name of the input (onnxruntime) or state (OpenVINO), float32: of shape (), or with a cutoff for each
        class.

    Raises:
        ProvenanceError: The model's cutoffs are constants.
        PostProcessorError: A sensitivity is outside [0, 1], or the model has no such decision.
        StatisticsError: Required statistics are missing.
    """
    if not provenance.adjustable:
        raise ProvenanceError(
            "The model's cutoffs are constants, expected a model fused with thresholds='runtime' "
            "(--thresholds runtime). Fuse it again with that option, or change the file with pp-graph retune."
        )
    changes: dict[str, Any] = dict(sensitivities(image=image_sensitivity, pixel=pixel_sensitivity))
    others = {"unknown_below": unknown_below, "multi_label": multi_label, "confidence": confidence, "iou": iou}
    changes |= {name: value for name, value in others.items() if value is not None}
    present, changed = provenance.bind(), retuned_program(provenance, statistics, changes)
    for name, step in changed.adjustable_steps.items():
        source = present.adjustable_steps[name].source
        if step.source != source:
            raise PostProcessorError(
                f"With these limits, '{name}' is compared with {step.source} instead of {source}, because they decide "
                "differently about NaN: a limit of 1 is never exceeded. Give limits below 1, or fuse the model again."
            )
    before = present.runtime_cutoffs
    return {name: _shaped(cutoffs, before[name], name) for name, cutoffs in changed.runtime_cutoffs.items()}


def _shaped(cutoffs: npt.NDArray[np.float32], present: npt.NDArray[np.float32], name: str) -> npt.NDArray[np.float32]:
    """Return cutoffs in the shape of those of the model: one number counts for all classes."""
    if cutoffs.shape in ((), present.shape):
        return np.broadcast_to(cutoffs, present.shape).copy()
    raise PostProcessorError(
        f"{cutoffs.size} limits are given for '{name}', and the model has one for all classes, expected one. Give one, "
        "or fuse the model with one for each class."
    )


def sensitivities(*, image: float | None, pixel: float | None) -> dict[str, float]:
    """Return the sensitivities that are not None, by parameter name."""
    given = {"image_sensitivity": image, "pixel_sensitivity": pixel}
    return {name: value for name, value in given.items() if value is not None}


def retuned_program(provenance: Provenance, statistics: Statistics | None, changes: Mapping[str, Any]) -> Program:
    """Rebuild a model's program with other statistics or parameters.

    Args:
        provenance: Provenance of the model.
        statistics: New statistics; None keeps the model's.
        changes: New values by parameter name.

    Raises:
        ProvenanceError: The post-processor's class or parameters are unknown to this version, or the record was edited.
        PostProcessorError: A value is invalid, or a sensitivity has no decision to affect.
        StatisticsError: Required statistics are missing.
    """
    for parameter, decision in (("image_sensitivity", "pred_label"), ("pixel_sensitivity", "pred_mask")):
        if parameter in changes and decision not in provenance.predicted:
            raise PostProcessorError(
                f"{parameter} was given, but the model has no output {decision} that it could affect. Leave it out."
            )
    if statistics is not None and provenance.post_processor in WITHOUT_STATISTICS:
        raise PostProcessorError(
            f"Statistics were given, and {provenance.post_processor} uses none, expected one of its own options, such "
            "as the confidence of a detector (pp-graph retune --help). Leave the statistics out."
        )
    kept = provenance.statistics if statistics is None else statistics
    post = provenance.build_post_processor(kept, changes)
    provenance.check_unedited()
    return post.bind(provenance.signature)
