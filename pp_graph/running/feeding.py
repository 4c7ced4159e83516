"""Read a model's inputs from images, and turn its outputs into predictions."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pp_graph.errors import DataError
from pp_graph.postprocessors import OUTPUT_NAMES
from pp_graph.program import Predictions

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from pp_graph.fusion import Provenance
    from pp_graph.model import ModelInput
    from pp_graph.running.sources import Source
    from pp_graph.sessions.session import Array


def read_feeds(source: Source, start: int, stop: int, inputs: Sequence[ModelInput]) -> dict[str, Array]:
    """Read the images `start` to `stop - 1` of a source.

    Args:
        source: The images.
        start: Index of the first image.
        stop: Index after the last image.
        inputs: The model's inputs.

    Returns:
        Input name to array.

    Raises:
        DataError: The images do not fit an input, or cannot be read.
    """
    if source.frames:
        # Frames have the channel order of the model already, so they are not converted from RGB.
        inputs = [
            info if info.frames is None else replace(info, frames=info.frames._replace(channel_order="RGB"))
            for info in inputs
        ]
    return source.images.read(start, stop, inputs)


def predicted_fields(outputs: Collection[str], provenance: Provenance) -> tuple[str, ...]:
    """Return the names of the post-processed outputs, in order, unpacked.

    Args:
        outputs: Names of all outputs of the model.
        provenance: Provenance of the model.
    """
    written = [output for output in provenance.outputs if output.name in outputs]
    names = [part.name for output in written for part in (output.channels or (output,))]
    # A packed tensor has its own order.
    packed = any(output.channels for output in written) and set(names) <= set(OUTPUT_NAMES)
    return tuple(sorted(names, key=OUTPUT_NAMES.index) if packed else names)


def raw_fields(outputs: Collection[str], provenance: Provenance) -> tuple[str, ...]:
    """Return the names of the raw model's outputs that the model keeps, in order.

    Args:
        outputs: Names of all outputs of the model; an output may have several.
        provenance: Provenance of the model.
    """
    renamed = {old: new for new, old in provenance.raw.renamed.items()}
    written = {*provenance.output_names, *provenance.predicted}
    present = (renamed.get(name, name) for name in provenance.raw.outputs)
    return tuple(name for name in present if name in outputs and name not in written)


def to_predictions(outputs: Mapping[str, Array], provenance: Provenance) -> Predictions:
    """Convert a model's outputs to predictions.

    Args:
        outputs: Output name to array, packed or not.
        provenance: Provenance of the model.

    Returns:
        The post-processed outputs, decisions as bool, followed by the kept outputs of the raw model, unchanged.
    """
    found = provenance.unpacked(outputs)
    described = provenance.predicted
    read = {
        name: found[name].astype(np.bool_ if described[name].decides else described[name].dtype, copy=False)
        for name in predicted_fields(outputs.keys(), provenance)
    }
    return Predictions({**read, **{name: found[name] for name in raw_fields(found.keys(), provenance)}})


def first_of(predictions: Predictions, count: int, fed: int, raw: Mapping[str, int | None]) -> Predictions:
    """Return the predictions of the first images of a batch.

    Args:
        predictions: Predictions of the whole batch.
        count: Number of images to keep.
        fed: Number of images in the batch.
        raw: Batch axis of each output of the raw model. Outputs for which it is None are left out.
    """
    if count == fed:
        return predictions
    axes = {name: raw.get(name, 0) for name in predictions}
    return Predictions(
        {
            name: array[(slice(None),) * axis + (slice(count),)]
            for name, array in predictions.items()
            if (axis := axes[name]) is not None and axis < array.ndim
        }
    )


def join_predictions(parts: Sequence[Predictions], raw: Mapping[str, int | None]) -> Predictions:
    """Join the predictions of several parts of a batch.

    Args:
        parts: The predictions of each part.
        raw: Batch axis of each output of the raw model. With several parts, outputs for which it is None are left out,
            and so are those whose sizes differ.

    Raises:
        DataError: Sizes of a post-processed output differ between parts.
    """
    if len(parts) == 1:
        return parts[0]
    joined = {}
    for name in parts[0]:
        axis = raw.get(name, 0)
        if axis is None or any(name not in part or part[name].ndim <= axis for part in parts):
            continue
        arrays = [part[name] for part in parts]
        sizes = sorted({(*array.shape[:axis], *array.shape[axis + 1 :]) for array in arrays})
        if len(sizes) > 1 and name not in raw:
            raise DataError(
                f"Output '{name}' has different sizes for these images, such as {sizes[0]} and {sizes[1]}, expected "
                "one: the model leaves the size of images open. Give them one by one to stream(...)."
            )
        if len(sizes) == 1:
            joined[name] = np.concatenate(arrays, axis)
    return Predictions(joined)
