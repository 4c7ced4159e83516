"""What a model is fed, and what becomes of its outputs: the two places that know a model's form."""

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
    """What to feed for some images of a source.

    Args:
        source: The images.
        start: Index of the first image.
        stop: Index behind the last image.
        inputs: The model's inputs.

    Returns:
        Input name to array.

    Raises:
        DataError: The images do not fit an input, or cannot be read.
    """
    if source.frames:
        # A camera's frames are not to be turned around, as pictures are.
        inputs = [
            each if each.frames is None else replace(each, frames=each.frames._replace(channel_order="RGB"))
            for each in inputs
        ]
    return source.images.read(start, stop, inputs)


def predicted_fields(outputs: Collection[str], provenance: Provenance) -> tuple[str, ...]:
    """Names of the post-processed outputs, in order, also where they come packed.

    Args:
        outputs: Names of all that comes out.
        provenance: What was fused.
    """
    written = [each for each in provenance.outputs if each.name in outputs]
    names = [each.name for output in written for each in (output.channels or (output,))]
    # In a packed tensor they lie in an order of its own.
    packed = any(output.channels for output in written)
    return tuple(sorted(names, key=OUTPUT_NAMES.index) if packed else names)


def raw_fields(outputs: Collection[str], provenance: Provenance) -> tuple[str, ...]:
    """Names of the raw model's outputs that come out as well, in its order.

    Args:
        outputs: Names of all that comes out; an output may have several.
        provenance: What was fused.
    """
    renamed = {old: new for new, old in provenance.raw.renamed.items()}
    written = {*provenance.output_names, *provenance.predicted}
    present = (renamed.get(name, name) for name in provenance.raw.outputs)
    return tuple(name for name in present if name in outputs and name not in written)


def to_predictions(outputs: Mapping[str, Array], provenance: Provenance) -> Predictions:
    """Read a model's outputs.

    Args:
        outputs: Output name to array, packed or not.
        provenance: What was fused into the model.

    Returns:
        The post-processed outputs by name, decisions as bool whatever stands for them; then the outputs of the raw
        model, as they are.
    """
    found = provenance.unpacked(outputs)
    described = provenance.predicted
    read = {
        name: found[name].astype(np.bool_ if described[name].decides else described[name].dtype, copy=False)
        for name in predicted_fields(outputs.keys(), provenance)
    }
    return Predictions({**read, **{name: found[name] for name in raw_fields(found.keys(), provenance)}})


def first_of(predictions: Predictions, count: int, fed: int, raw: Mapping[str, int | None]) -> Predictions:
    """The predictions of the first items of a batch.

    Args:
        predictions: Those of the whole batch.
        count: How many items to keep.
        fed: How many there are.
        raw: Where outputs of the raw model have the batch, None where it is not known: these are left out.
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
    """Put the predictions of parts of a batch together.

    Args:
        parts: Predictions.
        raw: Where outputs of the raw model have the batch, None where it is not known: these are left out where there
            is more than one part, and where their sizes differ.

    Returns:
        The predictions of the whole batch.

    Raises:
        DataError: Arrays differ in size.
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
