"""Base classes of estimators, and checks of their parameters."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from pp_graph.errors import CalibrationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pp_graph.calibration.score_counts import Flags, ScoreCounts, Scores
    from pp_graph.calibration.sketches import Sketch


class Estimator(ABC):
    """Estimates a threshold or a range. Subclasses are frozen dataclasses whose fields are the parameters.

    Attributes:
        name: Name in the API and on the command line.
    """

    name: ClassVar[str]

    @abstractmethod
    def candidates(self, counts: ScoreCounts) -> Flags:
        """Intervals in which the exact answer may lie. (intervals,)."""

    def parameters(self) -> dict[str, Any]:
        """Parameters as plain JSON values."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]


class RangeEstimator(Estimator):
    """Estimates the range of the normalisation."""

    @abstractmethod
    def bounds(self, counts: ScoreCounts) -> tuple[tuple[float, float], tuple[float, float]]:
        """Bound the minimum and the maximum, each by its smallest and largest possible value."""


class ThresholdEstimator(Estimator):
    """Estimates a threshold.

    Attributes:
        needs_anomalous: True if anomalous scores are required.
        needs_scipy: True if the extra `calibration` is required.
    """

    needs_anomalous: ClassVar[bool]
    needs_scipy: ClassVar[bool] = False

    def new_sketch(self) -> Sketch | None:
        """Return an empty sketch for the normal scores; None if their counts suffice."""
        return None

    def sketch_of(self, normal: Scores) -> Sketch | None:
        """Return the sketch of normal scores, (N,)."""
        sketch = self.new_sketch()
        if sketch is not None:
            sketch.update(normal)
        return sketch


class CutEstimator(ThresholdEstimator):
    """Chooses a cut between two scores. The placement then puts the threshold between them."""

    @abstractmethod
    def choose(self, counts: ScoreCounts) -> int:
        """Index of the lowest interval that becomes anomalous; `len(counts)` if none does."""


class ValueEstimator(ThresholdEstimator):
    """Computes the threshold from normal scores."""

    needs_anomalous = False

    @abstractmethod
    def bounds(self, counts: ScoreCounts, sketch: Sketch | None) -> tuple[float, float]:
        """Smallest and largest threshold that the counts allow; equal if the threshold is exact.

        Args:
            counts: Counts with at least one normal score.
            sketch: The sketch from `new_sketch`, with all normal scores.

        Raises:
            CalibrationError: The scores do not allow an estimate.
        """


_Estimator = TypeVar("_Estimator", bound=Estimator)


def build_estimator(
    what: str, known: Sequence[type[_Estimator]], name: str, parameters: Mapping[str, Any]
) -> _Estimator:
    """Build an estimator by its name.

    Args:
        what: Description of the estimators for error messages.
        known: Classes to choose from.
        name: Name of the estimator.
        parameters: Its parameters.

    Raises:
        CalibrationError: The name or a parameter is not known, or a value is out of range.
    """
    kinds = {kind.name: kind for kind in known}
    if not isinstance(name, str) or name not in kinds:
        raise CalibrationError(f"{what} '{name}' is not known, expected one of: {', '.join(kinds)}.")
    kind = kinds[name]
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for parameter in parameters:
        if parameter not in names:
            expected = f"one of: {', '.join(names)}" if names else "none"
            raise CalibrationError(f"{what} '{name}' has no parameter '{parameter}', expected {expected}.")
    return kind(**parameters)


def require_number(
    name: str, value: float, low: float, high: float, *, closed: Literal["left", "right"] = "right"
) -> None:
    """Raise CalibrationError unless a parameter is in (low, high], or in [low, high) if `closed` is "left"."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not (low <= value < high if closed == "left" else low < value <= high):
        interval = f"[{low:g}, {high:g})" if closed == "left" else f"({low:g}, {high:g}]"
        raise CalibrationError(f"Parameter '{name}' is {value!r}, expected a number in {interval}.")
