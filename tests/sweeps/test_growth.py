"""Time and memory grow at most linearly, times a logarithm, in each direction in which a model can grow."""

from __future__ import annotations

import pytest

from tests.sweeps.growth import DIRECTIONS, FACTOR, VERBS, excess, measure


def _check(direction: str, verb: str, size: int | None = None, repeats: int = 3) -> None:
    record = measure(direction, verb, size=size, repeats=repeats)
    print(record, excess(record))
    assert max(excess(record).values()) < FACTOR, record


def test_fusing_grows_linearly_with_operators() -> None:
    _check("operators", "fuse", size=400)


@pytest.mark.sweep
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_growth(direction: str, verb: str) -> None:
    _check(direction, verb, repeats=2)
