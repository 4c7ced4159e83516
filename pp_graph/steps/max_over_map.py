"""Reduce a map to a score: the largest value of each image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.steps.accepts import MAP_AXES, Accepts
from pp_graph.steps.step import Array, Step
from pp_graph.values import Scale

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.emitter import Emitter
    from pp_graph.values import ValueType


@dataclass(frozen=True)
class MaxOverMap(Step):
    """Take the maximum of a map over height and width; NaN if any pixel is NaN.

    Source: Anomalib 2.7, `PostProcessor.forward`, for models without a score of their own. A map of
    rank 4 has one channel, so it does not matter which axis that is.

    Attributes:
        source: Name of the map, float32: (N,H,W), (N,1,H,W) or (N,H,W,1).
        target: Name of the score, float32: (N,) for a map of rank 3, (N,1) for rank 4.
        axes: Axes of the map; those of rank 4 where they are not known.
    """

    pointwise: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (Accepts(needs="HW", axes=MAP_AXES, single="C"),)
    source: str
    target: str
    axes: str | None = None

    def output_type(self, value: ValueType) -> ValueType:
        """One number an image."""
        return value.reduced("HW").resized(C=1)

    def output_scale(self, *scales: Scale | None) -> Scale | None:
        """Range of what it reads; the threshold of pixels is none of the score."""
        return None if scales[0] is None else Scale(scales[0].low, scales[0].high)

    def reference(self, array: Array) -> Array:
        """Reduce an array; NumPy's max already spreads NaN.

        Raises:
            PostProcessorError: The map has no pixels.
        """
        x = np.asarray(array, np.float32)
        if 0 in x.shape[1:]:
            raise PostProcessorError(
                f"What '{self.target}' is computed from has shape {x.shape}, expected at least one pixel."
            )
        maximum: Array = x.max(axis=tuple(range(1, x.ndim)))
        return maximum if x.ndim == 3 else maximum[:, None]

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write ReduceMax, and carry NaN past it: what ReduceMax makes of NaN depends on the runtime.

        A map that holds -inf only reduces to the lowest finite float32 in OpenVINO on CPU, and to -inf in
        onnxruntime; both lie below any calibrated threshold.
        """
        # A sum of squares is NaN if and only if a number is: nothing cancels in it, and infinity stays infinity.
        # ReduceL1 would do as well, but of that OpenVINO 2026.4 reduces all axes at opsets 13 to 17.
        magnitudes = self._reduce(op, value, "ReduceL2")
        # Less is false for NaN in every runtime. IsNaN and a constant NaN would not do: in OpenVINO 2026.4 on CPU the
        # choice between a number and NaN is NaN.
        numbers = op.less(op.constant(np.float32(-1), "below_all"), magnitudes)
        return op.where(numbers, self._reduce(op, value, "ReduceMax"), magnitudes)

    def _reduce(self, op: Emitter, value: ir.Value, kind: Literal["ReduceMax", "ReduceL2"]) -> ir.Value:
        if self.axes == "NHW":
            return op.reduce(kind, value, (1, 2))
        # Two of the three axes disappear, whichever of them is the channel.
        return op.reduce(kind, op.reduce(kind, value, (2, 3)), (1,), keepdims=True)
