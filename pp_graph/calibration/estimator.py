"""Base classes of estimators, and checks of their parameters."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

from pp_graph.errors import CalibrationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pp_graph.calibration.score_counts import Counts, Flags, ScoreCounts
    from pp_graph.calibration.sketches import Sketch


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


_LARGEST: Final = 1e6


def require_positive(name: str, value: float) -> None:
    """Raise CalibrationError unless a parameter is above 0 and plausible."""
    if not _is_number(value) or not 0 < value <= _LARGEST:
        raise CalibrationError(f"Parameter '{name}' is {value!r}, expected a number above 0, up to {_LARGEST:g}.")


def require_rate(name: str, value: float) -> None:
    """Raise CalibrationError unless a parameter is at least 0 and below 1."""
    if not _is_number(value) or not 0 <= value < 1:
        raise CalibrationError(f"Parameter '{name}' is {value!r}, expected a number from 0 to below 1.")


def require_share(name: str, value: float) -> None:
    """Raise CalibrationError unless a parameter is above 0 and at most 1."""
    if not _is_number(value) or not 0 < value <= 1:
        raise CalibrationError(f"Parameter '{name}' is {value!r}, expected a number above 0 and up to 1.")


def require_flag(name: str, value: bool) -> None:
    """Raise CalibrationError unless a parameter is True or False."""
    if not isinstance(value, bool):
        raise CalibrationError(f"Parameter '{name}' is {value!r}, expected True or False.")


Objective = npt.NDArray[np.floating[Any]]


class ThresholdEstimator(ABC):
    """Estimates a threshold. Subclasses are frozen dataclasses whose fields are the estimator's parameters.

    Attributes:
        name: What it is called in the API and on the command line.
        needs_anomalous: Whether it cannot work with normal scores alone.
        needs_scipy: Whether it needs the extra `calibration`.
    """

    name: ClassVar[str]
    needs_anomalous: ClassVar[bool]
    needs_scipy: ClassVar[bool] = False

    @abstractmethod
    def candidates(self, counts: ScoreCounts) -> Flags:
        """Intervals whose scores must be known one by one before the answer is exact. (intervals,)."""

    def sketches(self) -> tuple[type[Sketch], ...]:
        """Return the sketches of normal scores that this estimator needs besides their counts."""
        return ()

    def parameters(self) -> dict[str, Any]:
        """Its parameters, as plain JSON values."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]


class RangeEstimator(ABC):
    """Estimates the range that normalisation uses. Subclasses are frozen dataclasses, as those of `ThresholdEstimator`.

    Attributes:
        name: What it is called in the API and on the command line.
    """

    name: ClassVar[str]

    @abstractmethod
    def candidates(self, counts: ScoreCounts) -> Flags:
        """Intervals whose scores must be known one by one before the answer is exact. (intervals,)."""

    @abstractmethod
    def bounds(self, counts: ScoreCounts) -> tuple[tuple[float, float], tuple[float, float]]:
        """Bound the minimum and the maximum, each from smallest to largest."""

    def parameters(self) -> dict[str, Any]:
        """Its parameters, as plain JSON values."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]


class CutEstimator(ThresholdEstimator):
    """Chooses a cut between two scores. The placement decides where the threshold lies between them."""

    @abstractmethod
    def choose(self, counts: ScoreCounts) -> int:
        """Index of the interval whose smallest score, and all above, become anomalous; the length for none at all."""


class ValueEstimator(ThresholdEstimator):
    """Computes the threshold itself, from normal scores."""

    needs_anomalous = False

    @abstractmethod
    def bounds(self, counts: ScoreCounts, sketches: Mapping[type[Sketch], Sketch]) -> tuple[float, float]:
        """The smallest and the largest threshold that the counts allow; equal where it is exact.

        Raises:
            CalibrationError: The scores do not allow an estimate.
        """


class MaximumEstimator(CutEstimator):
    """Cuts at the largest objective, at the lowest such score of several, as `argmax`.

    Attributes:
        rounding: Bound on the relative error with which the objective is computed.
        floor: Size of the objective below which that error is no smaller.
    """

    needs_anomalous = True
    rounding: ClassVar[float] = 1e-12
    floor: ClassVar[float] = 1.0

    @abstractmethod
    def objective(self, true_positives: Counts, false_positives: Counts, anomalies: int, normals: int) -> Objective:
        """The objective for each pair of counts; it must not fall with true positives, nor rise with false ones."""

    def candidates(self, counts: ScoreCounts) -> Flags:
        """Intervals in which the objective may reach the largest value that is known to be reached."""
        above, false = counts.true_positives, counts.false_positives
        totals = counts.anomalies, counts.normals
        reached = self.objective(above[:-1], false[:-1], *totals).astype(np.float64)
        # A cut within an interval finds at most all its anomalous scores, and may spare all its normal ones.
        possible = self.objective(above[:-1], false[1:], *totals).astype(np.float64)
        best = float(reached.max())
        slack = self.rounding * max(abs(best), self.floor)
        promising: Flags = np.where(counts.exact, reached, possible) >= best - slack
        return promising

    def choose(self, counts: ScoreCounts) -> int:
        """The first of the largest."""
        return int(
            np.argmax(
                self.objective(
                    counts.true_positives[:-1], counts.false_positives[:-1], counts.anomalies, counts.normals
                )
            )
        )


def with_interval_below(chosen: Flags) -> Flags:
    """Intervals, and with each the one below. (intervals,)."""
    return np.asarray(chosen | np.concatenate([chosen[1:], [False]]))
