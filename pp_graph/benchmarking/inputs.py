"""Inputs of a benchmark: the same shapes and numbers for every model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pp_graph.data import ImageSource, feed_model, fix_inputs, open_images
from pp_graph.errors import DataError, counted
from pp_graph.model import FrameFormat, ModelInput, batch_places, format_shape, image_input
from pp_graph.preprocessing import Preprocessing, feed_by_hand

if TYPE_CHECKING:
    from pp_graph.data import FixedInputs
    from pp_graph.model import RawModel

Array = npt.NDArray[Any]


def fixed_shapes(
    raw: RawModel,
    batch: int | None,
    asked: Mapping[str, Sequence[int]] | Sequence[int] | None,
    fixed: FixedInputs | None = None,
) -> dict[str, tuple[int, ...]]:
    """Return the shape to run each input with, by name.

    Args:
        raw: The raw model.
        batch: Images per run; None for the batch that the model or `asked` fixes, otherwise 1.
        asked: Shape of the image input, or of each input by name.
        fixed: Values of other inputs, which fix their shapes.

    Raises:
        DataError: A size is still open, an input does not exist, or a shape has a different batch.
    """
    main = image_input(raw.inputs) or raw.inputs[0]
    by_name = asked if isinstance(asked, Mapping) else {} if asked is None else {main.name: asked}
    first = (by_name.get(main.name) or main.shape or (None,))[0]
    number = batch or (first if isinstance(first, int) else 1)
    if fixed is not None:
        by_name = {**{name: array.shape for name, array in fixed.arrays(number).items()}, **by_name}
    places = batch_places(raw.inputs)
    names = [each.name for each in raw.inputs]
    for name in by_name:
        if name not in names:
            raise DataError(f"Input '{name}' does not exist. The inputs are: {', '.join(names)}. Name one of these.")
    shapes = {}
    for each in raw.inputs:
        given = by_name.get(each.name)
        declared = each.shape if given is None else tuple(given)
        if declared is None:
            raise DataError(f"Input '{each.name}' has no known rank. Give its sizes with --input-shape.")
        # Take an open size that may be the batch as the batch, so that the shapes of all inputs agree.
        place = places.get(each.name)
        axis = place.axes[0] if place is not None and place.axes else None
        sizes = [number if at == axis and not isinstance(dim, int) else dim for at, dim in enumerate(declared)]
        differs = axis is not None and axis < len(sizes) and sizes[axis] != batch
        if batch is not None and differs and place is not None and place.certain:
            raise DataError(
                f"Batch is {batch}, but input '{each.name}' is {format_shape(tuple(sizes))}. Leave out --batch, or "
                "give a model or --input-shape with that batch."
            )
        if any(not isinstance(size, int) for size in sizes):
            raise DataError(
                f"Input '{each.name}' is {format_shape(declared)}, expected fixed sizes besides the batch. Give them "
                f"with --input-shape {','.join(str(size) if isinstance(size, int) else '256' for size in sizes)}."
            )
        shapes[each.name] = tuple(size for size in sizes if isinstance(size, int))
    return shapes


def make_feeds(
    raw: RawModel,
    shapes: Mapping[str, tuple[int, ...]],
    batch: int,
    data: ImageSource | None,
    preprocessings: Sequence[Preprocessing] = (),
    frame_size: tuple[int, int] | None = None,
    fixed_inputs: Mapping[str, npt.ArrayLike] | None = None,
) -> dict[Preprocessing | None, dict[str, Array]]:
    """Return arrays for every input of every model.

    Args:
        raw: The raw model.
        shapes: Shapes of its inputs.
        batch: Images per run.
        data: Images; None for random numbers.
        preprocessings: Preprocessings in the models that take frames.
        frame_size: Height and width of random frames, for a model that resizes frames of any size.
        fixed_inputs: Values of inputs that do not take images.

    Returns:
        Input name to array, by the preprocessing in the model. None stands for models without preprocessing; they are
        fed the frames of the first preprocessing, preprocessed in NumPy.

    Raises:
        DataError: There are too few images, they do not fit, or the size of frames is unknown.
    """
    plain = [ModelInput(each.name, each.dtype, shapes[each.name]) for each in raw.inputs]
    named = [_with_open_batch(each, raw) for each in plain]
    fixed = fix_inputs(fixed_inputs, named)
    images = None if data is None else feed_model(open_images(data), named, fixed_inputs)
    if images is not None and len(images) < batch:
        raise DataError(f"The data hold {counted(len(images), 'image')}, expected {batch} or more for such a batch.")
    rng = np.random.default_rng(0)

    def fill(wanted: Sequence[ModelInput]) -> dict[str, Array]:
        if images is None:
            return {**_random(wanted, rng), **fixed.arrays(batch)}
        return images.read(0, batch, [_with_open_batch(each, raw) for each in wanted])

    feeds: dict[Preprocessing | None, dict[str, Array]] = {}
    for preprocessing in preprocessings:
        size = frame_size if frame_size is not None or images is not None else _known_size(preprocessing)
        feeds[preprocessing] = fill(
            [_frames(each, preprocessing, size) if each.name == preprocessing.input else each for each in plain]
        )
    first = next(iter(preprocessings), None)
    feeds[None] = fill(plain) if first is None else feed_by_hand(feeds[first], first)
    for name, array in feeds[None].items():
        if array.shape != shapes[name]:
            raise DataError(
                f"Frames give {format_shape(array.shape)} for input '{name}', expected {format_shape(shapes[name])} as "
                "the raw model is timed with. Give the --input-shape that the artifact was converted with."
            )
    return feeds


def _with_open_batch(model_input: ModelInput, raw: RawModel) -> ModelInput:
    """Return an input with the raw model's batch axis, so that arrays per image differ from arrays for all images."""
    declared = {each.name: each.shape for each in raw.inputs}[model_input.name]
    shape = model_input.shape
    if declared is None or shape is None:
        return model_input
    axes = batch_places(raw.inputs)[model_input.name].axes
    return replace(model_input, shape=tuple(declared[at] if at in axes else size for at, size in enumerate(shape)))


def _frames(model_input: ModelInput, preprocessing: Preprocessing, size: tuple[int, int] | None) -> ModelInput:
    """Return frames that preprocessing turns into an input."""
    assert model_input.shape is not None
    axes = dict(zip(preprocessing.model_layout or "NCHW", model_input.shape, strict=True))
    if preprocessing.resize is not None:
        axes["H"], axes["W"] = preprocessing.frame_size or size or (None, None)
    shape = (axes["N"], *preprocessing.frame_shape(axes["C"], axes["H"], axes["W"]))
    layout = FrameFormat(preprocessing.layout, preprocessing.channel_order)
    return ModelInput(model_input.name, preprocessing.numpy_dtype, shape, layout)


def _known_size(preprocessing: Preprocessing) -> tuple[int, int] | None:
    if preprocessing.resize is not None and preprocessing.frame_size is None:
        raise DataError(
            "The artifact takes frames of any size, expected a size to time it with. Give --frame-size 1080x1920 "
            "(frame_size=...), or images with --data."
        )
    return preprocessing.frame_size


def _random(wanted: Sequence[ModelInput], rng: np.random.Generator) -> dict[str, Array]:
    feeds = {}
    for each in wanted:
        dtype = np.dtype(each.dtype or "float32")
        numbers = rng.random(tuple(size for size in each.shape or () if isinstance(size, int)))
        feeds[each.name] = (numbers * (255 if dtype.kind in "iu" else 1)).astype(dtype)
    return feeds
