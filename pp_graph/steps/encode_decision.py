"""Give a label or a mask as numbers, for what reads no booleans."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.steps.accepts import DECISION, Accepts
from pp_graph.steps.compare import DECISION_VALUES, DecisionType
from pp_graph.steps.step import Array, Step

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.emitter import Emitter
    from pp_graph.values import ValueType


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
