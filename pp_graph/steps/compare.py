"""Decide: a label from a score, a mask from a map."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from pp_graph.steps.cutoff import Cutoff, find_cutoff
from pp_graph.steps.step import Array, OnNaN, Step, as_float32

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.emitter import Emitter
    from pp_graph.steps.normalize import MinMaxNormalize


@dataclass(frozen=True)
class Compare(Step):
    """Decide whether a raw value is anomalous: `normalized > level`, or `raw > level` without a normaliser.

    The reference computes exactly that. The graph compares the raw value with the compiled cutoff
    instead (see `pp_graph.steps.cutoff`), so its decisions do not depend on how a runtime rounds
    the normalisation.

    Attributes:
        source: Name of the raw value; any shape, float32.
        target: Name of the decision; same shape, bool, true for anomalous.
        level: What the value is compared with, strictly.
        normalizer: Monotone step to apply before comparing; None to compare the raw value.
        on_nan: What NaN counts as.

    Raises:
        PostProcessorError: `level` is not finite in float32.
    """

    source: str
    target: str
    level: float
    normalizer: MinMaxNormalize | None = None
    on_nan: OnNaN = "anomalous"

    def __post_init__(self) -> None:
        """Refuse a level that float32 cannot hold."""
        as_float32(self.level, f"level of '{self.target}'")

    @cached_property
    def cutoff(self) -> Cutoff:
        """The smallest raw float32 that is anomalous; None where none is."""
        return find_cutoff(self._decide)

    def _decide(self, array: Array) -> Array:
        x = np.asarray(array, np.float32)
        value = x if self.normalizer is None else self.normalizer.reference(x)
        decision: Array = value > np.float32(self.level)
        return decision

    def reference(self, array: Array) -> Array:
        """Decide for an array; float32 of any shape to bool of that shape."""
        return np.where(np.isnan(array), self.on_nan == "anomalous", self._decide(array))

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write `Not(Less(raw, cutoff))`, which is true for NaN in every runtime.

        `GreaterOrEqual` and `Greater` will not do: with NaN they are true in OpenVINO on CPU and
        false in onnxruntime.
        """
        if self.cutoff is None:
            if self.on_nan == "anomalous":
                return op.is_nan(value)
            return op.less(value, op.constant(np.float32(-np.inf), "never"))
        if 0 < self.cutoff < np.finfo(np.float32).smallest_normal:
            # OpenVINO takes a subnormal constant for 0, and then 0 itself would not lie below it.
            below = np.nextafter(self.cutoff, np.float32(0))
            anomalous = op.less(op.constant(below, "highest_normal_value"), value)
            if self.on_nan == "anomalous":
                return op.logical_or(anomalous, op.is_nan(value))
        else:
            anomalous = op.logical_not(op.less(value, op.constant(self.cutoff, "cutoff")))
            if self.on_nan == "anomalous":
                return anomalous
        return op.logical_and(anomalous, op.logical_not(op.is_nan(value)))
