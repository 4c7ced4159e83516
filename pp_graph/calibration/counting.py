"""Count scores in batches and in bounded memory.

Float32 numbers map to 32-bit integer keys in the same order. The first pass counts scores by the leading 20 bits of
their key. A later pass over the same data counts single keys, in the few intervals that may contain the answer. States
of one pass can be merged in any order, also from several processes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final

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
"""Scores processed at once; they fit in a core's cache."""
_FINE_BINS: Final = 1 << 21
"""Largest number of bins of a later pass: 16 MiB per class."""
_BUFFERED: Final = 1 << 20
_MOST_RANGES: Final = 8
"""Largest number of ranges to filter scores by; more are joined into one range."""

NORMAL, ANOMALOUS, UNLABELLED = 0, 1, 2


class Pass(ABC):
    """One pass over the scores."""

    def update(self, scores: Scores, anomalous: npt.NDArray[np.bool_] | bool | None) -> None:
        """Count a batch.

        Args:
            scores: Finite float32 scores of any shape.
            anomalous: True for anomalous scores, of the same shape or one bool for all; None if unlabelled.
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
        """Count a chunk of one class. If `anomalous` is given, count the flagged scores as anomalous instead."""

    @abstractmethod
    def merge(self, other: Self) -> None:
        """Add the counts of another state of the same pass.

        Raises:
            DataError: The other state counts other intervals.
        """

    @abstractmethod
    def empty(self) -> Pass:
        """Return a pass of the same kind that has counted nothing."""

    @abstractmethod
    def counts(self) -> ScoreCounts:
        """Return the counts so far."""


class FirstPass(Pass):
    """Counts all scores by the leading bits of their keys."""

    def __init__(self) -> None:
        self._bins = np.zeros((3, 1 << _FIRST_BITS), np.int64)
        self._lowest = (1 << _KEY_BITS) - 1
        self._highest = 0
        self._keys, self._scratch = np.empty((2, _CHUNK), np.uint32)
        self._positions = np.empty(_CHUNK, np.intp)

    def __getstate__(self) -> dict[str, Any]:
        return {"_lowest": self._lowest, "_highest": self._highest, "filled": _filled(self._bins[:, self._span])}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]
        self._lowest, self._highest = state["_lowest"], state["_highest"]
        _fill(self._bins[:, self._span], state["filled"])

    @property
    def _span(self) -> slice:
        """Bins from the smallest to the largest score. The memory of others was never touched."""
        shift = _KEY_BITS - _FIRST_BITS
        return slice(self._lowest >> shift, (self._highest >> shift) + 1)

    def empty(self) -> FirstPass:
        """Return a first pass that has counted nothing."""
        return FirstPass()

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
        counts = np.bincount(positions)
        self._bins[kind, first : first + len(counts)] += times * counts

    def merge(self, other: Self) -> None:
        """Add the counts of another first pass."""
        self._bins[:, other._span] += other._bins[:, other._span]
        self._lowest = min(self._lowest, other._lowest)
        self._highest = max(self._highest, other._highest)

    def counts(self) -> ScoreCounts:
        """Return the counts of all intervals with scores. The outermost end at the smallest and the largest score."""
        filled = np.flatnonzero(self._bins.any(axis=0))
        shift = np.uint32(_KEY_BITS - _FIRST_BITS)
        low = filled.astype(np.uint32) << shift
        high = low | np.uint32((1 << int(shift)) - 1)
        low[:1] = self._lowest
        high[-1:] = self._highest
        return ScoreCounts(low, high, *(row[filled] for row in self._bins))


class FinerPass(Pass):
    """Counts some intervals of an earlier pass again, by as many bits as memory allows, usually all 32.

    Args:
        before: Counts of the earlier pass.
        chosen: True for the intervals to count again. (intervals,).
    """

    def __init__(self, before: ScoreCounts, chosen: Flags) -> None:
        self._before = before
        self._chosen = chosen
        self._low, self._high = _merge_touching(before.low[chosen], before.high[chosen])
        self._shift = 0
        while self._sizes().sum() > _FINE_BINS:
            self._shift += 1
        self._offset = np.concatenate([[0], np.cumsum(self._sizes())])
        self._bins = np.zeros((3, int(self._offset[-1])), np.int64)
        self._pending: list[tuple[int, Keys]] = []
        self._pending_size = 0
        ends = [(from_key(int(low)), from_key(int(high))) for low, high in zip(self._low, self._high, strict=True)]
        self._ranges = ends if len(ends) <= _MOST_RANGES else [(ends[0][0], ends[-1][1])]

    def __getstate__(self) -> dict[str, Any]:
        self._count_pending()
        return {"before": self._before, "chosen": self._chosen, "filled": _filled(self._bins)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["before"], state["chosen"])  # type: ignore[misc]
        _fill(self._bins, state["filled"])

    def empty(self) -> FinerPass:
        """Return a pass over the same intervals that has counted nothing."""
        return FinerPass(self._before, self._chosen)

    def _sizes(self) -> Counts:
        return ((self._high - self._low).astype(np.int64) >> self._shift) + 1

    def _add(self, chunk: Scores, kind: int, anomalous: Flags | None) -> None:
        for low, high in self._ranges:
            inside = chunk >= low
            inside &= chunk <= high
            scores = chunk[inside]
            if not len(scores):
                continue
            if anomalous is None:
                self._buffer(kind, to_keys(scores))
            else:
                flagged = anomalous[inside]
                self._buffer(kind, to_keys(scores[~flagged]))
                self._buffer(ANOMALOUS, to_keys(scores[flagged]))

    def _buffer(self, kind: int, keys: Keys) -> None:
        self._pending.append((kind, keys))
        self._pending_size += len(keys)
        if self._pending_size > _BUFFERED:
            self._count_pending()

    def _count_pending(self) -> None:
        for kind in range(3):
            parts = [keys for pending_kind, keys in self._pending if pending_kind == kind]
            keys = np.concatenate(parts) if parts else np.zeros(0, np.uint32)
            index = np.searchsorted(self._low, keys, side="right") - 1
            # Joined ranges let scores between them through.
            inside = (index >= 0) & (keys <= self._high[index])
            keys, index = keys[inside], index[inside]
            positions = self._offset[index] + ((keys - self._low[index]) >> np.uint32(self._shift)).astype(np.int64)
            self._bins[kind] += np.bincount(positions, minlength=self._bins.shape[1])
        self._pending.clear()
        self._pending_size = 0

    def merge(self, other: Self) -> None:
        """Add the counts of another state with the same intervals.

        Raises:
            DataError: The intervals differ.
        """
        if not (np.array_equal(self._low, other._low) and np.array_equal(self._high, other._high)):
            raise DataError(
                "The state to merge counts other intervals, expected one that continues the same first pass. Merge "
                "the states of the first pass before you start the next."
            )
        other._count_pending()
        self._bins += other._bins

    def counts(self) -> ScoreCounts:
        """Return the earlier counts with the chosen intervals replaced by finer ones.

        Raises:
            DataError: The chosen intervals contain fewer or more scores than in the earlier pass.
        """
        self._count_pending()
        filled = np.flatnonzero(self._bins.any(axis=0))
        block = np.searchsorted(self._offset, filled, side="right") - 1
        low = self._low[block] + ((filled - self._offset[block]) << self._shift).astype(np.uint32)
        high = np.minimum(low + np.uint32((1 << self._shift) - 1), self._high[block])
        finer = ScoreCounts(low, high, *(row[filled] for row in self._bins))
        earlier = self._before.only(self._chosen)
        for name in ("normal", "anomalous", "unlabelled"):
            expected, counted = int(getattr(earlier, name).sum()), int(getattr(finer, name).sum())
            if counted != expected:
                raise DataError(
                    f"A later pass found {counted:,} {name} scores where the first found {expected:,}, expected the "
                    "same data in every pass. Read the same images, and use a model that always computes the same."
                )
        return self._before.replaced(self._chosen, finer)


Filled = tuple[npt.NDArray[np.int64], Counts]
"""Indices of columns of bins that are not all 0, and these columns."""


def _filled(bins: Counts) -> Filled:
    columns = np.flatnonzero(bins.any(axis=0))
    return columns, bins[:, columns]


def _fill(bins: Counts, filled: Filled) -> None:
    bins[:, filled[0]] = filled[1]


def _merge_touching(low: Keys, high: Keys) -> tuple[Keys, Keys]:
    if not len(low):
        return low, high
    starts = np.concatenate([[True], low[1:] > high[:-1] + np.uint32(1)])
    return low[starts], high[np.concatenate([starts[1:], [True]])]
