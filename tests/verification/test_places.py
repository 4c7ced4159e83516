"""Flipped pixels are listed by row and column, in every layout."""

from __future__ import annotations

import numpy as np
import pytest

from pp_graph.verification.parts import place_text
from pp_graph.verification.totals import FlipLists


@pytest.mark.parametrize(("axes", "shape", "at"), [("NHW", (2, 4, 6), (1, 2, 5)), ("NCHW", (2, 1, 4, 6), (1, 0, 2, 5)),
                                                   ("NHWC", (2, 4, 6, 1), (1, 2, 5, 0))])  # fmt: skip
def test_row_and_column(axes: str, shape: tuple[int, ...], at: tuple[int, ...]) -> None:
    flipped = np.zeros(shape, np.bool_)
    flipped[at] = True
    lists, elsewhere = FlipLists(), FlipLists()
    lists.add(flipped, {}, None, 10, axes=axes)
    elsewhere.add(np.array([False, True]), {}, None, 12, axes="N")
    lists.merge(elsewhere)
    pixel, label = lists.report().listed(tuple(map(str, range(20))))
    assert (pixel["image"], pixel["row"], pixel["column"]) == ("11", 2, 5)
    assert place_text(pixel) == "row 2, column 5"
    assert (label["image"], "row" in label) == ("13", False)
