"""Read images batch by batch, in the form that a model's inputs need."""

from __future__ import annotations

import copy
import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pp_graph.data.arrays import AnyArray, open_arrays
from pp_graph.data.fitting import as_element_type, fit, image_shape, is_numeric, scale_pixels
from pp_graph.data.image_files import (
    IMAGE_ENDINGS,
    MAX_PIXELS,
    SeenFiles,
    broken_images,
    check_max_pixels,
    decode,
    find_images,
)
from pp_graph.data.tables import TABLE_ENDINGS
from pp_graph.errors import DataError
from pp_graph.model import BatchPlace, ModelInput, batch_places, image_input
from pp_graph.model.batch import describe_inputs
from pp_graph.preprocessing.placement import PADDING, letterbox
from pp_graph.urls import UrlPath, as_path

Array = npt.NDArray[Any]

_BATCH: Final = 8


class Images(ABC):
    """Images, read in batches.

    Attributes:
        names: Display name of each image: its file path or its index.
        arrays: Names of the arrays they come from; empty for files.
        where: Source to name in errors.
        files: File of each image; None for arrays.
        folder: The folder they were found in; None for other sources.
        letterbox: True if they keep their aspect ratio when they are resized.
    """

    names: tuple[str, ...]
    arrays: tuple[str, ...] = ()
    where: str = "the data"
    files: tuple[Path, ...] | None = None
    folder: Path | None = None
    letterbox: bool = False

    def __len__(self) -> int:
        return len(self.names)

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks for the user: skipped files, turned images. Complete once all images were read."""
        return ()

    @property
    def seen(self) -> SeenFiles | None:
        """What was noticed in the files read so far; None for arrays."""
        return None

    def part(self, start: int, stop: int) -> Images | None:
        """Return some of the images alone, small to send to another process; None if all are to be sent together."""
        return None

    def for_model(self, inputs: Sequence[ModelInput]) -> Images:
        """Return these images, counted along the batch axis of the model's image input."""
        return self

    def feeds(self, wanted: ModelInput, inputs: Sequence[ModelInput]) -> bool:
        """Return True if there are values for one of these inputs."""
        return True

    @abstractmethod
    def read(self, start: int, stop: int, inputs: Sequence[ModelInput]) -> dict[str, Array]:
        """Read a batch for a model.

        Args:
            start: Index of the first image.
            stop: Exclusive end index.
            inputs: The model's inputs.

        Returns:
            Array by input name: a batch for inputs that have one (see `batch_places`), otherwise the whole array.

        Raises:
            DataError: The images do not fit an input, or cannot be read.
        """


ImageSource = str | Path | Array | Mapping[str, Array] | Images
"""A folder, an image, `.npz` or `.npy` file, an array of images, arrays by input name, or open images."""


def open_images(
    source: ImageSource,
    *,
    max_pixels: int | None = MAX_PIXELS,
    skip_broken: bool = False,
    letterbox: bool = False,
) -> Images:
    """Open images.

    Args:
        source: A folder of image files (searched recursively, sorted by name); an image file; an `.npz` with an array
            `image`, or an array for each input under its name; an `.npy`; a table (`.csv`, `.parquet`) with a column
            `path`, relative to the table; or arrays in memory. Files are turned by
            their EXIF orientation. Arrays are (N,C,H,W) or (N,H,W,C) in RGB: uint8 is scaled to [0, 1], floating
            point is used unchanged. Models that preprocess frames get values unscaled, channels in the order they
            need. Other inputs are fed unchanged; an input without a batch gets the whole array with every batch.
            Arrays in files are read as they are needed.
        max_pixels: Refuse image files with more pixels; None for no limit.
        skip_broken: Skip image files that cannot be decoded, and list them in `notes`. Decodes every file once more.
        letterbox: Resize image files without changing their aspect ratio, and fill the rest of the input with gray; see
            `pp_graph.preprocessing.Placement`. False stretches them.

    Returns:
        The images.

    Raises:
        DataError: There are no images, or the source cannot be read.
    """
    check_max_pixels(max_pixels)
    if isinstance(source, Images):
        return source
    if isinstance(source, Mapping):
        return ArrayImages({str(name): np.asarray(array) for name, array in source.items()})
    if isinstance(source, np.ndarray):
        return ArrayImages({"image": source})
    if not isinstance(source, str | Path | UrlPath):
        raise DataError(
            f"Images are given as {type(source).__name__}, expected a path, an array or a mapping of arrays."
        )
    path = as_path(source)
    reading: dict[str, Any] = {"max_pixels": max_pixels, "skip_broken": skip_broken, "letterbox": letterbox}
    if path.is_dir():
        found = find_images(path)
        notes = found.notes(f"'{path}'")
        if not found.images:
            held = f" ({notes[0]})" if notes else ""
            raise DataError(
                f"Folder '{path}' holds no images{held}, expected files ending in .png, .jpg, .bmp, .tif or the like. "
                "Check the path."
            )
        return FileImages(path, found.images, folder=path, notes=notes, **reading)
    if path.suffix.lower() in IMAGE_ENDINGS and path.is_file():
        return FileImages(path.parent, [path], **reading)
    if path.suffix.lower() in TABLE_ENDINGS:
        # It builds on this module.
        from pp_graph.data.manifests import read_manifest

        return read_manifest(path).images(**reading)
    if letterbox:
        raise DataError(
            f"Arrays in '{path}' are to be letterboxed, expected image files: arrays have the size of the model's "
            "input. Leave out --letterbox (letterbox=True), or give a folder of images."
        )
    return ArrayImages(open_arrays(path), str(path))


class ArrayImages(Images):
    """Images from an array `image`, or from an array for each input.

    Args:
        arrays: The arrays, in memory or in a file.
        where: Source to name in errors.
        count: Number of images; None to infer it.

    Raises:
        DataError: There are none, or the images are not numbers.
    """

    def __init__(self, arrays: Mapping[str, AnyArray], where: str = "the data", count: int | None = None) -> None:
        self._arrays = arrays
        self.where = where
        self.arrays = tuple(arrays)
        self._guessed = count is None
        main = arrays.get("image")
        if main is not None and (not is_numeric(main) or 0 in main.shape[1:]):
            raise DataError(
                f"Array 'image' in {where} holds {main.dtype} of shape {main.shape}, expected numbers, with at least "
                "one pixel an image. Give uint8 or floating-point arrays."
            )
        if count is None:
            count = _count(arrays)
        if not count:
            raise DataError(f"No images in {where}, expected an array 'image' with at least one.")
        self.names = tuple(str(index) for index in range(count))

    def for_model(self, inputs: Sequence[ModelInput]) -> Images:
        """Return these images, counted along the batch axis of the image input."""
        main = image_input(inputs)
        array = None if main is None else self._array(main, main)
        if array is None or not array.ndim or not self._guessed:
            return self
        return ArrayImages(self._arrays, self.where, len(array))

    def feeds(self, wanted: ModelInput, inputs: Sequence[ModelInput]) -> bool:
        """Return True if there are values for an input."""
        return self._array(wanted, image_input(inputs)) is not None

    def read(self, start: int, stop: int, inputs: Sequence[ModelInput]) -> dict[str, Array]:
        """Read a batch for a model; see `Images.read`."""
        main = image_input(inputs)
        places = batch_places(inputs)
        found = {}
        for model_input in inputs:
            array = self._array(model_input, main)
            if array is None:
                raise unfed([model_input], inputs, self)
            place = places.get(model_input.name, BatchPlace(model_input, (), certain=False, images=False))
            axis = place.axis_of(array.shape, len(self))
            if axis == 0:
                part = np.asarray(array[start:stop])
            else:
                part = np.asarray(array)
                if axis is not None:
                    part = part[(slice(None),) * axis + (slice(start, stop),)]
            # np.ascontiguousarray would turn a scalar into an array of one item.
            found[model_input.name] = (
                fit(part, model_input) if place.images else np.asarray(as_element_type(part, model_input), order="C")
            )
        return found

    def _array(self, wanted: ModelInput, main: ModelInput | None) -> AnyArray | None:
        """Return the array of an input. That of the image input may also be called `image`."""
        array = self._arrays.get(wanted.name)
        return self._arrays.get("image") if array is None and wanted is main else array


def _count(arrays: Mapping[str, AnyArray]) -> int:
    """Infer the number of images without a model.

    Some arrays, such as states, have the batch on another axis; most have the number of images among their sizes.
    """
    main = arrays.get("image")
    if main is not None:
        return len(main) if main.ndim else 0
    firsts = [len(array) for array in arrays.values() if array.ndim and math.prod(array.shape)]
    return max(firsts, key=lambda size: sum(size in array.shape for array in arrays.values()), default=0)


def unfed(missing: Sequence[ModelInput], inputs: Sequence[ModelInput], images: Images) -> DataError:
    """Return the error for inputs without values."""
    main = image_input(inputs)
    held = f"arrays {', '.join(map(repr, images.arrays))} in {images.where}" if images.arrays else "a folder of images"
    if len(inputs) == 1:
        return DataError(
            f"Found {held}, expected image: the model's input is {describe_inputs(inputs)}. Rename the "
            "array of the images."
        )
    named = " and ".join(repr(model_input.name) for model_input in missing)
    other = next((model_input.name for model_input in missing if model_input is not main), None)
    fixed = f", or give a value for all images with --input {other}=VALUE (fixed_inputs={{{other!r}: ...}})"
    return DataError(
        f"Found {held}, expected an array for each input ({describe_inputs(inputs)}): nothing feeds {named}. Give the "
        f"data as an .npz with an array of that name (--data FILE.npz){fixed if other is not None else ''}."
    )


class FileImages(Images):
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

    def feeds(self, wanted: ModelInput, inputs: Sequence[ModelInput]) -> bool:
        """Return True if there are values for an input."""
        return wanted is image_input(inputs)

    def read(self, start: int, stop: int, inputs: Sequence[ModelInput]) -> dict[str, Array]:
        """Read a batch for a model; see `Images.read`."""
        missing = [model_input for model_input in inputs if not self.feeds(model_input, inputs)]
        if missing:
            raise unfed(missing, inputs, self)
        (wanted,) = inputs
        images = [self._load(file, wanted) for file in self._decodable[start:stop]]
        sizes = {image.shape for image in images}
        if len(sizes) > 1:
            raise DataError(
                f"Images in {self.where} have different sizes, such as {' and '.join(map(str, sorted(sizes)[:2]))} "
                "(height, width, channels), and the model's input leaves its size open. Resize them, or use "
                "batches of one."
            )
        return {wanted.name: fit(np.stack(images), wanted)}

    def _load(self, file: Path, wanted: ModelInput) -> Array:
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
        decoded = decode(file, channels, None if self.letterbox else size, self.max_pixels)
        if self.letterbox and size is not None:
            decoded = dataclasses.replace(decoded, pixels=_letterboxed(decoded.pixels, size))
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


def _letterboxed(pixels: Array, size: tuple[int, int]) -> Array:
    """Letterbox an image (H,W,C) of uint8 or uint16 to a width and height."""
    kind = "u8" if pixels.dtype == np.uint8 else "u16"
    return np.asarray(np.rint(letterbox(pixels[None], size[1], size[0], PADDING[kind])[0]), pixels.dtype)


def read_ahead(
    images: Images, inputs: Sequence[ModelInput], size: int, span: tuple[int, int] | None = None
) -> Iterator[tuple[int, int, Mapping[str, Array]]]:
    """Read batches, the next one in another thread while the caller uses the last.

    Args:
        images: The images.
        inputs: The model's inputs.
        size: Images in a batch.
        span: Index of the first image to read, and index after the last; None for all.

    Yields:
        Index of the first image, index after the last one, and the arrays by input name.

    Raises:
        DataError: An image of the batch cannot be read, or does not fit.
    """
    first, last = (0, len(images)) if span is None else span
    spans = [(start, min(start + size, last)) for start in range(first, last, size)]
    with ThreadPoolExecutor(1, thread_name_prefix="reading") as pool:
        coming = pool.submit(images.read, *spans[0], inputs) if spans else None
        for (start, stop), following in zip(spans, [*spans[1:], None], strict=True):
            assert coming is not None
            feeds = coming.result()
            coming = None if following is None else pool.submit(images.read, *following, inputs)
            yield start, stop, feeds


def choose_batch_size(inputs: Sequence[ModelInput], asked: int | None) -> int:
    """Return the number of images to read at a time: `asked` if given, one if their sizes may differ, otherwise a few.

    Raises:
        DataError: `asked` is below one.
    """
    if asked is not None:
        if asked < 1:
            raise DataError(f"Batch size is {asked}, expected at least 1. Leave it out for the default.")
        return asked
    open_sizes = any(
        place.input.shape is None or any(not isinstance(size, int) for size in place.input.shape[1:])
        for place in batch_places(inputs).values()
        if place.images
    )
    return 1 if open_sizes else _BATCH
