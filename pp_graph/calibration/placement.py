"""Place the threshold between two scores so that inference decides as the metric counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from pp_graph.steps import Compare, MinMaxNormalize
from pp_graph.values.float_keys import LOWEST_KEY, from_key, to_key

if TYPE_CHECKING:
    from collections.abc import Callable

Placement = Literal["midpoint", "observed"]
"""`midpoint`: halfway to the next lower score. `observed`: at the score itself, as Anomalib's `F1AdaptiveThreshold`."""

Normalization = tuple[float, float]
"""Minimum and maximum that inference normalises with."""


def decision_cutoff(threshold: float, normalization: Normalization) -> float:
    """The smallest raw value that inference calls anomalous, normalising around a threshold, sensitivity 0.5."""
    cutoff = Compare("raw", "decision", 0.5, MinMaxNormalize("raw", "normalized", threshold, *normalization)).cutoff
    assert cutoff is not None, "infinity is anomalous"
    return float(cutoff)


def place(
    placement: Placement, below: np.float32 | None, score: np.float32, normalization: Normalization | None
) -> np.float32:
    """Place a threshold so that a score and all above it are anomalous, and those below are not.

    A metric counts a score that equals the threshold as anomalous (`>=`); inference compares strictly, in float32,
    after normalising. A threshold at the score itself therefore calls that score normal.

    Args:
        placement: See `Placement`.
        below: The next lower score; None where there is none.
        score: The lowest score to be anomalous.
        normalization: What inference normalises with; None leaves that out of account.

    Returns:
        The threshold. With `midpoint`, below `score`, and such that the normalised comparison separates the two:
        halfway where that does, and lower, even than `below`, only where it does not.
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
    # The range is so wide that half the way is lost when 0.5 is added: lower it until it is not.
    return _highest(
        lambda candidate: decision_cutoff(candidate, normalization) <= float(score), to_key(float(threshold))
    )


def _highest(holds: Callable[[float], bool], above: int) -> np.float32:
    """The highest float32 below a key for which something holds that holds for all below it."""
    below = LOWEST_KEY + 1
    while above - below > 1:
        middle = (below + above) // 2
        if holds(float(from_key(middle))):
            below = middle
        else:
            above = middle
    return from_key(below)
