"""Ways to estimate the range that normalisation uses, a file each. A new one is one more line in `RANGES`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pp_graph.calibration.ranges.min_max import MinMax
from pp_graph.calibration.ranges.percentile import Percentile

if TYPE_CHECKING:
    from pp_graph.calibration.estimator import RangeEstimator

RANGES: tuple[type[RangeEstimator], ...] = (MinMax, Percentile)

__all__ = ["RANGES", "MinMax", "Percentile"]
