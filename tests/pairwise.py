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
    pairs = itertools.combinations(names, 2)
    missing = {(a, i, b, j) for a, b in pairs for i in range(len(factors[a])) for j in range(len(factors[b]))}
    rows: list[Row] = []

    def drawn(fixed: Mapping[str, int]) -> tuple[dict[str, int], Row] | None:
        for _ in range(200):
            places = {name: rng.randrange(len(values)) for name, values in factors.items()} | fixed
            row = {name: factors[name][place] for name, place in places.items()}
            if allowed(row):
                return places, row
        return None

    def met(places: Mapping[str, int]) -> set[tuple[str, int, str, int]]:
        return missing & {(a, places[a], b, places[b]) for a, b in itertools.combinations(names, 2)}

    while missing:
        a, i, b, j = min(missing)
        proposals = [each for each in (drawn({a: i, b: j}) for _ in range(30)) if each is not None]
        if not proposals:
            missing.discard((a, i, b, j))
            continue
        places, row = max(proposals, key=lambda each: len(met(each[0])))
        missing -= met(places)
        rows.append(row)
    return rows


def described(row: Row) -> str:
    """Name a row in the list of tests."""
    return "-".join(str(value).replace(" ", "") for value in row.values())
