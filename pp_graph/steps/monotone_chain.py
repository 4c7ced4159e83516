"""Several monotone steps as one, to decide about what the first of them reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pp_graph.steps.step import Array, MonotoneStep

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.emitter import Emitter


@dataclass(frozen=True)
class MonotoneChain(MonotoneStep):
    """Monotone steps, one on what the other computes. It is compiled to a cutoff, and never listed among the steps.

    Attributes:
        source: Name of the value read; any shape, float32.
        target: Name of the value written; same shape, float32.
        links: The steps, in order.
    """

    source: str
    target: str
    links: tuple[MonotoneStep, ...]

    @property
    def span(self) -> float:
        """That of the first step that has one."""
        return next((link.span for link in self.links if link.span > 0), 0.0)

    @property
    def bends(self) -> tuple[float, ...]:
        """Those of the first step, which reads the same numbers."""
        return self.links[0].bends

    def reference(self, array: Array) -> Array:
        """Compute one step after the other."""
        value = np.asarray(array, np.float32)
        for link in self.links:
            value = link.reference(value)
        return value

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write one step after the other."""
        for link in self.links:
            value = link.emit(op, value)
        return value
