"""Images as pictures: what overlays are drawn on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from pp_graph.data.image_files import decode, upright_size
from pp_graph.model import image_input
from pp_graph.running.feeding import read_feeds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image

    from pp_graph.model import ModelInput
    from pp_graph.running import Source

Array = npt.NDArray[Any]

_MAX_OVERLAY_SIDE: Final = 4096


def picture_size(source: Source, index: int, inputs: Sequence[ModelInput]) -> tuple[int, int]:
    """Width and height of an image file, or of the model's input if there is none."""
    files, pictures = source.images.files, source.images.pictures
    if pictures is not None:
        return pictures[index].shape[1], pictures[index].shape[0]
    return rgb_image(source, index, inputs).size if files is None else upright_size(files[index])[0]


def rgb_image(source: Source, index: int, inputs: Sequence[ModelInput]) -> Image:
    """Return the image as RGB, of bounded size: the file, or the model's input if there is none."""
    from PIL import Image

    if source.images.files is not None:
        file = source.images.files[index]
        width, height = upright_size(file)[0]
        factor = min(1.0, _MAX_OVERLAY_SIDE / max(width, height))
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        pixels = decode(file, 3, size, max_pixels=None).pixels
        return Image.fromarray(pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8))
    if source.images.pictures is not None:
        return Image.fromarray(source.images.pictures[index])
    images = image_input(inputs)
    assert images is not None
    return Image.fromarray(_as_rgb(read_feeds(source, index, index + 1, inputs)[images.name][0]))


def _as_rgb(array: Array) -> npt.NDArray[np.uint8]:
    """Convert one item of an input to a picture, (H,W,3), whatever its shape."""
    if array.ndim != 3:
        array = array.reshape(1, 1, -1)
    if array.shape[0] in (1, 3) or array.shape[-1] not in (1, 3):
        array = array.transpose(1, 2, 0)
    if array.shape[-1] not in (1, 3):
        array = array.mean(axis=-1, keepdims=True)
    if array.dtype != np.uint8:
        values: Array = np.nan_to_num(array.astype(np.float32))
        low, high = float(values.min()), float(values.max())
        if low < 0 or high > 1:  # standardised, or in 0 to 255
            # In float64, where no difference of float32 numbers overflows.
            values = (values.astype(np.float64) - low) / max(high - low, 1e-12)
        array = np.round(values * 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], 3)))
