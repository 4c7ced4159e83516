"""Base class of monotone steps with bounded results, and checks of their parameters."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Final

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.steps.step import Array, MonotoneStep, OnNaN, as_float32
from pp_graph.values import Scale

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.operators.emitter import Emitter


LARGEST_PARAMETER: Final = 2.0**100
"""Largest magnitude of a parameter; raw values are not limited. The smallest width is its reciprocal.

OpenVINO divides by multiplying with the reciprocal, and flushes numbers below 1.2e-38 to 0. Within these bounds,
neither a parameter nor its reciprocal nor a product of two sensible parameters is that small.
"""
BEYOND: Final = np.float32(2.0**120)
"""A number so large that every bounded step has reached its upper bound there."""


class BoundedStep(MonotoneStep):
    """A monotone step with bounded results. NaN becomes one of the bounds, in every runtime.

    Attributes:
        on_nan: Result for NaN: the upper bound with `"anomalous"`, the lower one with `"normal"`.
    """

    on_nan: OnNaN

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest result."""
        return (0.0, 1.0)

    @property
    def _result_for_nan(self) -> np.float32:
        return np.float32(self.bounds[self.on_nan == "anomalous"])

    @abstractmethod
    def _compute(self, x: Array) -> Array:
        """Compute the step on float32 numbers without NaN, in float32 or float64."""

    def output_scale(self, *scales: Scale | None) -> Scale | None:
        """The bounds."""
        del scales
        return Scale(*self.bounds)

    def reference(self, array: Array) -> Array:
        """Compute the step; float32 of any shape to float32 of the same shape, without NaN."""
        x = np.asarray(array, np.float32)
        nan = np.isnan(x)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            computed = self._compute(np.where(nan, np.float32(0), x)).astype(np.float32)
        return np.where(nan, self._result_for_nan, computed)

    def _emit_without_nan(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Replace NaN by a number beyond the range, as runtimes disagree on Clip of NaN."""
        if self.on_nan == "anomalous":
            # Less is false for NaN in every runtime.
            return op.where(op.less(value, op.constant(BEYOND, "beyond")), value, op.constant(BEYOND, "beyond"))
        return op.where(op.is_nan(value), op.constant(-BEYOND, "beyond"), value)

    def _emit_distance(self, op: Emitter, value: ir.Value, center: float, reach: float) -> ir.Value:
        """Write `value - center` with full precision near the center, clipped to a magnitude of `reach`.

        A float64 center is subtracted in two parts. The Clip between them handles infinities, and keeps OpenVINO from
        folding subtraction and multiplication into one multiply-add, whose constant cancels digits.
        """
        high = np.float32(center)
        low = np.float32(center - float(high))
        limit = float(np.float32(reach + 2 * abs(float(low))))
        distance = self._emit_without_nan(op, value)
        if high != 0:
            distance = op.sub(distance, op.constant(high, "center"))
        distance = op.clip(distance, -limit, limit)
        return op.sub(distance, op.constant(low, "center_rest")) if low != 0 else distance


def as_location(number: float, what: str) -> float:
    """Return a parameter that is a point on the number line.

    Raises:
        PostProcessorError: It is not a number, or too large.
    """
    as_float32(number, what)
    if abs(number) > LARGEST_PARAMETER:
        raise PostProcessorError(f"{what} is {number}, expected a magnitude of at most {LARGEST_PARAMETER:.4g}.")
    return float(number)


def as_width(number: float, what: str) -> float:
    """Return a parameter that is a width or the reciprocal of one.

    Raises:
        PostProcessorError: It is not positive, too small or too large.
    """
    as_float32(number, what)
    if number <= 0:
        raise PostProcessorError(f"{what} is {number}, expected a number above 0.")
    if not 1 / LARGEST_PARAMETER <= number <= LARGEST_PARAMETER:
        raise PostProcessorError(
            f"{what} is {number}, expected a number from {1 / LARGEST_PARAMETER:.4g} to {LARGEST_PARAMETER:.4g}: "
            "dividing by numbers outside this range underflows in some runtimes."
        )
    return float(number)
