"""Reduce a map to a score: the mean of each image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from pp_graph.steps.accepts import MAPS, Accepts
from pp_graph.steps.step import Array, Step
from pp_graph.values import Scale

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.emitter import Emitter
    from pp_graph.values import ValueType


@dataclass(frozen=True)
class MeanOverMap(Step):
    """Take the mean of a map over height and width; NaN if any pixel is NaN.

    Source: `x.mean(dim=(-2, -1))`, global average pooling. Runtimes round sums differently, so the step is not exact.
    Where the sum of a row lies beyond float32 (3.4e38), the mean is infinite or NaN in a runtime.

    Attributes:
        source: Name of the map, float32: (N,H,W), (N,C,H,W) or (N,H,W,C).
        target: Name of the score, float32: (N,) for a map of rank 3, (N,C) for rank 4, with C of 1 or more.
        axes: Axes of the map; None until they are known.
    """

    exact: ClassVar[bool] = False
    pointwise: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (MAPS,)
    source: str
    target: str
    axes: str | None = None

    def output_type(self, value: ValueType) -> ValueType:
        """One number an image and class."""
        return value.reduced("HW")

    @property
    def _spatial(self) -> tuple[int, int]:
        return (2, 3) if self.axes == "NCHW" else (1, 2)

    def output_scale(self, *scales: Scale | None) -> Scale | None:
        """Range of what it reads; the threshold of pixels is none of the score."""
        return None if scales[0] is None else Scale(scales[0].low, scales[0].high)

    def reference(self, array: Array) -> Array:
        """Reduce an array: in float64, rounded once."""
        with np.errstate(over="ignore", invalid="ignore"):
            mean: Array = np.asarray(array, np.float32).mean(axis=self._spatial, dtype=np.float64)
            return mean.astype(np.float32)

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write ReduceMean twice: short sums lose fewer digits than one over all pixels."""
        rows, columns = self._spatial
        return op.reduce("ReduceMean", op.reduce("ReduceMean", value, (columns,)), (rows,))
