"""What every model of a benchmark is fed: the same sizes, the same numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pp_graph.data import ImageSource, open_images
from pp_graph.errors import DataError
from pp_graph.model import ModelInput, format_shape

if TYPE_CHECKING:
    from pp_graph.model import RawModel

Array = npt.NDArray[Any]


def fixed_shapes(
    raw: RawModel, batch: int | None, asked: Mapping[str, Sequence[int]] | Sequence[int] | None
) -> dict[str, tuple[int, ...]]:
    """Sizes to run every input with, by name.

    Raises:
        DataError: A size stays open, an input does not exist, or the batch is another one.
    """
    by_name = asked if isinstance(asked, Mapping) else {} if asked is None else {raw.inputs[0].name: asked}
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
        sizes = [(batch or 1) if axis == 0 and not isinstance(dim, int) else dim for axis, dim in enumerate(declared)]
        if batch is not None and sizes and isinstance(sizes[0], int) and sizes[0] != batch:
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


def make_feeds(
    raw: RawModel, shapes: Mapping[str, tuple[int, ...]], batch: int, data: ImageSource | None
) -> dict[str, Array]:
    """Images, or random numbers, for every input, by name.

    Raises:
        DataError: There are too few images, or they do not fit.
    """
    if data is not None:
        images = open_images(data)
        if len(images) < batch:
            raise DataError(f"There are {len(images)} images, expected at least {batch} for a batch of that size.")
        wanted = [ModelInput(each.name, each.dtype, shapes[each.name]) for each in raw.inputs]
        return images.read(0, batch, wanted)
    rng = np.random.default_rng(0)
    feeds = {}
    for each in raw.inputs:
        dtype = np.dtype(each.dtype or "float32")
        numbers = rng.random(shapes[each.name])
        feeds[each.name] = (numbers * (255 if dtype.kind in "iu" else 1)).astype(dtype)
    return feeds
