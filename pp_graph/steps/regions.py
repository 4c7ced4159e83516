"""Steps on connected regions of a mask.

The same hooking as in `pp_graph.steps.regions`, over runs instead of pixels, until nothing changes.

Pixel p of a batch has the number p, counted over all its images. f[p], the parent of p, is a pixel of the same region
with f[p] <= p; a root has f[p] = p; pixels outside of the mask are roots of themselves for ever.

    start    f[p] = least number in the neighbourhood of p, p included, inside the mask; then compress
    round    m[p] = least f in the neighbourhood of p
             f[f[p]] = least m of all pixels with that parent: roots hook onto the least root that they touch
             compress: f = f[f] until nothing changes

The rounds end when one changes nothing. Then neighbours have the same parent, so every pixel of a region has: its
first.

**The number of rounds is bounded, whatever is in the mask.** At the start, f[p] <= p and f[p] is in the region of p,
and each change takes the least of such numbers, or a parent's parent. So parents form a forest, and no f ever grows.

1. Compressing: after j times f[p] is the ancestor that was 2^j steps away. A path is shorter than 2^30, so 30 times
   end it. A trip of the loop does it twice; 32 trips are more than it takes.
2. Rounds: after compressing, each tree is a root with leaves. Take the k roots of one region, and call two neighbours
   if pixels of their trees touch; all k are connected. While k > 1, two rounds leave at most k/2 of them. For let r be
   a root that is left after both. In the first of them r did not hook, so all its neighbours were greater; let s be
   one. It has a smaller neighbour, r, so it hooks onto its least neighbour t <= r. If t < r, the tree with s has a root
   below r after the first round, and touches that of r: then r hooks in the second round, and is not left. So t = r:
   each root that is left has taken in another, which hooked onto no other root, and at least half of the k are gone.
   With k < 2^30, sixty rounds leave one root, and one more sees that nothing changes: 62 trips are enough.

Numbers by place, least first, exist from opset 18. Before, proposals are sorted by root and the first for each is
taken, which need not be the least: every root with a smaller neighbour still hooks, so an unfinished region loses at
least one root a round, and as many rounds as there are pixels are enough (ten were the most seen).

Source of the idea: Shiloach and Vishkin, "An O(log n) parallel connectivity algorithm", J. Algorithms 3 (1982).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Self

import numpy as np
import numpy.typing as npt

from pp_graph.errors import OpsetError, PostProcessorError
from pp_graph.model.opset_raising import HOW_TO_RAISE
from pp_graph.steps.morphology import Mask, emit_with_channel, emit_without_channel, like, without_channel
from pp_graph.steps.operators.integers import BEYOND
from pp_graph.steps.step import MASK, Accepts, Step, require_one_of, require_whole

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.operators.emitter import Emitter
    from pp_graph.values import ValueType


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
        """Number of true pixels in the region of each run."""
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


Connectivity = Literal[4, 8]
"""Whether regions are connected by the sides of their pixels alone, or by corners, too."""

CONNECTIVITIES: Final = (4, 8)

_LEAST_OPSET: Final = 12
"""Min of integers, which runtimes compute exactly."""
_MOST_ROUNDS: Final = 62
_MOST_JUMPS: Final = 32


def require_opset(op: Emitter, target: str) -> None:
    """Raise if the graph's opset is too low for regions.

    Raises:
        OpsetError: They cannot.
    """
    if op.opset < _LEAST_OPSET:
        raise OpsetError(
            f"The model is at opset {op.opset}, expected {_LEAST_OPSET} or later to find the regions of '{target}'. "
            f"Fuse with {HOW_TO_RAISE}, export it again with opset_version={_LEAST_OPSET} or later (18 or later is "
            "fastest), or leave the step out."
        )


def emit_regions(op: Emitter, mask: ir.Value, connectivity: int) -> ir.Value:
    """Write the search for the regions of a mask.

    Args:
        op: Writes the operators.
        mask: The mask, bool (N,H,W).
        connectivity: 4 or 8 neighbours.

    Returns:
        For each pixel, along one axis, the number of the first pixel of its region; int32. A pixel outside of the mask
        has its own number.
    """
    sizes, shape = op.sizes_of(mask), op.shape_of(mask)
    beyond = op.integer(BEYOND, "beyond")

    def least_beside(numbers: ir.Value) -> ir.Value:
        """The least number in each pixel's neighbourhood inside the mask; its own outside of it."""
        images = op.arranged(numbers, sizes, shape)
        inside = op.where(mask, images, beyond)
        rows = op.beside(inside, 2)
        if connectivity == 4:
            least = op.least(inside, *rows, *op.beside(inside, 1))
        else:
            least = op.least(inside, *rows)
            least = op.least(least, *op.beside(least, 1))
        return op.listed(op.where(mask, least, images))

    def round_(parents: ir.Value) -> tuple[ir.Value, ir.Value]:
        proposed = least_beside(parents)
        if op.scatters_least:
            hooked = op.put_least(parents, parents, proposed)
        else:
            hooked = _hook_by_sorting(op, parents, proposed)
        compressed = _compress(op, hooked)
        return op.any_below(compressed, parents), compressed

    numbers = op.numbered(mask)
    trips = _MOST_ROUNDS if op.scatters_least else op.count_of(mask)
    return op.loop(trips, _compress(op, least_beside(numbers)), round_)


def emit_totals(op: Emitter, regions: ir.Value, truths: ir.Value) -> ir.Value:
    """Write the number of true pixels in each pixel's region.

    Args:
        op: Writes the operators.
        regions: What `emit_regions` gave.
        truths: Bool, along one axis.

    Returns:
        Numbers along one axis; int32.
    """
    none = op.difference(regions, regions)
    if op.scatters_sums:
        return op.looked_up(op.put_sums(none, regions, op.counted(truths)), regions)
    # A stranger behind all regions keeps the list from being empty, and ends the last region.
    stranger = op.counted(op.sizes_of(regions))
    ordered, _ = op.in_order(op.joined(op.chosen(regions, op.places_of(truths)), stranger))
    begins = op.beginnings(ordered)
    counts = op.counted(op.difference(op.without_first(begins), op.without_last(begins)))
    roots = op.chosen(ordered, op.without_last(begins))
    return op.looked_up(op.put(none, roots, counts), regions)


def _compress(op: Emitter, parents: ir.Value) -> ir.Value:
    """Make every pixel a child of its root."""

    def jump_twice(numbers: ir.Value) -> tuple[ir.Value, ir.Value]:
        once = op.looked_up(numbers, numbers)
        twice = op.looked_up(once, once)
        return op.any_below(twice, once), twice

    return op.loop(_MOST_JUMPS, parents, jump_twice)


def _hook_by_sorting(op: Emitter, parents: ir.Value, proposed: ir.Value) -> ir.Value:
    """Hook each root that has a smaller neighbour onto one such."""
    # The first pixel is a root, and proposes what changes nothing; it keeps the list from being empty.
    places = op.joined(op.constant((0,), "first"), op.places_of(op.below(proposed, parents)))
    ordered, order = op.in_order(op.chosen(parents, places))
    begins = op.beginnings(ordered)
    least = op.chosen(op.chosen(proposed, places), op.chosen(order, begins))
    return op.put(parents, op.chosen(ordered, begins), least)


_LARGEST: Final = 2**30 - 1


@dataclass(frozen=True)
class RemoveSmallRegions(Step):
    """Keep the regions of a mask that have at least so many pixels, and no others.

    Source: `skimage.morphology.remove_small_objects` with `min_size` (`max_size = min_area - 1` from scikit-image 0.26
    on), and OpenCV's `connectedComponentsWithStats` with `CC_STAT_AREA`. How the graph finds regions, and why it
    always ends: see `pp_graph.steps.regions`. It needs opset 12, and is faster from 18 on.

    Attributes:
        source: Name of the mask, bool: (N,H,W), (N,1,H,W) or (N,H,W,1); a batch has less than 2**30 pixels.
        target: Name of the mask that is left, bool, of the same shape.
        min_area: Pixels that a region must have to stay; 1 keeps all.
        connectivity: 8 if pixels that touch at a corner are of one region, 4 if only those that share a side.
        axes: Axes of the mask; None until they are known.

    Raises:
        PostProcessorError: `min_area` is no whole number above 0, or `connectivity` neither 4 nor 8.
    """

    pointwise: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (MASK,)
    source: str
    target: str
    min_area: int
    connectivity: Connectivity = 8
    axes: str | None = None

    def __post_init__(self) -> None:
        """Refuse parameters without a meaning."""
        require_whole(self.min_area, f"min_area of '{self.target}'", 1, _LARGEST)
        require_one_of(self.connectivity, f"connectivity of '{self.target}'", CONNECTIVITIES)

    def reference(self, mask: Mask) -> Mask:
        """Find the regions of an array, and keep the large ones."""
        images = without_channel(mask, self.axes)
        runs = Runs.of(images, self.connectivity)
        return like(runs.painted(runs.totals(images) >= self.min_area), mask)

    def emit(self, op: Emitter, mask: ir.Value) -> ir.Value:
        """Write what finds regions and counts their pixels.

        Raises:
            OpsetError: The graph's opset is below 12.
        """
        require_opset(op, self.target)
        images = emit_without_channel(op, mask, self.axes)
        regions, truths = emit_regions(op, images, self.connectivity), op.listed(images)
        small = op.below(emit_totals(op, regions, truths), op.integer(self.min_area, "min_area"))
        kept = op.logical_and(truths, op.logical_not(small))
        return emit_with_channel(op, op.arranged(kept, op.sizes_of(images), op.shape_of(images)), self.axes)


@dataclass(frozen=True)
class Hysteresis(Step):
    """Keep the regions of a weak mask that hold a pixel of a strong one, and no others.

    Both masks come from steps that compare, so both thresholds are compiled to cutoffs. A strong pixel outside of the
    weak mask counts for nothing.

    Source: `skimage.filters.apply_hysteresis_threshold` (with 4 neighbours), and the last stage of Canny's edge
    detector (with 8). How the graph finds regions, and why it always ends: see `pp_graph.steps.regions`. It needs
    opset 12, and is faster from 18 on.

    Attributes:
        source: Name of the weak mask, bool: (N,H,W), (N,1,H,W) or (N,H,W,1); a batch has less than 2**30 pixels.
        strong: Name of the strong mask, bool, of the same shape.
        target: Name of the mask that is left, bool, of the same shape.
        connectivity: 8 if pixels that touch at a corner are of one region, 4 if only those that share a side.
        axes: Axes of the masks; None until they are known.

    Raises:
        PostProcessorError: `connectivity` is neither 4 nor 8.
    """

    pointwise: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (MASK, MASK)
    source: str
    strong: str
    target: str
    connectivity: Connectivity = 8
    axes: str | None = None

    def __post_init__(self) -> None:
        """Refuse parameters without a meaning."""
        require_one_of(self.connectivity, f"connectivity of '{self.target}'", CONNECTIVITIES)

    @property
    def reads(self) -> tuple[str, ...]:
        """The weak mask, and the strong one."""
        return (self.source, self.strong)

    def bind(self, weak: ValueType, strong: ValueType) -> Self:
        """This step on masks of these axes."""
        sizes = {value.map_size for value in (weak, strong) if value.map_size is not None}
        if weak.axes != strong.axes or len(sizes) > 1:
            raise PostProcessorError(
                f"'{self.source}' is {weak} and '{self.strong}' is {strong}, expected two masks of one shape."
            )
        return replace(self, axes=weak.known_axes)

    def reference(self, weak: Mask, strong: Mask) -> Mask:
        """Find the regions of an array, and keep those with a strong pixel."""
        images = without_channel(weak, self.axes)
        runs = Runs.of(images, self.connectivity)
        return like(runs.painted(runs.totals(images & without_channel(strong, self.axes)) > 0), weak)

    def emit(self, op: Emitter, weak: ir.Value, strong: ir.Value) -> ir.Value:
        """Write what finds regions and counts their strong pixels.

        Raises:
            OpsetError: The graph's opset is below 12.
        """
        require_opset(op, self.target)
        images = emit_without_channel(op, weak, self.axes)
        regions, truths = emit_regions(op, images, self.connectivity), op.listed(images)
        certain = op.logical_and(truths, op.listed(strong))
        none = op.below(emit_totals(op, regions, certain), op.integer(1, "one_pixel"))
        kept = op.logical_and(truths, op.logical_not(none))
        return emit_with_channel(op, op.arranged(kept, op.sizes_of(images), op.shape_of(images)), self.axes)
