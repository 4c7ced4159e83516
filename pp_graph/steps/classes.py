"""Steps across classes: softmax, and the selection of one class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, Self

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.steps.step import CLASSES, Accepts, Array, Step, require_whole
from pp_graph.values import Scale, ValueType

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.operators.emitter import Emitter


def check_class_count(value: ValueType) -> None:
    """Raise `PostProcessorError` if the number of classes is open."""
    if value.size("C") is None:
        raise PostProcessorError(
            f"the number of classes of {value} is open, expected a known one. Export the model with its output shapes."
        )


LIMIT: Final = np.float32(2.0**126)
"""The difference of two numbers of at most this magnitude is finite in float32."""


@dataclass(frozen=True)
class Softmax(Step):
    """Turn the numbers of the classes into probabilities that sum to 1, at each image or pixel.

    `exp(x - m) / sum(exp(x - m))` over the classes, where `m` is their maximum. Source: `torch.softmax`. Infinities
    count as +-2^126, so their class gets probability 1 or 0, where torch gives NaN. A NaN in one class makes all
    classes of that image or pixel NaN; `on_nan` of the step that compares them decides how it is classified.

    Attributes:
        source: Name of the numbers, float32: (N,C), (N,C,H,W) or (N,H,W,C), with C of 2 or more.
        target: Name of the probabilities; same shape, float32, in [0, 1].
        axes: Axes of the numbers; None until the step is bound.
    """

    exact: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (CLASSES,)
    source: str
    target: str
    axes: str | None = None

    def bind(self, value: ValueType) -> Self:
        """Bind the step to its input.

        Raises:
            PostProcessorError: There is only one class.
        """
        if value.size("C") == 1:
            raise PostProcessorError(
                f"{value} has no classes, expected several, (N,C), (N,C,H,W) or (N,H,W,C): the softmax of one class "
                "is 1 everywhere. Use a sigmoid instead."
            )
        return super().bind(value)

    @property
    def _axis(self) -> int:
        return (self.axes or "NC").index("C")

    def output_scale(self, *scales: Scale | None) -> Scale | None:
        """0 to 1."""
        del scales
        return Scale(0.0, 1.0)

    def reference(self, array: Array) -> Array:
        """Compute the probabilities in float64 and round them once."""
        x = np.clip(np.asarray(array, np.float32), -LIMIT, LIMIT).astype(np.float64)
        powers = np.exp(x - x.max(axis=self._axis, keepdims=True))
        probabilities: Array = powers / powers.sum(axis=self._axis, keepdims=True)
        return probabilities.astype(np.float32)

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write the formula with elementary operators, as Softmax flattens the axes before opset 13.

        Runtimes disagree on ReduceMax, Clip and Exp of NaN. A sum of squares is NaN if and only if a number is, so
        dividing by it makes all classes NaN.
        """
        axes = (self._axis,)
        magnitudes = op.reduce("ReduceL2", value, axes, keepdims=True)
        bounded = op.clip(value, -float(LIMIT), float(LIMIT))
        largest = op.reduce("ReduceMax", bounded, axes, keepdims=True)
        powers = op.exp(op.sub(bounded, largest))
        total = op.reduce("ReduceSum", powers, axes, keepdims=True)
        # Less is false for NaN in every runtime.
        numbers = op.less(op.constant(np.float32(-1), "below_all"), magnitudes)
        return op.div(powers, op.where(numbers, total, magnitudes))


@dataclass(frozen=True)
class SelectClass(Step):
    """Take the numbers of one class; the axis of classes stays, with size 1.

    Source: `scores[:, index : index + 1]`, such as the anomalous class of a classifier of normal and anomalous.

    Attributes:
        source: Name of the numbers, float32: (N,C), (N,C,H,W) or (N,H,W,C).
        target: Name of the numbers of the class, float32: (N,1), (N,1,H,W) or (N,H,W,1).
        index: Index of the class, from 0.
        axes: Axes of the numbers; None until the step is bound.

    Raises:
        PostProcessorError: `index` is not a whole number from 0.
    """

    keeps_scale: ClassVar[bool] = True
    selects: ClassVar[bool] = True
    accepts: ClassVar[tuple[Accepts, ...]] = (CLASSES,)
    source: str
    target: str
    index: int
    axes: str | None = None

    def __post_init__(self) -> None:
        """Check the index."""
        require_whole(self.index, f"index of '{self.target}'", 0)
        object.__setattr__(self, "index", int(self.index))

    def bind(self, value: ValueType) -> Self:
        """Bind the step to its input.

        Raises:
            PostProcessorError: The input has no such class.
        """
        check_class_count(value)
        classes = value.size("C")
        if classes is not None and self.index >= classes:
            raise PostProcessorError(
                f"index is {self.index}, and {value} has {classes} classes, expected at most {classes - 1}. "
                "Classes are counted from 0."
            )
        return super().bind(value)

    def output_type(self, value: ValueType) -> ValueType:
        """The input's type with one class."""
        return value.resized(C=1)

    @property
    def _axis(self) -> int:
        return (self.axes or "NC").index("C")

    def reference(self, array: Array) -> Array:
        """Cut the class out of an array."""
        cut = (slice(None),) * self._axis + (slice(self.index, self.index + 1),)
        return np.asarray(array, np.float32)[cut]

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write Slice."""
        return op.slice(value, (self.index,), (self.index + 1,), (self._axis,))
