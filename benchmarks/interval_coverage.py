"""Coverage of the 95 % confidence intervals: how often they contain the true metric of the calibrated threshold.

    python benchmarks/interval_coverage.py [--runs 150]

Scores are drawn from two normal distributions two standard deviations apart, so true values are known. Compares the
intervals of `pp_graph.calibration.bootstrap` with resampling at a fixed threshold. Needs SciPy:
pip install 'pp_graph[calibration]'.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy.stats import norm

from pp_graph.calibration import Calibrator

DISTANCE = 2.0
RESAMPLES = 200


def truth(cutoff: float) -> dict[str, float]:
    """Figures of a cutoff with as many anomalous images as normal ones."""
    found, flagged = float(norm.sf(cutoff - DISTANCE)), float(norm.sf(cutoff))
    return {"recall": found, "precision": found / (found + flagged), "f1": 2 * found / (found + flagged + 1)}


def with_threshold_fixed(
    scores: np.ndarray, labels: np.ndarray, cutoff: float, rng: np.random.Generator
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of the same images, drawn again, each class for itself."""
    flagged = scores >= cutoff
    hits, false = (rng.binomial((labels == kind).sum(), flagged[labels == kind].mean(), RESAMPLES) for kind in (1, 0))
    anomalous = (labels == 1).sum()
    figures = {
        "recall": hits / anomalous,
        "precision": hits / (hits + false),
        "f1": 2 * hits / (hits + false + anomalous),
    }
    return {name: tuple(np.percentile(values, (2.5, 97.5))) for name, values in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=150)
    runs = parser.parse_args().runs
    rng = np.random.default_rng(9)
    print(f"{'images/class':>15} {'intervals':18}" + "".join(f"{name:>11}" for name in truth(1.0)))
    for count in (30, 60, 300):
        held = {kind: dict.fromkeys(truth(1.0), 0) for kind in ("images left out", "threshold fixed")}
        for _ in range(runs):
            scores = np.concatenate([rng.normal(0, 1, count), rng.normal(DISTANCE, 1, count)]).astype(np.float32)
            labels = np.arange(2 * count) >= count
            calibrator = Calibrator()
            calibrator.update(scores=scores, labels=labels)
            level = calibrator.result(resamples=RESAMPLES).image
            assert level is not None
            assert level.metrics is not None
            assert level.cutoff is not None
            intervals = {
                "images left out": level.metrics.intervals or {},
                "threshold fixed": with_threshold_fixed(scores, labels, level.cutoff, rng),
            }
            for kind, of_kind in intervals.items():
                for name, value in truth(level.cutoff).items():
                    low, high = of_kind[name]
                    held[kind][name] += low <= value <= high
        for kind, found in held.items():
            print(f"{count:15} {kind:18}" + "".join(f"{hits / runs:11.0%}" for hits in found.values()))


if __name__ == "__main__":
    main()
