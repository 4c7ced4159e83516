"""Images with labels and masks: folders as in MVTec AD, or arrays."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from pp_graph.data.images import (
    IMAGE_ENDINGS,
    Images,
    image_files,
    images_from_arrays,
    images_from_files,
    read_arrays,
)
from pp_graph.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_] | None

NORMAL_FOLDER: Final = "good"
MASK_FOLDER: Final = "ground_truth"
_TEST_FOLDER: Final = "test"


class LabelledImages(ABC):
    """Images of which it is known whether they are anomalous, and often which pixels are.

    Attributes:
        images: The images.
        labels: Whether each is anomalous, bool, (N,); None where that follows from the masks only.
        name: The file or folder they come from, without folders above it; None for arrays in memory.
    """

    images: Images
    labels: npt.NDArray[np.bool_] | None
    name: str | None

    def __len__(self) -> int:
        return len(self.images)

    @abstractmethod
    def masks(self, start: int, stop: int, size: tuple[int, int] | None) -> list[Mask]:
        """Masks of some images.

        Args:
            start: Index of the first image.
            stop: Index behind the last image.
            size: Height and width to bring them to, without interpolation; None leaves them as they are.

        Returns:
            Anomalous pixels, bool, (H,W) each; None for an image without a mask.

        Raises:
            DataError: A mask cannot be read.
        """

    @abstractmethod
    def sha256(self) -> str:
        """Hash of all images, labels and masks."""


LabelledSource = str | Path | Mapping[str, Array] | LabelledImages
"""A folder as in MVTec AD, an `.npz` or a mapping of arrays, or images already open."""


def open_labelled(source: LabelledSource) -> LabelledImages:
    """Open images with labels and masks.

    Args:
        source: A folder that holds `good/` with normal images and one folder a kind of anomaly, as MVTec AD's
            `<category>/test` (the category's folder will do); masks lie in `ground_truth/<kind>/`, beside it or in it,
            with the image's name, `_mask` behind it or not. Or an `.npz` or a mapping of arrays `image`, `label` (N,),
            `mask` (N,H,W), of which one of the last two may be missing; several inputs have an array each, by name.

    Returns:
        The images.

    Raises:
        DataError: Nothing is there, it cannot be read, or it has no labels.
    """
    if isinstance(source, LabelledImages):
        return source
    if isinstance(source, Mapping):
        return _LabelledArrays({str(name): np.asarray(array) for name, array in source.items()}, None)
    path = Path(source)
    if path.is_dir():
        return _LabelledFolder(path)
    return _LabelledArrays(read_arrays(path), path)


class _LabelledArrays(LabelledImages):
    def __init__(self, arrays: Mapping[str, Array], path: Path | None) -> None:
        where = "the data" if path is None else f"'{path}'"
        self.name = None if path is None else path.name
        self._label, self._mask = arrays.get("label"), arrays.get("mask")
        inputs = {name: array for name, array in arrays.items() if name not in ("label", "mask")}
        self.images = images_from_arrays(inputs, where)
        self._arrays = arrays
        if self._label is None and self._mask is None:
            raise DataError(
                f"Found arrays {', '.join(map(repr, arrays))} in {where}, expected 'label' (N,) or 'mask' (N,H,W) "
                "beside the images. Add which images are anomalous."
            )
        count = len(self.images)
        for name in ("label", "mask"):
            array = arrays.get(name)
            if array is not None and (array.ndim == 0 or len(array) != count):
                raise DataError(
                    f"Array '{name}' in {where} has shape {array.shape}, expected {count} items, one an image."
                )
        self.labels = None
        if self._label is not None:
            self.labels = _label_flags(self._label, where)

    def masks(self, start: int, stop: int, size: tuple[int, int] | None) -> list[Mask]:
        if self._mask is None:
            return [None] * (stop - start)
        given = self._mask[start:stop]
        if given.ndim == 4 and 1 in (given.shape[1], given.shape[3]):
            given = given[:, 0] if given.shape[1] == 1 else given[..., 0]
        if given.ndim != 3 or given.dtype.kind not in "biuf":
            raise DataError(
                f"Array 'mask' has shape {self._mask.shape} and holds {self._mask.dtype}, expected (N,H,W) of bool, or "
                "of numbers with 0 for normal."
            )
        return [resized(each != 0, size) for each in given]

    def sha256(self) -> str:
        found = hashlib.sha256()
        for name in sorted(self._arrays):
            array = self._arrays[name]
            found.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            found.update(np.ascontiguousarray(array).data)
        return found.hexdigest()


def _label_flags(label: Array, where: str) -> npt.NDArray[np.bool_]:
    flat = label.reshape(len(label), -1)
    if flat.shape[1] != 1 or label.dtype.kind not in "biu" or not np.isin(flat, (0, 1)).all():
        raise DataError(
            f"Array 'label' in {where} has shape {label.shape} and holds {label.dtype}, expected (N,) of bool, or of "
            "0 (normal) and 1 (anomalous)."
        )
    return np.asarray(flat[:, 0] != 0)


class _LabelledFolder(LabelledImages):
    def __init__(self, folder: Path) -> None:
        root = folder / _TEST_FOLDER if (folder / _TEST_FOLDER / NORMAL_FOLDER).is_dir() else folder
        kinds = sorted(each for each in root.iterdir() if each.is_dir() and each.name != MASK_FOLDER)
        files = [(file, kind.name != NORMAL_FOLDER) for kind in kinds for file in image_files(kind)]
        stray = sorted(file.name for file in root.iterdir() if file.suffix.lower() in IMAGE_ENDINGS)
        if stray or all(anomalous for _, anomalous in files):
            found = f"image '{stray[0]}' in no folder" if stray else f"no images in '{NORMAL_FOLDER}'"
            raise DataError(
                f"Folder '{root}' holds {found}, expected a folder '{NORMAL_FOLDER}' with normal images, and one "
                "beside it for each kind of anomaly. Sort the images into folders."
            )
        self.name = folder.name or folder.resolve().name
        self._root = root
        self._files = [file for file, _ in files]
        self._masks = _mask_files(root, [file for file, anomalous in files if anomalous])
        self.images = images_from_files(root, self._files)
        self.labels = np.array([anomalous for _, anomalous in files])

    def masks(self, start: int, stop: int, size: tuple[int, int] | None) -> list[Mask]:
        return [self._mask(file, size) for file in self._files[start:stop]]

    def _mask(self, file: Path, size: tuple[int, int] | None) -> Mask:
        from PIL import Image, UnidentifiedImageError

        path = self._masks.get(file)
        if path is None:
            return None
        try:
            with Image.open(path) as image:
                return resized(np.asarray(image.convert("L")) > 0, size)
        except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(f"Mask '{path}' cannot be read: {error}. Remove it, or save it again.") from error

    def sha256(self) -> str:
        found = hashlib.sha256()
        for file in self._hashed_files():
            found.update(f"{file.relative_to(self._root.parent).as_posix()}\n".encode())
            with file.open("rb") as stream:
                found.update(hashlib.file_digest(stream, "sha256").digest())
        return found.hexdigest()

    def _hashed_files(self) -> Iterator[Path]:
        yield from self._files
        yield from sorted(self._masks.values())


def _mask_files(root: Path, anomalous: list[Path]) -> dict[Path, Path]:
    """The mask of each anomalous image that has one."""
    folder = next((each for each in (root / MASK_FOLDER, root.parent / MASK_FOLDER) if each.is_dir()), None)
    if folder is None:
        return {}
    found = {}
    for file in anomalous:
        beside = folder / file.relative_to(root).parent
        stems = (f"{file.stem}_mask", file.stem)
        masks = [
            each for each in sorted(beside.glob("*")) if each.stem in stems and each.suffix.lower() in IMAGE_ENDINGS
        ]
        if masks:
            found[file] = masks[0]
    return found


def resized(mask: npt.NDArray[np.bool_], size: tuple[int, int] | None) -> npt.NDArray[np.bool_]:
    """Bring a mask to another size; every pixel takes the one it lies on.

    Args:
        mask: (H,W).
        size: Height and width; None for its own.
    """
    if size is None or mask.shape == size:
        return mask
    rows, columns = ((np.arange(new) * 2 + 1) * old // (2 * new) for new, old in zip(size, mask.shape, strict=True))
    return np.asarray(mask[np.ix_(rows, columns)])
