"""Find image files and decode them."""

from __future__ import annotations

import os
import stat
import sys
import threading
from collections import Counter
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from glob import glob, has_magic
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from pp_graph.data.image_pixels import LARGE_PIXELS, image_pixels
from pp_graph.errors import DataError
from pp_graph.urls import UrlPath

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from PIL.Image import Image

Array = npt.NDArray[Any]

IMAGE_ENDINGS: Final = frozenset(
    {".apng", ".avif", ".avifs", ".bmp", ".dds", ".dib", ".gif", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc", ".jpe",
     ".jpeg", ".jpf", ".jpg", ".jpx", ".pbm", ".pcx", ".pgm", ".png", ".pnm", ".ppm", ".psd", ".qoi", ".sgi",
     ".tga", ".tif", ".tiff", ".webp"}
)  # fmt: skip
"""Endings of pictures that Pillow decodes."""
MASKS_FOLDER: Final = "masks"
MASK_FOLDERS: Final = ("ground_truth", MASKS_FOLDER)
"""Folders of ground-truth masks. They are skipped when collecting images; `masks` only beside a folder `images`."""
IMAGES_FOLDER: Final = "images"
MAX_PIXELS: Final = 1 << 28
"""Default limit of an image's pixels: 16384 x 16384. A few kilobytes can decode to any number of pixels."""
_SYSTEM_FILES: Final = frozenset({"thumbs.db", "desktop.ini", "__macosx"})
_ORIENTATION: Final = 0x0112
_SIDEWAYS: Final = (5, 6, 7, 8)
_pillow_limit = threading.Lock()
_large_image = threading.Lock()


@dataclass(frozen=True)
class FoundFiles:
    """Files in a folder.

    Attributes:
        images: Image files, sorted.
        others: Number of other files, by ending.
    """

    images: tuple[Path, ...]
    others: Counter[str]

    def notes(self, where: str) -> tuple[str, ...]:
        """Describe the files that are not images."""
        if not self.others:
            return ()
        listing = ", ".join(f"{count} {ending}" for ending, count in self.others.most_common(5))
        return (f"files in {where} that are not images and were skipped: {listing}",)


@dataclass
class SeenFiles:
    """What was noticed while image files were decoded.

    Attributes:
        turned: Files that were turned by their EXIF orientation.
        animated: Files with several frames or pages.
        deep: Files with more than 8 bits a channel.
    """

    turned: set[Path] = field(default_factory=set)
    animated: set[Path] = field(default_factory=set)
    deep: set[Path] = field(default_factory=set)

    def merge(self, other: SeenFiles | None) -> None:
        """Add what was noticed in other files."""
        if other is not None:
            self.turned |= other.turned
            self.animated |= other.animated
            self.deep |= other.deep


def find_images(folder: Path) -> FoundFiles:
    """Find the image files anywhere in a folder, without hidden files and masks.

    Raises:
        DataError: A folder cannot be listed, or a link is broken. Skipping it would silently drop images.
    """
    others: Counter[str] = Counter()
    return FoundFiles(tuple(sorted(_walk(folder, frozenset(), others))), others)


def _walk(folder: Path, above: frozenset[tuple[int, int]], others: Counter[str]) -> Iterator[Path]:
    """Yield image files, following links except those to a folder above."""
    try:
        status = folder.stat()
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            return
        paths = sorted(folder.iterdir())
        has_images = any(path.name.lower() == IMAGES_FOLDER for path in paths)
        for path in paths:
            name = path.name.lower()
            # Some systems put a hidden companion beside each file.
            if name.startswith((".", "@")) or name in _SYSTEM_FILES:
                continue
            if path.is_symlink() and not path.exists():
                raise DataError(
                    f"'{path}' is a broken link, expected a file or folder. Restore its target or remove it."
                )
            if stat.S_ISDIR(path.stat().st_mode):
                if name != MASK_FOLDERS[0] and not (has_images and name in MASK_FOLDERS):
                    yield from _walk(path, above | {identity}, others)
            elif path.suffix.lower() in IMAGE_ENDINGS and path.is_file():
                yield path
            else:
                others[path.suffix.lower() or "without an ending"] += 1
    except OSError as error:
        raise DataError(
            f"Folder '{error.filename or folder}' cannot be read: {error.strerror or error}. Grant read permission, or "
            "move the folder away."
        ) from error


def match_files(pattern: str) -> tuple[Path, ...]:
    """Return the files that match a pattern such as `images/*.png`, sorted; none if it is the path of something.

    Raises:
        DataError: It is a pattern, and matches no file.
    """
    if not has_magic(pattern) or os.path.lexists(pattern):
        return ()
    matches = sorted(glob(pattern, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute patterns
    found = tuple(path for path in map(Path, matches) if path.is_file())
    if not found:
        raise DataError(f"Pattern '{pattern}' matches no file, expected at least one. Check the pattern.")
    return found


def check_max_pixels(max_pixels: int | None) -> None:
    """Raise `DataError` if the limit is below 1; None means no limit."""
    if max_pixels is not None and max_pixels < 1:
        raise DataError(f"max_pixels is {max_pixels}, expected at least 1, or None for no limit.")


@contextmanager
def opened_image(file: Path, max_pixels: int | None = MAX_PIXELS, *, what: str = "Image") -> Iterator[Image]:
    """Open an image file; its pixels are decoded on first use.

    Raises:
        DataError: The file cannot be read or decoded, or has more pixels than `max_pixels`.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        # Pillow's own limit cannot be set for one image. Opening reads the header only. None would turn the limit off,
        # but Pillow reads it twice in a check, and a thread that crops an image meanwhile would compute with None.
        with _pillow_limit:
            limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, sys.maxsize
            try:
                image = Image.open(BytesIO(file.read_bytes()) if isinstance(file, UrlPath) else file)
            finally:
                Image.MAX_IMAGE_PIXELS = limit
        with image:
            width, height = image.size
            if max_pixels is not None and width * height > max_pixels:
                raise DataError(
                    f"{what} '{file}' has {width} x {height} = {width * height:,} pixels, expected at most "
                    f"{max_pixels:,}. Raise the limit with --max-pixels (max_pixels), or cut the image into parts."
                )
            yield image
    except DataError:
        raise
    except PermissionError as error:
        raise DataError(f"{what} '{file}' cannot be read: {error.strerror}. Allow reading it.") from error
    except MemoryError as error:
        raise DataError(
            f"{what} '{file}' needs more memory than there is, expected room for its pixels. Cut it into parts."
        ) from error
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, EOFError, IndexError, KeyError) as error:
        reason = str(error).rstrip(".") or type(error).__name__
        raise DataError(
            f"{what} '{file}' cannot be read: {reason}. Remove it, save it again, or skip broken images with "
            "--skip-broken."
        ) from error


def upright(image: Image) -> tuple[Image, bool]:
    """Apply the EXIF orientation.

    Returns:
        The image as it is meant to be seen, and True if it was turned or mirrored.
    """
    from PIL import ImageOps

    image.load()
    if image.getexif().get(_ORIENTATION, 1) in (1, 0):
        return image, False
    turned = ImageOps.exif_transpose(image)
    return turned, True


def upright_size(file: Path, max_pixels: int | None = None, *, what: str = "Image") -> tuple[tuple[int, int], bool]:
    """Read an image's width and height from its header.

    Returns:
        The size once the EXIF orientation is applied, and True if that swaps width and height.

    Raises:
        DataError: The file cannot be read.
    """
    with opened_image(file, max_pixels, what=what) as image:
        width, height = image.size
        # Pillow turns TIFF files itself. It decodes a whole PNG to find EXIF data behind the pixels.
        sideways = width != height and image.format != "TIFF" and image.getexif().get(_ORIENTATION, 1) in _SIDEWAYS
    return ((height, width) if sideways else (width, height)), sideways


@dataclass(frozen=True)
class Decoded:
    """A decoded image.

    Attributes:
        pixels: uint8 or uint16, (H,W,C) in RGB or gray.
        turned: True if the EXIF orientation was applied.
        lost_depth: True if the file holds colours of 16 bits, of which Pillow keeps 8.
        frames: Number of frames or pages in the file; the first is decoded.
    """

    pixels: Array
    turned: bool
    lost_depth: bool
    frames: int = 1


def decode(
    file: Path,
    channels: int,
    size: tuple[int, int] | None,
    max_pixels: int | None = MAX_PIXELS,
    *,
    letterbox: bool = False,
) -> Decoded:
    """Decode an image.

    Args:
        file: The file.
        channels: 1 for gray, otherwise RGB.
        size: Width and height to resize to (bilinear); None keeps the image's own.
        max_pixels: Refuse larger images; None for no limit.
        letterbox: Resize without changing the aspect ratio, and fill the rest with gray.

    Raises:
        DataError: The file cannot be decoded, is too large, or holds numbers beyond 16 bits.
    """
    with _one_large_image(file, max_pixels), opened_image(file, max_pixels) as opened:
        lost_depth = _has_16_bit_colours(opened)
        frames = getattr(opened, "n_frames", 1)
        image, turned = upright(opened)
        pixels = image_pixels(image, channels, size, letterbox=letterbox, what=f"Image '{file}'")
        return Decoded(pixels, turned, lost_depth and pixels.dtype == np.uint8, frames)


@contextmanager
def _one_large_image(file: Path, max_pixels: int | None) -> Iterator[None]:
    """Let only one thread decode a large image at a time, because each takes its decoded size."""
    with opened_image(file, max_pixels) as image:
        large = image.size[0] * image.size[1] > LARGE_PIXELS
    with _large_image if large else nullcontext():
        yield


def _has_16_bit_colours(image: Image) -> bool:
    """Return True for a colour image of 16 bits a channel, which Pillow reads as 8."""
    if image.mode not in ("RGB", "RGBA", "LA"):
        return False
    arguments = [str(tile[3]) for tile in getattr(image, "tile", ())]
    return any(";16" in text for text in arguments) or any(
        isinstance(tile[3], tuple) and any(isinstance(part, int) and part > 255 for part in tile[3])
        for tile in getattr(image, "tile", ())
        if tile[0].startswith("ppm")
    )


def broken_images(files: Sequence[Path], max_pixels: int | None) -> dict[Path, str]:
    """Decode every file, and return the reason for each that cannot be decoded.

    Raises:
        DataError: A file has more pixels than `max_pixels`, or may not be read.
    """
    reasons = ((file, _reason_broken(file, max_pixels)) for file in files)
    return {file: reason for file, reason in reasons if reason is not None}


def _reason_broken(file: Path, max_pixels: int | None) -> str | None:
    try:
        with opened_image(file, max_pixels) as image:
            image.load()
    except DataError as error:
        cause = error.__cause__
        if cause is None or isinstance(cause, PermissionError | MemoryError):
            raise
        return str(cause).rstrip(".") or type(cause).__name__
    return None
