"""Read images batch by batch, in the form that a model's inputs need."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np

from pp_graph.data.arrays import AnyArray, open_arrays
from pp_graph.data.fitting import as_element_type, fit, is_numeric
from pp_graph.data.image_batches import Array, Images, unfed
from pp_graph.data.image_files import IMAGE_ENDINGS, MAX_PIXELS, check_max_pixels, find_images
from pp_graph.data.resized_images import FileImages
from pp_graph.data.tables import TABLE_ENDINGS
from pp_graph.errors import DataError
from pp_graph.model import BatchPlace, ModelInput, batch_places, image_input
from pp_graph.urls import UrlPath, as_path

_BATCH: Final = 8

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
