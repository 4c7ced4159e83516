"""Turn sensitivities into the cutoffs that a model with adjustable thresholds takes while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pp_graph.errors import PostProcessorError, ProvenanceError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import numpy.typing as npt

    from pp_graph.fusion.provenance import Provenance
    from pp_graph.program import Program
    from pp_graph.statistics import Statistics


def cutoffs_for(
    provenance: Provenance,
    *,
    image_sensitivity: float | None = None,
    pixel_sensitivity: float | None = None,
    statistics: Statistics | None = None,
) -> dict[str, npt.NDArray[np.float32]]:
    """Compute the cutoffs of a model that was fused with `thresholds="runtime"`.

    A decision is `cutoff <= raw value`; with these cutoffs every decision is that of the model fused anew. NaN stands
    for "never anomalous". Normalised scores and maps are those of the statistics in the model, whatever the cutoffs.

    Args:
        provenance: Of a fused or converted model (`model.provenance`).
        image_sensitivity: Sensitivity for images, in [0, 1]; None keeps the one it has.
        pixel_sensitivity: The same for pixels.
        statistics: Other statistics to decide by; None keeps those it has.

    Returns:
        Name of the input (in onnxruntime) or state (in OpenVINO) to a float32 array of shape ().

    Raises:
        ProvenanceError: The model's cutoffs are constants.
        PostProcessorError: A sensitivity is outside its range, or has no meaning for this model.
        StatisticsError: The statistics lack a number.
    """
    if not provenance.adjustable:
        raise ProvenanceError(
            "The model's cutoffs are constants, expected a model fused with thresholds='runtime' "
            "(--thresholds runtime). Fuse it so, or change the file with pp-graph retune."
        )
    changes = sensitivities(image=image_sensitivity, pixel=pixel_sensitivity)
    return retuned_program(provenance, statistics, changes).runtime_cutoffs


def sensitivities(*, image: float | None, pixel: float | None) -> dict[str, float]:
    """The sensitivities that are given, by the name of their parameter."""
    given = {"image_sensitivity": image, "pixel_sensitivity": pixel}
    return {name: value for name, value in given.items() if value is not None}


def retuned_program(provenance: Provenance, statistics: Statistics | None, changes: Mapping[str, Any]) -> Program:
    """The program of a model, with other statistics or other values of some parameters.

    Args:
        provenance: What was fused.
        statistics: Other statistics; None keeps those it has.
        changes: Other values of some of its parameters.

    Raises:
        ProvenanceError: Its class or its parameters are not known to this version, or the record was edited.
        PostProcessorError: It does not take a value, or a sensitivity has nothing to move.
        StatisticsError: The statistics lack a number.
    """
    for parameter, decision in (("image_sensitivity", "pred_label"), ("pixel_sensitivity", "pred_mask")):
        if parameter in changes and decision not in provenance.predicted:
            raise PostProcessorError(
                f"{parameter} is given, and the model writes no {decision}, which it would move. Leave it out."
            )
    kept = provenance.statistics if statistics is None else statistics
    post = provenance.build_post_processor(kept, changes)
    provenance.check_unedited()
    return post.bind(provenance.signature)
