"""Images with labels and masks: folders as of MVTec AD, MVTec LOCO or VisA, or arrays."""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pp_graph.data.arrays import AnyArray, open_arrays, rows_of
from pp_graph.data.image_files import IMAGES_FOLDER, MAX_PIXELS, check_max_pixels, find_images
from pp_graph.data.images import ArrayImages, FileImages, Images
from pp_graph.data.labels import label_flags, mask_flags, without_channel
from pp_graph.data.masks import (
    TEST_FOLDER,
    MatchedMasks,
    check_mask_sizes,
    match_masks,
    read_mask,
    resized,
    same_aspect,
)
from pp_graph.errors import DataError, UnlabelledError

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_] | None

NORMAL_FOLDERS: Final = ("good", "normal", "ok")


_MISNAMED: Final = {
    "label": ("labels", "gt_label", "gt_labels", "target", "targets", "y"),
    "mask": ("masks", "gt_mask", "gt_masks"),
}
"""Names that people give to labels and masks."""


class LabelledImages(ABC):
    """Images with labels, and often with masks.

    Attributes:
        images: The images.
        labels: True for anomalous images, bool, (N,); None if masks alone tell.
        name: Name of the file or folder; None for arrays in memory.
        files: All files that are read.
        kinds: Number of images by folder name; empty for arrays.
    """

    images: Images
    labels: npt.NDArray[np.bool_] | None
    name: str | None
    files: tuple[Path, ...] = ()
    kinds: Mapping[str, int] = {}

    def __len__(self) -> int:
        return len(self.images)

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks for the user. Complete once all images were read."""
        return self.images.notes

    @abstractmethod
    def masks(self, start: int, stop: int, size: tuple[int, int] | None) -> list[Mask]:
        """Return the masks of some images.

        Args:
            start: Index of the first image.
            stop: Exclusive end index.
            size: Height and width to resize to by nearest neighbour; None to keep their own.

        Returns:
            Anomalous pixels, bool, (H,W) each; None for an image without a mask.

        Raises:
            DataError: A mask cannot be read.
        """

    def part(self, start: int, stop: int) -> LabelledImages | None:
        """Return some of the images alone, small to send to another process; None if all are to be sent together."""
        return None

    @abstractmethod
    def sha256(self) -> str:
        """Return the hash of all images, labels and masks."""


LabelledSource = str | Path | Mapping[str, Array] | LabelledImages
"""A labelled folder, an `.npz` or a mapping of arrays, or open labelled images."""


def open_labelled(
    source: LabelledSource,
    *,
    masks: str | Path | bool = True,
    max_pixels: int | None = MAX_PIXELS,
    skip_broken: bool = False,
) -> LabelledImages:
    """Open images with labels and masks.

    Args:
        source: One of these:

            - A folder with `good/` (or `normal/`, `ok/`) for normal images and a folder for each kind of anomaly, such
              as `test` of MVTec AD and MVTec LOCO, or a folder that holds it. Masks are in `ground_truth/`, inside or
              beside it: `<kind>/<image>.png`, `<kind>/<image>_mask.png`, or several in `<kind>/<image>/`, which are
              united.
            - A folder with `images/` and `masks/` (VisA also calls it `Data`). Images may be sorted into folders as
              above. Otherwise masks alone determine what is anomalous, and an image without a mask is normal.
            - An `.npz` or a mapping of arrays `image`, `label` (N,) and `mask` (N,H,W). One of the last two may be
              missing. Further inputs have one array each, by name.
        masks: Folder of the masks; False to use none.
        max_pixels: Refuse image files with more pixels; None for no limit.
        skip_broken: Skip image files that cannot be decoded, and list them in `notes`.

    Returns:
        The images.

    Raises:
        DataError: There are no images or no labels, a file cannot be read, or a mask does not fit its image.
    """
    check_max_pixels(max_pixels)
    if isinstance(source, LabelledImages):
        return source
    if isinstance(source, Mapping):
        return _LabelledArrays({str(name): np.asarray(array) for name, array in source.items()}, None, masks)
    path = Path(source)
    if path.is_dir():
        return _LabelledFolder(path, masks, max_pixels, skip_broken=skip_broken)
    return _LabelledArrays(open_arrays(path), path, masks)


class _LabelledArrays(LabelledImages):
    def __init__(self, arrays: Mapping[str, AnyArray], path: Path | None, masks: str | Path | bool) -> None:
        where = "the data" if path is None else f"'{path}'"
        if not isinstance(masks, bool):
            raise DataError(
                f"A folder of masks, '{masks}', was given for arrays in {where}, expected an array 'mask' (N,H,W). Add "
                "it to the arrays."
            )
        self.name = None if path is None else path.name
        self.files = () if path is None else (path,)
        label, self._mask = arrays.get("label"), arrays.get("mask") if masks else None
        for wanted, others in _MISNAMED.items():
            other = next((name for name in arrays if name.lower() in others), None)
            if wanted not in arrays and other is not None and (masks or wanted == "label"):
                raise DataError(
                    f"Array '{other}' in {where} would not be read, expected the name '{wanted}'. Rename it."
                )
        inputs = {name: array for name, array in arrays.items() if name not in ("label", "mask")}
        count = len(ArrayImages(inputs, where))
        self._arrays = arrays
        if label is None and self._mask is None:
            raise UnlabelledError(
                f"Found arrays {', '.join(map(repr, arrays))} in {where}, expected 'label' (N,) or 'mask' (N,H,W) "
                "beside the images. Add which images are anomalous."
            )
        truth = label if label is not None else self._mask
        if "image" not in inputs and truth is not None and truth.ndim:
            # The first axis of an array may not be the batch; that of the labels always is.
            count = next((len(truth) for array in inputs.values() if len(truth) in array.shape), count)
        for name in ("label", "mask"):
            array = arrays.get(name)
            if array is not None and (array.ndim == 0 or len(array) != count):
                raise DataError(
                    f"Array '{name}' in {where} has shape {array.shape}, expected {count} items, one for each image."
                )
        _check_mask_array(self._mask, inputs.get("image"), where)
        self.images = ArrayImages(inputs, where, count)
        self.labels = None if label is None else label_flags(np.asarray(label), f"Labels in {where}")

    def masks(self, start: int, stop: int, size: tuple[int, int] | None) -> list[Mask]:
        if self._mask is None:
            return [None] * (stop - start)
        given = without_channel(np.asarray(self._mask[start:stop]), "Masks")
        return [
            resized(mask_flags(mask, f"The mask of image {start + index}"), size) for index, mask in enumerate(given)
        ]

    def sha256(self) -> str:
        found = hashlib.sha256()
        for name in sorted(self._arrays):
            array = self._arrays[name]
            found.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            for rows in rows_of(array):
                found.update(np.ascontiguousarray(rows).data)
        return found.hexdigest()


def _check_mask_array(mask: AnyArray | None, images: AnyArray | None, where: str) -> None:
    """Raise if masks cannot lie on their images."""
    if mask is None or images is None or images.ndim != 4 or mask.ndim < 3:
        return
    height, width = mask.shape[-3:-1] if mask.ndim == 4 and mask.shape[-1] == 1 else mask.shape[-2:]
    if not height or not width:
        return
    layouts = {images.shape[2:], images.shape[1:3]}
    if not any(same_aspect((width, height), (size[1], size[0])) for size in layouts):
        raise DataError(
            f"Array 'mask' in {where} has shape {mask.shape} and 'image' has {images.shape}, expected masks of the "
            "images' aspect ratio. Give the masks of these images."
        )


class _LabelledFolder(LabelledImages):
    def __init__(self, folder: Path, masks: str | Path | bool, max_pixels: int | None, *, skip_broken: bool) -> None:
        # '.' and '..' have no parent to look for masks in; other links keep their names.
        folder = folder.resolve() if ".." in folder.parts else Path.cwd() / folder
        root = _images_root(folder)
        listed = find_images(root)
        if not listed.images:
            raise DataError(f"Folder '{root}' holds no images, expected images sorted into folders. Check the path.")
        notes = listed.notes(f"'{root}'")
        self.images = FileImages(root, listed.images, notes=notes, max_pixels=max_pixels, skip_broken=skip_broken)
        self.name = folder.name
        self._root = root
        self._files = self.images.files or ()
        self._max_pixels = max_pixels
        kinds = [file.relative_to(root).parts[0] for file in self._files]
        flags = np.array([kind.lower() not in NORMAL_FOLDERS for kind in kinds])
        stray = [file.name for file in self._files if file.parent == root]
        sorted_by_kind = not stray and not flags.all()
        mask_folder = Path.cwd() / masks if not isinstance(masks, bool) else None
        if mask_folder is not None and not mask_folder.is_dir():
            raise DataError(f"Folder of masks '{masks}' does not exist, expected a folder. Check --masks.")
        matched = (
            match_masks(root, self._files, int(flags.sum()), mask_folder) if masks is not False else MatchedMasks({})
        )
        self._masks = matched.files
        if not sorted_by_kind and not self._masks:
            found = f"image '{stray[0]}' in no folder" if stray else f"no images in '{NORMAL_FOLDERS[0]}'"
            raise UnlabelledError(
                f"Folder '{root}' holds {found}, expected a folder '{NORMAL_FOLDERS[0]}' with normal images, and one "
                "beside it for each kind of anomaly, or masks. Sort the images into folders, or give --masks DIR."
            )
        check_mask_sizes(self._masks, max_pixels)
        self._mask_notes = matched.notes
        self.labels = flags if sorted_by_kind else None
        if sorted_by_kind:
            self.kinds = dict(Counter(kinds))
        elif len(self._masks) < len(self):
            without = len(self) - len(self._masks)
            self._mask_notes = (
                *(note for note in matched.notes if not note.startswith("anomalous images without")),
                f"images without a mask, counted as normal: {without} of {len(self)}",
            )
        self.files = (*self._files, *(mask for found in self._masks.values() for mask in found))

    @property
    def notes(self) -> tuple[str, ...]:
        return (*self.images.notes, *self._mask_notes)

    def masks(self, start: int, stop: int, size: tuple[int, int] | None) -> list[Mask]:
        return [self._mask(file, size) for file in self._files[start:stop]]

    def part(self, start: int, stop: int) -> LabelledImages:
        some = copy.copy(self)
        some.images = self.images.part(start, stop) or self.images
        some._files = self._files[start:stop]
        some._masks = {file: self._masks[file] for file in some._files if file in self._masks}
        some.labels = None if self.labels is None else self.labels[start:stop]
        some.files = (*some._files, *(mask for found in some._masks.values() for mask in found))
        return some

    def _mask(self, image: Path, size: tuple[int, int] | None) -> Mask:
        files = self._masks.get(image, ())
        if not files:
            # Without folders, only masks tell what is anomalous.
            return None if self.labels is not None else resized(np.zeros((1, 1), np.bool_), size)
        parts = [read_mask(file, self._max_pixels) for file in files]
        united = parts[0]
        for part in parts[1:]:
            united = united | resized(part, (united.shape[0], united.shape[1]))
        return resized(united, size)

    def sha256(self) -> str:
        found = hashlib.sha256()
        for file in self._files:
            name = file.relative_to(self._root).as_posix()
            for what, path in (("image", file), *(("mask", mask) for mask in self._masks.get(file, ()))):
                with path.open("rb") as stream:
                    digest = hashlib.file_digest(stream, "sha256").hexdigest()
                found.update(f"{what} {name} {digest}\n".encode())
        return found.hexdigest()


def _images_root(folder: Path) -> Path:
    """Return the folder of the labelled images in a folder: `test`, `Images`, `Data/Images`, or the folder itself."""
    for candidate in (folder / TEST_FOLDER, folder):
        if any(child.name.lower() in NORMAL_FOLDERS for child in _folders(candidate)):
            return candidate
    for parent in (folder, *(child for child in _folders(folder) if child.name.lower() == "data")):
        for child in _folders(parent):
            if child.name.lower() == IMAGES_FOLDER:
                return child
    return folder


def _folders(parent: Path) -> Iterator[Path]:
    if parent.is_dir():
        yield from (child for child in sorted(parent.iterdir()) if child.is_dir())
