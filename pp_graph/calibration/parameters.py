"""Checks of estimators' parameters."""

from __future__ import annotations

import math
from typing import Final

from pp_graph.errors import CalibrationError


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


_LARGEST: Final = 1e6


def require_positive(name: str, value: float) -> None:
    """Raise CalibrationError unless a parameter is a number above 0 and within what makes sense."""
    if not _is_number(value) or not 0 < value <= _LARGEST:
        raise CalibrationError(f"Parameter '{name}' is {value!r}, expected a number above 0, up to {_LARGEST:g}.")


def require_rate(name: str, value: float) -> None:
    """Raise CalibrationError unless a parameter is at least 0 and below 1."""
    if not _is_number(value) or not 0 <= value < 1:
        raise CalibrationError(f"Parameter '{name}' is {value!r}, expected a number from 0 to below 1.")


def require_share(name: str, value: float) -> None:
    """Raise CalibrationError unless a parameter is above 0 and at most 1."""
    if not _is_number(value) or not 0 < value <= 1:
        raise CalibrationError(f"Parameter '{name}' is {value!r}, expected a number above 0 and up to 1.")


def require_flag(name: str, value: bool) -> None:
    """Raise CalibrationError unless a parameter is True or False."""
    if not isinstance(value, bool):
        raise CalibrationError(f"Parameter '{name}' is {value!r}, expected True or False.")
