"""What monotone steps into a bounded interval have in common: NaN, and arguments that no runtime can blur."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Final

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.steps.step import Array, MonotoneStep, OnNaN, as_float32
from pp_graph.values import Scale

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.emitter import Emitter

LARGEST_PARAMETER: Final = 2.0**100
"""Largest magnitude of a parameter; the smallest of a width is its reciprocal.

OpenVINO divides by multiplying with the reciprocal, and takes numbers below 1.2e-38 for 0: within these bounds neither
a parameter, nor its reciprocal, nor a product of two that are sensible together gets there.
"""
BEYOND: Final = np.float32(2.0**120)
"""A number that is above whatever a step tells apart."""


class BoundedStep(MonotoneStep):
    """A monotone step whose numbers lie between two bounds. NaN becomes one of them, in every runtime.

    Attributes:
        on_nan: What NaN counts as: the upper bound with `"anomalous"`, the lower one with `"normal"`.
    """

    on_nan: OnNaN

    @property
    def bounds(self) -> tuple[float, float]:
        """The smallest and the largest number that it writes."""
        return (0.0, 1.0)

    @abstractmethod
    def _compute(self, x: Array) -> Array:
        """The step on float32 numbers of which none is NaN, in float32 or float64."""

    def output_scale(self, *scales: Scale | None) -> Scale | None:
        """Between the bounds."""
        del scales
        return Scale(*self.bounds)

    def reference(self, array: Array) -> Array:
        """Compute the step; float32 of any shape to float32 of that shape, without NaN."""
        x = np.asarray(array, np.float32)
        nan = np.isnan(x)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            computed = self._compute(np.where(nan, np.float32(0), x)).astype(np.float32)
        return np.where(nan, np.float32(self.bounds[self.on_nan == "anomalous"]), computed)

    def _emit_settled(self, op: Emitter, value: ir.Value) -> ir.Value:
        """What is read, with a number far out for NaN: runtimes disagree on what Clip makes of NaN."""
        if self.on_nan == "anomalous":
            # Less is false for NaN in every runtime.
            return op.where(op.less(value, op.constant(BEYOND, "beyond")), value, op.constant(BEYOND, "beyond"))
        return op.where(op.is_nan(value), op.constant(-BEYOND, "beyond"), value)

    def _emit_distance(self, op: Emitter, value: ir.Value, center: float, reach: float) -> ir.Value:
        """Write `value - center` with full precision near the center, cut off where it is beyond `reach`.

        A center in float64 is subtracted in two parts. The Clip between them is not only there for infinity: OpenVINO
        folds what is subtracted and multiplied in a row into one multiply-add, whose constant cancels the digits that
        subtracting first would have kept.
        """
        high = np.float32(center)
        low = np.float32(center - float(high))
        limit = float(np.float32(reach + 2 * abs(float(low))))
        distance = self._emit_settled(op, value)
        if high != 0:
            distance = op.sub(distance, op.constant(high, "center"))
        distance = op.clip(distance, -limit, limit)
        return op.sub(distance, op.constant(low, "center_rest")) if low != 0 else distance


def as_location(number: float, what: str) -> float:
    """A parameter that is a place among the numbers.

    Raises:
        PostProcessorError: It is no number, or too large.
    """
    as_float32(number, what)
    if abs(number) > LARGEST_PARAMETER:
        raise PostProcessorError(f"{what} is {number}, expected a magnitude of at most {LARGEST_PARAMETER:.4g}.")
    return float(number)


def as_width(number: float, what: str) -> float:
    """A parameter that is a width, or the reciprocal of one: a positive number.

    Raises:
        PostProcessorError: It is not positive, or too small or large.
    """
    as_float32(number, what)
    if number <= 0:
        raise PostProcessorError(f"{what} is {number}, expected a number above 0.")
    if not 1 / LARGEST_PARAMETER <= number <= LARGEST_PARAMETER:
        raise PostProcessorError(
            f"{what} is {number}, expected a number from {1 / LARGEST_PARAMETER:.4g} to {LARGEST_PARAMETER:.4g}: "
            "float32 cannot divide by others in every runtime."
        )
    return float(number)
