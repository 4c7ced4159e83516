"""Places for labels of boxes where they do not cover each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

Rectangle = tuple[float, float, float, float]
"""Left, top, right and bottom."""


def free_place(
    box: Sequence[float], label: tuple[float, float], picture: tuple[int, int], taken: Sequence[Rectangle]
) -> Rectangle:
    """Return a place for a label at a box: above, below, or in it, where no other label is.

    Args:
        box: Left, top, right and bottom of the box.
        label: Width and height of the label.
        picture: Width and height of the picture, which the label does not leave.
        taken: Places of other labels.

    Returns:
        The first free place. If there is none, the one above the box.
    """
    left, top, right, bottom = box
    width, height = label
    places = []
    for x, y in (
        (left, top - height),
        (right - width, top - height),
        (left, bottom),
        (right - width, bottom),
        (left, top),
        (left, bottom - height),
        (left - width, top),
        (right, top),
    ):
        shown_x, shown_y = max(0.0, min(x, picture[0] - width)), max(0.0, min(y, picture[1] - height))
        places.append((shown_x, shown_y, shown_x + width, shown_y + height))
    return next((place for place in places if not any(_overlap(place, other) for other in taken)), places[0])


def _overlap(one: Rectangle, other: Rectangle) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
