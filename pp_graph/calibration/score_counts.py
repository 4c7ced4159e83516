"""Counts of scores by class, and their quantiles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from pp_graph.values.float_keys import Keys, from_keys, to_keys

Counts = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Scores = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ScoreCounts:
    """Numbers of scores of each class in disjoint intervals of float32 numbers.

    Intervals ascend, and none is empty. The scores in an interval of one number are known exactly; in a longer one,
    only their number is known. So every result computed from counts is either exact or a proven bound.

    Attributes:
        low: Key of the smallest number of each interval; see `pp_graph.values.float_keys`. (intervals,), as all others.
        high: Key of the largest number of each interval.
        normal: Number of normal scores.
        anomalous: Number of anomalous scores.
        unlabelled: Number of scores without a label. They count for ranges, not for thresholds.
    """

    low: Keys
    high: Keys
    normal: Counts
    anomalous: Counts
    unlabelled: Counts

    @classmethod
    def of(cls, scores: npt.NDArray[Any], anomalous: npt.NDArray[Any], labelled: npt.NDArray[Any]) -> ScoreCounts:
        """Count scores in memory. Every interval is one number.

        Args:
            scores: Finite float32 scores, (N,).
            anomalous: True for anomalous scores, (N,).
            labelled: True for scores with a label, (N,).
        """
        keys, index = np.unique(to_keys(np.asarray(scores, np.float32)), return_inverse=True)
        classes = [~anomalous & labelled, anomalous & labelled, ~labelled]
        return cls(keys, keys, *(np.bincount(index[members], minlength=len(keys)) for members in classes))

    def __len__(self) -> int:
        return len(self.low)

    @property
    def exact(self) -> Flags:
        """True for intervals of a single number."""
        return np.equal(self.low, self.high)

    @cached_property
    def lower(self) -> Scores:
        """The smallest number of each interval."""
        return from_keys(self.low)

    @cached_property
    def upper(self) -> Scores:
        """The largest number of each interval."""
        return from_keys(self.high)

    @property
    def total(self) -> Counts:
        """Number of scores of all classes in each interval."""
        return self.normal + self.anomalous + self.unlabelled

    @cached_property
    def normals(self) -> int:
        """Number of all normal scores."""
        return int(self.normal.sum())

    @cached_property
    def anomalies(self) -> int:
        """Number of all anomalous scores."""
        return int(self.anomalous.sum())

    @cached_property
    def false_positives(self) -> Counts:
        """Number of normal scores at or above the lower end of each interval, and a final 0. (intervals + 1,)."""
        return _sums_to_end(self.normal)

    @cached_property
    def true_positives(self) -> Counts:
        """Number of anomalous scores at or above the lower end of each interval, and a final 0. (intervals + 1,)."""
        return _sums_to_end(self.anomalous)

    def splits(self, key: int) -> int | None:
        """Index of the interval with numbers below a key and numbers at or above it; None if there is none."""
        index = int(np.searchsorted(self.low, key, side="left")) - 1
        return index if index >= 0 and int(self.high[index]) >= key else None

    def first_at_least(self, key: int) -> int:
        """Index of the first interval entirely at or above a key; `len(self)` if there is none."""
        return int(np.searchsorted(self.low, key, side="left"))

    def replaced(self, chosen: Flags, finer: ScoreCounts) -> ScoreCounts:
        """Return the counts with some intervals replaced by finer ones."""
        parts = (self.only(~chosen), finer)
        columns = [np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS]
        order = np.argsort(columns[0], kind="stable")
        return ScoreCounts(*(column[order] for column in columns))

    def only(self, chosen: Flags) -> ScoreCounts:
        """Return the counts of some intervals."""
        return ScoreCounts(*(getattr(self, name)[chosen] for name in _COLUMNS))


_COLUMNS = ("low", "high", "normal", "anomalous", "unlabelled")


def _sums_to_end(counts: Counts) -> Counts:
    return np.concatenate([np.cumsum(counts[::-1])[::-1], [0]])


def _ranks(total: int, q: float) -> tuple[int, int, float]:
    """Ranks of the two scores around a quantile, and the quantile's position between them, from 0 to 1."""
    position = q * (total - 1)
    below = min(max(math.floor(position), 0), total - 1)
    return below, min(below + 1, total - 1), position - below


def weighted_ranks(values: npt.NDArray[np.float64], counts: Counts, q: float) -> tuple[float, float, float]:
    """The two values around a quantile, and the quantile's position between them, from 0 to 1.

    Args:
        values: Values in any order, (N,).
        counts: Number of repetitions of each value, (N,), not all 0.
        q: The quantile, in [0, 1].
    """
    order = np.argsort(values, kind="stable")
    ends = np.cumsum(counts[order])
    below, above, share = _ranks(int(ends[-1]), q)
    low, high = (float(values[order[int(np.searchsorted(ends, rank + 1))]]) for rank in (below, above))
    return low, high, share


def weighted_quantile(values: npt.NDArray[np.float64], counts: Counts, q: float) -> float:
    """Quantile of repeated values, equal to `numpy.quantile(numpy.repeat(values, counts), q)`."""
    low, high, share = weighted_ranks(values, counts, q)
    # NumPy interpolates from the nearer end.
    return high - (high - low) * (1 - share) if share >= 0.5 else low + (high - low) * share


def quantile_bounds(counts: ScoreCounts, of: Counts, q: float) -> tuple[float, float]:
    """Bound a quantile: all scores at the lower, and at the upper, end of their interval."""
    lower, upper = counts.lower.astype(np.float64), counts.upper.astype(np.float64)
    return weighted_quantile(lower, of, q), weighted_quantile(upper, of, q)


def quantile_candidates(of: Counts, q: float) -> Flags:
    """True for the intervals with the two scores around a quantile. (intervals,)."""
    ends = np.cumsum(of)
    below, above, _ = _ranks(int(ends[-1]), q)
    index = np.arange(len(of))
    first, last = np.searchsorted(ends, [below + 1, above + 1])
    flags: Flags = (index == first) | (index == last)
    return flags
