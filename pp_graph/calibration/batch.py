"""Check a batch of scores, maps, labels and masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from pp_graph.data.labels import as_array, label_flags, mask_flags, without_channel
from pp_graph.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

Mask = npt.NDArray[np.bool_] | bool | None
"""True for anomalous pixels (H,W); False if all are normal; None if unknown."""

UNKNOWN: Final = -1


@dataclass(frozen=True)
class Batch:
    """A checked batch.

    Attributes:
        scores: Image scores, float32, (N,). They may be NaN or infinite if such values are ignored.
        labels: 1 anomalous, 0 normal, -1 unknown, int8, (N,).
        maps: Maps, float32, (N,H,W); None without maps.
        masks: A mask for each image, of the size of its map.
        dropped_scores: Number of scores that are NaN or infinite.
        dropped_pixels: Number of such pixels in each image.
    """

    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int8]
    maps: npt.NDArray[np.float32] | None
    masks: Sequence[Mask]
    dropped_scores: int
    dropped_pixels: Sequence[int]


def check_batch(
    scores: ArrayLike | None,
    maps: ArrayLike | None,
    labels: ArrayLike | None,
    masks: Sequence[ArrayLike | None] | npt.NDArray[Any] | None,
    names: Sequence[str] | None,
    *,
    ignore_nonfinite: bool,
    first_index: int,
) -> Batch:
    """Check a batch and bring it into one form; see `Calibrator.update` for the arguments.

    Raises:
        DataError: Shapes or types do not fit, a label contradicts a mask, or a value is not finite.
    """
    if scores is None and maps is None:
        raise DataError("Neither scores nor maps were given, expected at least one. Pass the raw model's outputs.")
    checked_maps = None if maps is None else without_channel(_float32(maps, "Maps"), "Maps")
    checked = None if scores is None else _scores(scores)
    images = len(checked_maps if checked is None else checked)  # type: ignore[arg-type]
    if checked_maps is not None and len(checked_maps) != images:
        raise DataError(
            f"There are {images} scores and {len(checked_maps)} maps, expected one of each per image. Pass scores and "
            "maps of the same images."
        )
    if names is None:
        names = [f"image {first_index + index}" for index in range(images)]
    if len(names) != images:
        raise DataError(f"There are {images} images and {len(names)} names, expected one per image. Name all or none.")
    checked_labels = _labels(labels, images)
    checked_masks = _masks(masks, checked_labels, checked_maps, names)
    if labels is None and masks is not None:
        from_masks = [UNKNOWN if mask is None else int(np.any(mask)) for mask in checked_masks]
        checked_labels = np.array(from_masks, np.int8)
    if checked_maps is None:
        dropped_pixels = [0] * images
    else:
        dropped_pixels = _nonfinite(checked_maps, "map", names, ignore=ignore_nonfinite)
    if checked is None:
        assert checked_maps is not None
        # Inference takes the maximum, too, and does not ignore NaN or infinity.
        checked = checked_maps.reshape(images, -1).max(axis=1) if images else np.zeros(0, np.float32)
        dropped_scores = int((~np.isfinite(checked)).sum())
    else:
        dropped_scores = sum(_nonfinite(checked, "score", names, ignore=ignore_nonfinite))
        # The caller may reuse the array for the next batch.
        checked = checked.copy()
    return Batch(checked, checked_labels, checked_maps, checked_masks, dropped_scores, dropped_pixels)


def _float32(values: ArrayLike, what: str) -> npt.NDArray[np.float32]:
    array = as_array(values, what)
    if array.dtype.kind not in "fiu" and array.dtype.name != "bfloat16":
        raise DataError(f"{what} hold {array.dtype}, expected floating-point numbers. Pass the model's raw output.")
    with np.errstate(over="ignore"):
        return array.astype(np.float32, copy=False)


def _scores(values: ArrayLike) -> npt.NDArray[np.float32]:
    array = _float32(values, "Scores")
    if array.ndim == 2 and array.shape[1] == 1:
        return array[:, 0]
    if array.ndim != 1:
        raise DataError(f"Scores have shape {array.shape}, expected (N,) or (N,1): one number per image.")
    return array


def _labels(values: ArrayLike | None, images: int) -> npt.NDArray[np.int8]:
    if values is None:
        return np.full(images, UNKNOWN, np.int8)
    flags = label_flags(values, "Labels")
    if len(flags) != images:
        raise DataError(
            f"There are {images} images and {len(flags)} labels, expected one per image. Pass the labels of these "
            "images."
        )
    return flags.astype(np.int8)


def _masks(
    values: Sequence[ArrayLike | None] | npt.NDArray[Any] | None,
    labels: npt.NDArray[np.int8],
    maps: npt.NDArray[np.float32] | None,
    names: Sequence[str],
) -> list[Mask]:
    images = len(labels)
    masks: list[Mask] = [None] * images
    if values is not None:
        if isinstance(values, np.ndarray):
            values = list(without_channel(values, "Masks"))
        if len(values) != images:
            raise DataError(f"There are {images} images and {len(values)} masks, expected one mask or None per image.")
        masks = [
            None if mask is None else mask_flags(mask, f"The mask of '{name}'")
            for mask, name in zip(values, names, strict=True)
        ]
    for index, mask in enumerate(masks):
        if isinstance(mask, np.ndarray):
            masks[index] = _check_mask_size(mask, None if maps is None else maps.shape[1:], names[index])
        if labels[index] == 0:
            if mask is not None and np.any(mask):
                raise DataError(
                    f"'{names[index]}' is labelled normal, but its mask has anomalous pixels ({int(np.sum(mask)):,}), "
                    "expected none. Correct the label or the mask."
                )
            masks[index] = False
    return masks


def _check_mask_size(mask: npt.NDArray[np.bool_], size: tuple[int, ...] | None, name: str) -> npt.NDArray[np.bool_]:
    if mask.ndim == 3 and 1 in (mask.shape[0], mask.shape[2]):
        mask = mask[0] if mask.shape[0] == 1 else mask[..., 0]
    if size is not None and mask.shape != size:
        raise DataError(
            f"The mask of '{name}' has shape {mask.shape}, expected {size} like its map. Resize it without "
            "interpolation."
        )
    return mask


def _nonfinite(values: npt.NDArray[np.float32], what: str, names: Sequence[str], *, ignore: bool) -> list[int]:
    """Count NaN and infinite values of each image; raise DataError if there are some and `ignore` is False."""
    if not len(values):
        return []
    flat = values.reshape(len(values), -1)
    # The sum is a quick test. If finite numbers overflow, the values are counted one by one.
    with np.errstate(over="ignore", invalid="ignore"):
        suspicious = not np.isfinite(flat.sum(dtype=np.float32))
    if not suspicious:
        return [0] * len(values)
    dropped = [int(count) for count in (~np.isfinite(flat)).sum(axis=1)]
    if any(dropped) and not ignore:
        first = next(index for index, count in enumerate(dropped) if count)
        nan = int(np.isnan(flat[first]).sum())
        others = sum(count > 0 for count in dropped) - 1
        more = f", as have {others} more images of the batch" if others else ""
        raise DataError(
            f"The {what} of '{names[first]}' has {dropped[first]:,} of {flat.shape[1]:,} values that are not finite "
            f"({nan:,} NaN, {dropped[first] - nan:,} infinite){more}, expected finite numbers. Find out why the model "
            "computes them, or leave them out with --ignore-nonfinite (ignore_nonfinite=True)."
        )
    return dropped
