"""What a model is fed, and what becomes of its outputs: the two places that know a model's form."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pp_graph.errors import DataError
from pp_graph.postprocessors import OUTPUT_NAMES, PACKED_NAME, Predictions
from pp_graph.postprocessors.layout import DECISION_NAMES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pp_graph.fusion import Provenance
    from pp_graph.model import ModelInput
    from pp_graph.running.sources import Source
    from pp_graph.targets.session import Array


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


def predicted_fields(outputs: Sequence[str]) -> tuple[str, ...]:
    """Fields of `Predictions` that a model with these outputs gives, in the order of `OUTPUT_NAMES`."""
    return tuple(name for name in OUTPUT_NAMES if name in outputs or PACKED_NAME in outputs)


def to_predictions(outputs: Mapping[str, Array], provenance: Provenance) -> Predictions:
    """Read a model's outputs.

    Args:
        outputs: Output name to array, packed or not; raw values that were kept are passed over.
        provenance: What was fused into the model.

    Returns:
        The predictions: scores and maps in float32, labels and masks as bool.
    """
    found = provenance.unpacked(outputs)
    return Predictions(
        **{
            name: found[name].astype(np.bool_ if name in DECISION_NAMES else np.float32, copy=False)
            for name in predicted_fields(tuple(found))
        }
    )


def join_predictions(parts: Sequence[tuple[Predictions, int]]) -> Predictions:
    """Put the predictions of parts of a batch together.

    Args:
        parts: Predictions, and how many items of each count; what follows only filled the batch up.

    Returns:
        The predictions of the whole batch.

    Raises:
        DataError: Maps differ in size.
    """
    if len(parts) == 1 and all(array is None or len(array) == parts[0][1] for array in vars(parts[0][0]).values()):
        return parts[0][0]
    joined = {}
    for name in OUTPUT_NAMES:
        arrays = [getattr(part, name)[:count] for part, count in parts if getattr(part, name) is not None]
        sizes = sorted({array.shape[1:] for array in arrays})
        if len(sizes) > 1:
            raise DataError(
                f"Output '{name}' has different sizes for these images, such as {sizes[0]} and {sizes[1]}, expected "
                "one: the model leaves the size of images open. Give them one by one to stream(...)."
            )
        joined[name] = np.concatenate(arrays) if arrays else None
    return Predictions(**joined)
