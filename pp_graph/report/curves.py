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
"""Fewest and most bins of a histogram."""
POINTS: Final = 2000
"""Points of a curve that are drawn: more than a panel has pixels."""


@dataclass(frozen=True)
class Histogram:
    """Scores of each class in equal bins.

    Attributes:
        edges: Edges of the bins, ascending, from the smallest score to the largest. (bins + 1,)
        shares: Share of its class in each bin, by `normal`, `anomalous` and `unlabelled`; sums to 1. Classes without
            scores are left out. (bins,) each.
    """

    edges: Numbers
    shares: dict[str, Numbers]


@dataclass(frozen=True)
class Curve:
    """Points of a curve, in its order.

    Attributes:
        x: Finite, (points,).
        y: Finite, (points,).
    """

    x: Numbers
    y: Numbers

    @property
    def best(self) -> int:
        """Index of the largest `y`: of the first such stretch of two points the second."""
        first = int(np.argmax(self.y))
        return first + int(first + 1 < len(self.y) and self.y[first + 1] == self.y[first])

    def thinned(self, points: int = POINTS) -> Curve:
        """At most so many points and three more, evenly along the way; the ends and the largest `y` always."""
        if len(self.x) <= points:
            return self
        steps = sum(np.abs(np.diff(each)) / (np.ptp(each) or 1.0) for each in (self.x, self.y))
        way = np.concatenate([[0.0], np.cumsum(steps)])
        _, first = np.unique(np.floor(way / (way[-1] or 1.0) * points), return_index=True)
        kept = np.unique([*first, self.best, len(self.x) - 1])
        return Curve(self.x[kept], self.y[kept])


def score_histogram(counts: ScoreCounts, bins: int | None = None) -> Histogram:
    """Count again in equal bins; an interval of many numbers is spread evenly over the bins it covers.

    Args:
        counts: At least one score.
        bins: How many bins; None for twice the root of the number of scores, within `BINS`.
    """
    if bins is None:
        bins = int(np.clip(2 * np.sqrt(counts.total.sum()), *BINS))
    low, high = score_range(counts)
    edges = np.linspace(low, high, bins + 1)
    lower, upper = counts.lower.astype(np.float64), counts.upper.astype(np.float64)
    # Below each inner edge: all intervals that begin there but the last, and of that one what lies below the edge.
    last = np.searchsorted(lower, edges[1:-1], side="left") - 1
    length = np.where(counts.exact, 1.0, upper - lower)
    part = np.where(counts.exact[last], 1.0, np.minimum((edges[1:-1] - lower[last]) / length[last], 1.0))
    part[last < 0] = 0.0
    shares = {}
    for name in ("normal", "anomalous", "unlabelled"):
        held: Counts = getattr(counts, name)
        total = int(held.sum())
        if not total:
            continue
        below = (np.cumsum(held) - held)[last] + part * held[last]
        below[last < 0] = 0.0
        shares[name] = np.diff(np.concatenate([[0.0], below, [total]])) / total
    return Histogram(edges, shares)


def score_range(counts: ScoreCounts) -> tuple[float, float]:
    """Smallest and largest score; a little to either side where they are one."""
    low, high = float(counts.lower[0]), float(counts.upper[-1])
    if low < high:
        return low, high
    margin = abs(low) * 0.05 or 0.5
    return low - margin, high + margin


def precision_recall(counts: ScoreCounts) -> Curve:
    """Recall (x) and precision (y) with a threshold at the lower end of each interval, ascending: recall falls.

    Every point is exact, however coarse the intervals. Between two of them recall falls at the precision of the first.

    Args:
        counts: With anomalous scores.
    """
    flagged = counts.true_positives + counts.false_positives
    shown = np.flatnonzero(flagged)
    found = counts.true_positives[shown]
    return Curve(found / counts.anomalies, found / flagged[shown])


def f1_over_threshold(counts: ScoreCounts) -> Curve:
    """F1 (y) of calling everything at or above a threshold (x) anomalous.

    Each interval has two points: cut at its lower end, and just above its upper one. For an interval of one number
    this is the step that F1 makes there; over a longer one the line between the two is only likely.

    Args:
        counts: With anomalous scores.
    """
    found: npt.NDArray[Any] = 2 * counts.true_positives
    f1 = found / (counts.true_positives + counts.false_positives + counts.anomalies)
    thresholds = np.stack([counts.lower, counts.upper], axis=1, dtype=np.float64)
    return Curve(thresholds.reshape(-1), np.stack([f1[:-1], f1[1:]], axis=1).reshape(-1))
