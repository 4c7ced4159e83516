"""Map raw values to the share of calibrated ones that they reach."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from pp_graph.steps.knots import Knots, KnotStep
from pp_graph.steps.step import checked_on_nan

if TYPE_CHECKING:
    from pp_graph.steps.step import OnNaN


@dataclass(frozen=True)
class QuantileMap(KnotStep):
    """The share of calibrated values that a raw value reaches, between quantiles that are spread evenly.

    The first of K quantiles, the minimum, maps to 0, number k to `k / (K - 1)`, and the last, the maximum, to 1;
    between them the line is straight, in float64, rounded once to float32. Source: scikit-learn,
    `QuantileTransformer(output_distribution="uniform")`, whose `quantiles_` they are; so are
    `numpy.quantile(values, numpy.linspace(0, 1, K))`.

    A raw value that several quantiles have, also after rounding to float32, maps to the last of them: that is the
    share of calibrated values at or below it, as `scipy.stats.ecdf` defines it. scikit-learn takes the middle of the
    first and the last there.

    Attributes:
        source: Name of the raw value; any shape, float32.
        target: Name of the share; same shape, float32, in [0, 1].
        quantiles: Quantiles of the calibration, non-decreasing; 2 to 65,536.
        on_nan: What NaN counts as: 1 with `"anomalous"`, 0 with `"normal"`.

    Raises:
        PostProcessorError: Quantiles fall or are not finite, or there are too few or too many.
    """

    source: str
    target: str
    quantiles: tuple[float, ...]
    on_nan: OnNaN = "anomalous"

    def __post_init__(self) -> None:
        """Refuse quantiles that fall."""
        checked_on_nan(self.on_nan, self.target)
        self._settle_numbers("quantiles")

    @cached_property
    def _knots(self) -> Knots:
        return Knots(np.array(self.quantiles, np.float32), np.linspace(0.0, 1.0, len(self.quantiles)))
