"""Confidence intervals at image level, by resampling the images of each class."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from pp_graph.calibration.level import LevelPlan, threshold_alone
from pp_graph.calibration.metrics import Interval, auroc_bound, measure
from pp_graph.errors import CalibrationError

if TYPE_CHECKING:
    from pp_graph.calibration.score_counts import Counts, ScoreCounts

RESAMPLES: Final = 1000
_LEVEL: Final = (2.5, 97.5)
_RATES: Final = ("f1", "precision", "recall")


def bootstrap_intervals(
    plan: LevelPlan, counts: ScoreCounts, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Interval]:
    """Resample images and see how far threshold and metrics move.

    Images are drawn with replacement, as many of each class as there are (stratified percentile bootstrap; B. Efron,
    R. Tibshirani, An Introduction to the Bootstrap, 1993, chapters 13 and 17). The threshold is estimated anew on each
    draw. F1, precision and recall are those of that threshold on the images that were not drawn: on the images that it
    was chosen by, a threshold always looks better than it is.

    Args:
        plan: How the threshold is estimated.
        counts: Exact counts of image scores.
        resamples: How many draws.
        seed: Seed of the draws.

    Returns:
        95 % intervals by the names of `threshold`, `f1`, `precision`, `recall`, `auroc`, as far as they are defined.
    """
    generator = np.random.default_rng(seed)
    found: dict[str, list[float]] = {name: [] for name in ("threshold", *_RATES, "auroc")}
    nothing = np.zeros_like(counts.unlabelled)
    for _ in range(resamples):
        normal, spared = _draw(generator, counts.normal)
        anomalous, missed = _draw(generator, counts.anomalous)
        drawn = replace(counts, normal=normal, anomalous=anomalous, unlabelled=nothing)
        drawn = drawn.only((normal > 0) | (anomalous > 0))
        values = {}
        bound = auroc_bound(drawn)
        if bound is not None:
            values["auroc"] = bound[0]
        threshold = _threshold(plan, drawn)
        if threshold is not None:
            values["threshold"] = threshold
            left_out = replace(counts, normal=spared, anomalous=missed, unlabelled=nothing)
            # Inference compares strictly.
            metrics = measure(left_out, float(np.nextafter(np.float32(threshold), np.float32(np.inf))))
            if left_out.normals and left_out.anomalies:
                rates = {name: getattr(metrics, name) for name in _RATES}
                values.update({name: value for name, value in rates.items() if value is not None})
        for name, value in values.items():
            found[name].append(value)
    # Where most draws give no number, the rest do not stand for all.
    kept = {name: values for name, values in found.items() if len(values) > resamples // 2}
    return {
        name: (float(np.percentile(values, _LEVEL[0])), float(np.percentile(values, _LEVEL[1])))
        for name, values in kept.items()
    }


def _draw(generator: np.random.Generator, counts: Counts) -> tuple[Counts, Counts]:
    """Draw as many images as there are. Returns how often each score was drawn, and how many were left out."""
    total = int(counts.sum())
    if not total:
        return counts, counts
    times = generator.multinomial(total, np.full(total, 1 / total))
    owner = np.repeat(np.arange(len(counts)), counts)
    drawn = np.bincount(owner, weights=times, minlength=len(counts)).astype(np.int64)
    return drawn, np.bincount(owner[times == 0], minlength=len(counts))


def _threshold(plan: LevelPlan, counts: ScoreCounts) -> float | None:
    if plan.threshold.needs_anomalous and not counts.anomalies:
        return None
    sketches = {}
    scores = np.repeat(counts.lower, counts.normal)
    for kind in plan.threshold.sketches():
        sketches[kind] = kind()
        sketches[kind].update(scores)
    try:
        return threshold_alone(plan, counts, sketches)
    except CalibrationError:
        return None
