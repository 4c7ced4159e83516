"""Decide with several cutoffs at once: one a class, or one a pixel."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pp_graph.steps.compare import DecidingStep
from pp_graph.steps.cutoff import find_cutoffs, highest_below, is_subnormal

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.emitter import Emitter
    from pp_graph.steps.step import Array


class SeveralCutoffs(DecidingStep):
    """A decision whose levels differ from place to place; they broadcast to what is read."""

    @cached_property
    def cutoffs(self) -> Array:
        """A cutoff for each level, NaN where nothing is anomalous."""
        return find_cutoffs(self._decide, self.levels.shape)

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write `Not(Less(raw, cutoffs))`, which is true for NaN in every runtime; see `Compare`.

        Where a cutoff is no number, or one that runtimes may take for 0, its place is settled by a second operator.
        """
        cutoffs: npt.NDArray[np.float32] = self.cutoffs.astype(np.float32)
        never = np.isnan(cutoffs)
        subnormal = is_subnormal(cutoffs)
        # Infinity and NaN alone are not below infinity. At a subnormal cutoff infinity is anomalous anyway.
        kept = np.where(never | subnormal, np.float32(np.inf), cutoffs)
        anomalous = op.logical_not(op.less(value, op.array(kept, "cutoffs")))
        if subnormal.any():
            below = np.where(subnormal, highest_below(cutoffs), np.float32(np.inf))
            anomalous = op.logical_or(anomalous, op.less(op.array(below, "highest_normal_values"), value))
        if never.any():
            anomalous = op.logical_and(anomalous, op.array(~never, "ever_anomalous"))
        if self.on_nan == "normal":
            return op.logical_and(anomalous, op.logical_not(op.is_nan(value)))
        return op.logical_or(anomalous, op.is_nan(value)) if never.any() else anomalous
