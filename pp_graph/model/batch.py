"""The image input of a model, and the batch axis of each input.

A model may take more than images: a state (2,N,128) that it gave back last time, a sampling rate (), a vector that is
the same for all images. Here, and nowhere else, it is said which axis of an input is one an image.
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
"""What a conversion notes of an input of which it is not known whether it has a batch."""


@dataclass(frozen=True)
class BatchPlace:
    """Batch axis of an input.

    Attributes:
        input: The input.
        axes: Axes that may be it, the likeliest first. Where there are none, the input is fed as it is, whatever the
            batch.
        certain: Whether it must be one of them. Otherwise sizes decide: an array that has as many items there as there
            are images has one an image, and an array that fits as it is is for all images.
        images: Whether this input takes images, whose axes may come in another order.
    """

    input: ModelInput
    axes: tuple[int, ...]
    certain: bool
    images: bool

    def axis_of(self, sizes: tuple[int, ...], count: int) -> int | None:
        """Find the images of a batch in an array for this input.

        Args:
            sizes: Sizes of the array.
            count: Number of images.

        Returns:
            The axis; None where the array is for all images alike.

        Raises:
            DataError: The array fits neither way.
        """
        for axis in self.axes:
            if axis < len(sizes) and sizes[axis] == count and self._fits(sizes, axis):
                return axis
        if not self.certain and self._fits(sizes, None):
            return None
        name = self.input.name
        if self.axes and (self.images or self._fits(sizes, self.axes[0])):
            held = sizes[self.axes[0]] if sizes else 0
            raise DataError(
                f"Array for input '{name}' holds {held} items, expected {count} as in the others: one an image. Give "
                f"as many; what is the same for all images is given with --input {name}=VALUE (fixed_inputs=...)."
            )
        raise DataError(
            f"Array for input '{name}' has shape {sizes}, expected {format_shape(self.input.shape)}"
            f"{f' with {count} images' if self.axes else ''}. Give it that shape."
        )

    def _fits(self, sizes: tuple[int, ...], batch: int | None) -> bool:
        """True if all sizes except the batch fit the input. Layout is handled later."""
        shape = self.input.shape
        if shape is None or (self.images and batch is not None):
            return True
        checked = 1 if self.images else len(shape)
        return len(sizes) == len(shape) and all(
            axis == batch or not isinstance(shape[axis], int) or shape[axis] == sizes[axis] for axis in range(checked)
        )


def image_input(inputs: Sequence[ModelInput]) -> ModelInput | None:
    """The input that takes the images: the likeliest by its form, and the first of several that are equally likely.

    Args:
        inputs: The model's inputs.

    Returns:
        The input; None where there is none that has a batch, as in a model that takes nothing but scalars.
    """
    candidates = [each for each in inputs if each.shape != ()]
    return min(candidates, key=_unlikeliness, default=None)


def _unlikeliness(each: ModelInput) -> int:
    shape = each.shape
    if each.frames is not None:
        return 0
    if each.batch_axis is not None:
        return 6
    if shape is None:
        return 3
    opened = not isinstance(shape[0], int)
    # Of a state (2,N,4,8) the batch is open, and the first size is not.
    if len(shape) == _IMAGE_RANK and (opened or isinstance(shape[1], int)):
        return 1 if opened else 2
    if len(shape) == 1:
        return 5
    return 3 if opened else 4


def fixed_batch(inputs: Sequence[ModelInput]) -> int | None:
    """The number of images that a model takes at a time; None where it takes any."""
    images = image_input(inputs)
    first = images.shape[0] if images is not None and images.shape else None
    return first if isinstance(first, int) else None


def batch_places(inputs: Sequence[ModelInput]) -> dict[str, BatchPlace]:
    """Batch axis of each input, by name.

    The input of the images has them first. Another input has them on the axis of the same symbolic name; without such
    names first, where that size is open or the batch that is fixed, or else on another axis that is one of both.

    Args:
        inputs: All inputs of a model.
    """
    main = image_input(inputs)
    return {} if main is None else {each.name: _place(each, main) for each in inputs}


def _place(each: ModelInput, main: ModelInput) -> BatchPlace:
    shape = each.shape
    batch = main.shape[0] if main.shape else None
    if each is main:
        return BatchPlace(each, (0,), certain=True, images=True)
    if shape is None:
        return BatchPlace(each, (0,), certain=False, images=True)
    fixed = isinstance(batch, int)
    if each.batch_axis is not None and each.batch_axis != NOT_CERTAIN:
        images = len(shape) == _IMAGE_RANK and each.batch_axis == 0
        return BatchPlace(each, (each.batch_axis,), certain=not fixed, images=images)
    named = next((axis for axis, size in enumerate(shape) if isinstance(size, str) and size == batch), None)
    opened = [axis for axis, size in enumerate(shape) if not isinstance(size, int)]
    equal = [axis for axis, size in enumerate(shape) if fixed and size == batch]
    # What is open beside images whose number is fixed was left open when these were fixed.
    axes = tuple(dict.fromkeys([axis for axis in (0,) if axis in opened] + equal + opened))
    # Some exporters give one and the same size a name an input, so that names that differ say nothing.
    certain = not fixed and len(opened) == 1 and None in (batch, shape[opened[0]]) and each.batch_axis is None
    if named is not None:
        axes, certain = (named,), True
    images = len(shape) == _IMAGE_RANK and axes[:1] == (0,)
    return BatchPlace(each, axes[:1] if images else axes, certain, images)


def output_axes(
    inputs: Sequence[ModelInput], outputs: Mapping[str, Shape | None], *, named_only: bool = False
) -> dict[str, int]:
    """Batch axes of outputs: by symbolic name, otherwise the first axis if it can have the batch's size.

    Args:
        inputs: The model's inputs.
        outputs: Shapes of its outputs, by name.
        named_only: Go by symbolic names alone.

    Returns:
        Axis of each output whose batch axis is known.
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
    """Axes of the batch of all inputs but that of the images, as far as they are known for certain; else -1."""
    main = image_input(inputs)
    return {
        name: place.axes[0] if place.certain and place.axes else NOT_CERTAIN
        for name, place in batch_places(inputs).items()
        if main is not None and name != main.name
    }


def describe_inputs(inputs: Iterable[ModelInput]) -> str:
    """Inputs for people: `'sr' int64 ()` each."""
    return ", ".join(f"'{each.name}' {each.dtype or '(unknown type)'} {format_shape(each.shape)}" for each in inputs)
