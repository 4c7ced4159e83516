"""Images that are resized to the model's input: files, and pictures in memory."""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import TYPE_CHECKING

import numpy as np

from pp_graph.data.fitting import fit, image_shape, scale_pixels
from pp_graph.data.image_batches import Array, Images, unfed
from pp_graph.data.image_files import MAX_PIXELS, SeenFiles, broken_images, decode
from pp_graph.data.image_pixels import image_pixels
from pp_graph.errors import DataError
from pp_graph.model import image_input

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pp_graph.model import ModelInput


class _ResizedImages(Images):
    """Pictures of any size for the image input."""

    max_pixels: int | None

    def feeds(self, wanted: ModelInput, inputs: Sequence[ModelInput]) -> bool:
        """Return True if there are values for an input."""
        return wanted is image_input(inputs)

    def read(self, start: int, stop: int, inputs: Sequence[ModelInput]) -> dict[str, Array]:
        """Read a batch for a model; see `Images.read`."""
        missing = [model_input for model_input in inputs if not self.feeds(model_input, inputs)]
        if missing:
            raise unfed(missing, inputs, self)
        (wanted,) = inputs
        images = [self._load(index, wanted) for index in range(start, stop)]
        sizes = {image.shape for image in images}
        if len(sizes) > 1:
            raise DataError(
                f"Images in {self.where} have different sizes, such as {' and '.join(map(str, sorted(sizes)[:2]))} "
                "(height, width, channels), and the model's input leaves its size open. Resize them, or use "
                "batches of one."
            )
        return {wanted.name: fit(np.stack(images), wanted)}

    @abstractmethod
    def _load(self, index: int, wanted: ModelInput) -> Array:
        """Return the pixels of an image in the size and element type of an input, (H,W,C)."""

    def _size(self, wanted: ModelInput) -> tuple[int, tuple[int, int] | None]:
        """Return the number of channels, and width and height to resize to; None for any size."""
        channels, height, width = image_shape(wanted)
        size = None if height is None or width is None else (width, height)
        if size is not None and self.max_pixels is not None and size[0] * size[1] > self.max_pixels:
            raise DataError(
                f"Input '{wanted.name}' takes {height} x {width} pixels, expected at most {self.max_pixels:,}. "
                "Raise the limit with --max-pixels (max_pixels)."
            )
        if self.letterbox and size is None:
            raise DataError(
                f"Images in {self.where} are to be letterboxed, and input '{wanted.name}' takes any size, expected a "
                "fixed one. Leave out --letterbox (letterbox=True), or fix the size with --input-shape."
            )
        return channels, size


class PictureImages(_ResizedImages):
    """Pictures in memory, which are resized as files are.

    Args:
        pictures: RGB, uint8 (H,W,3).
        names: Name of each.
        letterbox: Keep the aspect ratio.
    """

    where = "the frames"
    max_pixels = None

    def __init__(self, pictures: Sequence[Array], names: Sequence[str], *, letterbox: bool = False) -> None:
        self.pictures = pictures
        self.names = tuple(names)
        self.letterbox = letterbox

    def _load(self, index: int, wanted: ModelInput) -> Array:
        from PIL import Image

        assert self.pictures is not None
        channels, size = self._size(wanted)
        picture = Image.fromarray(self.pictures[index])
        return scale_pixels(image_pixels(picture, channels, size, letterbox=self.letterbox), wanted)


class FileImages(_ResizedImages):
    """Images from files.

    Args:
        root: Folder that names are relative to.
        files: The files.
        folder: The folder in which they were found, if they were.
        notes: Remarks about how they were found.
        max_pixels: Refuse larger images; None for no limit.
        skip_broken: Skip files that cannot be decoded.
        letterbox: Keep the aspect ratio.
        names: Name of each file; None for its path in `root`.

    Raises:
        DataError: Every file is broken.
    """

    def __init__(
        self,
        root: Path,
        files: Sequence[Path],
        *,
        folder: Path | None = None,
        notes: tuple[str, ...] = (),
        max_pixels: int | None = MAX_PIXELS,
        skip_broken: bool = False,
        letterbox: bool = False,
        names: Sequence[str] | None = None,
    ) -> None:
        self.letterbox = letterbox
        self.folder = folder
        self.max_pixels = max_pixels
        broken = broken_images(files, max_pixels) if skip_broken else {}
        self._decodable = tuple(file for file in files if file not in broken)
        self.files = self._decodable
        if not self.files:
            raise DataError(
                f"None of {len(files)} images in '{root}' can be decoded, such as '{files[0]}': {broken[files[0]]}. "
                "Check the files."
            )
        named = None if names is None else dict(zip(files, names, strict=True))
        self.names = tuple(file.relative_to(root).as_posix() if named is None else named[file] for file in self.files)
        self.where = f"'{root}'"
        self._notes = [*notes, *(f"skipped '{file}': it cannot be decoded ({why})" for file, why in broken.items())]
        self._seen = SeenFiles()

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks for the user."""
        found = list(self._notes)
        seen = self._seen
        if seen.turned:
            found.append(f"{len(seen.turned)} of {len(self)} images were turned as their EXIF orientation says")
        if seen.animated:
            first = min(seen.animated)
            found.append(
                f"{len(seen.animated)} of {len(self)} images have several frames or pages, such as '{first.name}', "
                "of which the first was read"
            )
        if seen.deep:
            found.append(
                f"{len(seen.deep)} of {len(self)} images have 16 bits; white is 65535 in these and 255 in the others"
            )
        return tuple(found)

    @property
    def seen(self) -> SeenFiles:
        """What was noticed in the files read so far."""
        return self._seen

    def part(self, start: int, stop: int) -> FileImages:
        """Return some of the images alone."""
        some = copy.copy(self)
        some._decodable = some.files = self._decodable[start:stop]
        some.names = self.names[start:stop]
        some._notes = []
        some._seen = SeenFiles()
        return some

    def _load(self, index: int, wanted: ModelInput) -> Array:
        file = self._decodable[index]
        channels, size = self._size(wanted)
        decoded = decode(file, channels, size, self.max_pixels, letterbox=self.letterbox)
        if decoded.lost_depth and wanted.dtype == "uint16":
            raise DataError(
                f"Image '{file}' has colours of 16 bits, of which Pillow reads 8, expected gray for input "
                f"'{wanted.name}' of uint16. Give it as an array in an .npz."
            )
        if decoded.turned:
            self._seen.turned.add(file)
        if decoded.frames > 1:
            self._seen.animated.add(file)
        if decoded.pixels.dtype.itemsize > 1:
            self._seen.deep.add(file)
        try:
            return scale_pixels(decoded.pixels, wanted)
        except DataError as error:
            raise DataError(f"Image '{file}': {error}") from error
