"""Threshold and range of one level, image or pixel, from its counts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from pp_graph.calibration.estimator import CutEstimator, RangeEstimator, ThresholdEstimator, ValueEstimator
from pp_graph.errors import CalibrationError
from pp_graph.steps import Compare, MinMaxNormalize
from pp_graph.values.float_keys import LOWEST_KEY, from_key, to_key

if TYPE_CHECKING:
    from pp_graph.calibration.score_counts import Flags, ScoreCounts
    from pp_graph.calibration.sketches import Sketch

FLOAT32_MAX: Final = float(np.finfo(np.float32).max)
_NORMALIZATION_ERROR: Final = 2.0**-23
"""Bound on the rounding of a normalised value, relative to the range."""

Placement = Literal["midpoint", "observed"]
"""`midpoint`: halfway to the next lower score. `observed`: at the score itself, as Anomalib's `F1AdaptiveThreshold`."""

Normalization = tuple[float, float]
"""Minimum and maximum that inference normalises with."""


@dataclass(frozen=True)
class LevelPlan:
    """Estimators and placement of one level.

    Attributes:
        threshold: Estimator of the threshold.
        range: Estimator of minimum and maximum.
        placement: Position of a threshold between two scores, for estimators that choose among scores.
    """

    threshold: ThresholdEstimator
    range: RangeEstimator
    placement: Placement = "midpoint"


@dataclass(frozen=True)
class Estimate:
    """Threshold and range of a level, and the intervals to count again.

    Attributes:
        threshold: The threshold, a float32; None if no score has a label.
        threshold_bound: Smallest and largest threshold that the sorted scores may have.
        minimum: Minimum of the range, a float32.
        maximum: Maximum of the range, a float32.
        cutoff: Smallest score that inference calls anomalous; None without a threshold.
        exact: True if threshold and range equal those of the sorted scores, bit for bit.
        to_refine: Intervals to count score by score before threshold, range and decisions are exact. (intervals,)
        warnings: Warnings for the user.
    """

    threshold: float | None
    threshold_bound: tuple[float, float] | None
    minimum: float
    maximum: float
    cutoff: float | None
    exact: bool
    to_refine: Flags
    warnings: tuple[str, ...]


def estimate_level(plan: LevelPlan, counts: ScoreCounts, sketch: Sketch | None) -> Estimate:
    """Estimate threshold and range from counts.

    Args:
        plan: Estimators and placement.
        counts: Counts of at least one score.
        sketch: Sketch of the normal scores, if the threshold estimator needs one.

    Raises:
        CalibrationError: The scores do not allow an estimate.
    """
    (minimum, _), (_, maximum) = plan.range.bounds(counts)
    normalization = (_to_float32(minimum), _to_float32(maximum))
    extent = normalization[1] - normalization[0]
    if extent > FLOAT32_MAX:
        raise CalibrationError(
            f"The scores range from {minimum:.3g} to {maximum:.3g}, expected a range within float32. Scale the model's "
            "scores down, or use the range 'percentile'."
        )
    to_refine = plan.range.candidates(counts)
    labelled = (counts.normal > 0) | (counts.anomalous > 0)
    threshold = _find_threshold(plan, counts.only(labelled), sketch, normalization)
    to_refine[np.flatnonzero(labelled)[threshold.candidates]] = True
    to_refine &= ~counts.exact
    exact = not to_refine.any()
    bound = threshold.bound
    if bound is not None and not exact and plan.placement == "midpoint":
        # `place` may lower a threshold by the rounding of the normalisation, which depends on the range.
        rounding = extent * _NORMALIZATION_ERROR
        bound = (bound[0] - rounding, bound[1] + rounding)
    cutoff = None if threshold.value is None else decision_cutoff(threshold.value, normalization)
    if cutoff is not None and exact:
        # The metrics count decisions, so the scores around the cutoff must be exact, too.
        split = counts.splits(to_key(cutoff))
        if split is not None:
            to_refine[split] = True
    return Estimate(threshold.value, bound, *normalization, cutoff, exact, to_refine, threshold.warnings)


@dataclass(frozen=True)
class _Threshold:
    """A threshold, its bound, the intervals it depends on, and warnings."""

    value: float | None
    bound: tuple[float, float] | None
    candidates: Flags
    warnings: tuple[str, ...] = ()


def _find_threshold(
    plan: LevelPlan, counts: ScoreCounts, sketch: Sketch | None, normalization: Normalization
) -> _Threshold:
    """Find the threshold of labelled scores."""
    estimator = plan.threshold
    no_interval = np.zeros(len(counts), np.bool_)
    if not len(counts):
        return _Threshold(None, None, no_interval, ("no score has a label: there is no threshold",))
    if counts.normals and estimator.needs_anomalous and not counts.anomalies:
        warning = f"no score is anomalous, and '{estimator.name}' needs some: the threshold is the largest score"
        return _threshold_at(plan, counts, len(counts), no_interval, normalization, (warning,))
    if isinstance(estimator, ValueEstimator):
        return _compute_threshold(estimator, counts, sketch)
    assert isinstance(estimator, CutEstimator)
    warnings = () if counts.normals else ("no score is normal: how often normal ones are flagged cannot be told",)
    chosen, candidates = estimator.choose(counts), estimator.candidates(counts)
    threshold = _threshold_at(plan, counts, chosen, candidates, normalization, warnings)
    if chosen < len(counts) or (threshold.candidates & ~counts.exact).any():
        return threshold
    flags_nothing = f"no threshold meets '{estimator.name}': it is the largest score, which flags nothing here"
    return replace(threshold, warnings=(*warnings, flags_nothing))


def _compute_threshold(estimator: ValueEstimator, counts: ScoreCounts, sketch: Sketch | None) -> _Threshold:
    if not counts.normals:
        raise CalibrationError(
            f"Estimator '{estimator.name}' needs normal scores, but all {counts.anomalies:,} labelled scores are "
            "anomalous. Add normal data."
        )
    low, high = estimator.bounds(counts, sketch)
    if max(abs(low), abs(high)) > FLOAT32_MAX:
        raise CalibrationError(
            f"Estimator '{estimator.name}' gives the threshold {high:.3g}, expected a number within float32. Use "
            "other parameters, or scale the model's scores down."
        )
    low, high = _to_float32(low), _to_float32(high)
    return _Threshold(high, (low, high), estimator.candidates(counts))


def _threshold_at(
    plan: LevelPlan,
    counts: ScoreCounts,
    chosen: int,
    candidates: Flags,
    normalization: Normalization,
    warnings: tuple[str, ...],
) -> _Threshold:
    """Place the threshold so that interval `chosen` and all above are anomalous; none if it is `len(counts)`."""
    # The next lower score lies in the interval below.
    needed = candidates | np.append(candidates[1:], False)
    if chosen == len(counts):
        needed[-1] = True
        threshold = float(counts.upper[-1])
    else:
        below = counts.upper[chosen - 1] if chosen else None
        threshold = float(place(plan.placement, below, counts.lower[chosen], normalization))
    if not (needed & ~counts.exact).any():
        return _Threshold(threshold, (threshold, threshold), needed, warnings)
    first, last = np.flatnonzero(needed)[[0, -1]]
    bound = (min(threshold, float(counts.lower[first])), max(threshold, float(counts.upper[last])))
    return _Threshold(threshold, bound, needed, warnings)


def _to_float32(value: float) -> float:
    return float(np.float32(value))


def decision_cutoff(threshold: float, normalization: Normalization) -> float:
    """Return the smallest raw value that inference calls anomalous at sensitivity 0.5."""
    cutoff = Compare("raw", "decision", 0.5, MinMaxNormalize("raw", "normalized", threshold, *normalization)).cutoff
    assert cutoff is not None, "infinity is anomalous"
    return float(cutoff)


def place(
    placement: Placement, below: np.float32 | None, score: np.float32, normalization: Normalization | None
) -> np.float32:
    """Place a threshold so that a score and all above it are anomalous, and all below it are normal.

    A metric counts a score that equals the threshold as anomalous (`>=`). Inference normalises in float32 and compares
    strictly, so it calls that score normal. `midpoint` makes both agree.

    Args:
        placement: See `Placement`.
        below: The next lower score; None if there is none.
        score: The lowest anomalous score.
        normalization: Minimum and maximum of the normalisation; None ignores its rounding.

    Returns:
        The threshold. With `midpoint` it is below `score`: halfway to `below` if the normalised comparison then
        separates the two scores, otherwise lower, possibly lower than `below`.
    """
    if placement == "observed":
        return score
    if below is None:
        threshold = np.float32(np.nextafter(score, np.float32(-np.inf)))
    else:
        threshold = np.float32((float(below) + float(score)) / 2)
        if threshold >= score:
            threshold = below
    if normalization is None or decision_cutoff(float(threshold), normalization) <= score:
        return threshold
    # In a wide range, adding 0.5 rounds the distance to the midpoint away. Find the highest threshold that survives.
    separating, above = LOWEST_KEY + 1, to_key(float(threshold))
    while above - separating > 1:
        middle = (separating + above) // 2
        if decision_cutoff(float(from_key(middle)), normalization) <= float(score):
            separating = middle
        else:
            above = middle
    return from_key(separating)
