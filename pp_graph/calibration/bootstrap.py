"""Confidence intervals at image level, by resampling the images of each class."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from pp_graph.calibration.estimator import CutEstimator, ValueEstimator
from pp_graph.calibration.level import FLOAT32_MAX, LevelPlan, place
from pp_graph.calibration.metrics import Interval, auroc_bound, measure
from pp_graph.errors import CalibrationError

if TYPE_CHECKING:
    from pp_graph.calibration.score_counts import Counts, ScoreCounts

RESAMPLES: Final = 1000
_PERCENTILES: Final = (2.5, 97.5)
_RATES: Final = ("f1", "precision", "recall")


def bootstrap_intervals(
    plan: LevelPlan, counts: ScoreCounts, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Interval]:
    """Compute confidence intervals of threshold and metrics.

    Each resample draws as many images of each class as there are, with replacement (stratified percentile bootstrap;
    B. Efron, R. Tibshirani, An Introduction to the Bootstrap, 1993, chapters 13 and 17), and estimates the threshold
    from them. F1, precision and recall are measured on the images that were not drawn, because a threshold looks
    better than it is on the images it was chosen with.

    Args:
        plan: Estimator and placement of the threshold.
        counts: Exact counts of image scores.
        resamples: Number of draws.
        seed: Seed of the draws.

    Returns:
        95 % intervals of `threshold`, `f1`, `precision`, `recall` and `auroc`, without those that are undefined in
        half of the draws or more.
    """
    generator = np.random.default_rng(seed)
    samples: dict[str, list[float]] = {name: [] for name in ("threshold", *_RATES, "auroc")}
    unlabelled = np.zeros_like(counts.unlabelled)
    for _ in range(resamples):
        normal, normal_left = _draw(generator, counts.normal)
        anomalous, anomalous_left = _draw(generator, counts.anomalous)
        drawn = replace(counts, normal=normal, anomalous=anomalous, unlabelled=unlabelled)
        drawn = drawn.only((normal > 0) | (anomalous > 0))
        bound = auroc_bound(drawn)
        if bound is not None:
            samples["auroc"].append(bound[0])
        threshold = _threshold(plan, drawn)
        if threshold is None:
            continue
        samples["threshold"].append(threshold)
        left_out = replace(counts, normal=normal_left, anomalous=anomalous_left, unlabelled=unlabelled)
        if left_out.normals and left_out.anomalies:
            # Inference compares strictly.
            metrics = measure(left_out, float(np.nextafter(np.float32(threshold), np.float32(np.inf))))
            for name in _RATES:
                rate = getattr(metrics, name)
                if rate is not None:
                    samples[name].append(rate)
    intervals = {}
    for name, values in samples.items():
        if len(values) > resamples // 2:
            low, high = np.percentile(values, _PERCENTILES)
            intervals[name] = (float(low), float(high))
    return intervals


def _draw(generator: np.random.Generator, counts: Counts) -> tuple[Counts, Counts]:
    """Draw as many images as there are; return the counts of drawn images and of images left out."""
    total = int(counts.sum())
    if not total:
        return counts, counts
    times = generator.multinomial(total, np.full(total, 1 / total))
    interval = np.repeat(np.arange(len(counts)), counts)
    drawn = np.bincount(interval, weights=times, minlength=len(counts)).astype(np.int64)
    return drawn, np.bincount(interval[times == 0], minlength=len(counts))


def _threshold(plan: LevelPlan, counts: ScoreCounts) -> float | None:
    """Threshold of exact counts; for speed, without the rounding of the normalisation. None if there is none."""
    estimator = plan.threshold
    if estimator.needs_anomalous and not counts.anomalies:
        return None
    if isinstance(estimator, ValueEstimator):
        try:
            value = estimator.bounds(counts, estimator.sketch_of(np.repeat(counts.lower, counts.normal)))[1]
        except CalibrationError:
            return None
        return value if abs(value) <= FLOAT32_MAX else None
    assert isinstance(estimator, CutEstimator)
    chosen = estimator.choose(counts)
    if chosen == len(counts):
        return float(counts.upper[-1])
    return float(place(plan.placement, counts.lower[chosen - 1] if chosen else None, counts.lower[chosen], None))
