"""`open_source`: accept images in any form that a caller may pass."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pp_graph.data import Images, ImageSource, choose_batch_size, open_images
from pp_graph.data.fitting import image_shape
from pp_graph.data.image_batches import Array
from pp_graph.data.image_files import IMAGE_ENDINGS, MAX_PIXELS, match_files, upright
from pp_graph.data.image_pixels import image_pixels
from pp_graph.data.images import ArrayImages
from pp_graph.data.resized_images import FileImages, PictureImages
from pp_graph.errors import DataError
from pp_graph.model import batch_places, fixed_batch, image_input
from pp_graph.urls import UrlPath, as_path
from pp_graph.video import Frame, find_videos

if TYPE_CHECKING:
    from pp_graph.model import ModelInput

RunnerInput = ImageSource | Frame | Sequence[str | Path] | Sequence[Array] | Any
"""An array of one or more images, arrays by input name, a folder, an `.npz`, image files or a pattern of them, a frame
of a video, or anything that NumPy converts to an array, such as a PIL image or a torch tensor."""

_IMAGE_RANK = 4


@dataclass(frozen=True)
class Source:
    """Images with the way to run them.

    Attributes:
        images: The images.
        batch_size: Images to read and run at a time.
        frames: True for the caller's own arrays, whose channel order is that of the model. PIL images and images read
            from disk are RGB.
        span: Index of the first image to run, and index after the last; None for all.
    """

    images: Images
    batch_size: int
    frames: bool = False
    span: tuple[int, int] | None = None

    def __len__(self) -> int:
        first, last = self._ends
        return last - first

    @property
    def _ends(self) -> tuple[int, int]:
        return (0, len(self.images)) if self.span is None else self.span

    def spans(self) -> Iterator[tuple[int, int]]:
        """Yield start and stop index of each batch."""
        first, last = self._ends
        for start in range(first, last, self.batch_size):
            yield start, min(start + self.batch_size, last)

    def batches(self) -> Iterator[Source]:
        """Yield each batch as a source, without reading it."""
        for start, stop in self.spans():
            yield Source(_Slice(self.images, start, stop), stop - start, frames=self.frames)


class _Slice(Images):
    """A contiguous part of other images."""

    def __init__(self, whole: Images, start: int, stop: int) -> None:
        self._whole = whole
        self._start = start
        self.names = whole.names[start:stop]
        self.arrays = whole.arrays
        self.where = whole.where
        self.files = None if whole.files is None else whole.files[start:stop]

    def read(self, start: int, stop: int, inputs: Sequence[ModelInput]) -> dict[str, Array]:
        return self._whole.read(self._start + start, self._start + stop, inputs)


def open_source(
    given: RunnerInput,
    inputs: Sequence[ModelInput],
    *,
    batch_size: int | None = None,
    max_pixels: int | None = MAX_PIXELS,
    skip_broken: bool = False,
    letterbox: bool = False,
) -> Source:
    """Open images for a model, without reading them.

    Args:
        given: See `Runner.__call__`.
        inputs: The model's inputs.
        batch_size: Images to run at a time. None runs an array in memory at once, and images from disk a few at a time.
        max_pixels: Refuse image files with more pixels; None for no limit.
        skip_broken: Skip image files that cannot be decoded.
        letterbox: Resize image files without changing their aspect ratio; see `open_images`.

    Raises:
        DataError: There are no images, or the type is unknown.
    """
    reading = {"max_pixels": max_pixels, "skip_broken": skip_broken, "letterbox": letterbox}
    if isinstance(given, Source):
        return given
    if isinstance(given, Frame):
        return Source(PictureImages([given.pixels], [str(given.index)], letterbox=letterbox), 1)
    if isinstance(given, Images):
        return Source(given.for_model(inputs), _size(inputs, batch_size))
    if isinstance(given, str | Path):
        videos = find_videos(given)
        if videos:
            raise DataError(
                f"'{videos[0].name}' is a {'video' if videos[0].kind == 'file' else videos[0].kind}, expected images. "
                "Give it to stream(...), which takes one frame after the other."
            )
        return _from_path(as_path(given), inputs, batch_size, reading)
    if isinstance(given, Mapping):
        return _from_arrays({str(name): np.asarray(array) for name, array in given.items()}, inputs, batch_size)
    if isinstance(given, list | tuple):
        return _from_sequence(given, inputs, batch_size, reading)
    if isinstance(given, np.ndarray) or hasattr(given, "__array__") or hasattr(given, "__array_interface__"):
        return _from_arrays({"image": _as_array(given, inputs)}, inputs, batch_size, frames=not _is_picture(given))
    raise DataError(
        f"Images are given as {type(given).__name__}, expected an array, a mapping of arrays, a path or a list of "
        "image files. For an iterable of these, use stream(...)."
    )


def _size(inputs: Sequence[ModelInput], asked: int | None) -> int:
    """Images to read at a time; by default a multiple of the model's fixed batch."""
    size = choose_batch_size(inputs, asked)
    fixed = fixed_batch(inputs) or 1
    return size if asked is not None else -(-size // fixed) * fixed


def _from_path(path: Path, inputs: Sequence[ModelInput], batch_size: int | None, reading: dict[str, Any]) -> Source:
    matches = match_files(str(path))
    if matches:
        return _from_files(matches, inputs, batch_size, reading)
    if path.suffix.lower() in IMAGE_ENDINGS and not path.is_dir():
        return _from_files([path], inputs, batch_size, reading)
    return Source(open_images(path, **reading).for_model(inputs), _size(inputs, batch_size))


def _from_files(
    paths: Sequence[Path], inputs: Sequence[ModelInput], batch_size: int | None, reading: dict[str, Any]
) -> Source:
    for path in paths:
        if path.suffix.lower() not in IMAGE_ENDINGS or path.is_dir():
            raise DataError(
                f"'{path}' is in a list of images, expected image files ending in {', '.join(sorted(IMAGE_ENDINGS))}. "
                "Give a folder or an .npz by itself."
            )
        if not path.is_file():
            raise DataError(f"Image '{path}' does not exist, expected an image file. Check the path.")
    if any(isinstance(path, UrlPath) for path in paths):
        return Source(
            FileImages(paths[0].parent, paths, names=[str(path) for path in paths], **reading),
            _size(inputs, batch_size),
        )
    files = tuple(Path(os.path.abspath(path)) for path in paths)  # noqa: PTH100 - do not resolve links
    above = Path(os.path.commonpath([file.parent for file in files]))
    return Source(FileImages(above, files, **reading), _size(inputs, batch_size))


def _from_sequence(
    given: Sequence[Any], inputs: Sequence[ModelInput], batch_size: int | None, reading: dict[str, Any]
) -> Source:
    if not given:
        raise DataError("No images in the list, expected at least one.")
    if all(isinstance(item, str | Path) for item in given):
        matches = [file for item in given for file in match_files(str(item)) or (as_path(item),)]
        return _from_files(matches, inputs, batch_size, reading)
    if any(isinstance(item, str | Path) for item in given):
        raise DataError("Paths and arrays are mixed in a list of images, expected only paths or only arrays.")
    arrays = [_as_array(item, inputs) for item in given]
    shapes = sorted({array.shape for array in arrays})
    if len(shapes) > 1:
        raise DataError(
            f"Images in a list have different shapes, such as {shapes[0]} and {shapes[1]}, expected one. Resize them, "
            "or give them one by one to stream(...)."
        )
    frames = not any(_is_picture(item) for item in given)
    return _from_arrays({"image": np.stack(arrays)}, inputs, batch_size, frames=frames)


def _is_picture(given: Any) -> bool:
    """Return True for a PIL image, which is RGB."""
    return type(given).__module__.split(".", 1)[0] == "PIL"


def _as_array(given: Any, inputs: Sequence[ModelInput]) -> Array:
    """Convert to an array; a PIL image is turned by its EXIF orientation and becomes gray or RGB, as its file would."""
    if not _is_picture(given):
        return np.asarray(given)
    image, main = upright(given)[0], image_input(inputs)
    channels = None if main is None or _rank(main) != _IMAGE_RANK else image_shape(main)[0]
    deep = image.mode == "F" or image.mode.startswith("I")
    return np.asarray(image) if channels not in (1, 3) or deep else image_pixels(image, channels, None)


def _from_arrays(
    arrays: Mapping[str, Array], inputs: Sequence[ModelInput], batch_size: int | None, *, frames: bool = True
) -> Source:
    """Open arrays in memory, by default as a single batch."""
    images = ArrayImages(_with_batch(arrays, inputs)).for_model(inputs)
    size = len(images) if batch_size is None else choose_batch_size(inputs, batch_size)
    return Source(images, size, frames=frames)


def _with_batch(arrays: Mapping[str, Array], inputs: Sequence[ModelInput]) -> Mapping[str, Array]:
    """Add a batch axis to arrays of a single item without one, such as an image (C,H,W)."""
    main = image_input(inputs)
    if main is None:
        return arrays
    # The key `image` is accepted whatever the name of the input.
    own = main.name if main.name in arrays else "image"
    if own not in arrays or arrays[own].ndim != _rank(main) - 1:
        return arrays
    found = dict(arrays)
    for name, place in batch_places(inputs).items():
        given = own if place.input is main else name
        if place.axes and given in arrays and arrays[given].ndim == _rank(place.input) - 1:
            found[given] = np.expand_dims(arrays[given], place.axes[0])
    return found


def _rank(model_input: ModelInput) -> int:
    return _IMAGE_RANK if model_input.shape is None else len(model_input.shape)
