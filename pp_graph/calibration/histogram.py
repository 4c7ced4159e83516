"""`histogram_of`: reduce counts of scores to a histogram of a few KB."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from pp_graph.statistics.histogram import KINDS, ScoreHistogram

if TYPE_CHECKING:
    from pp_graph.calibration.score_counts import ScoreCounts

PARTS: Final = 100
"""An interval of several numbers holds at most one score in `PARTS` of each kind, rounded up."""


def histogram_of(counts: ScoreCounts, cutoff: float | None) -> ScoreHistogram:
    """Reduce counts to intervals that end at percentiles of each kind of score.

    Args:
        counts: Exact counts of the image scores; at least one.
        cutoff: Smallest score that is called anomalous. An interval ends right below it, so that the calibration's
            alarms are known exactly; None if there is no cutoff.
    """
    found = {kind: getattr(counts, kind) for kind in KINDS}
    chosen = np.zeros(len(counts), np.bool_)
    chosen[[0, -1]] = True
    for row in found.values():
        sums = np.cumsum(row)
        if sums[-1]:
            ranks = -(-np.arange(1, PARTS + 1) * int(sums[-1]) // PARTS)  # rounded up
            chosen[np.searchsorted(sums, ranks)] = True
    # Halfway to the next score, so that rounding in another runtime moves no score into the next interval.
    scores = counts.upper.astype(np.float64)
    halfway = np.append((scores[:-1] + scores[1:]) / 2, scores[-1]).astype(np.float32)
    ends = np.where(halfway < np.append(counts.upper[1:], np.inf), halfway, counts.upper)[chosen]
    if cutoff is not None and np.isfinite(cutoff) and cutoff <= ends[-1]:
        ends = np.unique(np.append(ends, np.nextafter(np.float32(cutoff), np.float32(-np.inf))))
    places = np.searchsorted(ends, counts.upper)
    held = {kind: np.zeros(len(ends), np.int64) for kind in KINDS if found[kind].any()}
    for kind, sizes in held.items():
        np.add.at(sizes, places, found[kind])
    return ScoreHistogram(
        # The shortest decimals that read back as the same float32.
        ends=tuple(float(str(end)) for end in ends),
        **{kind: tuple(sizes.tolist()) for kind, sizes in held.items()},
    )
