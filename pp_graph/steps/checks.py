"""Checks that several steps make: of parameters, and of the size of a map."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pp_graph.errors import PostProcessorError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pp_graph.steps.step import Array
    from pp_graph.values import ValueType


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


def require_size(value: ValueType, least: tuple[int, int], why: str) -> None:
    """Refuse a map whose size is known and too small.

    Args:
        value: The map.
        least: Height and width that it must have at least.
        why: What needs them.

    Raises:
        PostProcessorError: It is too small.
    """
    size = value.map_size
    if size is not None and (size[0] < least[0] or size[1] < least[1]):
        raise PostProcessorError(
            f"the map has {size[0]}x{size[1]} pixels, expected at least {least[0]}x{least[1]} {why}."
        )


def require_array_size(array: Array, axes: tuple[int, int], least: tuple[int, int], what: str) -> None:
    """Refuse an array that is too small; arguments as of `require_size`.

    Raises:
        PostProcessorError: It is too small.
    """
    size = (array.shape[axes[0]], array.shape[axes[1]])
    if size[0] < least[0] or size[1] < least[1]:
        raise PostProcessorError(
            f"What '{what}' is computed from has {size[0]}x{size[1]} pixels, expected at least {least[0]}x{least[1]}."
        )
