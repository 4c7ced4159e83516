"""Tests of two samples agree with scipy where it can tell, and with their definition where it cannot."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pp_graph.monitoring.two_samples import (
    equal_parts,
    kolmogorov_smirnov,
    more_often,
    population_stability_index,
    wilson_interval,
)
from tests.conftest import examples


def cells(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count both samples in a cell for each distinct number, so that nothing is binned."""
    numbers = np.unique(np.concatenate([first, second]))
    count = [np.bincount(np.searchsorted(numbers, each), minlength=len(numbers)) for each in (first, second)]
    return count[0], count[1]


@pytest.mark.parametrize(("m", "n"), [(1, 1), (5, 7), (20, 30), (50, 300), (300, 310), (13, 5000)])
@pytest.mark.parametrize("shift", [0.0, 0.2, 0.5])
def test_kolmogorov_smirnov_is_that_of_scipy_without_ties(m: int, n: int, shift: float) -> None:
    rng = np.random.default_rng(m + n)
    first, second = rng.normal(size=m), rng.normal(shift, size=n)
    found, expected = kolmogorov_smirnov(*cells(first, second)), stats.ks_2samp(first, second, method="exact")
    assert found.statistic == pytest.approx(expected.statistic)
    # Both lose digits where 1 - p rounds to 1.
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-5, abs=1e-13)
    assert found.higher == (expected.statistic_sign > 0)


def test_strong_drift_has_a_small_p_value_that_is_an_upper_bound() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=300), rng.normal(1, size=310)
    found, expected = kolmogorov_smirnov(*cells(first, second)), stats.ks_2samp(first, second, method="exact")
    assert expected.pvalue <= found.p_value < 1e-20


@examples(13)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=5),
    st.lists(st.integers(0, 5), min_size=1, max_size=6),
)
def test_kolmogorov_smirnov_of_ties_counts_all_permutations(first: list[int], second: list[int]) -> None:
    found = kolmogorov_smirnov(*cells(np.array(first), np.array(second)))
    together = np.array(first + second)
    m, n = len(first), len(second)
    differences = []
    for chosen in combinations(range(m + n), m):
        mask = np.isin(np.arange(m + n), chosen)
        one, two = cells(together[mask], together[~mask])
        differences.append(np.abs(np.cumsum(one) * n - np.cumsum(two) * m).max())
    share = np.mean(np.array(differences) >= round(found.statistic * m * n))
    assert found.p_value == pytest.approx(share, abs=1e-12)


def test_large_counts() -> None:
    rng = np.random.default_rng(3)
    shares = np.full(500, 1 / 500)
    first, second = rng.multinomial(10**6, shares), rng.multinomial(10**10, shares)
    found = kolmogorov_smirnov(first, second)
    # So many scores in so many cells are nearly a continuous distribution.
    assert found.p_value == pytest.approx(stats.kstwobign.sf(found.statistic * 1000), abs=0.06)


def test_a_share_of_other_scores_is_tolerated() -> None:
    rng = np.random.default_rng(1)
    rejected, strict = 0, 0
    for _ in range(100):
        first, second = rng.integers(0, 30, 900), rng.integers(0, 30, 900)
        second[:90] = 99  # a tenth from another distribution
        rejected += kolmogorov_smirnov(*cells(first, second), tolerance=0.1).p_value < 0.1
        strict += kolmogorov_smirnov(*cells(first, second)).p_value < 0.1
    assert rejected <= 10 + 3 * np.sqrt(9)
    assert strict > 90


def test_p_values_of_coarse_scores_are_as_frequent_as_they_say() -> None:
    rng = np.random.default_rng(5)
    trials = 800
    found = np.array(
        [kolmogorov_smirnov(*cells(rng.integers(0, 8, 60), rng.integers(0, 8, 90))).p_value for _ in range(trials)]
    )
    usual = np.array([stats.ks_2samp(rng.integers(0, 8, 60), rng.integers(0, 8, 90)).pvalue for _ in range(200)])
    for level in (0.05, 0.2):
        spread = 3 * np.sqrt(level * (1 - level) / trials)
        assert level - spread - 0.02 < (found <= level).mean() < level + spread
    assert (usual <= 0.2).mean() < 0.15 < (found <= 0.2).mean()  # what the usual distribution misses


@examples(13)
@given(st.lists(st.tuples(st.integers(1, 500), st.integers(0, 500)), min_size=2, max_size=10))
def test_psi_is_the_sum_of_both_relative_entropies(bins: list[tuple[int, int]]) -> None:
    first, second = np.array(bins).T
    second[0] += 1
    found, by_chance = population_stability_index(first, second)
    p, q = first + 0.5, second + 0.5
    assert found == pytest.approx(stats.entropy(p, q) + stats.entropy(q, p), abs=1e-9)
    assert by_chance == pytest.approx((len(bins) - 1) * (1 / first.sum() + 1 / second.sum()))


def test_psi_by_chance_is_its_mean_without_drift() -> None:
    rng = np.random.default_rng(2)
    found = [
        population_stability_index(rng.multinomial(400, [0.1] * 10), rng.multinomial(900, [0.1] * 10))
        for _ in range(500)
    ]
    assert np.mean([psi for psi, _ in found]) == pytest.approx(found[0][1], rel=0.1)


@examples(13)
@given(st.integers(0, 300), st.integers(1, 300))
def test_wilson_interval_is_that_of_scipy(events: int, total: int) -> None:
    events = min(events, total)
    expected = stats.binomtest(events, total).proportion_ci(method="wilson")
    assert wilson_interval(events, total) == pytest.approx((expected.low, expected.high), abs=1e-12)


@examples(13)
@given(st.integers(0, 80), st.integers(1, 80), st.integers(0, 300), st.integers(1, 300))
def test_more_alarms_is_the_test_of_fisher(events: int, total: int, later: int, all_later: int) -> None:
    events, later = min(events, total), min(later, all_later)
    table = [[events, total - events], [later, all_later - later]]
    expected = stats.fisher_exact(table, alternative="less").pvalue
    assert more_often((events, total), (later, all_later)) == pytest.approx(expected, rel=1e-9)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60), st.integers(1, 12))
def test_parts_are_about_equal(counts: list[int], parts: int) -> None:
    held = np.array([*counts, 1])
    starts = equal_parts(held, parts)
    assert starts[0] == 0
    assert (np.diff(starts) > 0).all()
    sizes = np.add.reduceat(held, starts)
    assert 1 <= len(sizes) <= parts
    assert sizes.min() > 0
    assert sizes.max() <= held.sum() / parts + held.max()
