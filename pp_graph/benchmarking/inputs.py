"""What every model of a benchmark is fed: the same sizes, the same numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pp_graph.data import ImageSource, feed_model, fix_inputs, open_images
from pp_graph.errors import DataError
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
    """Sizes to run every input with, by name.

    Args:
        raw: The raw model.
        batch: Images a run; None for what the model or `asked` fixes, and else 1.
        asked: Sizes of the images' input, or of each input by name.
        fixed: Values of inputs that are no images, which have sizes of their own.

    Raises:
        DataError: A size stays open, an input does not exist, or the batch is another one.
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
        # An open size that may be the batch is: random numbers must fit each other.
        place = places.get(each.name)
        axis = place.axes[0] if place is not None and place.axes else None
        sizes = [number if at == axis and not isinstance(dim, int) else dim for at, dim in enumerate(declared)]
        other = axis is not None and axis < len(sizes) and sizes[axis] != batch
        if batch is not None and other and place is not None and place.certain:
            raise DataError(
                f"Batch is {batch}, but input '{each.name}' is {format_shape(tuple(sizes))}. Leave out --batch, or "
                "give a model or --input-shape with that batch."
            )
        if any(not isinstance(size, int) for size in sizes):
            raise DataError(
                f"Input '{each.name}' is {format_shape(declared)}, and sizes other than the batch are open. Give them "
                f"with --input-shape {','.join(str(size) if isinstance(size, int) else '256' for size in sizes)}."
            )
        shapes[each.name] = tuple(size for size in sizes if isinstance(size, int))
    return shapes


@dataclass(frozen=True)
class Feeds:
    """What models are fed: some as the raw model takes it, some frames that become the same.

    Attributes:
        by_hand: For the raw model, by input.
        frames: For models that preprocess frames: their preprocessing, and what each of them is fed.
    """

    by_hand: dict[str, Array]
    frames: list[tuple[Preprocessing, dict[str, Array]]]

    def of(self, preprocessing: Preprocessing | None) -> dict[str, Array]:
        """What a model with this preprocessing is fed."""
        return next((fed for each, fed in self.frames if each == preprocessing), self.by_hand)


def make_feeds(
    raw: RawModel,
    shapes: Mapping[str, tuple[int, ...]],
    batch: int,
    data: ImageSource | None,
    preprocessings: Sequence[Preprocessing] = (),
    frame_size: tuple[int, int] | None = None,
    fixed_inputs: Mapping[str, npt.ArrayLike] | None = None,
) -> Feeds:
    """Images, or random numbers, for every input.

    The raw model is fed the frames of the first preprocessing, preprocessed in NumPy.

    Args:
        raw: The raw model.
        shapes: Sizes of its inputs.
        batch: Images a run.
        data: Images; None for random numbers.
        preprocessings: Those of models that take frames.
        frame_size: Height and width of random frames, where they are resized.
        fixed_inputs: Values for inputs that are no images.

    Raises:
        DataError: There are too few images, they do not fit, or the size of frames stays open.
    """
    plain = [ModelInput(each.name, each.dtype, shapes[each.name]) for each in raw.inputs]
    named = [_with_open_batch(each, raw) for each in plain]
    fixed = fix_inputs(fixed_inputs, named)
    images = None if data is None else feed_model(open_images(data), named, fixed_inputs)
    if images is not None and len(images) < batch:
        raise DataError(f"There are {len(images)} images, expected at least {batch} for a batch of that size.")
    rng = np.random.default_rng(0)

    def fill(wanted: Sequence[ModelInput]) -> dict[str, Array]:
        if images is None:
            return {**_random(wanted, rng), **fixed.arrays(batch)}
        return images.read(0, batch, [_with_open_batch(each, raw) for each in wanted])

    frames: list[tuple[Preprocessing, dict[str, Array]]] = []
    for each in preprocessings:
        size = frame_size if frame_size is not None or images is not None else _known_size(each)
        wanted = [_frames(one, each, size) if one.name == each.input else one for one in plain]
        frames.append((each, fill(wanted)))
    by_hand = feed_by_hand(frames[0][1], frames[0][0]) if frames else fill(plain)
    for name, array in by_hand.items():
        if array.shape != shapes[name]:
            raise DataError(
                f"Frames become {format_shape(array.shape)} for input '{name}', and the raw model is timed with "
                f"{format_shape(shapes[name])}. Give --input-shape as the artifact was converted."
            )
    return Feeds(by_hand, frames)


def _with_open_batch(model_input: ModelInput, raw: RawModel) -> ModelInput:
    """Return an input with the raw model's batch axis, to tell arrays per image from arrays for all images."""
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
    shape = tuple(axes[axis] for axis in preprocessing.layout)
    layout = FrameFormat(preprocessing.layout, preprocessing.channel_order)
    return ModelInput(model_input.name, preprocessing.numpy_dtype, shape, layout)


def _known_size(preprocessing: Preprocessing) -> tuple[int, int] | None:
    if preprocessing.resize is not None and preprocessing.frame_size is None:
        raise DataError(
            "The artifact resizes frames of any size, expected one size to time it with. Give --frame-size 1080x1920 "
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
