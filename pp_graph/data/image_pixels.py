"""Pixels of a decoded image, in the size that a model takes.

An image may have hundreds of megapixels: beside Pillow's own copy, only strips of it are in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from pp_graph.errors import DataError
from pp_graph.preprocessing.placement import PADDING, Placement
from pp_graph.preprocessing.resizing import resized_strips

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL.Image import Image

Array = npt.NDArray[Any]
_Size = tuple[int, int]

LARGE_PIXELS: Final = 1 << 24
"""Images with more pixels are decoded one at a time."""
_STRIP_PIXELS: Final = 1 << 22


def image_pixels(
    image: Image, channels: int, size: _Size | None, *, letterbox: bool = False, what: str = "The image"
) -> Array:
    """Return the pixels of an image, uint8 or uint16 (H,W,C).

    Args:
        image: The image.
        channels: 1 for gray, otherwise RGB.
        size: Width and height to resize to (bilinear); None keeps the image's own.
        letterbox: Resize without changing the aspect ratio, and fill the rest with gray.
        what: The image in errors.

    Raises:
        DataError: The image holds numbers beyond 16 bits.
    """
    rows = _Rows(image, channels)
    if rows.deep:
        _check_depth(rows, what)
    if size is not None and letterbox:
        return _letterboxed(rows, size)
    if size is not None and size != image.size:
        return _deep_resized(rows, size) if rows.deep else _resized(rows, size)
    pixels = np.empty((image.height, image.width, rows.channels), rows.dtype)
    for top, bottom in rows.strips():
        pixels[top:bottom] = rows(top, bottom)
    return pixels


class _Rows:
    """Rows of an image.

    Args:
        image: The image.
        channels: 1 for gray, otherwise RGB.

    Attributes:
        deep: True if the image has one channel of more than 8 bits.
    """

    def __init__(self, image: Image, channels: int) -> None:
        self.image = image
        self.channels = 1 if channels == 1 else 3
        self.mode = "L" if channels == 1 else "RGB"
        self.deep = image.mode == "F" or image.mode.startswith("I")
        self.dtype: type[np.generic] = np.uint16 if self.deep else np.uint8

    def strips(self) -> Iterator[tuple[int, int]]:
        """Yield first row, and row after the last, of each strip."""
        rows = max(1, _STRIP_PIXELS // max(1, self.image.width))
        for top in range(0, self.image.height, rows):
            yield top, min(top + rows, self.image.height)

    def cut(self, top: int, bottom: int) -> Image:
        """Return rows in the image's own mode."""
        whole = bottom - top == self.image.height
        return self.image if whole else self.image.crop((0, top, self.image.width, bottom))

    def __call__(self, top: int, bottom: int) -> Array:
        """Return rows as pixels, (H,W,C)."""
        strip = self.cut(top, bottom)
        pixels = np.asarray(strip if self.deep or strip.mode == self.mode else strip.convert(self.mode), self.dtype)
        return pixels if pixels.ndim == 3 else np.broadcast_to(pixels[..., None], (*pixels.shape, self.channels))


def _check_depth(rows: _Rows, what: str) -> None:
    mode = rows.image.mode
    for top, bottom in rows.strips():
        values = np.asarray(rows.cut(top, bottom))
        if mode == "F" or (values.size and not 0 <= int(values.min()) <= int(values.max()) <= 65535):
            raise DataError(
                f"{what} has pixels of more than 16 bits (mode {mode}), expected 8 or 16. Scale it, or give float "
                "arrays in an .npz."
            )


def _letterboxed(rows: _Rows, size: _Size) -> Array:
    frame = rows.image.height, rows.image.width
    placed = Placement.letterboxed(frame, (size[1], size[0]))
    pixels = np.full((size[1], size[0], rows.channels), int(PADDING["u16" if rows.deep else "u8"]), rows.dtype)
    top, left = placed.offset
    for strip in resized_strips(rows, frame, *placed.size, "linear", _STRIP_PIXELS):
        pixels[top : top + len(strip), left : left + placed.size[1]] = np.rint(strip)
        top += len(strip)
    return pixels


def _resized(rows: _Rows, size: _Size) -> Array:
    from PIL import Image

    image, bilinear = rows.image, Image.Resampling.BILINEAR
    # Resizing a gray image before it becomes RGB gives the same pixels in a third of the memory.
    if image.mode in ("L", rows.mode):
        scaled = image.resize(size, bilinear)
    elif image.height > 100 * image.width:  # Pillow resizes its columns first
        scaled = image.convert(rows.mode).resize(size, bilinear)
    else:
        # Pillow resizes rows first, and rounds them: strips of rows give the same pixels.
        narrow = Image.new(rows.mode, (size[0], image.height))
        for top, bottom in rows.strips():
            strip = rows.cut(top, bottom).convert(rows.mode)
            narrow.paste(strip.resize((size[0], bottom - top), bilinear), (0, top))
        scaled = narrow.resize(size, bilinear)
    return _Rows(scaled, rows.channels)(0, size[1])


def _deep_resized(rows: _Rows, size: _Size) -> Array:
    from PIL import Image

    bilinear = Image.Resampling.BILINEAR
    # As above, in float32.
    narrow = np.empty((rows.image.height, size[0]), np.float32)
    for top, bottom in rows.strips():
        strip = Image.fromarray(np.asarray(rows.cut(top, bottom)).astype(np.float32))
        narrow[top:bottom] = np.asarray(strip.resize((size[0], bottom - top), bilinear))
    scaled = np.asarray(Image.fromarray(narrow).resize(size, bilinear))
    pixels = np.clip(np.round(scaled), 0, 65535).astype(np.uint16)[..., None]
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], rows.channels)))
