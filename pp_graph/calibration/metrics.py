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
    """Decisions of inference at sensitivity 0.5, compared with the labels.

    Attributes:
        true_positives: Anomalous scores called anomalous.
        false_positives: Normal scores called anomalous.
        false_negatives: Anomalous scores called normal.
        true_negatives: Normal scores called normal.
        auroc: Area under the ROC curve, the middle of its bound; None with one class.
        auroc_bound: Smallest and largest area that the counts allow.
        exact: True if the four counts are exact; otherwise scores near the cutoff were counted as one.
        pro: Per-region overlap: mean share of each anomalous region that is found; None if not measured.
        regions: Number of anomalous regions.
        intervals: 95 % confidence intervals of `threshold`, `f1`, `precision`, `recall` and `auroc`.
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
        """`TP / (TP + FP)`; None if nothing was called anomalous, or without anomalies."""
        if not self.true_positives + self.false_negatives:
            return None
        return _ratio(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float | None:
        """`TP / (TP + FN)`; None without anomalies."""
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
    """Compare decisions with labels.

    Args:
        counts: The counts.
        cutoff: Smallest score that is called anomalous.
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
    """Bound the area under the ROC curve, the share of ordered pairs, where ties count half. None with one class."""
    pairs = float(counts.normals) * float(counts.anomalies)
    if not pairs:
        return None
    normal, anomalous = counts.normal.astype(np.float64), counts.anomalous.astype(np.float64)
    below = np.cumsum(normal) - normal
    same_interval = normal * anomalous
    ordered = float((anomalous * below).sum()) + float(same_interval[counts.exact].sum()) / 2
    return ordered / pairs, (ordered + float(same_interval[~counts.exact].sum())) / pairs


_STEP: Final = 0.01
_MANY_OF_ALL: Final = 0.05
_MANY_OF_ANOMALOUS: Final = 0.2
_FEWEST_FLIPS: Final = 2


def cliff_warning(counts: ScoreCounts, cutoff: float, minimum: float, maximum: float) -> str | None:
    """Return a warning if moving the threshold by 1 % of the range flips many decisions.

    If scores were spread evenly, moving the threshold by 1 % of the range would flip 1 % of the decisions. The warning
    is given for more than 5 % of all decisions or, where anomalies are rare, more than a fifth of the anomalous labels
    or decisions (whichever are more); never for a single flip.
    """
    flagged = counts.true_positives + counts.false_positives

    def flagged_at(value: float) -> int:
        return int(flagged[counts.first_at_least(to_key(value))])

    here, total = flagged_at(cutoff), int(flagged[0])
    step = _STEP * (maximum - minimum)
    flips = max(abs(flagged_at(cutoff + shift) - here) for shift in (-step, step))
    anomalous = max(here, counts.anomalies) if counts.anomalies else total
    if flips < _FEWEST_FLIPS or flips <= min(_MANY_OF_ALL * total, _MANY_OF_ANOMALOUS * anomalous):
        return None
    return (
        f"the threshold stands on a cliff: moving it by 1 % of the range flips {flips:,} decisions, "
        f"where {here:,} of {total:,} are anomalous"
    )
