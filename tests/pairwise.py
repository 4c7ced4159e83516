"""Combinations of options, so few that a test tries them, in which all pairs of values occur."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Row = dict[str, Any]


def pairwise(
    factors: Mapping[str, Sequence[Any]], allowed: Callable[[Row], bool] = lambda row: True, seed: int = 0
) -> list[Row]:
    """Choose rows greedily, until every pair of values that an allowed row can have occurs in one."""
    rng, names = random.Random(seed), list(factors)
    pairs = [
        (a, i, b, j)
        for a, b in itertools.combinations(names, 2)
        for i in range(len(factors[a]))
        for j in range(len(factors[b]))
    ]
    bits = {pair: 1 << place for place, pair in enumerate(pairs)}

    def draw(tries: int, fixed: Mapping[str, int]) -> list[tuple[int, Row]]:
        """Return the allowed rows among random ones, each with the bits of its pairs."""
        found = []
        for _ in range(tries):
            # Several times as fast as randrange.
            places = {name: int(rng.random() * len(values)) for name, values in factors.items()} | fixed
            row = {name: factors[name][place] for name, place in places.items()}
            if allowed(row):
                met = sum(bits[a, places[a], b, places[b]] for a, b in itertools.combinations(names, 2))
                found.append((met, row))
        return found

    proposals = draw(2000, {})
    missing, rows = (1 << len(pairs)) - 1, []
    while missing:
        met, row = max(proposals, key=lambda each: (each[0] & missing).bit_count())
        if met & missing:
            missing &= ~met
            rows.append(row)
            continue
        # No proposal has any of the pairs that are left.
        a, i, b, j = pairs[missing.bit_length() - 1]
        found = draw(500, {a: i, b: j})
        proposals += found
        if not found:
            missing &= ~bits[a, i, b, j]
    return rows


def described(row: Row) -> str:
    """Name a row in the list of tests."""
    return "-".join(str(value).replace(" ", "") for value in row.values())
