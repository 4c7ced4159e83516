"""Map raw values by straight lines between knots, as isotonic regression gives them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.steps.knots import Knots, KnotStep
from pp_graph.steps.step import checked_on_nan

if TYPE_CHECKING:
    from pp_graph.steps.step import OnNaN


@dataclass(frozen=True)
class PiecewiseLinear(KnotStep):
    """Interpolate between knots, in float64, rounded once to float32; constant outside of them.

    Source: scikit-learn, `IsotonicRegression(out_of_bounds="clip")`, whose knots are `X_thresholds_` and
    `y_thresholds_`. Inputs are rounded to float32 first. Where an input comes several times, also after rounding, the
    function jumps, and at the input itself it has the largest of the outputs there.

    Attributes:
        source: Name of the raw value; any shape, float32.
        target: Name of the mapped value; same shape, float32, between the first and the last output.
        inputs: Raw values of the knots, non-decreasing; 2 to 65,536.
        outputs: What each maps to, as many, non-decreasing.
        on_nan: What NaN counts as: the last output with `"anomalous"`, the first with `"normal"`.

    Raises:
        PostProcessorError: Numbers fall, are not finite, or are not as many.
    """

    source: str
    target: str
    inputs: tuple[float, ...]
    outputs: tuple[float, ...]
    on_nan: OnNaN = "anomalous"

    def __post_init__(self) -> None:
        """Refuse knots that are no function that rises."""
        checked_on_nan(self.on_nan, self.target)
        self._settle_numbers("inputs")
        self._settle_numbers("outputs")
        if len(self.inputs) != len(self.outputs):
            raise PostProcessorError(
                f"outputs of '{self.target}' holds {len(self.outputs):,} numbers, expected {len(self.inputs):,}, one "
                "for each of inputs."
            )

    @cached_property
    def _knots(self) -> Knots:
        return Knots(np.array(self.inputs, np.float32), np.array(self.outputs, np.float64))
