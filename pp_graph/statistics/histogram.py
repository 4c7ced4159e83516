"""`ScoreHistogram`: the scores of a calibration in a few KB, to compare later scores with."""

from __future__ import annotations

import itertools
import math
from typing import Final

import msgspec

from pp_graph.errors import StatisticsError, counted

KINDS: Final = ("normal", "anomalous", "unlabelled")
_MOST_INTERVALS: Final = 4096
_MOST_SCORES: Final = 2**53
"""Counts up to it are whole numbers in every reader of JSON."""


class ScoreHistogram(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Numbers of calibration scores in intervals, by label.

    The scores are those of images, on the scale of the raw model. Interval `i` holds the scores above `ends[i - 1]`, up
    to and including `ends[i]`; the first has no lower end, and no score is above the last one. So the counts give the
    distribution exactly at every end. Ends lie halfway between two calibration scores, except the largest score and the
    largest number below the cutoff.

    Attributes:
        ends: Upper end of each interval, float32 numbers, ascending.
        normal: Number of normal scores in each interval; empty if there are none.
        anomalous: Number of anomalous scores; empty if there are none.
        unlabelled: Number of scores without a label; empty if there are none.

    Raises:
        StatisticsError: The ends do not ascend, a count is negative, or there are not as many counts as ends.
    """

    ends: tuple[float, ...]
    normal: tuple[int, ...] = ()
    anomalous: tuple[int, ...] = ()
    unlabelled: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Check ends and counts."""
        if not 0 < len(self.ends) <= _MOST_INTERVALS:
            raise StatisticsError(
                f"'ends' holds {counted(len(self.ends), 'number')}, expected 1 to {_MOST_INTERVALS:,}. Calibrate again."
            )
        ascend = all(low < high for low, high in itertools.pairwise(self.ends))
        if not all(map(math.isfinite, self.ends)) or not ascend:
            raise StatisticsError("'ends' does not ascend, expected finite numbers in order. Calibrate again.")
        for kind in KINDS:
            counts = getattr(self, kind)
            if counts and len(counts) != len(self.ends):
                raise StatisticsError(
                    f"'{kind}' holds {counted(len(counts), 'count')}, expected {len(self.ends)}, one for each end. "
                    "Calibrate again."
                )
            if any(count < 0 for count in counts) or sum(counts) > _MOST_SCORES:
                raise StatisticsError(
                    f"'{kind}' holds a count that is negative or too large, expected numbers of scores. Calibrate "
                    "again."
                )
        if not any(any(getattr(self, kind)) for kind in KINDS):
            raise StatisticsError("it counts no score, expected at least one. Calibrate again.")

    def total(self, kind: str) -> int:
        """Return the number of scores of one kind: `normal`, `anomalous` or `unlabelled`."""
        return sum(getattr(self, kind))

    def describe(self) -> str:
        """Return the numbers of scores in a line."""
        held = {kind: self.total(kind) for kind in KINDS}
        parts = ", ".join(f"{number:,} {kind}" for kind, number in held.items() if number)
        return f"{counted(sum(held.values()), 'score')} ({parts}) in {counted(len(self.ends), 'interval')}"
