"""The image input of a model, and the batch axis of each input.

A model may have inputs beside the images: a state (2,N,128) from the previous run, a sampling rate (), a vector shared
by all images. Only this module decides which axis of an input is the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pp_graph.errors import DataError
from pp_graph.model.shapes import Shape, format_shape

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pp_graph.model.raw_model import ModelInput

_IMAGE_RANK: Final = 4
NOT_CERTAIN: Final = -1
"""Value that a conversion records for an input that may or may not have a batch axis."""


@dataclass(frozen=True)
class BatchPlace:
    """Batch axis of an input.

    Attributes:
        input: The input.
        axes: Possible batch axes, the likeliest first. If empty, the input has no batch and is fed unchanged.
        certain: True if the input must have a batch. Otherwise sizes decide: an array with one item per image along
            one of `axes` is split, and an array that fits unchanged is shared by all images.
        images: True if this input takes images, whose axes may come in a different order.
    """

    input: ModelInput
    axes: tuple[int, ...]
    certain: bool
    images: bool

    def axis_of(self, sizes: tuple[int, ...], count: int) -> int | None:
        """Find the batch axis of an array for this input.

        Args:
            sizes: Shape of the array.
            count: Number of images.

        Returns:
            The axis; None if the array is shared by all images.

        Raises:
            DataError: The array has neither one item per image nor the shape of the input.
        """
        for axis in self.axes:
            if axis < len(sizes) and sizes[axis] == count and self._fits(sizes, axis):
                return axis
        if not self.certain and self._fits(sizes, None):
            return None
        name = self.input.name
        if self.axes and (self.images or self._fits(sizes, self.axes[0])):
            items = sizes[self.axes[0]] if sizes else 0
            raise DataError(
                f"Array for input '{name}' holds {items} items, expected {count} as in the others: one per image. "
                f"Give {count} items, or one value for all images with --input {name}=VALUE (fixed_inputs=...)."
            )
        raise DataError(
            f"Array for input '{name}' has shape {sizes}, expected {format_shape(self.input.shape)}"
            f"{f' with {count} images' if self.axes else ''}. Give it that shape."
        )

    def _fits(self, sizes: tuple[int, ...], batch: int | None) -> bool:
        """True if all sizes except the batch fit the input. The layout of images is checked elsewhere."""
        shape = self.input.shape
        if shape is None or (self.images and batch is not None):
            return True
        checked = 1 if self.images else len(shape)
        return len(sizes) == len(shape) and all(
            axis == batch or not isinstance(shape[axis], int) or shape[axis] == sizes[axis] for axis in range(checked)
        )


def image_input(inputs: Sequence[ModelInput]) -> ModelInput | None:
    """Return the input that takes the images: the likeliest by its shape, or the first of several.

    Args:
        inputs: The model's inputs.

    Returns:
        The input; None if all inputs are scalars.
    """
    candidates = [model_input for model_input in inputs if model_input.shape != ()]
    return min(candidates, key=_unlikeliness, default=None)


def _unlikeliness(model_input: ModelInput) -> int:
    """Rank an input: the lower, the likelier it takes images."""
    shape = model_input.shape
    if model_input.frames is not None:
        return 0
    if model_input.batch_axis is not None:
        return 6
    if shape is None:
        return 3
    opened = not isinstance(shape[0], int)
    # Excludes states such as (2,N,4,8), whose batch is not on the first axis.
    if len(shape) == _IMAGE_RANK and (opened or isinstance(shape[1], int)):
        return 1 if opened else 2
    if len(shape) == 1:
        return 5
    return 3 if opened else 4


def fixed_batch(inputs: Sequence[ModelInput]) -> int | None:
    """Return the number of images that a model takes at a time; None if it takes any."""
    images = image_input(inputs)
    first = images.shape[0] if images is not None and images.shape else None
    return first if isinstance(first, int) else None


def batch_places(inputs: Sequence[ModelInput]) -> dict[str, BatchPlace]:
    """Return the batch axis of each input, by name.

    The image input has the batch on its first axis. Other inputs have it on the axis with the same symbolic name;
    without names, on the first axis if its size is open or equals the fixed batch, otherwise on another axis with such
    a size.

    Args:
        inputs: All inputs of a model.
    """
    main = image_input(inputs)
    return {} if main is None else {model_input.name: _place(model_input, main) for model_input in inputs}


def _place(model_input: ModelInput, main: ModelInput) -> BatchPlace:
    shape = model_input.shape
    batch = main.shape[0] if main.shape else None
    if model_input is main:
        return BatchPlace(model_input, (0,), certain=True, images=True)
    if shape is None:
        return BatchPlace(model_input, (0,), certain=False, images=True)
    fixed = isinstance(batch, int)
    if model_input.batch_axis is not None and model_input.batch_axis != NOT_CERTAIN:
        images = len(shape) == _IMAGE_RANK and model_input.batch_axis == 0
        return BatchPlace(model_input, (model_input.batch_axis,), certain=not fixed, images=images)
    named = next((axis for axis, size in enumerate(shape) if isinstance(size, str) and size == batch), None)
    opened = [axis for axis, size in enumerate(shape) if not isinstance(size, int)]
    equal = [axis for axis, size in enumerate(shape) if fixed and size == batch]
    # Beside a fixed batch, an open axis was left open when the batch was fixed, so it may be the batch too.
    axes = tuple(dict.fromkeys([axis for axis in (0,) if axis in opened] + equal + opened))
    # Different names prove nothing: some exporters name the batch differently in each input.
    certain = not fixed and len(opened) == 1 and None in (batch, shape[opened[0]]) and model_input.batch_axis is None
    if named is not None:
        axes, certain = (named,), True
    images = len(shape) == _IMAGE_RANK and axes[:1] == (0,)
    return BatchPlace(model_input, axes[:1] if images else axes, certain, images)


def output_axes(
    inputs: Sequence[ModelInput], outputs: Mapping[str, Shape | None], *, named_only: bool = False
) -> dict[str, int]:
    """Return the batch axes of outputs: by symbolic name, otherwise the first axis if it can have the batch's size.

    Args:
        inputs: The model's inputs.
        outputs: Shapes of its outputs, by name.
        named_only: Use symbolic names only.

    Returns:
        The batch axis of each output, where it is known.
    """
    main = image_input(inputs)
    if main is None or not main.shape:
        return {}
    batch = main.shape[0]
    first = {} if named_only else {name: 0 for name, shape in outputs.items() if shape and shape[0] in (batch, None)}
    if not isinstance(batch, str):
        return first
    return first | {name: shape.index(batch) for name, shape in outputs.items() if shape is not None and batch in shape}


def further_axes(inputs: Sequence[ModelInput]) -> dict[str, int]:
    """Return the batch axis of each input except the images; `NOT_CERTAIN` where it is unknown."""
    main = image_input(inputs)
    return {
        name: place.axes[0] if place.certain and place.axes else NOT_CERTAIN
        for name, place in batch_places(inputs).items()
        if main is not None and name != main.name
    }


def describe_inputs(inputs: Iterable[ModelInput]) -> str:
    """List inputs for people, such as `'image' float32 (N, 3, 8, 8), 'sr' int64 ()`."""
    return ", ".join(f"'{port.name}' {port.dtype or '(unknown type)'} {format_shape(port.shape)}" for port in inputs)
