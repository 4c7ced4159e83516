"""Hand a raw value out as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pp_graph.steps.accepts import Accepts
from pp_graph.steps.step import Array, MonotoneStep

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.emitter import Emitter
    from pp_graph.values import Scale


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
        """That of what it reads."""
        return scales[0]

    def reference(self, array: Array) -> Array:
        """Return the array."""
        return np.asarray(array)

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write Identity."""
        return op.unchanged(value)
