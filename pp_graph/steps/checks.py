"""Checks of parameters that several steps have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pp_graph.errors import PostProcessorError

if TYPE_CHECKING:
    from collections.abc import Sequence


def require_whole(number: object, what: str, least: int, most: int, *, odd: bool = False) -> None:
    """Refuse a parameter that is no whole number within limits.

    Raises:
        PostProcessorError: It is none.
    """
    whole = isinstance(number, int | np.integer) and not isinstance(number, bool)
    if not whole or not least <= number <= most or (odd and number % 2 == 0):  # type: ignore[operator]
        kind = "an odd whole number" if odd else "a whole number"
        raise PostProcessorError(f"{what} is {number!r}, expected {kind} from {least} to {most}.")


def require_one_of(value: object, what: str, allowed: Sequence[object]) -> None:
    """Refuse a parameter that is none of some values.

    Raises:
        PostProcessorError: It is none.
    """
    # True equals 1, and is no number of neighbours.
    if isinstance(value, bool) or value not in allowed:
        raise PostProcessorError(f"{what} is {value!r}, expected {' or '.join(map(repr, allowed))}.")
