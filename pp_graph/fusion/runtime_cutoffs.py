"""Turn sensitivities into the cutoffs that a model with adjustable thresholds takes while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pp_graph.errors import ProvenanceError
from pp_graph.fusion.renewal import renewed_post_processor
from pp_graph.steps import Compare

if TYPE_CHECKING:
    from pp_graph.fusion.provenance import Provenance
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
    given: dict[str, Any] = {"image_sensitivity": image_sensitivity, "pixel_sensitivity": pixel_sensitivity}
    changes = {name: value for name, value in given.items() if value is not None}
    post = renewed_post_processor(provenance, statistics, changes)
    return {
        step.input_name: np.array(step.runtime_cutoff, np.float32)
        for step in post.compiled(provenance.layout).compares.values()
        if isinstance(step, Compare) and step.runtime
    }
