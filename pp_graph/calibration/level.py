"""One level, image or pixel: threshold and range from its counts, and the intervals to count next."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from pp_graph.calibration.estimator import (
    CutEstimator,
    RangeEstimator,
    ThresholdEstimator,
    ValueEstimator,
    with_interval_below,
)
from pp_graph.calibration.placement import Placement, decision_cutoff, place
from pp_graph.errors import CalibrationError
from pp_graph.values.float_keys import to_key

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pp_graph.calibration.score_counts import Flags, ScoreCounts
    from pp_graph.calibration.sketches import Sketch

_NORMALIZING_LOSES: Final = 2.0**-23
_FLOAT32_MAX: Final = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class LevelPlan:
    """Estimators and placement for one level.

    Attributes:
        threshold: Estimator of the threshold.
        range: Estimator of minimum and maximum.
        placement: Where between two scores a threshold is placed that is chosen among scores.
    """

    threshold: ThresholdEstimator
    range: RangeEstimator
    placement: Placement = "midpoint"


@dataclass(frozen=True)
class Settlement:
    """Result of a level, or the intervals to count next.

    Attributes:
        threshold: The threshold, a float32; None where the scores have no labels.
        threshold_bound: Between what the threshold of the sorted data is proven to lie.
        minimum: Minimum of the range, a float32.
        maximum: Maximum of the range, a float32.
        cutoff: The smallest score that inference calls anomalous with these; None without a threshold.
        exact: Whether threshold and range are those of the sorted data, bit for bit.
        unsettled: Intervals that must be looked into before these, and the decisions they lead to, are exact.
            (intervals,)
        warnings: What a person should know.
    """

    threshold: float | None
    threshold_bound: tuple[float, float] | None
    minimum: float
    maximum: float
    cutoff: float | None
    exact: bool
    unsettled: Flags
    warnings: tuple[str, ...]


def settle(plan: LevelPlan, counts: ScoreCounts, sketches: Mapping[type[Sketch], Sketch]) -> Settlement:
    """Estimate threshold and range from counts.

    Args:
        plan: How.
        counts: The counts; at least one score.
        sketches: What the threshold estimator asked for.

    Raises:
        CalibrationError: The scores do not allow an estimate.
    """
    (minimum, _), (_, maximum) = plan.range.bounds(counts)
    normalization = (_rounded(minimum), _rounded(maximum))
    if normalization[1] - normalization[0] > _FLOAT32_MAX:
        raise CalibrationError(
            f"The scores range from {minimum:.3g} to {maximum:.3g}, expected a range within float32. Scale the model's "
            "scores down, or use the range 'percentile'."
        )
    unsettled = plan.range.candidates(counts)
    labelled = (counts.normal > 0) | (counts.anomalous > 0)
    found = _find_threshold(plan, counts.only(labelled), sketches, normalization)
    threshold, bound = found.threshold, found.bound
    unsettled[np.flatnonzero(labelled)[found.candidates]] = True
    unsettled &= ~counts.exact
    exact = not unsettled.any()
    if bound is not None and not exact and plan.placement == "midpoint":
        # What inference rounds away when it normalises depends on the range, and placement makes up for it.
        hair = (normalization[1] - normalization[0]) * _NORMALIZING_LOSES
        bound = (bound[0] - hair, bound[1] + hair)
    cutoff = None if threshold is None else decision_cutoff(threshold, normalization)
    if cutoff is not None and exact:
        # The decisions themselves are counted, too.
        split = counts.splits(to_key(cutoff))
        if split is not None:
            unsettled[split] = True
    return Settlement(threshold, bound, *normalization, cutoff, exact, unsettled, found.warnings)


@dataclass(frozen=True)
class _Found:
    """A threshold, its bound, the intervals it hangs on, and warnings."""

    threshold: float | None
    bound: tuple[float, float] | None
    candidates: Flags
    warnings: tuple[str, ...] = ()


def _find_threshold(
    plan: LevelPlan,
    counts: ScoreCounts,
    sketches: Mapping[type[Sketch], Sketch],
    normalization: tuple[float, float],
) -> _Found:
    """The threshold of scores that all have labels."""
    estimator = plan.threshold
    nothing = np.zeros(len(counts), np.bool_)
    if not len(counts):
        return _Found(None, None, nothing, ("no score has a label: there is no threshold",))
    if counts.normals and estimator.needs_anomalous and not counts.anomalies:
        warning = f"no score is anomalous, and '{estimator.name}' needs some: the threshold is the largest score"
        return _cut_at(plan, counts, len(counts), nothing, normalization, (warning,))
    if isinstance(estimator, ValueEstimator):
        return _compute(estimator, counts, sketches)
    assert isinstance(estimator, CutEstimator)
    warnings = () if counts.normals else ("no score is normal: how often normal ones are flagged cannot be told",)
    chosen, candidates = estimator.choose(counts), estimator.candidates(counts)
    found = _cut_at(plan, counts, chosen, candidates, normalization, warnings)
    if chosen < len(counts) or (found.candidates & ~counts.exact).any():
        return found
    flags_nothing = f"no threshold meets '{estimator.name}': it is the largest score, which flags nothing here"
    return replace(found, warnings=(*warnings, flags_nothing))


def _compute(estimator: ValueEstimator, counts: ScoreCounts, sketches: Mapping[type[Sketch], Sketch]) -> _Found:
    """The threshold of an estimator that computes it."""
    if not counts.normals:
        raise CalibrationError(
            f"Estimator '{estimator.name}' works on normal scores, and none of {counts.anomalies:,} is normal. Give "
            "normal data."
        )
    low, high = estimator.bounds(counts, sketches)
    if max(abs(low), abs(high)) > _FLOAT32_MAX:
        raise CalibrationError(
            f"Estimator '{estimator.name}' gives the threshold {high:.3g}, expected a number within float32. Use "
            "other parameters, or scale the model's scores down."
        )
    low, high = _rounded(low), _rounded(high)
    return _Found(high, (low, high), estimator.candidates(counts))


def _cut_at(
    plan: LevelPlan,
    counts: ScoreCounts,
    chosen: int,
    candidates: Flags,
    normalization: tuple[float, float],
    warnings: tuple[str, ...],
) -> _Found:
    """The threshold that makes an interval and all above anomalous; behind the last one, nothing."""
    # The next lower score lies in the interval below.
    needed = with_interval_below(candidates)
    if chosen == len(counts):
        needed[-1] = True
        threshold = float(counts.upper[-1])
    else:
        below = counts.upper[chosen - 1] if chosen else None
        threshold = float(place(plan.placement, below, counts.lower[chosen], normalization))
    if not (needed & ~counts.exact).any():
        return _Found(threshold, (threshold, threshold), needed, warnings)
    held = np.flatnonzero(needed)
    bound = (min(threshold, float(counts.lower[held[0]])), max(threshold, float(counts.upper[held[-1]])))
    return _Found(threshold, bound, needed, warnings)


def _rounded(value: float) -> float:
    return float(np.float32(value))


def threshold_alone(plan: LevelPlan, counts: ScoreCounts, sketches: Mapping[type[Sketch], Sketch]) -> float | None:
    """The threshold of exact counts, without regard to how inference rounds; for resampling, which needs it quickly."""
    estimator = plan.threshold
    if isinstance(estimator, ValueEstimator):
        value = estimator.bounds(counts, sketches)[1]
        return value if abs(value) <= _FLOAT32_MAX else None
    assert isinstance(estimator, CutEstimator)
    chosen = estimator.choose(counts)
    if chosen == len(counts):
        return float(counts.upper[-1])
    return float(place(plan.placement, counts.lower[chosen - 1] if chosen else None, counts.lower[chosen], None))
