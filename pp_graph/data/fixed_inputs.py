"""Inputs that are not images and are the same for all images: a sampling rate, a switch, an initial state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pp_graph.data.fitting import as_element_type
from pp_graph.data.image_batches import Images, unfed
from pp_graph.errors import DataError
from pp_graph.model import BatchPlace, ModelInput, batch_places, format_shape, image_input
from pp_graph.model.batch import describe_inputs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pp_graph.data.image_files import SeenFiles

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class FixedInputs:
    """Values for some inputs of a model.

    Attributes:
        values: Value of each fixed input, by name, in the input's element type.
        rest: Inputs without a fixed value.
    """

    values: Mapping[str, Array]
    rest: tuple[ModelInput, ...]
    _places: Mapping[str, BatchPlace]

    def arrays(self, count: int) -> dict[str, Array]:
        """Return the arrays to feed beside a batch of images.

        Args:
            count: Number of images.

        Returns:
            The values, broadcast to the shapes of their inputs and repeated for each image along a batch axis.
        """
        return {name: _sized(array, self._places[name], count) for name, array in self.values.items()}


def fix_inputs(values: Mapping[str, npt.ArrayLike] | None, inputs: Sequence[ModelInput]) -> FixedInputs:
    """Check values for inputs.

    Args:
        values: Value of each fixed input, by name: a number or boolean, which fills the input, or an array that NumPy
            can broadcast to its shape. On a batch axis it has one item, for all images.
        inputs: All inputs of the model.

    Returns:
        The values.

    Raises:
        DataError: There is no such input, or it takes the images; a value does not fit its input.
    """
    places = batch_places(inputs)
    main = image_input(inputs)
    by_name = {each.name: each for each in inputs}
    found = {}
    for name, value in (values or {}).items():
        if name not in by_name:
            raise DataError(
                f"Input '{name}' does not exist. The inputs are: {describe_inputs(inputs)}. Name one of these."
            )
        if main is not None and name == main.name:
            raise DataError(
                f"Input '{name}' takes the images, and a fixed value would be the same for all of them. Pass the "
                "images as data (--data)."
            )
        # A copy: the caller may change the given array later.
        found[name] = as_element_type(_as_array(name, value), by_name[name]).copy()
        if name in places:
            _sized(found[name], places[name], 1)
        elif found[name].ndim:
            raise DataError(f"Value for input '{name}' has shape {found[name].shape}, expected (). Give one number.")
    # If no input takes images, all inputs are scalars and have no batch axis.
    scalars = {name: BatchPlace(by_name[name], (), certain=False, images=False) for name in found}
    rest = tuple(each for each in inputs if each.name not in found)
    return FixedInputs(found, rest, {**scalars, **places})


def _as_array(name: str, value: npt.ArrayLike) -> Array:
    try:
        return np.asarray(value)
    except (ValueError, TypeError) as error:
        raise DataError(f"Value for input '{name}' is not an array: {error}. Give a number or an array.") from error


def _sized(array: Array, place: BatchPlace, count: int) -> Array:
    """Broadcast a value to the shape of its input."""
    shape = place.input.shape
    if shape is None:
        return array
    sizes = []
    for axis, size in enumerate(shape):
        at = axis - (len(shape) - array.ndim)
        own = array.shape[at] if at >= 0 else None
        if isinstance(size, int):
            sizes.append(size)
        elif place.certain and axis == place.axes[0] and own in (1, None):
            sizes.append(count)
        elif own is not None:
            sizes.append(own)
        else:
            raise DataError(
                f"Value for input '{place.input.name}' has shape {array.shape}, expected "
                f"{format_shape(shape)}. Its open sizes cannot be inferred from fewer axes: give an array with all "
                "axes."
            )
    try:
        found = np.broadcast_to(array, tuple(sizes))
    except ValueError:
        raise DataError(
            f"Value for input '{place.input.name}' has shape {array.shape}, expected {format_shape(shape)}. Give a "
            "number, which fills it, or an array of that shape."
        ) from None
    # np.ascontiguousarray would make a scalar one item long.
    return np.array(found, order="C")


class _FedImages(Images):
    """Images with arrays for the other inputs."""

    def __init__(self, images: Images, fixed: FixedInputs) -> None:
        self._images = images
        self._fixed = fixed
        self.names = images.names
        self.arrays = images.arrays
        self.where = images.where
        self.files = images.files
        self.folder = images.folder

    @property
    def notes(self) -> tuple[str, ...]:
        return self._images.notes

    @property
    def seen(self) -> SeenFiles | None:
        return self._images.seen

    def read(self, start: int, stop: int, inputs: Sequence[ModelInput]) -> dict[str, Array]:
        rest = [each for each in inputs if each.name not in self._fixed.values]
        return {**self._images.read(start, stop, rest), **self._fixed.arrays(stop - start)}


def feed_model(
    images: Images, inputs: Sequence[ModelInput], fixed_inputs: Mapping[str, npt.ArrayLike] | None = None
) -> Images:
    """Add the model's other inputs to images, and raise if one of them has no value.

    Args:
        images: The images.
        inputs: The model's inputs.
        fixed_inputs: Values for inputs that are not images and not in the data; see `fix_inputs`.

    Returns:
        The images, which read all inputs.

    Raises:
        DataError: A value does not fit, an input is fed twice, or nothing feeds it.
    """
    fixed = fix_inputs(fixed_inputs, inputs)
    refuse_twice(images, fixed)
    images = images.for_model(inputs)
    missing = [each for each in fixed.rest if not images.feeds(each, fixed.rest)]
    if missing:
        raise unfed(missing, inputs, images)
    return _FedImages(images, fixed) if fixed.values else images


def refuse_twice(images: Images, fixed: FixedInputs) -> None:
    """Raise if an input has both a fixed value and an array in the data.

    Raises:
        DataError: An input has both.
    """
    twice = next((name for name in fixed.values if name in images.arrays), None)
    if twice is not None:
        raise DataError(
            f"Input '{twice}' is given twice, by --input (fixed_inputs) and by an array in the data, expected one of "
            "the two. Leave one out."
        )
