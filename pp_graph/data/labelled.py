"""Images with labels and masks: folders as in MVTec AD, or arrays."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pp_graph.data.images import (
    MASK_FOLDER,
    Images,
    image_files,
    images_from_arrays,
    images_from_files,
    read_arrays,
)
from pp_graph.data.labels import label_flags, mask_flags, without_channel
from pp_graph.data.masks import TEST_FOLDER, match_masks, read_mask, resized
from pp_graph.errors import DataError

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_] | None

NORMAL_FOLDER: Final = "good"


class LabelledImages(ABC):
    """Images with labels, and often with masks.

    Attributes:
        images: The images.
        labels: Whether each is anomalous, bool, (N,); None where that follows from the masks only.
        name: The file or folder they come from, without folders above it; None for arrays in memory.
        files: All files they come from.
        kinds: Number of images of each kind, by the name of its folder; empty for arrays.
        notes: What a person should know about how they were found.
    """

    images: Images
    labels: npt.NDArray[np.bool_] | None
    name: str | None
    files: tuple[Path, ...] = ()
    kinds: Mapping[str, int] = {}
    notes: tuple[str, ...] = ()

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
            `<category>/test` (the category's folder will do). Masks lie in `ground_truth/<kind>/`, in that folder or
            beside it (but beside a `test` they belong to that), with the image's name, `_mask` behind it or not.
            Or an `.npz` or a mapping of arrays `image`, `label` (N,), `mask` (N,H,W), of which one of the last two may
            be missing; several inputs have an array each, by name.

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
        self.files = () if path is None else (path,)
        label, self._mask = arrays.get("label"), arrays.get("mask")
        inputs = {name: array for name, array in arrays.items() if name not in ("label", "mask")}
        count = len(images_from_arrays(inputs, where))
        self._arrays = arrays
        if label is None and self._mask is None:
            raise DataError(
                f"Found arrays {', '.join(map(repr, arrays))} in {where}, expected 'label' (N,) or 'mask' (N,H,W) "
                "beside the images. Add which images are anomalous."
            )
        truth = label if label is not None else self._mask
        if "image" not in inputs and truth is not None and truth.ndim:
            # The first axis of an array need not be the batch, as that of a state is not; labels have no other.
            count = next((len(truth) for each in inputs.values() if len(truth) in each.shape), count)
        for name in ("label", "mask"):
            array = arrays.get(name)
            if array is not None and (array.ndim == 0 or len(array) != count):
                raise DataError(
                    f"Array '{name}' in {where} has shape {array.shape}, expected {count} items, one an image."
                )
        self.images = images_from_arrays(inputs, where, count)
        self.labels = None if label is None else label_flags(label, f"Labels in {where}")

    def masks(self, start: int, stop: int, size: tuple[int, int] | None) -> list[Mask]:
        if self._mask is None:
            return [None] * (stop - start)
        given = without_channel(self._mask[start:stop], "Masks")
        return [resized(mask_flags(each, f"The mask of image {start + at}"), size) for at, each in enumerate(given)]

    def sha256(self) -> str:
        found = hashlib.sha256()
        for name in sorted(self._arrays):
            array = self._arrays[name]
            found.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            found.update(np.ascontiguousarray(array).data)
        return found.hexdigest()


class _LabelledFolder(LabelledImages):
    def __init__(self, folder: Path) -> None:
        # '.' and '..' have no parent to look for masks in; other links keep their names.
        folder = folder.resolve() if ".." in folder.parts else Path.cwd() / folder
        root = folder / TEST_FOLDER if (folder / TEST_FOLDER / NORMAL_FOLDER).is_dir() else folder
        files = image_files(root)
        kinds = [file.relative_to(root).parts[0] for file in files]
        stray = [file.name for file in files if file.parent == root]
        if stray or NORMAL_FOLDER not in kinds:
            found = f"image '{stray[0]}' in no folder" if stray else f"no images in '{NORMAL_FOLDER}'"
            raise DataError(
                f"Folder '{root}' holds {found}, expected a folder '{NORMAL_FOLDER}' with normal images, and one "
                "beside it for each kind of anomaly. Sort the images into folders."
            )
        self.name = folder.name
        self._root = root
        self._masks, unmatched = match_masks(root, files, sum(kind != NORMAL_FOLDER for kind in kinds))
        if unmatched:
            self.notes = (
                f"files in {MASK_FOLDER} that match no image: {len(unmatched)}, such as '{unmatched[0].name}'",
            )
        self.images = images_from_files(root, files)
        self.labels = np.array([kind != NORMAL_FOLDER for kind in kinds])
        self.kinds = dict(Counter(kinds))
        self._images = files
        self.files = (*files, *self._masks.values())

    def masks(self, start: int, stop: int, size: tuple[int, int] | None) -> list[Mask]:
        found = [self._masks.get(file) for file in self._images[start:stop]]
        return [None if path is None else resized(read_mask(path), size) for path in found]

    def sha256(self) -> str:
        found = hashlib.sha256()
        for file in self._images:
            name = file.relative_to(self._root).as_posix()
            for what, path in (("image", file), ("mask", self._masks.get(file))):
                if path is not None:
                    with path.open("rb") as stream:
                        digest = hashlib.file_digest(stream, "sha256").hexdigest()
                    found.update(f"{what} {name} {digest}\n".encode())
        return found.hexdigest()
