"""What every way of running a model has in common."""

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
        inputs: What to feed.
        outputs: Names of what it returns, each under every name it has.
        description: Runtime, device and precision, for people.
        precision: The precision that the network runs in, which may not be the one asked for.
        island: Precision of each operator of the post-processing, where the runtime was asked for it.
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
            Output name to array; further values that were asked for at opening under their names.

        Raises:
            TargetError: The runtime fails on this batch.
        """


def noted_axes(inputs: Sequence[ModelInput], outputs: Mapping[str, Shape | None]) -> dict[str, Any]:
    """What a conversion notes of the raw model's symbolic names, which an IR lacks.

    Args:
        inputs: The inputs of the model.
        outputs: Shapes of its outputs, by name.
    """
    further = further_axes(inputs)
    return {
        **({_BATCH_AXES: further} if further else {}),
        **({OUTPUT_AXES: output_axes(inputs, outputs)} if outputs else {}),
    }


def with_batch_axes(inputs: Sequence[ModelInput], conversion: Mapping[str, Any] | None) -> tuple[ModelInput, ...]:
    """A converted model's inputs, with the axes of the batch that its conversion noted."""
    noted = (conversion or {}).get(_BATCH_AXES)
    axes = noted if isinstance(noted, dict) else {}
    return tuple(
        replace(each, batch_axis=axes[each.name])
        if each.shape is not None and axes.get(each.name) in range(NOT_CERTAIN, len(each.shape))
        else each
        for each in inputs
    )


def run_in_batches(
    session: Session, feeds: Mapping[str, Array], output_axes: Mapping[str, int] | None = None
) -> dict[str, Array]:
    """Run a session whose batch may be fixed: cut the images to it, and fill up the last cut.

    Args:
        session: The session.
        feeds: Input name to array, each with its batch where `batch_places` says that it has one.
        output_axes: Where outputs have the batch, as far as names say so. Where sizes disagree, and where nothing is
            known, it is the first axis if that has the size of the batch, or the only axis that has.

    Returns:
        Output name to array, each with the batch where the model has it.

    Raises:
        TargetError: The runtime fails.
        DataError: Several cuts are needed, and an output cannot be put together from what they give.
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
    """Put the outputs of all cuts of a batch together.

    Args:
        parts: The outputs of each cut, by name.
        cuts: The cuts.
        size: Images in each, those that only fill it up included.
        output_axes: Where outputs have the batch, as far as names say so; see `run_in_batches`.

    Raises:
        DataError: An output cannot be put together.
    """
    known = output_axes or {}
    found = {}
    for name in parts[0]:
        arrays = [part[name] for part in parts]
        axis = _batch_axis(arrays[0].shape, size, known.get(name))
        if axis is None:
            found[name] = _alike(name, arrays, size)
        else:
            whole = [_along(array, axis, slice(cut.count)) for array, cut in zip(arrays, cuts, strict=True)]
            found[name] = np.concatenate(whole, axis) if len(whole) > 1 else whole[0]
    return found


def _batch_axis(sizes: tuple[int, ...], batch: int, named: int | None) -> int | None:
    """The axis of the batch in an output; None where none is, or where it cannot be told."""
    axes = [axis for axis, size in enumerate(sizes) if size == batch]
    if named in axes:
        return named
    return axes[0] if axes[:1] == [0] or len(axes) == 1 else None


def _alike(name: str, arrays: Sequence[Array], batch: int) -> Array:
    """An output without a batch, which must be the same in every cut."""
    first = arrays[0]
    if all(np.array_equal(first, each, equal_nan=first.dtype.kind == "f") for each in arrays[1:]):
        return first
    raise DataError(
        f"Output '{name}' has shape {first.shape}, where the axis of the images cannot be told, and the model takes "
        f"{batch} of them at a time, expected an output that can be put together from {len(arrays)} runs. Give {batch} "
        "images at a time, or convert the model with an open batch."
    )


def _along(array: Array, axis: int, part: slice) -> Array:
    return array[(slice(None),) * axis + (part,)]


@dataclass(frozen=True)
class Cut:
    """A part of a batch that a model can take.

    Attributes:
        feeds: Input name to array.
        count: Images in it that were asked for.
        filled: Whether more follow, only to fill the batch up.
    """

    feeds: Mapping[str, Array]
    count: int
    filled: bool


def cut_to_batch(inputs: Sequence[ModelInput], feeds: Mapping[str, Array]) -> Iterator[Cut]:
    """Cut a batch of any size to the batch that a model fixes; the last cut is filled up with its last image.

    Args:
        inputs: The model's inputs.
        feeds: Input name to array. Those that have no batch go into every cut as they are.

    Yields:
        The cuts in order; the whole batch at once where the model leaves it open.

    Raises:
        DataError: An array has neither the batch nor the sizes of its input.
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
                array = _along(array, axis, slice(start, start + kept))  # noqa: PLW2901
                if kept < size:
                    last = _along(array, axis, slice(-1, None))
                    array = np.concatenate([array, last.repeat(size - kept, axis)], axis)  # noqa: PLW2901
            cut[name] = array
        yield Cut(cut, kept, filled=kept < size)
