"""Decide: a label from a score, a mask from a map."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.steps.cutoff import Cutoff, find_cutoff
from pp_graph.steps.step import Array, OnNaN, Step, as_float32

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.emitter import Emitter
    from pp_graph.steps.normalize import MinMaxNormalize

DecisionType = Literal["bool", "u8", "u8_255", "f32"]
"""Element type of a decision: booleans, or numbers that stand for them."""

DECISION_VALUES: Final[dict[str, tuple[np.generic, np.generic]]] = {
    "bool": (np.bool_(False), np.bool_(True)),
    "u8": (np.uint8(0), np.uint8(1)),
    "u8_255": (np.uint8(0), np.uint8(255)),
    "f32": (np.float32(0), np.float32(1)),
}
"""What stands for normal and for anomalous in each."""


@dataclass(frozen=True)
class Compare(Step):
    """Decide whether a raw value is anomalous: `normalized > level`, or `raw > level` without a normaliser.

    The reference computes exactly that. The graph compares the raw value with the compiled cutoff
    instead (see `pp_graph.steps.cutoff`), so its decisions do not depend on how a runtime rounds
    the normalisation.

    Attributes:
        source: Name of the raw value; any shape, float32.
        target: Name of the decision; same shape, true for anomalous.
        level: What the value is compared with, strictly.
        normalizer: Monotone step to apply before comparing; None to compare the raw value.
        on_nan: What NaN counts as.
        dtype: Element type of the decision, and its two values; see `DECISION_VALUES`.
        runtime: Whether the cutoff is an input of the graph, named `<target>_cutoff`, of which the compiled one is
            the default; it can then be changed while the model runs.

    Raises:
        PostProcessorError: `level` is not finite in float32, or `dtype` is not known.
    """

    source: str
    target: str
    level: float
    normalizer: MinMaxNormalize | None = None
    on_nan: OnNaN = "anomalous"
    dtype: DecisionType = "bool"
    runtime: bool = False

    def __post_init__(self) -> None:
        """Refuse a level that float32 cannot hold."""
        as_float32(self.level, f"level of '{self.target}'")
        if self.dtype not in DECISION_VALUES:
            raise PostProcessorError(
                f"dtype of '{self.target}' is {self.dtype!r}, expected one of: {', '.join(DECISION_VALUES)}."
            )

    @property
    def input_name(self) -> str:
        """Name of the graph's input that holds the cutoff, where that is adjustable."""
        return f"{self.target}_cutoff"

    @property
    def runtime_cutoff(self) -> np.float32:
        """The cutoff as the graph's input holds it: NaN where nothing is anomalous.

        OpenVINO takes a subnormal number for 0, so one above 0 becomes the smallest normal number.
        """
        if self.cutoff is None:
            return np.float32(np.nan)
        smallest = np.finfo(np.float32).smallest_normal
        return smallest if 0 < self.cutoff < smallest else self.cutoff

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
        """Decide for an array; float32 of any shape to `dtype` of that shape."""
        anomalous = np.where(np.isnan(array), self.on_nan == "anomalous", self._decide(array))
        normal_value, anomalous_value = DECISION_VALUES[self.dtype]
        return np.where(anomalous, anomalous_value, normal_value)

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write the comparison, and the values that stand for its outcome."""
        anomalous = self._emit_adjustable(op, value) if self.runtime else self._emit_fixed(op, value)
        if self.dtype == "bool":
            return anomalous
        normal_value, anomalous_value = DECISION_VALUES[self.dtype]
        return op.where(anomalous, op.constant(anomalous_value, "anomalous"), op.constant(normal_value, "normal"))

    def _emit_adjustable(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write `cutoff <= raw`, which is false where either is NaN, in every runtime."""
        cutoff = op.adjustable(self.runtime_cutoff, self.input_name)
        anomalous = op.less_or_equal(cutoff, value)
        return op.logical_or(anomalous, op.is_nan(value)) if self.on_nan == "anomalous" else anomalous

    def _emit_fixed(self, op: Emitter, value: ir.Value) -> ir.Value:
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
