"""Confidence intervals at image level, by resampling the images of each class."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

import numpy as np

from pp_graph.calibration.level import LevelPlan, threshold_alone
from pp_graph.calibration.metrics import Interval, measure
from pp_graph.errors import CalibrationError

if TYPE_CHECKING:
    from pp_graph.calibration.score_counts import Counts, ScoreCounts

RESAMPLES: Final = 1000
_LEVEL: Final = (2.5, 97.5)


def bootstrap_intervals(
    plan: LevelPlan, counts: ScoreCounts, cutoff: float, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Interval]:
    """Resample images and see how far threshold and metrics move.

    Images are drawn with replacement, as many of each class as there are (stratified percentile bootstrap; B. Efron,
    R. Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13). The threshold is estimated anew on each draw;
    the metrics are those of the threshold that ships.

    Args:
        plan: How the threshold is estimated.
        counts: Exact counts of image scores.
        cutoff: The smallest score that is called anomalous.
        resamples: How many draws.
        seed: Seed of the draws.

    Returns:
        95 % intervals by the names of `threshold`, `f1`, `precision`, `recall`, `auroc`, as far as they are defined.
    """
    generator = np.random.default_rng(seed)
    found: dict[str, list[float]] = {name: [] for name in ("threshold", "f1", "precision", "recall", "auroc")}
    for _ in range(resamples):
        drawn = dataclasses.replace(
            counts,
            normal=_draw(generator, counts.normal),
            anomalous=_draw(generator, counts.anomalous),
            unlabelled=np.zeros_like(counts.unlabelled),
        )
        drawn = drawn.only((drawn.normal > 0) | (drawn.anomalous > 0))
        metrics = measure(drawn, cutoff)
        values = {name: getattr(metrics, name) for name in found if name != "threshold"}
        values["threshold"] = _threshold(plan, drawn)
        for name, value in values.items():
            if value is not None:
                found[name].append(value)
    # Where most draws give no number, the rest do not stand for all.
    kept = {name: values for name, values in found.items() if len(values) > resamples // 2}
    return {
        name: (float(np.percentile(values, _LEVEL[0])), float(np.percentile(values, _LEVEL[1])))
        for name, values in kept.items()
    }


def _draw(generator: np.random.Generator, counts: Counts) -> Counts:
    total = int(counts.sum())
    return generator.multinomial(total, counts / total) if total else counts


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
