"""`ExactSum`: a sum of floating-point numbers that does not depend on their order."""

from __future__ import annotations

import math


class ExactSum:
    """A sum of float64 numbers, rounded once, when it is read.

    Numbers are kept as a few that do not overlap, whose sum is the exact one (J. R. Shewchuk, Adaptive Precision
    Floating-Point Arithmetic and Fast Robust Geometric Predicates, 1997).
    """

    def __init__(self) -> None:
        self._parts: list[float] = []
        self._special = 0.0

    def add(self, number: float) -> None:
        """Add a number. Infinities and NaN add up as in IEEE arithmetic."""
        if not math.isfinite(number):
            self._special += number
            return
        parts = []
        for part in self._parts:
            larger, smaller = (number, part) if abs(number) >= abs(part) else (part, number)
            number = larger + smaller
            error = smaller - (number - larger)
            if error:
                parts.append(error)
        self._parts = [*parts, number]

    def merge(self, other: ExactSum) -> None:
        """Add the numbers of another sum."""
        for part in other._parts:
            self.add(part)
        self._special += other._special

    @property
    def total(self) -> float:
        """The sum, correctly rounded."""
        return math.fsum(self._parts) if self._special == 0 else self._special
