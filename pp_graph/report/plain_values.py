"""Convert arrays to values for tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def plain(array: npt.NDArray[Any]) -> Any:
    """Convert values for a table; a float32 becomes the shortest decimal that reads back as the same number."""
    if array.ndim:
        return [plain(value) for value in array]
    return float(str(array[()])) if array.dtype == np.float32 else array.item()
