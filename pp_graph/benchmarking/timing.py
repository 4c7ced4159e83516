"""Figures from times that were measured in interleaved rounds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_RESAMPLES = 2000
_LEVEL = 0.95


def ratio_of_medians(times: npt.NDArray[np.float64], reference: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    """Median time divided by the reference's, with a confidence interval.

    Rounds are resampled whole, so that what slowed down a round slowed down both (percentile bootstrap; Efron and
    Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).

    Args:
        times: Time of each round, shape (rounds,).
        reference: Time of the reference in the same rounds.

    Returns:
        The ratio, and both ends of its 95 % confidence interval.
    """
    rng = np.random.default_rng(0)
    chosen = rng.integers(0, len(times), (_RESAMPLES, len(times)))
    ratios = np.median(times[chosen], axis=1) / np.median(reference[chosen], axis=1)
    low, high = np.quantile(ratios, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return float(np.median(times) / np.median(reference)), float(low), float(high)
