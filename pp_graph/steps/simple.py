"""Pass a value on, encode a decision, clear masks of normal images, select a class."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, Self

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.steps.compare import DECISION_VALUES, DecisionType
from pp_graph.steps.compare_many import check_class_count
from pp_graph.steps.step import CLASSES, DECISION, MASK, Accepts, Array, MonotoneStep, Step

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.operators.emitter import Emitter
    from pp_graph.values import Scale, ValueType


@dataclass(frozen=True)
class Keep(MonotoneStep):
    """Give a raw value an output of its own, unchanged; NaN stays NaN.

    Attributes:
        source: Name of the raw value; any shape and element type.
        target: Name of the output; same shape and dtype.
    """

    exact: ClassVar[bool] = True
    accepts: ClassVar[tuple[Accepts, ...]] = (Accepts(dtypes=("float32", "uint8", "int64")),)
    source: str
    target: str

    def output_scale(self, *scales: Scale | None) -> Scale | None:
        """Scale of the input."""
        return scales[0]

    def reference(self, array: Array) -> Array:
        """Return the array."""
        return np.asarray(array)

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write Identity."""
        return op.unchanged(value)


@dataclass(frozen=True)
class EncodeDecision(Step):
    """Write a decision as numbers, such as 0 and 255 for a mask that is shown as a picture.

    Attributes:
        source: Name of the label or mask, bool, of any shape.
        target: Name of the numbers, of the same shape.
        dtype: Their element type and the two values: `u8` (0 and 1), `u8_255` (0 and 255), `f32` (0 and 1).

    Raises:
        PostProcessorError: `dtype` is something else.
    """

    accepts: ClassVar[tuple[Accepts, ...]] = (DECISION,)
    source: str
    target: str
    dtype: DecisionType = "u8"

    def __post_init__(self) -> None:
        """Refuse an element type that is not known."""
        if self.dtype not in DECISION_VALUES or self.dtype == "bool":
            raise PostProcessorError(f"dtype of '{self.target}' is {self.dtype!r}, expected u8, u8_255 or f32.")

    def output_type(self, value: ValueType) -> ValueType:
        """The same in the other element type."""
        return value.as_dtype(DECISION_VALUES[self.dtype][0].dtype.name)

    def reference(self, array: Array) -> Array:
        """Encode an array."""
        normal, anomalous = DECISION_VALUES[self.dtype]
        return np.where(array, anomalous, normal)

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write Where."""
        normal, anomalous = DECISION_VALUES[self.dtype]
        return op.where(value, op.constant(anomalous, "anomalous"), op.constant(normal, "normal"))


_LABEL: Final = Accepts(dtypes=("bool",), axes=("N", "NC"), lacks="HW", single="C")


@dataclass(frozen=True)
class MaskByLabel(Step):
    """Empty the mask of each image whose label is normal: `mask and label`.

    The label may come from another score than the map's maximum; then the two can contradict each other without this.

    Attributes:
        source: Name of the mask, bool: (N,H,W), (N,1,H,W) or (N,H,W,1).
        label: Name of the label, bool: (N,) or (N,1).
        target: Name of the mask that is left, bool, of the shape of the mask.
        axes: Axes of the mask; None until they are known.
    """

    accepts: ClassVar[tuple[Accepts, ...]] = (MASK, _LABEL)
    source: str
    label: str
    target: str
    axes: str | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        """The mask, and the label."""
        return (self.source, self.label)

    def reference(self, mask: Array, label: Array) -> Array:
        """Mask an array by one label an image."""
        masks = np.asarray(mask, np.bool_)
        return masks & np.asarray(label, np.bool_).reshape(-1, *(1,) * (masks.ndim - 1))

    def emit(self, op: Emitter, mask: ir.Value, label: ir.Value) -> ir.Value:
        """Write And, with the label spread over each image."""
        ones = (1, 1) if self.axes == "NHW" else (1, 1, 1)
        spread = op.arranged(label, op.constant((-1, *ones), "one_an_image"), (None, *ones))
        return op.logical_and(mask, spread)


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
        """Check the index."""
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
        """Scale of the input."""
        return scales[0]

    def reference(self, array: Array) -> Array:
        """Cut the class out of an array."""
        cut = (slice(None),) * self._axis + (slice(self.index, self.index + 1),)
        return np.asarray(array, np.float32)[cut]

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write Slice."""
        return op.slice(value, (self.index,), (self.index + 1,), (self._axis,))
