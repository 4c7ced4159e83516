"""Quantiles of counted scores, interpolated as `numpy.quantile` does, with bounds where counts are coarse."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from pp_graph.calibration.score_counts import Counts, Flags, ScoreCounts


def _ranks(total: int, q: float) -> tuple[int, int, float]:
    """Ranks of the two scores between which a quantile lies, and how far from the first it is."""
    position = q * (total - 1)
    below = min(max(math.floor(position), 0), total - 1)
    return below, min(below + 1, total - 1), position - below


def weighted_ranks(values: npt.NDArray[np.float64], counts: Counts, q: float) -> tuple[float, float, float]:
    """The two values between which a quantile lies, and how far from the first it is.

    Args:
        values: The values, in any order, (N,).
        counts: How often each occurs, (N,); at least one in all.
        q: The quantile, in [0, 1].
    """
    order = np.argsort(values, kind="stable")
    ends = np.cumsum(counts[order])
    below, above, share = _ranks(int(ends[-1]), q)
    low, high = (float(values[order[int(np.searchsorted(ends, rank + 1))]]) for rank in (below, above))
    return low, high, share


def weighted_quantile(values: npt.NDArray[np.float64], counts: Counts, q: float) -> float:
    """Quantile of values that occur a number of times each: what `numpy.quantile` gives for them written out."""
    low, high, share = weighted_ranks(values, counts, q)
    # From the nearer end, as NumPy does.
    return high - (high - low) * (1 - share) if share >= 0.5 else low + (high - low) * share


def quantile_bounds(counts: ScoreCounts, of: Counts, q: float) -> tuple[float, float]:
    """The smallest and the largest value a quantile may have: with each interval at its lower, and at its upper end."""
    lower, upper = counts.lower.astype(np.float64), counts.upper.astype(np.float64)
    return weighted_quantile(lower, of, q), weighted_quantile(upper, of, q)


def quantile_candidates(of: Counts, q: float) -> Flags:
    """The intervals that hold the two scores between which a quantile lies. (intervals,)."""
    ends = np.cumsum(of)
    below, above, _ = _ranks(int(ends[-1]), q)
    index = np.arange(len(of))
    first, last = np.searchsorted(ends, [below + 1, above + 1])
    flags: Flags = (index == first) | (index == last)
    return flags
