"""Read images batch by batch in the shape, layout and element type that a model's input asks for."""

from __future__ import annotations

import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pp_graph.data.numbers import as_element_type, is_numeric
from pp_graph.errors import DataError
from pp_graph.model import BatchPlace, ModelInput, batch_places, format_shape, image_input
from pp_graph.model.batch import describe_inputs

Array = npt.NDArray[Any]

IMAGE_ENDINGS: Final = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
MASK_FOLDER: Final = "ground_truth"
"""Where masks lie; they are no images."""
_CHANNELS: Final = (1, 3)
_BATCH: Final = 8


class Images(ABC):
    """Images, read in batches.

    Attributes:
        names: A name an image, for people: the file, or the index.
        arrays: Names of the arrays that they come from; empty where they come from files.
        where: Where they come from, for errors.
    """

    names: tuple[str, ...]
    arrays: tuple[str, ...] = ()
    where: str = "the data"

    def __len__(self) -> int:
        return len(self.names)

    def for_model(self, inputs: Sequence[ModelInput]) -> Images:
        """Return these images, counted as a model with these inputs takes them."""
        return self

    def feeds(self, wanted: ModelInput, inputs: Sequence[ModelInput]) -> bool:
        """True if there are values for one of these inputs."""
        return True

    @abstractmethod
    def read(self, start: int, stop: int, inputs: Sequence[ModelInput]) -> dict[str, Array]:
        """Read a batch for a model.

        Args:
            start: Index of the first image.
            stop: Index behind the last image.
            inputs: The model's inputs.

        Returns:
            Input name to array: a batch where `batch_places` says that the input has one, else what is for all images.

        Raises:
            DataError: The images do not fit an input, or cannot be read.
        """


ImageSource = str | Path | Array | Mapping[str, Array] | Images
"""A folder, an `.npz` or `.npy` file, an array of images, an array an input by name, or images already open."""


def open_images(source: ImageSource) -> Images:
    """Open images.

    Args:
        source: A folder of image files (searched recursively, in order of their names); an `.npz`
            with an array `image`, or one array an input under the inputs' names; an `.npy`; or
            arrays in memory. Arrays are (N,C,H,W) or (N,H,W,C), channels RGB: uint8 is scaled to [0,1], floating
            point is used as it is. A model that preprocesses frames itself gets uint8 as it is, its
            channels in the order it asks for. Other inputs are fed as they are: numbers are not scaled, states have
            their batch where the model has it, and an input without a batch is fed the whole array with every batch.

    Returns:
        The images.

    Raises:
        DataError: Nothing is there, or it cannot be read as images.
    """
    if isinstance(source, Images):
        return source
    if isinstance(source, Mapping):
        return images_from_arrays({str(name): np.asarray(array) for name, array in source.items()})
    if isinstance(source, np.ndarray):
        return images_from_arrays({"image": source})
    if not isinstance(source, str | Path):
        raise DataError(
            f"Images are given as {type(source).__name__}, expected a path, an array or a mapping of arrays."
        )
    path = Path(source)
    if path.is_dir():
        files = image_files(path)
        if not files:
            raise DataError(
                f"Folder '{path}' holds no images, expected files ending in {', '.join(sorted(IMAGE_ENDINGS))}."
            )
        return images_from_files(path, files)
    return images_from_arrays(read_arrays(path), str(path))


def read_arrays(path: Path) -> dict[str, Array]:
    """Read the arrays of an `.npz`, or the one of an `.npy` as `image`.

    Raises:
        DataError: The file is missing, of another kind, or cannot be read.
    """
    if not path.exists():
        raise DataError(
            f"Image data '{path}' does not exist, expected a folder of images or an .npz file. Check the path."
        )
    if path.suffix.lower() not in (".npz", ".npy"):
        raise DataError(f"Image data '{path}' is a '{path.suffix}' file, expected a folder of images or an .npz file.")
    try:
        with path.open("rb") as stream:
            loaded = np.load(stream, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return {"image": loaded}
            return {name: loaded[name] for name in loaded.files}
    except Exception as error:
        raise DataError(
            f"Image data '{path}' cannot be read: {error}. Expected arrays written by numpy.savez, without pickles."
        ) from error


def images_from_arrays(arrays: Mapping[str, Array], where: str = "the data", count: int | None = None) -> Images:
    """Images from an array `image`, or one array an input by name.

    Args:
        arrays: The arrays.
        where: Where they come from, for errors.
        count: Number of images; None for what the arrays say.

    Raises:
        DataError: There are none.
    """
    return _ArrayImages(arrays, where, count)


def images_from_files(folder: Path, files: Sequence[Path]) -> Images:
    """Images from some files of a folder, named by their paths in it."""
    return _FileImages(folder, files)


def image_files(folder: Path) -> list[Path]:
    """Image files anywhere in a folder, in the order of their names; without hidden ones and masks.

    Raises:
        DataError: A folder cannot be listed, or a link leads nowhere: to leave out what is meant would count less data
            than there is.
    """
    return sorted(_walk(folder, frozenset()))


def _walk(folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    """Image files in a folder, through links; one that leads back to a folder above is not followed."""
    try:
        status = folder.stat()
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            return
        for path in sorted(folder.iterdir()):
            if not _is_shown(path.name):
                continue
            if path.is_symlink() and not path.exists():
                raise DataError(
                    f"'{path}' is a link that leads nowhere, expected a file or folder. Fetch or remove it."
                )
            if stat.S_ISDIR(path.stat().st_mode):
                if path.name.lower() != MASK_FOLDER:
                    yield from _walk(path, above | {identity})
            elif path.suffix.lower() in IMAGE_ENDINGS and path.is_file():
                yield path
    except OSError as error:
        raise DataError(
            f"Folder '{error.filename or folder}' cannot be read: {error.strerror or error}. Allow it, or move it away."
        ) from error


def _is_shown(name: str) -> bool:
    """False for hidden companion files, which some systems put beside each file."""
    return not name.startswith((".", "@")) and name != "__MACOSX"


class _ArrayImages(Images):
    def __init__(self, arrays: Mapping[str, Array], where: str, count: int | None) -> None:
        self._arrays = arrays
        self.where = where
        self.arrays = tuple(arrays)
        self._guessed = count is None
        if count is None:
            count = _count(arrays)
        if not count:
            raise DataError(f"No images in {where}, expected an array 'image' with at least one.")
        self.names = tuple(str(index) for index in range(count))

    def for_model(self, inputs: Sequence[ModelInput]) -> Images:
        main = image_input(inputs)
        array = None if main is None else self._array(main, main)
        if array is None or not array.ndim or not self._guessed:
            return self
        return _ArrayImages(self._arrays, self.where, len(array))

    def feeds(self, wanted: ModelInput, inputs: Sequence[ModelInput]) -> bool:
        return self._array(wanted, image_input(inputs)) is not None

    def read(self, start: int, stop: int, inputs: Sequence[ModelInput]) -> dict[str, Array]:
        main = image_input(inputs)
        places = batch_places(inputs)
        found = {}
        for each in inputs:
            array = self._array(each, main)
            if array is None:
                raise unfed([each], inputs, self)
            place = places.get(each.name, BatchPlace(each, (), certain=False, images=False))
            axis = place.axis_of(array.shape, len(self))
            if axis is not None:
                array = array[(slice(None),) * axis + (slice(start, stop),)]
            # An array for a scalar must not become one item long, as np.ascontiguousarray would make it.
            found[each.name] = fit(array, each) if place.images else np.asarray(as_element_type(array, each), order="C")
        return found

    def _array(self, wanted: ModelInput, main: ModelInput | None) -> Array | None:
        """The array of an input; that of the images may be called so."""
        array = self._arrays.get(wanted.name)
        return self._arrays.get("image") if array is None and wanted is main else array


def _count(arrays: Mapping[str, Array]) -> int:
    """Number of images in arrays, as far as it shows without a model.

    Of arrays of which some have the batch on another axis, as states do, most have the number of images somewhere.
    """
    main = arrays.get("image")
    if main is not None:
        return len(main) if main.ndim else 0
    firsts = [len(each) for each in arrays.values() if each.ndim]
    return max(firsts, key=lambda size: sum(size in each.shape for each in arrays.values()), default=0)


def unfed(missing: Sequence[ModelInput], inputs: Sequence[ModelInput], images: Images) -> DataError:
    """Error message for inputs that no array feeds."""
    main = image_input(inputs)
    held = f"arrays {', '.join(map(repr, images.arrays))} in {images.where}" if images.arrays else "a folder of images"
    if len(inputs) == 1:
        return DataError(
            f"Found {held}, expected image: the model's input is {describe_inputs(inputs)}. Rename the "
            "array of the images."
        )
    named = " and ".join(repr(each.name) for each in missing)
    other = next((each.name for each in missing if each is not main), None)
    fixed = f", or give a value for all images with --input {other}=VALUE (fixed_inputs={{{other!r}: ...}})"
    return DataError(
        f"Found {held}, expected one an input ({describe_inputs(inputs)}): nothing feeds {named}. Give the "
        f"data as an .npz with an array of that name (--data FILE.npz){fixed if other is not None else ''}."
    )


class _FileImages(Images):
    def __init__(self, folder: Path, files: Sequence[Path]) -> None:
        self._folder = folder
        self._files = files
        self.names = tuple(file.relative_to(folder).as_posix() for file in files)

    def feeds(self, wanted: ModelInput, inputs: Sequence[ModelInput]) -> bool:
        return wanted is image_input(inputs)

    def read(self, start: int, stop: int, inputs: Sequence[ModelInput]) -> dict[str, Array]:
        missing = [each for each in inputs if not self.feeds(each, inputs)]
        if missing:
            raise unfed(missing, inputs, self)
        channels, height, width = _image_shape(inputs[0])
        images = [self._load(file, channels, height, width) for file in self._files[start:stop]]
        sizes = {image.shape for image in images}
        if len(sizes) > 1:
            raise DataError(
                f"Images in '{self._folder}' have different sizes, such as {' and '.join(map(str, sorted(sizes)[:2]))} "
                "(height, width, channels), and the model's input leaves its size open. Resize them, or use "
                "batches of one."
            )
        return {inputs[0].name: fit(np.stack(images), inputs[0])}

    def _load(self, file: Path, channels: int, height: int | None, width: int | None) -> Array:
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(file) as image:
                if image.mode.startswith(("I", "F")):
                    raise DataError(
                        f"Image '{file}' has pixels of more than 8 bits (mode {image.mode}), expected 8. Scale it to 8 "
                        "bits, or give float arrays in an .npz."
                    )
                converted = image.convert("L" if channels == 1 else "RGB")
                if height is not None and width is not None and converted.size != (width, height):
                    converted = converted.resize((width, height), Image.Resampling.BILINEAR)
                array = np.asarray(converted, np.uint8)
        except DataError:
            raise
        except PermissionError as error:
            raise DataError(f"Image '{file}' cannot be read: {error.strerror}. Allow reading it.") from error
        except Image.DecompressionBombError as error:
            raise DataError(f"Image '{file}' is too large: {error}. Cut it into parts.") from error
        except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
            raise DataError(f"Image '{file}' cannot be read: {error}. Remove it, or save it again.") from error
        return array[..., None] if array.ndim == 2 else array


def _image_shape(wanted: ModelInput) -> tuple[int, int | None, int | None]:
    """Channels, height and width that an image input asks for; None for a size it leaves open."""
    shape = wanted.shape
    if shape is None:
        return 3, None, None
    if len(shape) != 4:
        raise DataError(
            f"Input '{wanted.name}' has shape {format_shape(shape)}, expected (N,C,H,W) or (N,H,W,C) for images from a "
            "folder. Give an .npz with arrays of that shape."
        )
    sizes = [size if isinstance(size, int) else None for size in shape]
    if wanted.frames is None:
        channels_last = sizes[1] not in _CHANNELS and sizes[3] in _CHANNELS
    else:
        channels_last = wanted.frames.layout == "NHWC"
    if channels_last:
        return sizes[3] or 3, sizes[1], sizes[2]
    return sizes[1] or 3, sizes[2], sizes[3]


def fit(array: Array, wanted: ModelInput) -> Array:
    """Bring a batch into the layout and element type of an input.

    Args:
        array: The batch.
        wanted: The input.

    Returns:
        The batch; (N,C,H,W) and (N,H,W,C) are exchanged where only the other one fits. Frames are brought into the
        order of channels that is asked for.

    Raises:
        DataError: Neither fits, or the element type cannot be used.
    """
    if not is_numeric(array):
        raise DataError(
            f"Images for input '{wanted.name}' hold {array.dtype}, expected numbers. Give uint8 or floating-point "
            "arrays."
        )
    candidates = [array]
    if array.ndim == 4:
        candidates += [array.transpose(0, 3, 1, 2), array.transpose(0, 2, 3, 1)]
    fitting = [candidate for candidate in candidates if _matches(candidate, wanted)]
    if not fitting:
        raise DataError(
            f"Images have shape {array.shape}, expected {format_shape(wanted.shape)} for input '{wanted.name}', "
            "as (N,C,H,W) or (N,H,W,C). Bring them to the rank, channels and size of the model's input."
        )
    if wanted.frames is not None:
        return _as_frames(fitting[0], wanted, *wanted.frames)
    return np.ascontiguousarray(_as_dtype(_likeliest(fitting, wanted), wanted))


def _as_frames(array: Array, wanted: ModelInput, layout: str, channel_order: str) -> Array:
    """Images as a camera would give them: values as they are, channels in the order it gives them."""
    target = np.dtype(wanted.dtype or "uint8")
    if array.dtype != target and not (target.kind == "f" and array.dtype.kind in "fu"):
        raise DataError(
            f"Images hold {array.dtype}, expected {target}: the model preprocesses its input '{wanted.name}' itself. "
            "Give them as they come from the camera, without scaling."
        )
    if channel_order == "BGR":
        array = array[..., ::-1] if layout == "NHWC" else array[:, ::-1]
    return np.ascontiguousarray(array, target)


def _likeliest(fitting: Sequence[Array], wanted: ModelInput) -> Array:
    """Of the layouts that fit, the one to feed: where the input leaves its channels open, (N,C,H,W)."""
    shape = wanted.shape
    channels_open = shape is None or (len(shape) == 4 and not any(isinstance(shape[axis], int) for axis in (1, 3)))
    if channels_open and fitting[0].ndim == 4 and fitting[0].shape[1] not in _CHANNELS:
        return next((each for each in fitting if each.shape[1] in _CHANNELS), fitting[0])
    return fitting[0]


def _matches(array: Array, wanted: ModelInput) -> bool:
    """True if all sizes except the batch fit; the batch is cut later."""
    if wanted.shape is None:
        return True
    return array.ndim == len(wanted.shape) and all(
        not isinstance(size, int) or size == has for size, has in zip(wanted.shape[1:], array.shape[1:], strict=True)
    )


def _as_dtype(array: Array, wanted: ModelInput) -> Array:
    target = np.dtype(wanted.dtype or "float32")
    if array.dtype == target:
        return array
    if array.dtype == np.uint8 and target.kind == "f":
        return (array.astype(np.float32) / np.float32(255)).astype(target)
    if array.dtype.kind == "f" and target.kind == "f":
        return array.astype(target)
    raise DataError(
        f"Images hold {array.dtype}, expected {'uint8 or floating point' if target.kind == 'f' else target} for input "
        f"'{wanted.name}' of {target}. Convert them."
    )


def choose_batch_size(inputs: Sequence[ModelInput], asked: int | None) -> int:
    """Number of images to read at a time: as requested, otherwise one if images may differ in size, otherwise a few.

    Raises:
        DataError: Fewer than one was asked for.
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
