"""Arrays that are no images, in the element type of an input: no number of them may become another one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pp_graph.errors import DataError

if TYPE_CHECKING:
    from pp_graph.model import ModelInput

Array = npt.NDArray[Any]


def is_numeric(array: Array) -> bool:
    """True if an array holds numbers or booleans."""
    return array.dtype.kind in "fiub" or array.dtype.name == "bfloat16"


def as_element_type(array: Array, wanted: ModelInput) -> Array:
    """Convert numbers to an input's element type.

    Args:
        array: The numbers.
        wanted: The input.

    Returns:
        The same numbers. Floating point may be rounded to other floating point; all else is exact.

    Raises:
        DataError: They are no numbers, or the element type cannot hold them.
    """
    target = np.dtype(wanted.dtype or "float32")
    if array.dtype == target:
        return array
    if not is_numeric(array):
        raise DataError(
            f"Array for input '{wanted.name}' holds {array.dtype}, expected numbers for {target}. Give numbers, true "
            "or false."
        )
    lost = np.asarray(_lost(array, target))
    if lost.any():
        raise DataError(
            f"Array for input '{wanted.name}' holds {array[lost].ravel()[0]} ({array.dtype}), expected what {target} "
            "can hold exactly. Give another number, or an array of that type."
        )
    return array.astype(target)


def _lost(array: Array, target: np.dtype[Any]) -> Array:
    """Mask of numbers that an element type cannot hold. Casts of these differ between machines."""
    if array.dtype.kind == "b":
        return np.zeros(array.shape, np.bool_)
    if target.kind == "b":
        return np.asarray((array != 0) & (array != 1))
    if target.kind in "iu":
        limits = np.iinfo(target)
        low, beyond = int(limits.min), int(limits.max) + 1
        if array.dtype.kind in "iu":
            return np.asarray((array < low) | (array >= beyond))
        wide = array.astype(np.float64)
        return np.asarray(~((wide >= low) & (wide < beyond) & (np.trunc(wide) == wide)))
    with np.errstate(over="ignore"):
        found = array.astype(target).astype(np.float64)
    if array.dtype.kind not in "iu":
        return np.asarray(np.isinf(found) & np.isfinite(array))
    own = np.iinfo(array.dtype)
    inside = (found >= int(own.min)) & (found < int(own.max) + 1)
    return np.asarray(~inside | (np.where(inside, found, 0).astype(array.dtype) != array))
