"""Compare two samples that are counted in the same cells: Kolmogorov-Smirnov, PSI, shares.

The cells are in ascending order, and no score lies in two of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.float64]

_ASYMPTOTIC_FROM: Final = 3.5
"""Value of `D sqrt(m n / (m + n))` above which the p-value, below 5e-11, is the bound `2 exp(-2 x^2)`."""
_TAIL: Final = 12.0
"""Standard deviations of a binomial distribution beyond which its terms, below 1e-20, are left out."""


@dataclass(frozen=True)
class KolmogorovSmirnov:
    """Two-sample Kolmogorov-Smirnov test of counts.

    Attributes:
        statistic: Largest difference of the two shares of scores up to the end of a cell, in [0, 1].
        p_value: Probability of at least this difference if both samples are from one distribution.
        higher: True if the second sample's scores are higher where the difference is largest.
    """

    statistic: float
    p_value: float
    higher: bool


def kolmogorov_smirnov(first: Counts, second: Counts, *, tolerance: float = 0.0) -> KolmogorovSmirnov:
    """Test whether two samples are from one distribution.

    The p-value is exact for counts. It is conditional on the number of scores of both samples together in each cell, so
    it is right for tied and binned scores. The usual distribution of the statistic assumes that no two scores are
    equal, and gives p-values that are too large. Under the hypothesis, every choice of the m scores of the first sample
    among all m + n is equally likely. The number chosen up to each cell is then a sum of coin flips that ends at m; its
    distribution is propagated cell by cell, without what leaves the band of smaller differences.

    Source: the randomization distribution of G. Schröer and D. Trenkler, Exact and randomization distributions of
    Kolmogorov-Smirnov tests two or three samples, Computational Statistics & Data Analysis 20 (1995).

    Args:
        first: Number of scores of the first sample in each cell, not all 0.
        second: The same for the second sample.
        tolerance: Subtract this from the statistic before its p-value is computed. If at most this share of the second
            sample is from another distribution, the test stays valid: such a share moves no share by more.
    """
    m, n = int(first.sum()), int(second.sum())
    # Whole numbers, so that ties with the observed difference count as such.
    difference = [
        one * n - two * m for one, two in zip(np.cumsum(first).tolist(), np.cumsum(second).tolist(), strict=True)
    ]
    largest = max(difference, key=abs)
    statistic = abs(largest) / (m * n)
    tested = abs(largest) - math.floor(tolerance * m * n)
    return KolmogorovSmirnov(statistic, _p_value((first + second).tolist(), m, n, tested), higher=largest > 0)


def _p_value(together: list[int], m: int, n: int, difference: int) -> float:
    """Return the probability of a difference of at least `difference / (m n)`, given the cells' counts."""
    if difference <= 0:
        return 1.0
    scaled = difference / math.sqrt(m) / math.sqrt(n) / math.sqrt(m + n)
    if scaled > _ASYMPTOTIC_FROM:
        return 2 * math.exp(-2 * scaled**2)
    share, seen = m / (m + n), 0
    start, inside = 0, np.ones(1)  # probability of `start`, `start + 1`, ... scores of the first sample so far
    for count in together:
        if not count:
            continue
        seen += count
        lowest, steps = _binomial(count, share)
        start, inside = start + lowest, np.convolve(inside, steps)
        # |i n - (seen - i) m| < difference
        low = max(start, (seen * m - difference) // (m + n) + 1)
        high = min(start + len(inside) - 1, -((-seen * m - difference) // (m + n)) - 1)
        if low > high:
            return 1.0
        start, inside = low, inside[low - start : high - start + 1]
    lowest, all_ends = _binomial(m + n, share)
    return float(min(1.0, max(0.0, 1 - inside[m - start] / all_ends[m - lowest])))


def _binomial(count: int, share: float) -> tuple[int, Numbers]:
    """Return the terms of a binomial distribution that matter, and the number of successes of the first."""
    mean, reach = count * share, _TAIL * math.sqrt(count * share * (1 - share)) + 2 * _TAIL
    first, last = max(0, math.floor(mean - reach)), min(count, math.ceil(mean + reach))
    successes = np.arange(first, last, dtype=np.float64)
    ratios = np.log((count - successes) / (successes + 1)) + math.log(share / (1 - share))
    logs = np.concatenate([[0.0], np.cumsum(ratios)])
    terms = np.exp(logs - logs.max())
    return first, terms / terms.sum()


def more_often(first: tuple[int, int], second: tuple[int, int]) -> float:
    """Return the p-value of Fisher's exact test, one-sided: do events occur more often in the second sample?

    Args:
        first: Number of events and of scores of the first sample.
        second: The same for the second sample.
    """
    (events, total), (later, all_later) = first, second
    marked, whole = events + later, total + all_later
    lowest, highest = max(0, marked - total), min(marked, all_later)
    if later <= lowest:
        return 1.0
    # Terms of the hypergeometric distribution by their ratios, each scaled by the largest.
    k = np.arange(lowest, highest, dtype=np.float64)
    ratios = np.log((marked - k) * (all_later - k)) - np.log((k + 1) * (whole - marked - all_later + k + 1))
    logs = np.concatenate([[0.0], np.cumsum(ratios)])
    terms = np.exp(logs - logs.max())
    return float(min(1.0, terms[later - lowest :].sum() / terms.sum()))


def wilson_interval(events: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the interval of a share by E. B. Wilson (1927), without continuity correction.

    Args:
        events: Number of events.
        total: Number of trials; at least 1.
        confidence: Level of the interval, in (0, 1).
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, weight = events / total, z * z / total
    middle = (share + weight / 2) / (1 + weight)
    half = z * math.sqrt(share * (1 - share) / total + weight / total / 4) / (1 + weight)
    return (0.0 if events == 0 else max(0.0, middle - half), 1.0 if events == total else min(1.0, middle + half))


def equal_parts(counts: Counts, parts: int = 10) -> npt.NDArray[np.intp]:
    """Return the first cell of each of up to `parts` groups of neighbouring cells with about as many counts each.

    No group is empty. There are fewer groups where cells hold more than their part.
    """
    middles = np.cumsum(counts) - counts / 2
    groups = np.floor(middles * parts / int(counts.sum()))
    filled = np.flatnonzero(counts)
    starts = filled[np.diff(groups[filled], prepend=-1) > 0]
    starts[0] = 0
    return starts


def population_stability_index(first: Counts, second: Counts) -> tuple[float, float]:
    """Return the population stability index of two samples, and what it is by chance.

    PSI is the sum of `(q - p) ln(q / p)` over bins, the divergence of H. Jeffreys; p and q are the shares of the two
    samples. Half a score is added to each bin of both, because a share of 0 would make it infinite. If both samples are
    from one distribution, its mean is about `(bins - 1) (1 / m + 1 / n)` (B. Yurdakul, Statistical properties of
    population stability index, 2018).

    Args:
        first: Number of scores of the first sample in each bin.
        second: The same for the second sample.
    """
    p = (first + 0.5) / (first + 0.5).sum()
    q = (second + 0.5) / (second + 0.5).sum()
    by_chance = (len(first) - 1) * (1 / int(first.sum()) + 1 / int(second.sum()))
    return float(((q - p) * np.log(q / p)).sum()), by_chance
