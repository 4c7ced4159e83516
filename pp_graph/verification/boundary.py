"""Run the post-processing alone on raw values at and around its cutoffs.

Images rarely hold a raw value right at a cutoff, so they do not reveal a cutoff that is slightly off. Here the
post-processing is extracted from the artifact and run, on the same device and in the same precision, on the cutoffs,
their float32 neighbours, infinities, NaN, and numbers across the calibrated range.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pp_graph.fusion import FusedModel, extract_post_processing
from pp_graph.openvino import OpenVINOModel, OpenVINOSession
from pp_graph.openvino.island.island import extract_island
from pp_graph.sessions import OnnxSession
from pp_graph.steps import ChoosingStep, DecidingStep, MonotoneStep, is_blurred, is_subnormal
from pp_graph.verification.comparison import checked_predictions

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    import numpy.typing as npt

    from pp_graph.fusion import Artifact, Provenance
    from pp_graph.program import Program
    from pp_graph.sessions import Session
    from pp_graph.steps import Array, Step
    from pp_graph.values import ValueType

_SAMPLES = 257
"""Numbers sampled across each range."""
_TIMES = 6
"""Times of a sequence of any length."""
_MIN_SIDE = 12
"""Smallest height and width of the maps on which steps that read neighbours run."""

_CANDIDATE_IMAGES = 6
"""Images of candidates of a detector; each has many."""
_OPEN_CANDIDATES = 300
"""Number of candidates where the model leaves it open."""


def boundary_values(provenance: Provenance, program: Program) -> npt.NDArray[np.float32]:
    """Return the raw values to test, finite ones first, NaN last.

    Subnormal numbers are left out if runtimes may flush them; see `pp_graph.steps.compare`. -inf is left out if steps
    read neighbours: OpenVINO reduces a map of only -inf to the lowest finite number. NaN is left out if a step leaves
    its result to the runtime.
    """
    points = [0.0, 1.0, -1.0]
    spans = []
    for compare in program.comparisons.values():
        if not compare.per_pixel:
            points += [float(cutoff) for cutoff in compare.cutoffs.ravel() if not np.isnan(cutoff)]
            points += [float(number) for number in compare.levels.ravel()]
    # Every value may become an image of the model's full size.
    count = 3 if _needs_whole_maps(program) else _SAMPLES
    for step in program.steps:
        normalizer = step.normalizer if isinstance(step, DecidingStep) else step
        if isinstance(normalizer, MonotoneStep) and normalizer.bends:
            spans.append(list(normalizer.bends))
    if provenance.statistics is not None:
        spans += [
            [number for number in (level.threshold, level.min, level.max) if number is not None]
            for level in (provenance.statistics.image, provenance.statistics.pixel)
        ]
    for numbers in spans:
        points += numbers
        if numbers:
            low, high = min(numbers), max(numbers)
            points += list(np.linspace(low - (high - low) / 2, high + (high - low) / 2, count))
    with np.errstate(over="ignore"):
        near = np.array(points).astype(np.float32)
    near = np.concatenate([near, np.nextafter(near, np.float32(np.inf)), np.nextafter(near, np.float32(-np.inf))])
    if provenance.adjustable or any(is_blurred(compare.cutoffs).any() for compare in program.comparisons.values()):
        near = near[~is_subnormal(near)]
    pointwise = all(step.pointwise for step in program.steps)
    ends = [np.inf, -np.inf] if pointwise else [np.inf]
    if all(step.defines_nan for step in program.steps):
        ends.append(np.nan)
    return np.concatenate([np.unique(near[np.isfinite(near)]), np.array(ends, np.float32)])


def _sized(program: Program) -> list[DecidingStep]:
    """Return the comparisons with a cutoff for each pixel."""
    return [step for step in program.comparisons.values() if step.per_pixel]


def _needs_whole_maps(program: Program) -> bool:
    """Return True if maps must have the model's size: for a cutoff per pixel, or a module exported for that size."""
    return bool(_sized(program)) or not all(step.defines_nan for step in program.steps)


def _fed(step: Step, program: Program, roles: Container[str]) -> str | None:
    """Return the fed value that a step's input is computed from; None if there is none."""
    writes = {other.target: other for other in program.steps}
    name = step.source
    while name not in roles and name in writes:
        name = writes[name].source
    return name if name in roles else None


def boundary_arrays(provenance: Provenance, program: Program) -> dict[str, Array]:
    """Return the arrays to feed, by the names of `Provenance.tensors`."""
    values = boundary_values(provenance, program)
    types = {name: program.types[name] for name in provenance.tensors}
    if any("K" in value.axes for value in types.values()):
        return _candidate_arrays(values, types, exact=not program.intermediates)
    needed = program.needed([output.name for output in program.predicted], provenance.tensors)
    sized, whole = _sized(program), _needs_whole_maps(program)
    side = max(_MIN_SIDE, *(2 * step.least_size for step in needed)) if any(not s.pointwise for s in needed) else 1
    if side > 1:
        # Sorted neighbours would be close in value and rarely get different decisions.
        values = np.random.default_rng(0).permutation(values)
    count = len(values)
    shapes: dict[str, tuple[int, ...]] = {}
    batch_axes = {name: max(value.axes.find("N"), 0) for name, value in types.items()}
    for name, value in types.items():
        # If the rank is unknown, feed the most common one.
        height, width = value.map_size if whole and value.map_size is not None else (side, side)
        fed = value.resized(H=height, W=width) if value.per_pixel and value.map_size != (1, 1) else value
        # A few times, so that classes repeat.
        shape = fed.example_shape(T=_TIMES)
        shapes[name] = (*shape[: batch_axes[name]], *shape[batch_axes[name] + 1 :])
    arrays = {}
    for role, shape in shapes.items():
        inside = int(np.prod(shape))
        # Each image starts at another value, so that every value occurs at every pixel.
        places = np.arange(count)[:, None] + (np.arange(inside) if inside > 1 else np.zeros(1, np.int64))
        arrays[role] = _as_dtype(values[places % count].reshape(count, *shape), types[role].dtype)
    if any(isinstance(step, ChoosingStep) for step in program.steps):
        # Few different numbers, so that classes tie: once more as many images.
        draw = np.random.default_rng(1)
        few = np.array([0, -0.0, 1, -1, np.inf, *values[:3]], np.float32)
        for role, array in arrays.items():
            ties = few[draw.integers(0, len(few), array.shape)]
            arrays[role] = np.concatenate([array, _as_dtype(ties, types[role].dtype)])
    for index, step in enumerate(sized):
        origin = _fed(step, program, arrays)
        if origin is None or not _fits(step.cutoffs.shape, arrays[origin].shape[1:]):
            continue
        cutoffs = np.broadcast_to(step.cutoffs, arrays[origin].shape[1:])
        for turn, tested in enumerate((cutoffs, np.nextafter(cutoffs, -np.inf), np.nextafter(cutoffs, np.inf))):
            unsure = is_blurred(cutoffs) & is_subnormal(tested)
            arrays[origin][3 * index + turn] = np.where(unsure, np.float32(0), tested)
    return {role: np.moveaxis(array, 0, batch_axes[role]) for role, array in arrays.items()}


def _candidate_arrays(values: Array, types: Mapping[str, ValueType], *, exact: bool) -> dict[str, Array]:
    """Return a few images of candidates: numbers around the cutoffs that often tie, and boxes that often overlap.

    If decoding rounds, boxes are not such that an overlap could be right at its threshold.
    """
    draw = np.random.default_rng(0)
    usual = np.concatenate([values[np.abs(values) <= 2], values[-1:]]) if exact else values[np.abs(values) <= 1]
    arrays = {}
    # Values without an axis of images are those of one.
    images = _CANDIDATE_IMAGES if all("N" in value.axes for value in types.values()) else 1
    for role, value in types.items():
        shape = value.example_shape(batch=images, K=_OPEN_CANDIDATES)
        array = draw.choice(usual, shape)
        several = len(array) > 1
        if several:
            array[0] = draw.choice(values, shape[1:]) if exact else array[0]
            array[-1] = draw.random(shape[1:])
        if "P" in value.axes:
            parts = np.moveaxis(array, value.axes.index("P"), -1)[int(several) :, ..., :4]
            places = draw.integers(0, 64, parts.shape) if exact else draw.uniform(0, 3, parts.shape)
            parts[..., :2] = places[..., :2]
            parts[..., 2:] = places[..., 2:] / (2 if exact else 1)
        arrays[role] = _as_dtype(array.astype(np.float32), value.dtype)
    return arrays


def _as_dtype(values: Array, dtype: str) -> Array:
    """Convert numbers to an element type; to the nearest representable ones if it holds integers."""
    if dtype == "float32":
        return values
    limits = (0, 1) if dtype == "bool" else (0, 255) if dtype == "uint8" else (-(2**31), 2**31 - 1)
    # float32 does not hold the largest int32.
    whole: Array = np.clip(np.nan_to_num(values.astype(np.float64)), *limits).astype(dtype)
    return whole


def _fits(shape: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    """Return True if an array of one shape can be broadcast to another."""
    return len(shape) <= len(whole) and all(a in (1, b) for a, b in zip(shape[::-1], whole[::-1], strict=False))


def run_boundary(artifact: Artifact, device: str, precision: str | None) -> tuple[dict[str, Array], dict[str, Array]]:
    """Run an artifact's post-processing on boundary values.

    Args:
        artifact: The artifact.
        device: Device for an OpenVINO model.
        precision: Inference precision for an OpenVINO model; None for the device's default.

    Returns:
        The values fed, by the names of `Provenance.tensors`, and the artifact's outputs, by name.
    """
    provenance, program = artifact.provenance, artifact.program
    values = boundary_arrays(provenance, program)
    session: Session
    if isinstance(artifact, OpenVINOModel):
        island = extract_island(artifact.network, provenance, [array.shape for array in values.values()])
        session = OpenVINOSession(island, device=device, precision=precision)
    else:
        assert isinstance(artifact, FusedModel)
        session = OnnxSession(extract_post_processing(artifact))
    with np.errstate(over="ignore"):
        fed = {
            name: array.astype(model_input.dtype or array.dtype)
            for (name, array), model_input in zip(values.items(), session.inputs, strict=True)
        }
        raw = {name: array.astype(program.types[name].dtype) for name, array in fed.items()}
    feeds = {model_input.name: fed[name] for name, model_input in zip(values, session.inputs, strict=True)}
    return raw, checked_predictions(provenance, session.run(feeds))
