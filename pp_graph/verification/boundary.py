"""The post-processing alone, on raw values at and around every point where it bends.

Images rarely hold a raw value right at a cutoff, so a cutoff that is a little off would not show on them. Here the
post-processing is cut out of the artifact and run, on the same device and in the same precision, on the cutoffs
themselves, their neighbours in float32, infinities, NaN, and numbers all over the calibrated range.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pp_graph.fusion import FusedModel, extract_post_processing
from pp_graph.postprocessors import OUTPUT_NAMES
from pp_graph.steps import DecidingStep, MonotoneStep, is_blurred, is_subnormal
from pp_graph.targets import OnnxSession, OpenVINOModel, OpenVINOSession, Session
from pp_graph.targets.island.island import extract_island
from pp_graph.verification.comparison import checked_predictions

if TYPE_CHECKING:
    from collections.abc import Container

    import numpy.typing as npt

    from pp_graph.fusion import Provenance
    from pp_graph.postprocessors import CompiledSteps, PostProcessor
    from pp_graph.steps import Array, Step

_STEPS = 257
_SIDE = 12
"""Height and width of a map on which steps over neighbours are tried out, where nothing asks for another."""


def boundary_values(provenance: Provenance, compiled: CompiledSteps) -> npt.NDArray[np.float32]:
    """Values to decide about: finite and infinite, NaN last.

    Subnormal numbers are left out where graphs may decide about them otherwise; see `pp_graph.steps.cutoff`.
    -inf is left out where values are reduced or compared with neighbours: a map that holds nothing else reduces to the
    lowest finite number in OpenVINO, which matters to nobody.
    """
    points = [0.0, 1.0, -1.0]
    spans = []
    for compare in compiled.compares.values():
        if not compare.per_pixel:
            points += [float(cutoff) for cutoff in compare.cutoffs.ravel() if not np.isnan(cutoff)]
            points += [float(level) for level in compare.levels.ravel()]
    # Where each pixel has a cutoff, every value is an image of the model's own size.
    count = 3 if _sized(compiled) else _STEPS
    for step in compiled.steps:
        normalizer = step.normalizer if isinstance(step, DecidingStep) else step
        if isinstance(normalizer, MonotoneStep) and normalizer.bends:
            spans.append(list(normalizer.bends))
    if provenance.statistics is not None:
        levels = (provenance.statistics.image, provenance.statistics.pixel)
        spans += [[each for each in (level.threshold, level.min, level.max) if each is not None] for level in levels]
    for numbers in spans:
        points += numbers
        if numbers:
            low, high = min(numbers), max(numbers)
            points += list(np.linspace(low - (high - low) / 2, high + (high - low) / 2, count))
    with np.errstate(over="ignore"):
        near = np.array(points).astype(np.float32)
    near = np.concatenate([near, np.nextafter(near, np.float32(np.inf)), np.nextafter(near, np.float32(-np.inf))])
    if provenance.adjustable or any(is_blurred(compare.cutoffs).any() for compare in compiled.compares.values()):
        near = near[~is_subnormal(near)]
    pointwise = provenance.raw.score is not None and all(step.pointwise for step in compiled.steps)
    ends = [np.inf, -np.inf, np.nan] if pointwise else [np.inf, np.nan]
    return np.concatenate([np.unique(near[np.isfinite(near)]), np.array(ends, np.float32)])


def _sized(compiled: CompiledSteps) -> list[DecidingStep]:
    """Comparisons with a cutoff for each pixel."""
    return [step for step in compiled.compares.values() if step.per_pixel]


def _fed(step: Step, compiled: CompiledSteps, roles: Container[str]) -> str | None:
    """The value among those that are fed from which the pixels come that a step reads."""
    writes = {each.target: each for each in compiled.steps}
    name = step.source
    while name not in roles and name in writes:
        name = writes[name].source
    return name if name in roles else None


def boundary_arrays(provenance: Provenance, compiled: CompiledSteps) -> dict[str, Array]:
    """Values to feed for each of the tensors where the exact part of the post-processing begins, float32."""
    values = boundary_values(provenance, compiled)
    forms = {role: compiled.forms[role] for role in provenance.tensors}
    needed = compiled.needed(OUTPUT_NAMES, provenance.tensors)
    sized = _sized(compiled)
    side = max(_SIDE, *(2 * step.least_size for step in needed)) if any(not s.pointwise for s in needed) else 1
    if side > 1:
        # Neighbours that are close in value would rarely be decided about differently.
        values = np.random.default_rng(0).permutation(values)
    count = len(values)
    shapes: dict[str, tuple[int, ...]] = {}
    for role, form in forms.items():
        # An unknown rank is fed as the usual one.
        axes = form.axes or ("NC" if form.level == "image" else "NCHW")
        height, width = form.size if sized and form.size is not None else (side, side)
        sizes = {"C": form.classes or 1, "H": height, "W": width}
        shapes[role] = tuple(sizes[axis] for axis in axes[1:])
    arrays = {}
    for role, shape in shapes.items():
        inside = int(np.prod(shape))
        # Each image begins at another value, so that every value meets every place.
        places = np.arange(count)[:, None] + (np.arange(inside) if inside > 1 else np.zeros(1, np.int64))
        arrays[role] = values[places % count].reshape(count, *shape)
    for index, step in enumerate(sized):
        fed = _fed(step, compiled, arrays)
        if fed is None or not _fits(step.cutoffs.shape, arrays[fed].shape[1:]):
            continue
        cutoffs = np.broadcast_to(step.cutoffs, arrays[fed].shape[1:])
        for turn, each in enumerate((cutoffs, np.nextafter(cutoffs, -np.inf), np.nextafter(cutoffs, np.inf))):
            unsure = is_blurred(cutoffs) & is_subnormal(each)
            arrays[fed][3 * index + turn] = np.where(unsure, np.float32(0), each)
    return arrays


def _fits(shape: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    """Whether an array of a shape can be repeated to another shape."""
    return len(shape) <= len(whole) and all(a in (1, b) for a, b in zip(shape[::-1], whole[::-1], strict=False))


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
    values = boundary_arrays(provenance, post.compiled(provenance.layout))
    session: Session
    if isinstance(artifact, OpenVINOModel):
        shapes = [array.shape for array in values.values()]
        island = extract_island(artifact.model, list(provenance.tensors.values()), shapes)
        alone = OpenVINOModel(island, provenance, artifact.precision)
        session = OpenVINOSession(alone, device=device, inference_precision=inference_precision)
    else:
        session = OnnxSession(extract_post_processing(artifact))
    with np.errstate(over="ignore"):
        fed = {
            role: array.astype(each.dtype or "float32")
            for (role, array), each in zip(values.items(), session.inputs, strict=True)
        }
        raw = {role: array.astype(np.float32) for role, array in fed.items()}
    feeds = {each.name: fed[role] for role, each in zip(values, session.inputs, strict=True)}
    return raw, checked_predictions(provenance, session.run(feeds))
