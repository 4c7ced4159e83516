"""Count scores in batches, in bounded memory: a first pass over everything, and finer ones where it matters.

Float32 numbers have 2^32 keys in their order. The first pass counts by the leading 20 bits of the key. Where the data
can be read again, a later pass counts the keys themselves in those few intervals that may still hold the answer.
States of the same pass add up, whichever process counted them and in whatever order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from pp_graph.calibration.score_counts import Counts, Flags, ScoreCounts, Scores
from pp_graph.errors import DataError
from pp_graph.values.float_keys import Keys, from_key, to_keys

if TYPE_CHECKING:
    from typing import Self

_KEY_BITS: Final = 32
_FIRST_BITS: Final = 20
_CHUNK: Final = 1 << 16
"""Scores worked on at a time: what fits in a core's cache."""
_FINE_BINS: Final = 1 << 21
"""Most bins of a later pass: 16 MiB a class."""
_BUFFERED: Final = 1 << 20
_MOST_RANGES: Final = 8
"""Ranges up to which each is compared with; more are read as one, from the first to the last."""

NORMAL, ANOMALOUS, UNLABELLED = 0, 1, 2


class Pass(ABC):
    """One pass over the scores."""

    def update(self, scores: Scores, anomalous: npt.NDArray[np.bool_] | bool | None) -> None:
        """Count a batch.

        Args:
            scores: Finite float32 scores of any shape.
            anomalous: Which are anomalous, of the same shape, or one bool for all; None where that is not known.
        """
        flat = np.ascontiguousarray(scores).reshape(-1)
        flags = anomalous.reshape(-1) if isinstance(anomalous, np.ndarray) else None
        for start in range(0, len(flat), _CHUNK):
            chunk = flat[start : start + _CHUNK]
            part = None if flags is None else flags[start : start + _CHUNK]
            if part is None or not part.any():
                self._add(chunk, UNLABELLED if anomalous is None else ANOMALOUS if anomalous is True else NORMAL, None)
            else:
                self._add(chunk, NORMAL, part)

    @abstractmethod
    def _add(self, chunk: Scores, kind: int, anomalous: Flags | None) -> None:
        """Count a chunk of one class, or of two where some of the normal ones are flagged as anomalous."""

    @abstractmethod
    def merge(self, other: Self) -> None:
        """Add what another state of the same pass counted.

        Raises:
            DataError: The other state belongs to another pass.
        """

    @abstractmethod
    def counts(self) -> ScoreCounts:
        """Return the counts after this pass."""


class FirstPass(Pass):
    """Count everything, by the leading bits of the keys."""

    def __init__(self) -> None:
        self._bins = np.zeros((3, 1 << _FIRST_BITS), np.int64)
        self._lowest = (1 << _KEY_BITS) - 1
        self._highest = 0
        self._keys, self._scratch = np.empty((2, _CHUNK), np.uint32)
        self._positions = np.empty(_CHUNK, np.intp)

    def _add(self, chunk: Scores, kind: int, anomalous: Flags | None) -> None:
        size = len(chunk)
        keys = to_keys(chunk, self._keys[:size], self._scratch[:size])
        self._lowest = min(self._lowest, int(keys.min()))
        self._highest = max(self._highest, int(keys.max()))
        keys >>= np.uint32(_KEY_BITS - _FIRST_BITS)
        self._count(keys, kind)
        if anomalous is not None:
            flagged = keys[anomalous]
            self._count(flagged, ANOMALOUS)
            self._count(flagged, NORMAL, -1)

    def _count(self, keys: Keys, kind: int, times: int = 1) -> None:
        first = int(keys.min())
        positions = self._positions[: len(keys)]
        np.subtract(keys, first, out=positions, dtype=np.intp)
        found = np.bincount(positions)
        self._bins[kind, first : first + len(found)] += times * found

    def merge(self, other: Self) -> None:
        """Add what another process counted."""
        self._bins += other._bins
        self._lowest = min(self._lowest, other._lowest)
        self._highest = max(self._highest, other._highest)

    def counts(self) -> ScoreCounts:
        """Counts in as many intervals as hold scores; the outermost end at the smallest and the largest score."""
        filled = np.flatnonzero(self._bins.any(axis=0))
        shift = np.uint32(_KEY_BITS - _FIRST_BITS)
        low = filled.astype(np.uint32) << shift
        high = low | np.uint32((1 << int(shift)) - 1)
        low[:1] = self._lowest
        high[-1:] = self._highest
        return ScoreCounts(low, high, *(row[filled] for row in self._bins))


class FinerPass(Pass):
    """Count again, in some intervals of an earlier pass, by as many bits as memory allows: mostly all.

    Args:
        before: What the earlier pass found.
        chosen: Which of its intervals to look into.
    """

    def __init__(self, before: ScoreCounts, chosen: Flags) -> None:
        self._before = before
        self._chosen = chosen
        self._low, self._high = _joined(before.low[chosen], before.high[chosen])
        self._shift = 0
        while self._sizes().sum() > _FINE_BINS:
            self._shift += 1
        self._offset = np.concatenate([[0], np.cumsum(self._sizes())])
        self._bins = np.zeros((3, int(self._offset[-1])), np.int64)
        self._pending: list[tuple[int, Keys]] = []
        self._pending_size = 0
        ends = [(from_key(int(low)), from_key(int(high))) for low, high in zip(self._low, self._high, strict=True)]
        self._ranges = ends if len(ends) <= _MOST_RANGES else [(ends[0][0], ends[-1][1])]

    def _sizes(self) -> Counts:
        return ((self._high - self._low).astype(np.int64) >> self._shift) + 1

    def _add(self, chunk: Scores, kind: int, anomalous: Flags | None) -> None:
        for low, high in self._ranges:
            inside = chunk >= low
            inside &= chunk <= high
            found = chunk[inside]
            if not len(found):
                continue
            if anomalous is None:
                self._hold(kind, to_keys(found))
            else:
                flagged = anomalous[inside]
                self._hold(kind, to_keys(found[~flagged]))
                self._hold(ANOMALOUS, to_keys(found[flagged]))

    def _hold(self, kind: int, keys: Keys) -> None:
        self._pending.append((kind, keys))
        self._pending_size += len(keys)
        if self._pending_size > _BUFFERED:
            self._count_pending()

    def _count_pending(self) -> None:
        for kind in range(3):
            held = [keys for each, keys in self._pending if each == kind]
            keys = np.concatenate(held) if held else np.zeros(0, np.uint32)
            index = np.searchsorted(self._low, keys, side="right") - 1
            # Several ranges may have been read as one, with numbers between them that belong to none.
            inside = (index >= 0) & (keys <= self._high[index])
            keys, index = keys[inside], index[inside]
            positions = self._offset[index] + ((keys - self._low[index]) >> np.uint32(self._shift)).astype(np.int64)
            self._bins[kind] += np.bincount(positions, minlength=self._bins.shape[1])
        self._pending.clear()
        self._pending_size = 0

    def merge(self, other: Self) -> None:
        """Add what another process counted in the same intervals.

        Raises:
            DataError: The intervals are others.
        """
        if not (np.array_equal(self._low, other._low) and np.array_equal(self._high, other._high)):
            raise DataError(
                "The state to merge counts other intervals, expected one that continues the same merged first pass. "
                "Merge the states of the first pass before starting the next."
            )
        other._count_pending()
        self._bins += other._bins

    def counts(self) -> ScoreCounts:
        """The earlier counts, with the chosen intervals exchanged for finer ones.

        Raises:
            DataError: The chosen intervals do not hold what they held in the earlier pass.
        """
        self._count_pending()
        filled = np.flatnonzero(self._bins.any(axis=0))
        block = np.searchsorted(self._offset, filled, side="right") - 1
        low = self._low[block] + ((filled - self._offset[block]) << self._shift).astype(np.uint32)
        high = np.minimum(low + np.uint32((1 << self._shift) - 1), self._high[block])
        finer = ScoreCounts(low, high, *(row[filled] for row in self._bins))
        earlier = self._before.only(self._chosen)
        for name in ("normal", "anomalous", "unlabelled"):
            expected, found = int(getattr(earlier, name).sum()), int(getattr(finer, name).sum())
            if found != expected:
                raise DataError(
                    f"A later pass found {found:,} {name} scores where the first found {expected:,}, expected the same "
                    "data in every pass. Read the same images, with a model that computes the same each time."
                )
        return self._before.replaced(self._chosen, finer)


def _joined(low: Keys, high: Keys) -> tuple[Keys, Keys]:
    """Intervals that touch, as one."""
    if not len(low):
        return low, high
    starts = np.concatenate([[True], low[1:] > high[:-1] + np.uint32(1)])
    return low[starts], high[np.concatenate([starts[1:], [True]])]
