"""Images with labels and masks: folders as of MVTec AD, MVTec LOCO or VisA, tables, or arrays."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from pp_graph.data.arrays import AnyArray, open_arrays, rows_of
from pp_graph.data.image_files import MAX_PIXELS, check_max_pixels
from pp_graph.data.images import ArrayImages
from pp_graph.data.labels import label_flags, mask_flags, without_channel
from pp_graph.data.masks import (
    resized,
    same_aspect,
)
from pp_graph.data.tables import TABLE_ENDINGS
from pp_graph.errors import DataError, UnlabelledError
from pp_graph.urls import as_path

if TYPE_CHECKING:
    from pp_graph.data.image_batches import Images

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_] | None

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
            - A table, `.csv` or `.parquet`, of the columns `path`, `label` and `mask`. One of the last two may be
              missing; a `mask` may be empty. Paths are relative to the table.
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
    path = as_path(source)
    # These modules build on this one.
    from pp_graph.data.labelled_files import LabelledFolder, LabelledTable

    if path.is_dir():
        return LabelledFolder(path, masks, max_pixels, skip_broken=skip_broken)
    if path.suffix.lower() in TABLE_ENDINGS:
        return LabelledTable(path, masks, max_pixels, skip_broken=skip_broken)
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
