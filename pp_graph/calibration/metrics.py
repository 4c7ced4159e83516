"""Metrics of a level's decisions on the scores it was calibrated with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from pp_graph.values.float_keys import to_key

if TYPE_CHECKING:
    from pp_graph.calibration.score_counts import ScoreCounts

Interval = tuple[float, float]


@dataclass(frozen=True)
class LevelMetrics:
    """Decisions at the threshold, as inference makes them with sensitivity 0.5, against the labels.

    Attributes:
        true_positives: Anomalous and called so.
        false_positives: Normal and called anomalous.
        false_negatives: Anomalous and called normal.
        true_negatives: Normal and called so.
        auroc: Area under the ROC curve; None with one class. The middle of its bound.
        auroc_bound: Between what it is proven to lie, where scores were counted coarsely.
        pro: Mean share of each anomalous region that is found; None where it was not measured.
        regions: Number of such regions.
        exact: Whether the four counts are; else scores near the cutoff were counted as one.
        intervals: 95 % confidence intervals by the names of `threshold`, `f1`, `precision`, `recall`, `auroc`.
    """

    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int
    auroc: float | None
    auroc_bound: Interval | None
    exact: bool
    pro: float | None = None
    regions: int | None = None
    intervals: dict[str, Interval] | None = None

    @property
    def precision(self) -> float | None:
        """Share of true anomalies among those found; None if none were found or there are no anomalies."""
        if not self.true_positives + self.false_negatives:
            return None
        return _ratio(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float | None:
        """Share of anomalies that were found; None without anomalies."""
        return _ratio(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def f1(self) -> float | None:
        """`2 TP / (2 TP + FP + FN)`; None without anomalies."""
        if not self.true_positives + self.false_negatives:
            return None
        return _ratio(2 * self.true_positives, 2 * self.true_positives + self.false_positives + self.false_negatives)


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def measure(counts: ScoreCounts, cutoff: float) -> LevelMetrics:
    """Count decisions against labels.

    Args:
        counts: The counts.
        cutoff: The smallest score that is called anomalous.
    """
    key = to_key(cutoff)
    first = counts.first_at_least(key)
    true, false = int(counts.true_positives[first]), int(counts.false_positives[first])
    bound = auroc_bound(counts)
    return LevelMetrics(
        true_positives=true,
        false_positives=false,
        false_negatives=counts.anomalies - true,
        true_negatives=counts.normals - false,
        auroc=None if bound is None else (bound[0] + bound[1]) / 2,
        auroc_bound=bound,
        exact=counts.splits(key) is None,
    )


def auroc_bound(counts: ScoreCounts) -> Interval | None:
    """Bounds of the area under the ROC curve: the share of pairs in order, ties counting half."""
    pairs = float(counts.normals) * float(counts.anomalies)
    if not pairs:
        return None
    normal, anomalous = counts.normal.astype(np.float64), counts.anomalous.astype(np.float64)
    below = np.cumsum(normal) - normal
    together = normal * anomalous
    ordered = float((anomalous * below).sum()) + float(together[counts.exact].sum()) / 2
    return ordered / pairs, (ordered + float(together[~counts.exact].sum())) / pairs


_STEP: Final = 0.01
_MANY_OF_ALL: Final = 0.05
_MANY_OF_ANOMALOUS: Final = 0.2
_CLIFF_DECISIONS: Final = 2


@dataclass(frozen=True)
class Cliff:
    """Share of decisions that flip when the threshold moves by 1 % of the range.

    Attributes:
        flips: Decisions that change, moving it to the worse side.
        flagged: Decisions that are anomalous where it stands.
        anomalies: Labels that are.
        total: All decisions.
    """

    flips: int
    flagged: int
    anomalies: int
    total: int

    @property
    def steep(self) -> bool:
        """True if the share deserves a warning.

        Of scores spread evenly over the range 1 % would flip; 5 % of all are many. So is a fifth of what is, or should
        be, anomalous, where anomalies are rare. One decision never is.
        """
        anomalous = max(self.flagged, self.anomalies) if self.anomalies else self.total
        many = min(_MANY_OF_ALL * self.total, _MANY_OF_ANOMALOUS * anomalous)
        return self.flips >= _CLIFF_DECISIONS and self.flips > many


def cliff(counts: ScoreCounts, cutoff: float, minimum: float, maximum: float) -> Cliff:
    """Count the decisions that change if the threshold moves by 1 % of the range."""
    flagged = counts.true_positives + counts.false_positives
    here = int(flagged[counts.first_at_least(to_key(cutoff))])
    step = _STEP * (maximum - minimum)
    moved = [int(flagged[counts.first_at_least(to_key(cutoff + sign * step))]) for sign in (-1, 1)]
    return Cliff(max(abs(each - here) for each in moved), here, counts.anomalies, int(flagged[0]))
