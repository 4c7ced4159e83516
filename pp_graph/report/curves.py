"""Histogram and curves of a level, computed from counted scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from pp_graph.calibration.score_counts import Counts, ScoreCounts

Numbers = npt.NDArray[np.float64]

BINS: Final = (12, 80)
"""Smallest and largest number of bins of a histogram."""
POINTS: Final = 2000
"""Points drawn per curve: more than a panel has pixels."""


@dataclass(frozen=True)
class Histogram:
    """Histogram of the scores of each class.

    Attributes:
        edges: Edges of the bins, ascending, from the smallest score to the largest, (bins + 1,).
        shares: Share of the class's scores in each bin, (bins,), by `normal`, `anomalous` and `unlabelled`; sums to 1.
            Classes without scores are left out.
    """

    edges: Numbers
    shares: dict[str, Numbers]


@dataclass(frozen=True)
class Curve:
    """Points of a curve, in order.

    Attributes:
        x: Finite, (points,).
        y: Finite, (points,).
    """

    x: Numbers
    y: Numbers

    @property
    def best(self) -> int:
        """Index of the first maximum of `y`, or the next index if its value is equal."""
        first = int(np.argmax(self.y))
        return first + int(first + 1 < len(self.y) and self.y[first + 1] == self.y[first])

    def thinned(self, points: int = POINTS) -> Curve:
        """Return about `points` points evenly spaced along the curve, always with both ends and the maximum."""
        if len(self.x) <= points:
            return self
        steps = sum(np.abs(np.diff(values)) / (np.ptp(values) or 1.0) for values in (self.x, self.y))
        way = np.concatenate([[0.0], np.cumsum(steps)])
        _, first = np.unique(np.floor(way / (way[-1] or 1.0) * points), return_index=True)
        kept = np.unique([*first, self.best, len(self.x) - 1])
        return Curve(self.x[kept], self.y[kept])


def score_histogram(counts: ScoreCounts, bins: int | None = None) -> Histogram:
    """Count scores in bins of equal width, spreading each interval of the counts evenly over its bins.

    Args:
        counts: Counts of at least one score.
        bins: Number of bins; None for twice the square root of the number of scores, within `BINS`.
    """
    if bins is None:
        bins = int(np.clip(2 * np.sqrt(counts.total.sum()), *BINS))
    low, high = score_range(counts)
    edges = np.linspace(low, high, bins + 1)
    lower, upper = counts.lower.astype(np.float64), counts.upper.astype(np.float64)
    # Below an inner edge lie all intervals that start below it, except the part of the last one beyond the edge.
    last = np.searchsorted(lower, edges[1:-1], side="left") - 1
    length = np.where(counts.exact, 1.0, upper - lower)
    part = np.where(counts.exact[last], 1.0, np.minimum((edges[1:-1] - lower[last]) / length[last], 1.0))
    part[last < 0] = 0.0
    shares = {}
    for name in ("normal", "anomalous", "unlabelled"):
        counted: Counts = getattr(counts, name)
        total = int(counted.sum())
        if not total:
            continue
        below = (np.cumsum(counted) - counted)[last] + part * counted[last]
        below[last < 0] = 0.0
        shares[name] = np.diff(np.concatenate([[0.0], below, [total]])) / total
    return Histogram(edges, shares)


def score_range(counts: ScoreCounts) -> tuple[float, float]:
    """Return the smallest and largest score, with a margin if they are equal."""
    low, high = float(counts.lower[0]), float(counts.upper[-1])
    if low < high:
        return low, high
    margin = abs(low) * 0.05 or 0.5
    return low - margin, high + margin


def precision_recall(counts: ScoreCounts) -> Curve:
    """Return recall (x) and precision (y) for thresholds at the lower ends of the intervals, ascending.

    Every point is exact, however coarse the intervals.

    Args:
        counts: Counts with anomalous scores.
    """
    flagged = counts.true_positives + counts.false_positives
    shown = np.flatnonzero(flagged)
    true_positives = counts.true_positives[shown]
    return Curve(true_positives / counts.anomalies, true_positives / flagged[shown])


def f1_over_threshold(counts: ScoreCounts) -> Curve:
    """Return F1 (y) over the threshold (x); scores at or above the threshold are anomalous.

    Each interval has two points: a threshold at its lower end, and one just above its upper end. For an interval of one
    score, this is the exact step of F1; for a longer one, the line between them is an approximation.

    Args:
        counts: Counts with anomalous scores.
    """
    doubled: npt.NDArray[Any] = 2 * counts.true_positives
    f1 = doubled / (counts.true_positives + counts.false_positives + counts.anomalies)
    thresholds = np.stack([counts.lower, counts.upper], axis=1, dtype=np.float64)
    return Curve(thresholds.reshape(-1), np.stack([f1[:-1], f1[1:]], axis=1).reshape(-1))
