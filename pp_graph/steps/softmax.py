"""Turn the numbers of several classes into probabilities."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, Self

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.steps.accepts import CLASSES, Accepts
from pp_graph.steps.step import Array, Step
from pp_graph.values import Scale, ValueType

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.emitter import Emitter

_LIMIT: Final = np.float32(2.0**126)
"""Two numbers within it, either way, differ by a finite float32."""


@dataclass(frozen=True)
class Softmax(Step):
    """Turn the numbers of the classes into probabilities that sum to 1, at each image or pixel.

    `exp(x - m) / sum(exp(x - m))` over the classes, with `m` the largest of them. Source: `torch.softmax`. An infinite
    number counts as +-2^126, so it takes or leaves all, where torch gives NaN. A NaN in one class makes all classes of
    that image or pixel NaN; what that counts as is said where they are compared.

    Attributes:
        source: Name of the numbers, float32: (N,C), (N,C,H,W) or (N,H,W,C), with C of 2 or more.
        target: Name of the probabilities; same shape, float32, in [0, 1].
        axes: Axes of what is read; None until they are known.
    """

    exact: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (CLASSES,)
    source: str
    target: str
    axes: str | None = None

    def bind(self, value: ValueType) -> Self:
        """The step with its axes.

        Raises:
            PostProcessorError: There are no classes.
        """
        if value.size("C") == 1:
            raise PostProcessorError(
                f"{value} has no classes, expected several, (N,C), (N,C,H,W) or (N,H,W,C): of one the probability "
                "is 1 everywhere. Take a sigmoid instead."
            )
        return dataclasses.replace(self, axes=value.known_axes)

    @property
    def _axis(self) -> int:
        return (self.axes or "NC").index("C")

    def output_scale(self, *scales: Scale | None) -> Scale | None:
        """0 to 1."""
        del scales
        return Scale(0.0, 1.0)

    def reference(self, array: Array) -> Array:
        """Compute the probabilities in float64, and round them once."""
        x = np.clip(np.asarray(array, np.float32), -_LIMIT, _LIMIT).astype(np.float64)
        powers = np.exp(x - x.max(axis=self._axis, keepdims=True))
        probabilities: Array = powers / powers.sum(axis=self._axis, keepdims=True)
        return probabilities.astype(np.float32)

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write it by hand: before opset 13 the operator Softmax takes all axes from one on for classes.

        What ReduceMax, Clip and Exp make of NaN depends on the runtime. A sum of squares is NaN if and only if a number
        is, and dividing by it makes all classes NaN.
        """
        axes = (self._axis,)
        magnitudes = op.reduce("ReduceL2", value, axes, keepdims=True)
        bounded = op.clip(value, -float(_LIMIT), float(_LIMIT))
        largest = op.reduce("ReduceMax", bounded, axes, keepdims=True)
        powers = op.exp(op.sub(bounded, largest))
        total = op.reduce("ReduceSum", powers, axes, keepdims=True)
        # Less is false for NaN in every runtime.
        numbers = op.less(op.constant(np.float32(-1), "below_all"), magnitudes)
        return op.div(powers, op.where(numbers, total, magnitudes))
