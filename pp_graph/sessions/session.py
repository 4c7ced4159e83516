"""`Session`: a model loaded into a runtime. Also runs batches of any size on a model with a fixed batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from pp_graph.errors import DataError
from pp_graph.model import batch_places, fixed_batch, image_input
from pp_graph.model.batch import NOT_CERTAIN, further_axes, output_axes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pp_graph.model import ModelInput, Shape

_BATCH_AXES: Final = "batch_axes"
OUTPUT_AXES: Final = "output_axes"

Array = npt.NDArray[Any]


class Session(ABC):
    """A model loaded into a runtime.

    Attributes:
        inputs: The inputs.
        outputs: Names of the outputs; an output with several names is listed under each.
        description: Runtime, device and precision in words.
        precision: Actual inference precision of the network, which may differ from the requested one.
        island: Precision of each operator of the post-processing; empty unless requested.
    """

    inputs: tuple[ModelInput, ...]
    outputs: tuple[str, ...]
    description: str
    precision: str
    island: dict[str, str]

    @abstractmethod
    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run one batch.

        Args:
            feeds: Input name to array.

        Returns:
            Output name to array, including probes.

        Raises:
            TargetError: The runtime fails.
        """


def record_batch_axes(inputs: Sequence[ModelInput], outputs: Mapping[str, Shape | None]) -> dict[str, Any]:
    """Record which axes hold the batch. An IR has no symbolic axis names to derive this from.

    Args:
        inputs: Inputs of the raw model.
        outputs: Shapes of its outputs, by name.
    """
    further = further_axes(inputs)
    return {
        **({_BATCH_AXES: further} if further else {}),
        **({OUTPUT_AXES: output_axes(inputs, outputs)} if outputs else {}),
    }


def with_batch_axes(inputs: Sequence[ModelInput], conversion: Mapping[str, Any] | None) -> tuple[ModelInput, ...]:
    """Return a converted model's inputs with the batch axes that `record_batch_axes` recorded."""
    recorded = (conversion or {}).get(_BATCH_AXES)
    axes = recorded if isinstance(recorded, dict) else {}
    return tuple(
        replace(model_input, batch_axis=axes[model_input.name])
        if model_input.shape is not None and axes.get(model_input.name) in range(NOT_CERTAIN, len(model_input.shape))
        else model_input
        for model_input in inputs
    )


def run_in_batches(
    session: Session, feeds: Mapping[str, Array], output_axes: Mapping[str, int] | None = None
) -> dict[str, Array]:
    """Run a batch of any size, in several runs if the model fixes its batch. The last run is padded.

    Args:
        session: The session.
        feeds: Input name to array, with the batch on the axis that `batch_places` returns.
        output_axes: Batch axes of the outputs, if known. Defaults to the first axis if it has the size of the batch,
            otherwise to the only axis with that size.

    Returns:
        Output name to array.

    Raises:
        TargetError: The runtime fails.
        DataError: The results of several runs cannot be joined.
    """
    cuts = list(cut_to_batch(session.inputs, feeds))
    if len(cuts) == 1 and not cuts[0].filled:
        return session.run(feeds)
    parts = [session.run(cut.feeds) for cut in cuts]
    return joined(parts, cuts, fixed_batch(session.inputs) or cuts[0].count, output_axes)


def joined(
    parts: Sequence[Mapping[str, Array]],
    cuts: Sequence[Cut],
    size: int,
    output_axes: Mapping[str, int] | None = None,
) -> dict[str, Array]:
    """Join the outputs of all cuts of a batch.

    Args:
        parts: Outputs of each cut, by name.
        cuts: The cuts.
        size: Images in each cut, including padding.
        output_axes: Batch axes of the outputs; see `run_in_batches`.

    Raises:
        DataError: The results of an output cannot be joined.
    """
    known = output_axes or {}
    outputs = {}
    for name in parts[0]:
        arrays = [part[name] for part in parts]
        axis = _batch_axis(arrays[0].shape, size, known.get(name))
        if axis is None:
            outputs[name] = _equal_in_all(name, arrays, size)
        else:
            whole = [_slice_axis(array, axis, slice(cut.count)) for array, cut in zip(arrays, cuts, strict=True)]
            outputs[name] = np.concatenate(whole, axis) if len(whole) > 1 else whole[0]
    return outputs


def _batch_axis(sizes: tuple[int, ...], batch: int, named: int | None) -> int | None:
    """Return the batch axis of an output; None if it has none, or if it is ambiguous."""
    axes = [axis for axis, size in enumerate(sizes) if size == batch]
    if named in axes:
        return named
    return axes[0] if axes[:1] == [0] or len(axes) == 1 else None


def _equal_in_all(name: str, arrays: Sequence[Array], batch: int) -> Array:
    """Return an output without a batch axis, which must be equal in all runs."""
    first = arrays[0]
    if all(np.array_equal(first, array, equal_nan=first.dtype.kind == "f") for array in arrays[1:]):
        return first
    raise DataError(
        f"Output '{name}' has shape {first.shape} without a clear batch axis, and the model takes {batch} images at a "
        f"time, expected an output that can be joined from {len(arrays)} runs. Give {batch} images at a time, or "
        "convert the model with an open batch."
    )


def _slice_axis(array: Array, axis: int, part: slice) -> Array:
    return array[(slice(None),) * axis + (part,)]


@dataclass(frozen=True)
class Cut:
    """A part of a batch that fits the model's fixed batch.

    Attributes:
        feeds: Input name to array.
        count: Number of images, without padding.
        filled: True if padding follows them.
    """

    feeds: Mapping[str, Array]
    count: int
    filled: bool


def cut_to_batch(inputs: Sequence[ModelInput], feeds: Mapping[str, Array]) -> Iterator[Cut]:
    """Split a batch into cuts of the model's fixed batch size. The last cut repeats its last image as padding.

    Args:
        inputs: The model's inputs.
        feeds: Input name to array. Arrays without a batch axis go into every cut unchanged.

    Yields:
        The cuts in order; a single one if the model's batch is open.

    Raises:
        DataError: An array has neither one item per image nor the shape of its input.
    """
    images = image_input(inputs)
    count = 1 if images is None or not feeds[images.name].ndim else len(feeds[images.name])
    size = fixed_batch(inputs)
    if size is None or size == count:
        yield Cut(feeds, count, filled=False)
        return
    places = batch_places(inputs)
    axes = {name: places[name].axis_of(array.shape, count) if name in places else None for name, array in feeds.items()}
    for start in range(0, count, size):
        kept = min(size, count - start)
        cut = {}
        for name, array in feeds.items():
            axis = axes[name]
            if axis is not None:
                array = _slice_axis(array, axis, slice(start, start + kept))  # noqa: PLW2901
                if kept < size:
                    last = _slice_axis(array, axis, slice(-1, None))
                    array = np.concatenate([array, last.repeat(size - kept, axis)], axis)  # noqa: PLW2901
            cut[name] = array
        yield Cut(cut, kept, filled=kept < size)
