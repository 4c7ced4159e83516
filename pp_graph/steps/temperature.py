"""Soften or sharpen logits before a sigmoid or softmax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pp_graph.steps.bounded import as_width
from pp_graph.steps.step import Array, MonotoneStep

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.emitter import Emitter


@dataclass(frozen=True)
class Temperature(MonotoneStep):
    """Divide logits by a temperature: `x / T`, in float32; also of several classes.

    Source: Guo et al., "On Calibration of Modern Neural Networks", 2017: a temperature fitted on validation data, in
    front of a sigmoid or softmax. NaN stays NaN, and infinity infinity. A result beyond the largest float32 is
    infinite.

    Attributes:
        source: Name of the logits; any shape, float32.
        target: Name of the divided logits; same shape, float32.
        temperature: The temperature, above 0; above 1 it softens.

    Raises:
        PostProcessorError: The temperature is not finite or not positive.
    """

    source: str
    target: str
    temperature: float

    def __post_init__(self) -> None:
        """Refuse a temperature that cannot be divided by."""
        as_width(self.temperature, f"temperature of '{self.target}'")

    @property
    def span(self) -> float:
        """The temperature: margins are measured in logits as they come out."""
        return float(self.temperature)

    @property
    def bends(self) -> tuple[float, ...]:
        """Logits between which a sigmoid or softmax behind it moves; it bends nowhere itself."""
        return (-8 * self.temperature, 0.0, 8 * self.temperature)

    def reference(self, array: Array) -> Array:
        """Divide an array; float32 of any shape to float32 of that shape."""
        with np.errstate(over="ignore", under="ignore"):
            divided: Array = np.asarray(array, np.float32) / np.float32(self.temperature)
        return divided

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write Div."""
        return op.div(value, op.constant(np.float32(self.temperature), "temperature"))
