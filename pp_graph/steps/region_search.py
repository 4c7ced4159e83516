"""Find the connected regions of a mask.

Both the reference and the graph join runs of pixels in a row, by hooking and compressing, until nothing changes.

Runs are numbered over all images of a batch, row by row. Two runs touch if pixels of theirs are neighbours. f[r], the
parent of run r, is a run of the same region with f[r] <= r. A root has f[r] = r.

    start    f[r] = r
    round    for each pair of touching runs: f[larger root] = smallest root that it touches
             compress: f = f[f] until nothing changes

The rounds end when one changes nothing. Touching runs then have the same root, so all runs of a region do: the region's
first run, which holds its first pixel.

**The number of rounds is bounded for every mask.** At the start, f[r] <= r, and f[r] is in the region of r. Each change
takes the minimum of such numbers, or a parent's parent. So parents form a forest, and no f ever grows.

1. Compressing: after j jumps, f[r] is the ancestor that was 2^j steps away. A path is shorter than 2^30, so 30 jumps
   suffice. Each iteration of the loop jumps twice; 32 iterations are more than enough.
2. Rounds: after compressing, each tree is a root with leaves. Call two of the k roots of a region neighbours if runs
   of their trees touch; all k are connected. While k > 1, two rounds leave at most k/2 roots. Proof: let r be a root
   that remains after both. In the first round r did not hook, so all its neighbours were greater; let s be one. s has a
   smaller neighbour, r, so it hooks onto its smallest neighbour t <= r. If t < r, the tree of s has a root below r
   after the first round and touches the tree of r, so r hooks in the second round and does not remain. Hence t = r:
   each remaining root has absorbed another root, which hooked onto no other, so at least half of the k are gone. With k
   < 2^30, sixty rounds leave one root, and one more finds no change: 62 rounds are enough.

Scattering minima exists from opset 18 on. Before, the larger roots of the pairs are sorted, and the first pair of each
is taken, whose other root need not be the smallest. Every root with a smaller neighbour still hooks, so an unfinished
region loses at least one root in each round, and as many rounds as there are runs are enough (at most ten were
observed).

Source of the idea: Shiloach and Vishkin, "An O(log n) parallel connectivity algorithm", J. Algorithms 3 (1982). Runs
instead of pixels: He, Chao and Suzuki, "A run-based two-scan labeling algorithm", IEEE Trans. Image Processing 17
(2008).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt

from pp_graph.errors import OpsetError
from pp_graph.model.opset_raising import HOW_TO_RAISE

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.masks import Mask
    from pp_graph.steps.operators.emitter import Emitter

Connectivity = Literal[4, 8]
"""Number of neighbours of a pixel: 4 share a side, 8 share a side or a corner."""

CONNECTIVITIES: Final = (4, 8)

_LEAST_OPSET: Final = 12
"""Min takes integers from this opset on."""
_MOST_ROUNDS: Final = 62
_MOST_JUMPS: Final = 32
_Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Runs:
    """The runs of anomalous pixels in the rows of a batch of masks.

    Attributes:
        starts: Start of each run in the flattened batch, padded with background after rows and images.
        stops: End of each run.
        regions: For each run, the first run of its region.
        padded: Shape of the padded batch.
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
        """Count the true pixels in the region of each run."""
        before = np.concatenate([[0], np.cumsum(_padded(truths, self.padded[2] - self.shape[2] - 1), dtype=np.int64)])
        inside = before[self.stops] - before[self.starts]
        counts = np.zeros(len(inside), np.int64)
        np.add.at(counts, self.regions, inside)
        return counts[self.regions]

    def painted(self, keep: npt.NDArray[np.bool_]) -> Mask:
        """Return the mask of some of the runs, (N,H,W)."""
        edges = np.zeros(int(np.prod(self.padded)) + 1, np.int8)
        # Runs do not touch, so at most one starts or ends at each place.
        edges[self.starts[keep]] += 1
        edges[self.stops[keep]] -= 1
        whole = np.cumsum(edges[:-1], dtype=np.int8).reshape(self.padded)
        _, height, width = self.shape
        return whole[:, :height, :width].astype(np.bool_)


def _padded(mask: Mask, corners: int) -> Mask:
    """Add background after each row, so that rows do not touch, and below each image."""
    count, height, width = mask.shape
    padded = np.zeros((count, height + 1, width + 1 + corners), np.bool_)
    padded[:, :height, :width] = mask
    return padded


def _merged(count: int, above: _Numbers, below: _Numbers) -> _Numbers:
    """For each run, the first of all runs connected to it; `above` and `below` are pairs of touching runs."""
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


def require_opset(op: Emitter, target: str) -> None:
    """Raise `OpsetError` if the graph's opset is too low to find regions."""
    if op.opset < _LEAST_OPSET:
        raise OpsetError(
            f"The model is at opset {op.opset}, expected {_LEAST_OPSET} or later to find the regions of '{target}'. "
            f"Fuse with {HOW_TO_RAISE}, export it again with opset_version={_LEAST_OPSET} or later (18 or later is "
            "fastest), or leave the step out."
        )


@dataclass(frozen=True)
class EmittedRuns:
    """The runs of pixels in a graph. Run 0 has no pixel, so that no list is empty.

    Attributes:
        starts: True at the first pixel of each run, bool (N,H+1,W); a row of background precedes each image.
        stops: True at the last pixel of each run.
        numbers: The number of the run that each pixel of the mask belongs to, int32, flat; other pixels have any.
        regions: For each run, the first run of its region; int32.
    """

    starts: ir.Value
    stops: ir.Value
    numbers: ir.Value
    regions: ir.Value

    @classmethod
    def of(cls, op: Emitter, mask: ir.Value, connectivity: int) -> EmittedRuns:
        """Write the search for the regions of a mask, bool (N,H,W), with 4 or 8 neighbours."""
        padded = op.surrounded(mask)
        inside, left, right = (_columns(op, padded, shift) for shift in (0, -1, 1))
        starts = op.logical_and(inside, op.logical_not(left))
        stops = op.logical_and(inside, op.logical_not(right))
        numbers = op.running_count(starts)
        upper, lower = _rows(op, numbers)
        above, below = _rows(op, inside)
        begins_above, begins_below = _rows(op, starts)
        both = op.logical_and(above, below)
        pairs = [(op.places_of(op.listed(op.logical_and(both, op.logical_or(begins_above, begins_below)))), 0, 0)]
        if connectivity == 8:
            # Where neither pixel has a neighbour between them, only a corner connects the two.
            left_above, left_below = _rows(op, left)
            alone = op.logical_not(op.logical_or(left_below, above))
            falling = op.logical_and(op.logical_and(below, left_above), alone)
            alone = op.logical_not(op.logical_or(left_above, below))
            rising = op.logical_and(op.logical_and(above, left_below), alone)
            pairs += [(op.places_of(op.listed(falling)), -1, 0), (op.places_of(op.listed(rising)), 0, -1)]
        none = op.integers((0,), "no_run")
        one, other = none, none
        for places, shift_above, shift_below in pairs:
            one = op.joined(one, op.chosen(op.listed(upper), _shifted(op, places, shift_above)))
            other = op.joined(other, op.chosen(op.listed(lower), _shifted(op, places, shift_below)))
        count = op.add(op.sizes_of(op.places_of(op.listed(starts))), op.constant((1,), "one_more"))
        return cls(starts, stops, op.listed(lower), _joined(op, op.numbered(op.filled(count, np.int32(0))), one, other))


def _columns(op: Emitter, padded: ir.Value, shift: int) -> ir.Value:
    """Take the pixels, or those beside them, from a mask with a column of background on both sides."""
    return op.shortened(padded, (2,), (1 + shift,), (1 - shift,))


def _rows(op: Emitter, a: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Split (N,H+1,W) into all rows but the last, and all but the first."""
    return op.shortened(a, (1,), (0,), (1,)), op.shortened(a, (1,), (1,), (0,))


def _shifted(op: Emitter, places: ir.Value, shift: int) -> ir.Value:
    return op.add(places, op.constant((shift,), "shift")) if shift else places


def _joined(op: Emitter, runs: ir.Value, one: ir.Value, other: ir.Value) -> ir.Value:
    """Join runs that touch; `one` and `other` are the pairs, of which the first is run 0 with itself."""

    def hook(parents: ir.Value) -> tuple[ir.Value, ir.Value]:
        roots, others = op.looked_up(parents, one), op.looked_up(parents, other)
        least = op.least(roots, others)
        largest = op.difference(op.add(roots, others), least)
        if op.scatters_least:
            hooked = op.put(parents, largest, least, "min")
        else:
            hooked = _hook_by_sorting(op, parents, largest, least)
        compressed = _compress(op, hooked)
        return op.any_below(compressed, parents), compressed

    trips = _MOST_ROUNDS if op.scatters_least else op.count_of(runs)
    return op.loop(trips, runs, hook)


def _compress(op: Emitter, parents: ir.Value) -> ir.Value:
    """Replace each parent by its root."""

    def jump_twice(numbers: ir.Value) -> tuple[ir.Value, ir.Value]:
        once = op.looked_up(numbers, numbers)
        twice = op.looked_up(once, once)
        return op.any_below(twice, once), twice

    return op.loop(_MOST_JUMPS, parents, jump_twice)


def _hook_by_sorting(op: Emitter, parents: ir.Value, largest: ir.Value, least: ir.Value) -> ir.Value:
    """Hook each root that touches a smaller one onto one of them."""
    # The first pair is run 0 with itself and changes nothing; it keeps the list from being empty.
    places = op.joined(op.constant((0,), "first"), op.places_of(op.below(least, largest)))
    ordered, order = op.in_order(op.chosen(largest, places))
    begins = op.beginnings(ordered)
    first = op.chosen(op.chosen(least, places), op.chosen(order, begins))
    return op.put(parents, op.chosen(ordered, begins), first)


def emit_totals(op: Emitter, regions: ir.Value, found: ir.Value) -> ir.Value:
    """Write how often the region of each run is listed.

    Args:
        op: Emitter at the graph's opset.
        regions: For each run, the first run of its region.
        found: A list of such first runs.

    Returns:
        For each run, the count of its region; int32.
    """
    none = op.difference(regions, regions)
    if op.scatters_sums:
        ones = op.filled(op.sizes_of(found), np.int32(1))
        return op.looked_up(op.put(none, found, ones, "add"), regions)
    # A number above all regions ends the last region, and keeps the list from being empty.
    end = op.counted(op.sizes_of(regions))
    ordered, _ = op.in_order(op.joined(found, end))
    begins = op.beginnings(ordered)
    counts = op.counted(op.difference(op.without_first(begins), op.without_last(begins)))
    roots = op.chosen(ordered, op.without_last(begins))
    return op.looked_up(op.put(none, roots, counts), regions)
