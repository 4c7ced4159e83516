"""The largest normal score: nothing in the calibration data that is normal is flagged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pp_graph.calibration.estimator import ValueEstimator
from pp_graph.calibration.quantiles import quantile_bounds, quantile_candidates

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pp_graph.calibration.score_counts import Flags, ScoreCounts
    from pp_graph.calibration.sketches import Sketch


@dataclass(frozen=True)
class MaxNormal(ValueEstimator):
    """The largest normal score itself, which the strict `>` of inference calls normal."""

    name: ClassVar[str] = "max-normal"

    def candidates(self, counts: ScoreCounts) -> Flags:
        """The last interval with normal scores."""
        return quantile_candidates(counts.normal, 1.0)

    def bounds(self, counts: ScoreCounts, sketches: Mapping[type[Sketch], Sketch]) -> tuple[float, float]:
        """The ends of that interval."""
        return quantile_bounds(counts, counts.normal, 1.0)
