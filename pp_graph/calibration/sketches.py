"""Summaries of the normal scores that estimators need in addition to counts. They merge exactly."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from fractions import Fraction
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from typing import Self

    from pp_graph.calibration.score_counts import Scores


class Sketch(ABC):
    """A summary of scores in bounded memory."""

    @abstractmethod
    def update(self, scores: Scores) -> None:
        """Add finite float32 scores, (N,)."""

    @abstractmethod
    def merge(self, other: Self) -> None:
        """Add the scores of another sketch."""


_EXPONENTS: Final = 256
_MANTISSA_BITS: Final = 24
_HALF_BITS: Final = 12
# x = mantissa * 2^(exponent - 150), with the exponent as stored, at least 1.
_UNIT_EXPONENT: Final = -149


class Moments(Sketch):
    """Mean and standard deviation, rounded once, so that order and batches do not matter.

    A float32 number is a 24-bit integer times a power of two. These integers and their squares are summed exactly, for
    each power separately.
    """

    def __init__(self) -> None:
        self._count = 0
        self._sum = 0
        self._squares = 0

    def update(self, scores: Scores) -> None:
        """Add scores."""
        bits = np.ascontiguousarray(scores).view(np.uint32)
        stored = (bits >> np.uint32(23)) & np.uint32(0xFF)
        mantissa = (bits & np.uint32(0x7FFFFF)) | ((stored > 0).astype(np.uint32) << np.uint32(23))
        exponent = np.maximum(stored, np.uint32(1)).astype(np.intp)
        negative = bits >> np.uint32(31) != 0
        signed = np.where(negative, -mantissa.astype(np.float64), mantissa.astype(np.float64))
        high, low = (mantissa >> np.uint32(_HALF_BITS)).astype(np.float64), (mantissa & np.uint32(0xFFF)).astype(float)
        # Sums of integers below 2^53 are exact in float64: 2^28 products of 24 bits fit.
        sums = [
            np.bincount(exponent, weights=terms, minlength=_EXPONENTS)
            for terms in (signed, high * high, high * low, low * low)
        ]
        for power in np.flatnonzero(np.bincount(exponent, minlength=_EXPONENTS)):
            first, high_high, high_low, low_low = (int(row[power]) for row in sums)
            shift = int(power) - 1
            self._sum += first << shift
            square = (high_high << 2 * _HALF_BITS) + (high_low << _HALF_BITS + 1) + low_low
            self._squares += square << 2 * shift
        self._count += len(scores)

    def merge(self, other: Self) -> None:
        """Add the scores of another sketch."""
        self._count += other._count
        self._sum += other._sum
        self._squares += other._squares

    @property
    def mean(self) -> float:
        """The mean, correctly rounded to float64."""
        return float(Fraction(self._sum, self._count) * Fraction(2) ** _UNIT_EXPONENT)

    @property
    def std(self) -> float:
        """The population standard deviation, `sqrt(mean((x - mean)^2))`, within one float64 ulp."""
        variance = Fraction(self._count * self._squares - self._sum**2, self._count**2)
        if variance == 0:
            return 0.0
        # Scale, so that the integer root has more digits than float64.
        scale = max(0, 64 - (variance.numerator.bit_length() - variance.denominator.bit_length()) // 2)
        root = math.isqrt((variance.numerator << 2 * scale) // variance.denominator)
        return float(Fraction(root) * Fraction(2) ** (_UNIT_EXPONENT - scale))


TAIL_SIZE: Final = 10_000


class LargestScores(Sketch):
    """The `TAIL_SIZE` largest scores."""

    def __init__(self) -> None:
        self._kept = np.zeros(0, np.float32)
        self._floor = np.float32(-np.inf)

    def update(self, scores: Scores) -> None:
        """Add scores."""
        above = scores[scores > self._floor] if len(self._kept) >= TAIL_SIZE else scores
        self._kept = np.concatenate([self._kept, above])
        if len(self._kept) > 2 * TAIL_SIZE:
            self._cut()

    def merge(self, other: Self) -> None:
        """Add the scores of another sketch."""
        self.update(other._kept)

    def _cut(self) -> None:
        self._kept = np.partition(self._kept, len(self._kept) - TAIL_SIZE)[-TAIL_SIZE:]
        self._floor = self._kept.min()

    def largest(self, count: int) -> Scores:
        """Return the largest scores, ascending, at most `TAIL_SIZE`."""
        return np.sort(self._kept)[len(self._kept) - min(count, TAIL_SIZE, len(self._kept)) :]
