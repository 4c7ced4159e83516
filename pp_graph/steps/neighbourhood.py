"""What steps that look at the neighbours of a pixel share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pp_graph.errors import PostProcessorError

if TYPE_CHECKING:
    from pp_graph.steps.step import Array
    from pp_graph.values import ValueType


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
