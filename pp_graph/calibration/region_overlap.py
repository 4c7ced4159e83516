"""Per-region overlap (PRO): how much of each anomalous region a threshold finds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pp_graph.extras import require_extra

if TYPE_CHECKING:
    from typing import Self

# Pixels that touch by an edge or a corner are one region, as in Anomalib's and MVTec's evaluation.
_CONNECTED = np.ones((3, 3), np.int64)


class RegionOverlap:
    """Mean over connected regions of the ground truth of the share of each that lies at or above a cutoff.

    Args:
        cutoff: The smallest score that is called anomalous.

    Raises:
        ExtraError: SciPy is not installed.
    """

    def __init__(self, cutoff: float) -> None:
        self.cutoff = cutoff
        self.regions = 0
        self._sum = 0.0
        _ndimage()

    def update(self, anomaly_map: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_]) -> None:
        """Add the regions of an image; map and mask of shape (H,W)."""
        if not mask.any():
            return
        labels, count = _ndimage().label(mask, structure=_CONNECTED)
        inside = labels[mask]
        sizes = np.bincount(inside, minlength=count + 1)[1:]
        found = np.bincount(inside, weights=anomaly_map[mask] >= self.cutoff, minlength=count + 1)[1:]
        self._sum += float((found / sizes).sum())
        self.regions += int(count)

    def merge(self, other: Self) -> None:
        """Add another's regions."""
        self._sum += other._sum
        self.regions += other.regions

    @property
    def mean(self) -> float | None:
        """The per-region overlap; None without regions."""
        return self._sum / self.regions if self.regions else None


def _ndimage() -> Any:
    return require_extra("scipy.ndimage", "calibration", "the 'pro' estimator")
