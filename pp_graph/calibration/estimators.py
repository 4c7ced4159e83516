"""Estimators by their names."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

from pp_graph.calibration.estimator import RangeEstimator, ThresholdEstimator
from pp_graph.calibration.ranges import RANGES
from pp_graph.calibration.thresholds import THRESHOLDS
from pp_graph.errors import CalibrationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_Estimator = TypeVar("_Estimator", ThresholdEstimator, RangeEstimator)


def threshold_estimator(
    name: str | ThresholdEstimator, parameters: Mapping[str, Any] | None = None
) -> ThresholdEstimator:
    """An estimator of thresholds, such as `threshold_estimator("fpr", {"rate": 0.001})`.

    Raises:
        CalibrationError: There is none of that name, or it has no such parameter, or not in that range.
    """
    if isinstance(name, ThresholdEstimator):
        return name
    return _build("Threshold estimator", THRESHOLDS, name, parameters or {})


def range_estimator(name: str | RangeEstimator, parameters: Mapping[str, Any] | None = None) -> RangeEstimator:
    """An estimator of ranges; see `threshold_estimator`."""
    if isinstance(name, RangeEstimator):
        return name
    return _build("Range estimator", RANGES, name, parameters or {})


def _build(what: str, known: Sequence[type[_Estimator]], name: str, parameters: Mapping[str, Any]) -> _Estimator:
    kinds = {kind.name: kind for kind in known}
    if not isinstance(name, str) or name not in kinds:
        raise CalibrationError(f"{what} '{name}' is not known, expected one of: {', '.join(kinds)}.")
    kind = kinds[name]
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for given in parameters:
        if given not in names:
            expected = f"one of: {', '.join(names)}" if names else "none"
            raise CalibrationError(f"{what} '{name}' has no parameter '{given}', expected {expected}.")
    return kind(**parameters)
