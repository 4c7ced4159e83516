"""Steps on the numbers of classes: the largest one, the margin between the first two, and their axes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.steps.classes import LIMIT, check_class_count
from pp_graph.steps.step import DECISION, Accepts, Array, Step
from pp_graph.steps.top_classes import LOWEST, ClassStep

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.operators.emitter import Emitter
    from pp_graph.values import Scale, ValueType


@dataclass(frozen=True)
class MaxOverClasses(ClassStep):
    """Take the largest number among the classes; NaN if any is NaN, and -inf counts as the lowest float32.

    Source: `numpy.maximum(x.max(axis), -3.4028235e38)`. With the bf16 hint, OpenVINO saturates that constant to
    -3.3895314e38.

    Attributes:
        source: Name of the numbers, float32: (N,C), (N,C,H,W) or (N,H,W,C).
        target: Name of the largest number, float32: (N,) or (N,H,W).
        axes: Axes of the numbers; None until the step is bound.
        classes: Number of classes; None until the step is bound.
    """

    keeps_scale: ClassVar[bool] = True
    selects: ClassVar[bool] = True
    axes: str | None = None
    classes: int | None = None

    def output_type(self, value: ValueType) -> ValueType:
        """float32, without the axis of classes."""
        return value.reduced("C")

    def reference(self, array: Array) -> Array:
        """Reduce an array."""
        largest: Array = np.maximum(np.asarray(array, np.float32).max(axis=self._axis), np.float32(LOWEST))
        return largest

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write ReduceMax. NaN bypasses it; see `MaxOverMap`."""
        axes = (self._axis,)
        lowest = op.constant(np.float32(LOWEST), "lowest")
        largest = op.reduce("ReduceMax", op.where(op.less(value, lowest), lowest, value), axes)
        magnitudes = op.reduce("ReduceL2", value, axes)
        numbers = op.less(op.constant(np.float32(-1), "below_all"), magnitudes)
        return op.where(numbers, largest, magnitudes)


@dataclass(frozen=True)
class TopMargin(ClassStep):
    """Subtract the second largest number of the classes from the largest; NaN if any is NaN.

    0 if two classes share the largest number. Infinities count as +-2^126. Source: margin sampling (Scheffer et al.,
    2001), also called best versus second best. For two logits, the sigmoid of the margin is the larger softmax
    probability, so a limit on it becomes a cutoff.

    Attributes:
        source: Name of the numbers, float32: (N,C), (N,C,H,W) or (N,H,W,C), with C of 2 or more.
        target: Name of the margin, float32: (N,) or (N,H,W).
        axes: Axes of the numbers; None until the step is bound.
        classes: Number of classes; None until the step is bound.
    """

    axes: str | None = None
    classes: int | None = None

    def bind(self, value: ValueType, *_: ValueType) -> Self:
        """Bind the step to its input.

        Raises:
            PostProcessorError: There is only one class.
        """
        if value.size("C") == 1:
            raise PostProcessorError(f"{value} has one class, expected at least two to have a margin.")
        return super().bind(value)

    def output_type(self, value: ValueType) -> ValueType:
        """float32, without the axis of classes."""
        return value.reduced("C")

    def output_scale(self, *scales: Scale | None) -> Scale | None:
        """Unknown."""
        del scales
        return None

    def reference(self, array: Array) -> Array:
        """Compute the margins of an array."""
        x = np.clip(np.asarray(array, np.float32), -LIMIT, LIMIT)
        ordered = np.sort(x, axis=self._axis)
        first, second = (ordered.take(place, axis=self._axis) for place in (-1, -2))
        margin: Array = np.where(np.isnan(x).any(axis=self._axis), np.float32(np.nan), first - second)
        return margin

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write the maximum, minus the maximum of the others."""
        axis = self._axis
        bounded = op.clip(value, -float(LIMIT), float(LIMIT))
        (place,) = self.first_places(op, value, 1, self.classes)
        listed = op.array(self.index(self.classes or 1), "index")
        # A class is another one if its index lies below or above that of the largest number.
        below, above = op.below_other(listed, place, value), op.below_other(place, listed, value)
        others = op.where(op.logical_or(below, above), bounded, op.constant(-LIMIT, "excluded"))
        largest, second = (op.reduce("ReduceMax", each, (axis,)) for each in (bounded, others))
        magnitudes = op.reduce("ReduceL2", value, (axis,))
        numbers = op.less(op.constant(np.float32(-1), "below_all"), magnitudes)
        return op.where(numbers, op.sub(largest, second), magnitudes)


@dataclass(frozen=True)
class InvertDecision(Step):
    """Turn a decision round: true where it was false.

    Source: `numpy.logical_not`.

    Attributes:
        source: Name of the decision, bool, of any shape.
        target: Name of the inverted decision, of the same shape.
    """

    accepts: ClassVar[tuple[Accepts, ...]] = (DECISION,)
    source: str
    target: str

    def reference(self, array: Array) -> Array:
        """Invert an array."""
        return np.logical_not(array)

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write Not."""
        return op.logical_not(value)


@dataclass(frozen=True)
class DropPixelAxes(Step):
    """Remove height and width of size 1 from the numbers of classes: (N,1,1,C) or (N,C,1,1) to (N,C).

    Source: `numpy.squeeze`; classifiers that pool over the image, as TensorFlow and OpenVINO export them.

    Attributes:
        source: Name of the numbers, float32, (N,1,1,C) or (N,C,1,1).
        target: Name of the numbers, float32, (N,C).
        classes: Number of classes; None until the step is bound.
    """

    keeps_scale: ClassVar[bool] = True
    selects: ClassVar[bool] = True
    accepts: ClassVar[tuple[Accepts, ...]] = (Accepts(axes=("NCHW", "NHWC"), single="HW", known_rank=True),)
    settled: ClassVar[frozenset[str]] = frozenset({"axes", "classes"})
    source: str
    target: str
    classes: int | None = None

    def bind(self, value: ValueType) -> Self:
        """Bind the step to its input.

        Raises:
            PostProcessorError: The number of classes is open.
        """
        check_class_count(value)
        return dataclasses.replace(self, classes=value.size("C"))

    def output_type(self, value: ValueType) -> ValueType:
        """float32, (N,C)."""
        return value.reduced("HW")

    def reference(self, array: Array) -> Array:
        """Reshape an array.

        Raises:
            PostProcessorError: Height or width is not 1.
        """
        x = np.asarray(array, np.float32)
        if self.classes and x.size != len(x) * self.classes:
            raise PostProcessorError(
                f"The numbers of classes have shape {x.shape}, expected a height and width of 1. Give images of the "
                "size that the classifier was trained for; for a class of each pixel, use --task segmentation."
            )
        return x.reshape(len(x), self.classes or -1)

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write Reshape."""
        assert self.classes is not None, "bind() sets it"
        return op.reshape(value, (0, self.classes))
