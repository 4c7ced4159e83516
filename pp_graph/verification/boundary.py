"""The post-processing alone, on raw values at and around every point where it bends.

Images rarely hold a raw value right at a cutoff, so a cutoff that is a little off would not show on them. Here the
post-processing is cut out of the artifact and run, on the same device and in the same precision, on the cutoffs
themselves, their neighbours in float32, infinities, NaN, and numbers all over the calibrated range.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pp_graph.fusion import FusedModel, extract_post_processing
from pp_graph.postprocessors.layout import RAW_MAP, RAW_SCORE
from pp_graph.targets import OnnxSession, OpenVINOModel, OpenVINOSession, Session
from pp_graph.targets.island.island import extract_island
from pp_graph.verification.comparison import checked_predictions

if TYPE_CHECKING:
    import numpy.typing as npt

    from pp_graph.fusion import Provenance
    from pp_graph.postprocessors import PostProcessor
    from pp_graph.steps import Array

_STEPS = 257


def boundary_values(provenance: Provenance, post: PostProcessor) -> npt.NDArray[np.float32]:
    """Raw values to decide about: finite and infinite, NaN last.

    Subnormal numbers are left out where cutoffs are adjustable: OpenVINO takes such a cutoff for 0.
    -inf is left out where the score is the maximum of the map: a map that holds nothing else reduces to the lowest
    finite number in OpenVINO, which matters to nobody.
    """
    points = [0.0, 1.0, -1.0]
    for step in post.decisions(provenance.layout).values():
        points += [] if step.cutoff is None else [float(step.cutoff)]
        points.append(step.level)
    if provenance.statistics is not None:
        for level in (provenance.statistics.image, provenance.statistics.pixel):
            numbers = [number for number in (level.threshold, level.min, level.max) if number is not None]
            points += numbers
            if numbers:
                low, high = min(numbers), max(numbers)
                points += list(np.linspace(low - (high - low) / 2, high + (high - low) / 2, _STEPS))
    with np.errstate(over="ignore"):
        near = np.array(points).astype(np.float32)
    near = np.concatenate([near, np.nextafter(near, np.float32(np.inf)), np.nextafter(near, np.float32(-np.inf))])
    if provenance.adjustable:
        near = near[(near == 0) | (np.abs(near) >= np.finfo(np.float32).smallest_normal)]
    ends = [np.inf, np.nan] if provenance.raw.score is None else [np.inf, -np.inf, np.nan]
    return np.concatenate([np.unique(near[np.isfinite(near)]), np.array(ends, np.float32)])


def run_boundary(
    artifact: OpenVINOModel | FusedModel, post: PostProcessor, device: str, inference_precision: str | None
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Run an artifact's post-processing on boundary values.

    Args:
        artifact: The artifact.
        post: The post-processor it should contain.
        device: Device for an OpenVINO model.
        inference_precision: Precision for an OpenVINO model; None for the device's own.

    Returns:
        The values fed, by the names of `Provenance.tensors`, and what the artifact makes of them, by output.
    """
    provenance = artifact.provenance
    values = boundary_values(provenance, post)
    read = provenance.raw.read
    # An unknown rank is fed as the usual one; an inner value has that of the map.
    ranks = {role: (read[role] if role in read else read[RAW_MAP]).rank for role in provenance.tensors}
    ranks = {role: rank or (2 if role == RAW_SCORE else 4) for role, rank in ranks.items()}
    shapes = {role: (len(values), 1, 1, 1)[:rank] for role, rank in ranks.items()}
    session: Session
    if isinstance(artifact, OpenVINOModel):
        island = extract_island(artifact.model, list(provenance.tensors.values()), list(shapes.values()))
        alone = OpenVINOModel(island, provenance, artifact.precision)
        session = OpenVINOSession(alone, device=device, inference_precision=inference_precision)
    else:
        session = OnnxSession(extract_post_processing(artifact))
    with np.errstate(over="ignore"):
        fed = {
            role: values.reshape(shapes[role]).astype(each.dtype or "float32")
            for role, each in zip(shapes, session.inputs, strict=True)
        }
        raw = {role: array.astype(np.float32) for role, array in fed.items()}
    feeds = {each.name: fed[role] for role, each in zip(shapes, session.inputs, strict=True)}
    return raw, checked_predictions(provenance, session.run(feeds))
