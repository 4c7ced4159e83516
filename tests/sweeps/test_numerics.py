"""Decisions about raw values beside the cutoffs equal a reference of their own, in every runtime and form."""

from __future__ import annotations

import pytest

from tests.sweeps.numerics import failures, sweep, table


def _check(cases: int, seed: int) -> None:
    records = sweep(cases, seed)
    print(table(records))
    assert not failures(records)
    assert sum(record["right"] for record in records) > 500 * cases


def test_sample_of_the_decisions() -> None:
    _check(12, seed=3)


@pytest.mark.sweep
@pytest.mark.parametrize("seed", range(8))
def test_decisions(seed: int) -> None:
    _check(100, seed)
