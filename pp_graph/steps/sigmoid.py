"""Turn logits into probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pp_graph.steps.bounded import BoundedStep
from pp_graph.steps.step import checked_on_nan

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.emitter import Emitter
    from pp_graph.steps.step import Array, OnNaN


@dataclass(frozen=True)
class Sigmoid(BoundedStep):
    """The logistic function, `1 / (1 + exp(-x))`, in float64 and rounded once to float32.

    Source: `torch.sigmoid`, `scipy.special.expit`.

    Attributes:
        source: Name of the logits; any shape, float32.
        target: Name of the probabilities; same shape, float32, in [0, 1].
        on_nan: What NaN counts as: 1 with `"anomalous"`, 0 with `"normal"`.

    Raises:
        PostProcessorError: `on_nan` is not known.
    """

    source: str
    target: str
    on_nan: OnNaN = "anomalous"

    def __post_init__(self) -> None:
        """Refuse an unknown `on_nan`."""
        checked_on_nan(self.on_nan, self.target)

    @property
    def span(self) -> float:
        """Width of a straight line from 0 to 1 that is as steep as the middle."""
        return 4.0

    @property
    def bends(self) -> tuple[float, ...]:
        """Logits between which it moves."""
        return (-8.0, 0.0, 8.0)

    def _compute(self, x: Array) -> Array:
        return logistic(x.astype(np.float64))

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write a Where that settles NaN, and the formula; see `emit_logistic`."""
        negative = op.mul(self._emit_settled(op, value), op.constant(np.float32(-1), "minus_one"))
        return emit_logistic(op, negative)


def logistic(z: Array) -> Array:
    """`1 / (1 + exp(-z))` in float64; 0 where the exponential overflows."""
    result: Array = 1 / (1 + np.exp(-z))
    return result


def emit_logistic(op: Emitter, negative: ir.Value) -> ir.Value:
    """Write `1 / (1 + exp(negative))`.

    The operator Sigmoid of onnxruntime 1.32 gives 0 below -17.5, and is far off, seen from the number itself, before
    that: a map of small probabilities would be noise. Exp is precise, and 1 / infinity is 0 everywhere.
    """
    one = op.constant(np.float32(1), "one")
    plus_one = op.add(op.node("Exp", [negative], {}, np.dtype(np.float32), op.shape_of(negative)), one)
    return op.node("Div", [one, plus_one], {}, np.dtype(np.float32), op.shape_of(negative))
