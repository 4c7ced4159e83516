"""Express raw values as distances from a mean, in standard deviations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from pp_graph.steps.bounded import as_location, as_width
from pp_graph.steps.step import Array, MonotoneStep

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.emitter import Emitter

_FOLDING_COSTS_DIGITS: Final = 4
"""|mean| / std up to which folding may stand; see `MinMaxNormalize`."""


@dataclass(frozen=True)
class ZScore(MonotoneStep):
    """Standardise: `(x - mean) / std`, in this order of float32 operations; not bounded.

    Source: scikit-learn, `StandardScaler`. NaN stays NaN, and infinity infinity, in every runtime; what decides about
    them says by its own `on_nan` what NaN counts as. A result beyond the largest float32 is infinite.

    Attributes:
        source: Name of the raw value; any shape, float32.
        target: Name of the standardised value; same shape, float32.
        mean: Mean of the calibration.
        std: Standard deviation of the calibration, above 0.

    Raises:
        PostProcessorError: A number is not finite or too large, or the deviation is not positive.
    """

    source: str
    target: str
    mean: float
    std: float

    def __post_init__(self) -> None:
        """Refuse a deviation that cannot be divided by."""
        as_location(self.mean, f"mean of '{self.target}'")
        as_width(self.std, f"std of '{self.target}'")

    @property
    def span(self) -> float:
        """One standard deviation."""
        return float(self.std)

    @property
    def bends(self) -> tuple[float, ...]:
        """The mean, and four standard deviations to both sides; it bends nowhere."""
        return (self.mean - 4 * self.std, self.mean, self.mean + 4 * self.std)

    def reference(self, array: Array) -> Array:
        """Standardise an array; float32 of any shape to float32 of that shape."""
        x = np.asarray(array, np.float32)
        with np.errstate(over="ignore", under="ignore"):
            standardised: Array = (x - np.float32(self.mean)) / np.float32(self.std)
        return standardised

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write Sub and Div.

        OpenVINO folds them into one multiply-add, whose constant cancels digits where the mean is far from zero, seen
        from the deviation. There a choice between a number and itself stands between them: it lets NaN through,
        unlike a Clip, and is not optimised away.
        """
        centered = op.sub(value, op.constant(np.float32(self.mean), "mean"))
        if abs(self.mean) > _FOLDING_COSTS_DIGITS * self.std:
            centered = op.where(op.less(centered, op.constant(np.float32(0), "zero")), centered, centered)
        return op.div(centered, op.constant(np.float32(self.std), "std"))
