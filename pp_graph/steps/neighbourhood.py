"""What steps that look at the neighbours of a pixel share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pp_graph.errors import PostProcessorError
from pp_graph.steps.form import DTYPES, Accepts

if TYPE_CHECKING:
    from pp_graph.steps.form import Form
    from pp_graph.steps.step import Array

MAPS: Final = Accepts(level="pixel", classes=True, known_axes=True)
"""Maps of one channel or of several, each treated by itself."""
MAPS_AND_MASKS: Final = Accepts(level="pixel", dtypes=DTYPES, classes=True, known_axes=True)
"""The same, and masks."""


def require_size(form: Form, least: tuple[int, int], why: str) -> None:
    """Refuse a map whose size is known and too small.

    Args:
        form: What is known of the map.
        least: Height and width that it must have at least.
        why: What needs them.

    Raises:
        PostProcessorError: It is too small.
    """
    if form.size is not None and (form.size[0] < least[0] or form.size[1] < least[1]):
        raise PostProcessorError(
            f"the map has {form.size[0]}x{form.size[1]} pixels, expected at least {least[0]}x{least[1]} {why}."
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
