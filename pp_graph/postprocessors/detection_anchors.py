"""Anchors of a detector, which its outputs do not hold: read from a file, and kept with the model as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pp_graph.errors import DataError, PostProcessorError
from pp_graph.steps import levels_as_text
from pp_graph.steps.compare_many import levels_from_text

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

Background = Literal["first", "last", "none"]
"""Which class score of SSD means that there is no object."""

_EXPECTED = "centre x, centre y, width and height of each anchor as shares of the image, (K,4), finite"


def anchors_as_text(given: Any) -> str:
    """Encode anchors; text stays as it is.

    Args:
        given: Centre and size of each anchor as shares of the image, (K,4), or a result of this function.

    Raises:
        PostProcessorError: These are not anchors.
    """
    text = given if isinstance(given, str) else ""
    array = levels_from_text(text) if text else np.asarray(given)
    if array.dtype.kind not in "fiu" or array.ndim != 2 or array.shape[1] != 4 or not np.isfinite(array).all():
        raise PostProcessorError(f"anchors are {array.dtype} of shape {array.shape}, expected {_EXPECTED}.")
    return text or levels_as_text(array)


def anchors_in_pixels(text: str, height: int, width: int) -> npt.NDArray[np.float32]:
    """Return centre and size of each anchor in pixels, (K,4)."""
    return levels_from_text(text) * np.array([width, height, width, height], np.float32)


def read_anchors(file: Path) -> npt.NDArray[Any]:
    """Read anchors from a `.npy`, or from a `.npz` that holds one array.

    Raises:
        DataError: The file cannot be read, or holds several arrays.
    """
    try:
        loaded = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(
            f"'{file}' cannot be read as anchors ({error}), expected a .npy or .npz of {_EXPECTED}."
        ) from None
    if isinstance(loaded, np.ndarray):
        return loaded
    if len(loaded.files) != 1:
        raise DataError(f"'{file}' holds {len(loaded.files)} arrays, expected one: {_EXPECTED}. Save them alone.")
    array: npt.NDArray[Any] = loaded[loaded.files[0]]
    return array
