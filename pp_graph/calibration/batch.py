"""A batch of scores, maps, labels and masks, checked."""

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
"""Anomalous pixels (H,W); False where all are normal, None where it is not known."""

UNKNOWN: Final = -1


@dataclass(frozen=True)
class Batch:
    """A batch that fits.

    Attributes:
        scores: Image scores, float32, (N,); those taken from a map with values that are not finite may not be, either.
        labels: 1 anomalous, 0 normal, -1 unknown, (N,).
        maps: Maps, float32, (N,H,W); None where there are none.
        masks: A mask an image, of the size of its map.
        dropped_scores: Scores that are not finite.
        dropped_pixels: Pixels an image that are not finite.
    """

    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int8]
    maps: npt.NDArray[np.float32] | None
    masks: Sequence[Mask]
    dropped_scores: int
    dropped_pixels: Sequence[int]

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self.scores)


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
    """Normalise a batch; `Calibrator.update` lists the accepted forms.

    Raises:
        DataError: It does not fit together, or values are not finite.
    """
    if scores is None and maps is None:
        raise DataError("Neither scores nor maps were given, expected at least one. Give what the raw model returns.")
    checked_maps = None if maps is None else _maps(maps)
    checked = None if scores is None else _scores(scores)
    images = len(checked_maps if checked is None else checked)  # type: ignore[arg-type]
    if checked_maps is not None and len(checked_maps) != images:
        raise DataError(
            f"There are {images} scores and {len(checked_maps)} maps, expected one of each an image. Give "
            "those of the same images."
        )
    called = [f"image {first_index + index}" for index in range(images)] if names is None else names
    if len(called) != images:
        raise DataError(f"There are {images} images and {len(called)} names, expected one an image. Name all or none.")
    checked_labels = _labels(labels, images)
    checked_masks = _masks(masks, checked_labels, checked_maps, called)
    if labels is None and masks is not None:
        known = [(-1 if mask is None else int(np.any(mask))) for mask in checked_masks]
        checked_labels = np.array(known, np.int8)
    if checked_maps is None:
        dropped_pixels = [0] * images
    else:
        dropped_pixels = _nonfinite(checked_maps, "map", called, ignore=ignore_nonfinite)
    if checked is None:
        assert checked_maps is not None
        # As inference does, which the values that were dropped decide, too.
        checked = checked_maps.reshape(images, -1).max(axis=1) if images else np.zeros(0, np.float32)
        dropped_scores = int((~np.isfinite(checked)).sum())
    else:
        dropped_scores = sum(_nonfinite(checked, "score", called, ignore=ignore_nonfinite))
        # The caller may use the array for the next batch.
        checked = checked.copy()
    return Batch(checked, checked_labels, checked_maps, checked_masks, dropped_scores, dropped_pixels)


def _float32(values: ArrayLike, what: str) -> npt.NDArray[np.float32]:
    array = as_array(values, what)
    if array.dtype.kind not in "fiu" and array.dtype.name != "bfloat16":
        raise DataError(f"{what} hold {array.dtype}, expected floating-point numbers. Give the model's raw output.")
    with np.errstate(over="ignore"):
        return array.astype(np.float32, copy=False)


def _scores(values: ArrayLike) -> npt.NDArray[np.float32]:
    array = _float32(values, "Scores")
    if array.ndim == 2 and array.shape[1] == 1:
        return array[:, 0]
    if array.ndim != 1:
        raise DataError(f"Scores have shape {array.shape}, expected (N,) or (N,1): one number an image.")
    return array


def _maps(values: ArrayLike) -> npt.NDArray[np.float32]:
    maps: npt.NDArray[np.float32] = without_channel(_float32(values, "Maps"), "Maps")
    return maps


def _labels(values: ArrayLike | None, images: int) -> npt.NDArray[np.int8]:
    if values is None:
        return np.full(images, UNKNOWN, np.int8)
    flags = label_flags(values, "Labels")
    if len(flags) != images:
        raise DataError(
            f"There are {images} images and {len(flags)} labels, expected one an image. Give those of the same images."
        )
    return flags.astype(np.int8)


def _masks(
    values: Sequence[ArrayLike | None] | npt.NDArray[Any] | None,
    labels: npt.NDArray[np.int8],
    maps: npt.NDArray[np.float32] | None,
    names: Sequence[str],
) -> list[Mask]:
    images = len(labels)
    given: list[Mask] = [None] * images
    if values is not None:
        if isinstance(values, np.ndarray):
            values = list(without_channel(values, "Masks"))
        if len(values) != images:
            raise DataError(f"There are {images} images and {len(values)} masks, expected one an image, or None.")
        given = [
            None if mask is None else mask_flags(mask, f"The mask of '{name}'")
            for mask, name in zip(values, names, strict=True)
        ]
    for index, mask in enumerate(given):
        if isinstance(mask, np.ndarray):
            given[index] = _fitting(mask, None if maps is None else maps.shape[1:], names[index])
        if labels[index] == 0:
            if mask is not None and np.any(mask):
                raise DataError(
                    f"'{names[index]}' is labelled normal, and its mask has anomalous pixels ({int(np.sum(mask)):,}), "
                    "expected none. Correct the label or the mask."
                )
            given[index] = False
    return given


def _fitting(mask: npt.NDArray[np.bool_], size: tuple[int, ...] | None, name: str) -> npt.NDArray[np.bool_]:
    if mask.ndim == 3 and 1 in (mask.shape[0], mask.shape[2]):
        mask = mask[0] if mask.shape[0] == 1 else mask[..., 0]
    if size is not None and mask.shape != size:
        raise DataError(
            f"The mask of '{name}' has shape {mask.shape}, expected {size} as the map. Resize it without interpolation."
        )
    return mask


def _nonfinite(values: npt.NDArray[np.float32], what: str, names: Sequence[str], *, ignore: bool) -> list[int]:
    """Values an image that are not finite.

    Raises:
        DataError: There are some, and they are not to be ignored.
    """
    if not len(values):
        return []
    flat = values.reshape(len(values), -1)
    # The sum of finite numbers may overflow, but then it is looked at closely and nothing is found.
    with np.errstate(over="ignore", invalid="ignore"):
        suspicious = not np.isfinite(flat.sum(dtype=np.float32))
    if not suspicious:
        return [0] * len(values)
    found = [int(count) for count in (~np.isfinite(flat)).sum(axis=1)]
    if any(found) and not ignore:
        worst = next(index for index, count in enumerate(found) if count)
        nan = int(np.isnan(flat[worst]).sum())
        others = sum(count > 0 for count in found) - 1
        more = f", and {others} more images of the batch hold some" if others else ""
        raise DataError(
            f"The {what} of '{names[worst]}' holds {found[worst]:,} of {flat.shape[1]:,} values that are not finite "
            f"({nan:,} NaN, {found[worst] - nan:,} infinite){more}, expected finite numbers. Find out what the model "
            "computes there, or leave them out with --ignore-nonfinite (ignore_nonfinite=True)."
        )
    return found
