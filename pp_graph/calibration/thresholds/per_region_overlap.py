"""The threshold with the largest per-region overlap within a false-positive rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from pp_graph.calibration.estimator import CutEstimator, require_number
from pp_graph.calibration.thresholds.from_normal import first_within
from pp_graph.extras import require_extra

if TYPE_CHECKING:
    from typing import Self

    from pp_graph.calibration.score_counts import Flags, ScoreCounts


# Pixels that share an edge or a corner belong to one region, as in Anomalib's and MVTec's evaluation.
_CONNECTED = np.ones((3, 3), np.int64)


class RegionOverlap:
    """Mean share of each connected region of the ground truth at or above a cutoff.

    Args:
        cutoff: Smallest score that is called anomalous.

    Raises:
        ExtraError: SciPy is not installed.
    """

    def __init__(self, cutoff: float) -> None:
        self.cutoff = cutoff
        self.regions = 0
        self._shares: list[npt.NDArray[np.float64]] = []
        _ndimage()

    def update(self, anomaly_map: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_]) -> None:
        """Add the regions of an image; map and mask of shape (H,W)."""
        if not mask.any():
            return
        labels, count = _ndimage().label(mask, structure=_CONNECTED)
        inside = labels[mask]
        sizes = np.bincount(inside, minlength=count + 1)[1:]
        detected = np.bincount(inside, weights=anomaly_map[mask] >= self.cutoff, minlength=count + 1)[1:]
        self._shares.append(detected / sizes)
        self.regions += int(count)

    def merge(self, other: Self) -> None:
        """Add the regions of another state."""
        self._shares += other._shares
        self.regions += other.regions

    @property
    def mean(self) -> float | None:
        """The per-region overlap, whatever the order of the images; None without regions."""
        return math.fsum(chain.from_iterable(self._shares)) / self.regions if self.regions else None


def _ndimage() -> Any:
    return require_extra("scipy.ndimage", "calibration", "the 'pro' estimator")


@dataclass(frozen=True)
class PerRegionOverlap(CutEstimator):
    """The highest threshold with the largest per-region overlap that a false-positive rate allows.

    The per-region overlap (PRO) is the mean share of a connected region of the ground truth that is found. Every
    region has the same weight, whatever its size. PRO grows with each anomalous pixel found. So among the scores
    within the rate, it is largest at the lowest score of an anomalous pixel. Source: P. Bergmann et al., The MVTec
    Anomaly Detection Dataset, IJCV 2021, section 5.2.

    Attributes:
        rate: Largest share of normal pixels called anomalous, in [0, 1).

    Raises:
        CalibrationError: `rate` is out of range.
    """

    name: ClassVar[str] = "pro"
    needs_scipy: ClassVar[bool] = True
    needs_anomalous: ClassVar[bool] = True
    rate: float = 0.05

    def __post_init__(self) -> None:
        """Check the parameters."""
        require_number("rate", self.rate, 0, 1, closed="left")

    def choose(self, counts: ScoreCounts) -> int:
        """The first interval within the rate that has anomalous scores."""
        first = first_within(counts, self.rate)
        anomalous = np.flatnonzero(counts.anomalous[first:])
        return first + int(anomalous[0]) if len(anomalous) else len(counts)

    def candidates(self, counts: ScoreCounts) -> Flags:
        """From the interval in which the rate is crossed to the chosen one."""
        index = np.arange(len(counts))
        return (index >= first_within(counts, self.rate) - 1) & (index <= self.choose(counts))
