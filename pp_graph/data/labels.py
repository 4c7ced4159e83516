"""Labels and masks as bool, from any numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pp_graph.errors import DataError

Flags = npt.NDArray[np.bool_]


def label_flags(values: npt.ArrayLike, what: str) -> Flags:
    """Labels as bool.

    Args:
        values: Bool, or 0 for normal and 1 for anomalous, (N,) or (N,1).
        what: What to call them in errors.

    Returns:
        Whether each image is anomalous, (N,).

    Raises:
        DataError: The shape is different, or a number is neither 0 nor 1.
    """
    array = _numbers(values, what)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise DataError(f"{what} have shape {array.shape}, expected (N,): one per image.")
    others = array[(array != 0) & (array != 1)]
    if len(others):
        raise DataError(f"{what}: found {others[0]}, expected bool, or 0 for normal and 1 for anomalous. Convert them.")
    return np.asarray(array != 0)


def mask_flags(values: npt.ArrayLike, what: str) -> Flags:
    """A mask as bool.

    Args:
        values: Bool, or 0 for normal pixels and more for anomalous ones, of any shape.
        what: What to call it in errors.

    Returns:
        Whether each pixel is anomalous, of that shape.

    Raises:
        DataError: The mask is neither bool nor numeric, or has negative numbers or NaN.
    """
    array = _numbers(values, what)
    if array.dtype.kind in "if" and not (array >= 0).all():
        raise DataError(
            f"{what}: found negative numbers or NaN, expected bool, or 0 for normal and more for anomalous pixels. "
            "Correct it."
        )
    return np.asarray(array != 0)


def _numbers(values: npt.ArrayLike, what: str) -> npt.NDArray[Any]:
    array = as_array(values, what)
    if array.dtype.kind not in "biuf":
        raise DataError(f"{what}: found {array.dtype}, expected bool, or 0 for normal and 1 for anomalous.")
    return array


def as_array(values: npt.ArrayLike, what: str) -> npt.NDArray[Any]:
    """Convert to an array.

    Raises:
        DataError: NumPy cannot convert it, such as lists of different lengths or tensors that require gradients.
    """
    try:
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).rstrip(".")
        raise DataError(f"{what} cannot be read as an array: {reason}. Give a NumPy array.") from error


def without_channel(array: npt.NDArray[Any], what: str) -> npt.NDArray[Any]:
    """Bring (N,1,H,W) and (N,H,W,1) to (N,H,W).

    Raises:
        DataError: The shape is different.
    """
    if array.ndim == 4 and 1 in (array.shape[1], array.shape[3]):
        array = array[:, 0] if array.shape[1] == 1 else array[..., 0]
    if array.ndim != 3 or 0 in array.shape[1:]:
        raise DataError(
            f"{what} have shape {array.shape}, expected (N,H,W), (N,1,H,W) or (N,H,W,1) with at least one pixel."
        )
    return array
