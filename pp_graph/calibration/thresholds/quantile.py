"""A quantile of the normal scores, times a factor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pp_graph.calibration.estimator import ValueEstimator
from pp_graph.calibration.parameters import require_positive, require_share
from pp_graph.calibration.quantiles import quantile_bounds, quantile_candidates

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pp_graph.calibration.score_counts import Flags, ScoreCounts
    from pp_graph.calibration.sketches import Sketch


@dataclass(frozen=True)
class Quantile(ValueEstimator):
    """`factor` times the `q` quantile of the normal scores, interpolated as `numpy.quantile` does.

    Attributes:
        q: The quantile, in (0, 1].
        factor: What it is multiplied with, above 0.

    Raises:
        CalibrationError: A parameter is outside its range.
    """

    name: ClassVar[str] = "quantile"
    q: float = 0.99
    factor: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what is no quantile, and a factor that turns the order round."""
        require_share("q", self.q)
        require_positive("factor", self.factor)

    def candidates(self, counts: ScoreCounts) -> Flags:
        """The intervals of the scores that are interpolated."""
        return quantile_candidates(counts.normal, self.q)

    def bounds(self, counts: ScoreCounts, sketches: Mapping[type[Sketch], Sketch]) -> tuple[float, float]:
        """The quantile with each interval at its lower, and at its upper end."""
        low, high = quantile_bounds(counts, counts.normal, self.q)
        return self.factor * low, self.factor * high
