"""Take one class out of several."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.steps.accepts import CLASSES, Accepts
from pp_graph.steps.compare_per_class import check_class_count
from pp_graph.steps.step import Array, Step

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.emitter import Emitter
    from pp_graph.values import Scale, ValueType


@dataclass(frozen=True)
class SelectClass(Step):
    """Take the numbers of one class; the axis of classes stays, with size 1.

    Source: `scores[:, index : index + 1]`, as the anomalous class is taken from a classifier of normal and anomalous.

    Attributes:
        source: Name of the numbers, float32: (N,C), (N,C,H,W) or (N,H,W,C).
        target: Name of those of one class, float32: (N,1), (N,1,H,W) or (N,H,W,1).
        index: Which class, from 0.
        axes: Axes of what is read; None until they are known.

    Raises:
        PostProcessorError: `index` is no whole number from 0.
    """

    accepts: ClassVar[tuple[Accepts, ...]] = (CLASSES,)
    source: str
    target: str
    index: int
    axes: str | None = None

    def __post_init__(self) -> None:
        """Refuse what is no index."""
        if isinstance(self.index, bool) or not isinstance(self.index, int | np.integer) or self.index < 0:
            raise PostProcessorError(f"index of '{self.target}' is {self.index!r}, expected a whole number from 0.")
        object.__setattr__(self, "index", int(self.index))

    def bind(self, value: ValueType) -> Self:
        """The step with its axes.

        Raises:
            PostProcessorError: There is no such class.
        """
        check_class_count(value)
        classes = value.size("C")
        if classes is not None and self.index >= classes:
            raise PostProcessorError(
                f"index is {self.index}, and {value} has {classes} classes, expected at most {classes - 1}. "
                "Classes are counted from 0."
            )
        return dataclasses.replace(self, axes=value.known_axes)

    def output_type(self, value: ValueType) -> ValueType:
        """The same with one class."""
        return value.resized(C=1)

    @property
    def _axis(self) -> int:
        return (self.axes or "NC").index("C")

    def output_scale(self, *scales: Scale | None) -> Scale | None:
        """That of what it reads."""
        return scales[0]

    def reference(self, array: Array) -> Array:
        """Cut the class out of an array."""
        cut = (slice(None),) * self._axis + (slice(self.index, self.index + 1),)
        return np.asarray(array, np.float32)[cut]

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write Slice."""
        return op.slice(value, (self.index,), (self.index + 1,), (self._axis,))
