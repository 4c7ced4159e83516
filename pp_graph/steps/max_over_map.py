"""Reduce a map to a score: the largest value of each image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.steps.step import Array, Step

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.emitter import Emitter


@dataclass(frozen=True)
class MaxOverMap(Step):
    """Take the maximum of a map over height and width; NaN if any pixel is NaN.

    Source: Anomalib 2.7, `PostProcessor.forward`, for models without a score of their own.

    Attributes:
        source: Name of the map, float32: (N,H,W), (N,1,H,W), or (N,H,W,1) with `channel_axis=3`.
        target: Name of the score, float32: (N,) for a map of rank 3, (N,1) for rank 4.
        channel_axis: Axis of the single channel: 1 or 3; None for a map of rank 3.

    Raises:
        PostProcessorError: `channel_axis` is something else.
    """

    source: str
    target: str
    channel_axis: int | None = 1

    def __post_init__(self) -> None:
        """Refuse an axis that no map convention has."""
        if self.channel_axis not in (None, 1, 3):
            raise PostProcessorError(
                f"channel_axis of '{self.target}' is {self.channel_axis}, expected None for (N,H,W), 1 for "
                "(N,1,H,W) or 3 for (N,H,W,1)."
            )

    @property
    def axes(self) -> tuple[int, int]:
        """Axes of height and width."""
        return (2, 3) if self.channel_axis == 1 else (1, 2)

    def reference(self, array: Array) -> Array:
        """Reduce an array; NumPy's max already spreads NaN."""
        maximum: Array = np.max(np.asarray(array, np.float32), axis=self.axes)
        return maximum

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write ReduceMax, and carry NaN past it: what ReduceMax makes of NaN depends on the runtime.

        A map that holds -inf only reduces to the lowest finite float32 in OpenVINO on CPU, and to -inf in
        onnxruntime; both lie below any calibrated threshold.
        """
        nan = op.is_nan(value)
        finite = op.where(nan, op.constant(np.float32(-np.inf), "lowest"), value)
        maximum = op.reduce_max(finite, self.axes)
        any_nan = op.cast(op.reduce_max(op.cast(nan, np.dtype(np.float32)), self.axes), np.dtype(np.bool_))
        return op.where(any_nan, op.constant(np.float32(np.nan), "nan"), maximum)
