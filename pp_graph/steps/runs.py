"""Connected regions of masks in NumPy: rows of a mask are runs of pixels, and runs that touch are one region.

The same hooking as in `pp_graph.steps.labelling`, over runs instead of pixels, until nothing changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from pp_graph.steps.one_channel import Mask

_Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Runs:
    """The runs of a batch of masks, and the region of each.

    Attributes:
        starts: Where each begins, in the batch with background between rows and images.
        stops: Where each ends.
        regions: The first run of the region that each belongs to.
        padded: Shape of the batch with that background.
        shape: Shape of the batch, (N,H,W).
    """

    starts: _Numbers
    stops: _Numbers
    regions: _Numbers
    padded: tuple[int, ...]
    shape: tuple[int, ...]

    @classmethod
    def of(cls, mask: Mask, connectivity: int) -> Runs:
        """Find the regions of a batch of masks, bool (N,H,W), with 4 or 8 neighbours."""
        corners = int(connectivity == 8)
        padded = _padded(mask, corners)
        edges = np.diff(padded.reshape(-1).view(np.int8), prepend=np.int8(0), append=np.int8(0))
        starts, stops = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
        width = padded.shape[2]
        first = np.searchsorted(stops, starts + width - corners, "right")
        last = np.searchsorted(starts, stops + width + corners, "left")
        touching = np.maximum(last - first, 0)
        above = np.repeat(np.arange(len(starts)), touching)
        below = np.arange(touching.sum()) - np.repeat(np.cumsum(touching) - touching, touching)
        regions = _merged(len(starts), above, below + np.repeat(first, touching))
        return cls(starts, stops, regions, padded.shape, mask.shape)

    def totals(self, truths: Mask) -> npt.NDArray[Any]:
        """How many pixels are true in the region of each run, where the runs are."""
        before = np.concatenate([[0], np.cumsum(_padded(truths, self.padded[2] - self.shape[2] - 1), dtype=np.int64)])
        inside = before[self.stops] - before[self.starts]
        counts = np.zeros(len(inside), np.int64)
        np.add.at(counts, self.regions, inside)
        return counts[self.regions]

    def painted(self, keep: npt.NDArray[np.bool_]) -> Mask:
        """The mask of some of the runs, (N,H,W)."""
        edges = np.zeros(int(np.prod(self.padded)) + 1, np.int8)
        # No two runs meet, so each place begins or ends one at most.
        edges[self.starts[keep]] += 1
        edges[self.stops[keep]] -= 1
        whole = np.cumsum(edges[:-1], dtype=np.int8).reshape(self.padded)
        _, height, width = self.shape
        return whole[:, :height, :width].astype(np.bool_)


def _padded(mask: Mask, corners: int) -> Mask:
    """Masks with background behind each row, so that none touches another's, and below each image."""
    count, height, width = mask.shape
    padded = np.zeros((count, height + 1, width + 1 + corners), np.bool_)
    padded[:, :height, :width] = mask
    return padded


def _merged(count: int, above: _Numbers, below: _Numbers) -> _Numbers:
    """The first of each set of runs that touch."""
    regions = np.arange(count)
    while True:
        one, other = regions[above], regions[below]
        differ = one != other
        if not differ.any():
            return regions
        above, below, one, other = above[differ], below[differ], one[differ], other[differ]
        np.minimum.at(regions, np.maximum(one, other), np.minimum(one, other))
        while not np.array_equal(regions[regions], regions):
            regions = regions[regions]
