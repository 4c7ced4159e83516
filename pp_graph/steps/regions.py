"""Steps on connected regions of a mask.

The reference joins runs of pixels in a row; the graph joins pixels. Both use the same algorithm, hooking and
compressing, until nothing changes.

Pixels are numbered over all images of a batch. f[p], the parent of pixel p, is a pixel of the same region with
f[p] <= p. A root has f[p] = p. Pixels outside the mask are always roots.

    start    f[p] = smallest number in the neighbourhood of p, p included, inside the mask; then compress
    round    m[p] = smallest f in the neighbourhood of p
             f[f[p]] = smallest m of all pixels with that parent: each root hooks onto the smallest root it touches
             compress: f = f[f] until nothing changes

The rounds end when one changes nothing. Neighbours then have the same parent, so all pixels of a region have the same
parent: the region's first pixel.

**The number of rounds is bounded for every mask.** At the start, f[p] <= p, and f[p] is in the region of p. Each change
takes the minimum of such numbers, or a parent's parent. So parents form a forest, and no f ever grows.

1. Compressing: after j jumps, f[p] is the ancestor that was 2^j steps away. A path is shorter than 2^30, so 30 jumps
   suffice. Each iteration of the loop jumps twice; 32 iterations are more than enough.
2. Rounds: after compressing, each tree is a root with leaves. Call two of the k roots of a region neighbours if pixels
   of their trees touch; all k are connected. While k > 1, two rounds leave at most k/2 roots. Proof: let r be a root
   that remains after both. In the first round r did not hook, so all its neighbours were greater; let s be one. s has a
   smaller neighbour, r, so it hooks onto its smallest neighbour t <= r. If t < r, the tree of s has a root below r
   after the first round and touches the tree of r, so r hooks in the second round and does not remain. Hence t = r:
   each remaining root has absorbed another root, which hooked onto no other, so at least half of the k are gone. With k
   < 2^30, sixty rounds leave one root, and one more finds no change: 62 rounds are enough.

Scattering minima exists from opset 18 on. Before, proposals are sorted by root, and the first one of each root is
taken, which need not be the smallest. Every root with a smaller neighbour still hooks, so an unfinished region loses at
least one root in each round, and as many rounds as there are pixels are enough (at most ten were observed).

Source of the idea: Shiloach and Vishkin, "An O(log n) parallel connectivity algorithm", J. Algorithms 3 (1982).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Self

import numpy as np
import numpy.typing as npt

from pp_graph.errors import OpsetError, PostProcessorError
from pp_graph.model.opset_raising import HOW_TO_RAISE
from pp_graph.steps.masks import Mask, emit_with_channel, emit_without_channel, without_channel
from pp_graph.steps.operators.integers import BEYOND
from pp_graph.steps.step import MASK, Accepts, Step, require_one_of, require_whole

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.operators.emitter import Emitter
    from pp_graph.values import ValueType


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


Connectivity = Literal[4, 8]
"""Number of neighbours of a pixel: 4 share a side, 8 share a side or a corner."""

CONNECTIVITIES: Final = (4, 8)

_LEAST_OPSET: Final = 12
"""Min takes integers from this opset on."""
_MOST_ROUNDS: Final = 62
_MOST_JUMPS: Final = 32


def require_opset(op: Emitter, target: str) -> None:
    """Raise `OpsetError` if the graph's opset is too low to find regions."""
    if op.opset < _LEAST_OPSET:
        raise OpsetError(
            f"The model is at opset {op.opset}, expected {_LEAST_OPSET} or later to find the regions of '{target}'. "
            f"Fuse with {HOW_TO_RAISE}, export it again with opset_version={_LEAST_OPSET} or later (18 or later is "
            "fastest), or leave the step out."
        )


def emit_regions(op: Emitter, mask: ir.Value, connectivity: int) -> ir.Value:
    """Write the search for the regions of a mask.

    Args:
        op: Emitter at the graph's opset.
        mask: The mask, bool (N,H,W).
        connectivity: 4 or 8 neighbours.

    Returns:
        For each pixel, the number of the first pixel of its region; int32, flat. Pixels outside the mask have their own
        number.
    """
    sizes, shape = op.sizes_of(mask), op.shape_of(mask)
    beyond = op.integer(BEYOND, "beyond")

    def least_beside(numbers: ir.Value) -> ir.Value:
        """Smallest number in the neighbourhood of each pixel in the mask; other pixels keep their own."""
        images = op.arranged(numbers, sizes, shape)
        inside = op.where(mask, images, beyond)
        rows = op.beside(inside, 2)
        if connectivity == 4:
            least = op.least(inside, *rows, *op.beside(inside, 1))
        else:
            least = op.least(inside, *rows)
            least = op.least(least, *op.beside(least, 1))
        return op.listed(op.where(mask, least, images))

    def hook(parents: ir.Value) -> tuple[ir.Value, ir.Value]:
        proposed = least_beside(parents)
        if op.scatters_least:
            hooked = op.put(parents, parents, proposed, "min")
        else:
            hooked = _hook_by_sorting(op, parents, proposed)
        compressed = _compress(op, hooked)
        return op.any_below(compressed, parents), compressed

    numbers = op.numbered(mask)
    trips = _MOST_ROUNDS if op.scatters_least else op.count_of(mask)
    return op.loop(trips, _compress(op, least_beside(numbers)), hook)


def emit_totals(op: Emitter, regions: ir.Value, truths: ir.Value) -> ir.Value:
    """Write the number of true pixels in the region of each pixel.

    Args:
        op: Emitter at the graph's opset.
        regions: The result of `emit_regions`.
        truths: The pixels to count, bool, flat.

    Returns:
        The counts; int32, flat.
    """
    none = op.difference(regions, regions)
    if op.scatters_sums:
        return op.looked_up(op.put(none, regions, op.counted(truths), "add"), regions)
    # A number above all regions ends the last region, and keeps the list from being empty.
    end = op.counted(op.sizes_of(regions))
    ordered, _ = op.in_order(op.joined(op.chosen(regions, op.places_of(truths)), end))
    begins = op.beginnings(ordered)
    counts = op.counted(op.difference(op.without_first(begins), op.without_last(begins)))
    roots = op.chosen(ordered, op.without_last(begins))
    return op.looked_up(op.put(none, roots, counts), regions)


def _compress(op: Emitter, parents: ir.Value) -> ir.Value:
    """Replace each parent by its root."""

    def jump_twice(numbers: ir.Value) -> tuple[ir.Value, ir.Value]:
        once = op.looked_up(numbers, numbers)
        twice = op.looked_up(once, once)
        return op.any_below(twice, once), twice

    return op.loop(_MOST_JUMPS, parents, jump_twice)


def _hook_by_sorting(op: Emitter, parents: ir.Value, proposed: ir.Value) -> ir.Value:
    """Hook each root with a smaller neighbour onto one of its smaller neighbours."""
    # The first pixel is a root whose proposal changes nothing; it keeps the list from being empty.
    places = op.joined(op.constant((0,), "first"), op.places_of(op.below(proposed, parents)))
    ordered, order = op.in_order(op.chosen(parents, places))
    begins = op.beginnings(ordered)
    first = op.chosen(op.chosen(proposed, places), op.chosen(order, begins))
    return op.put(parents, op.chosen(ordered, begins), first)


class RegionStep(Step):
    """Base class of steps that keep the regions of a mask with enough pixels of a kind."""

    pointwise: ClassVar[bool] = False
    connectivity: Connectivity
    axes: str | None

    def _keep(self, mask: Mask, counted: Mask, least: int) -> Mask:
        images = without_channel(mask, self.axes)
        runs = Runs.of(images, self.connectivity)
        totals = runs.totals(images & without_channel(counted, self.axes))
        return runs.painted(totals >= least).reshape(np.shape(mask))

    def _emit_keep(self, op: Emitter, mask: ir.Value, counted: ir.Value | None, least: int, name: str) -> ir.Value:
        """Write `_keep`; `counted` is None for all pixels, and `name` is that of the constant `least`."""
        require_opset(op, self.target)
        images = emit_without_channel(op, mask, self.axes)
        regions, truths = emit_regions(op, images, self.connectivity), op.listed(images)
        pixels = truths if counted is None else op.logical_and(truths, op.listed(counted))
        too_few = op.below(emit_totals(op, regions, pixels), op.integer(least, name))
        kept = op.logical_and(truths, op.logical_not(too_few))
        return emit_with_channel(op, op.arranged(kept, op.sizes_of(images), op.shape_of(images)), self.axes)


_LARGEST: Final = 2**30 - 1


@dataclass(frozen=True)
class RemoveSmallRegions(RegionStep):
    """Keep the regions of a mask that have at least `min_area` pixels, and no others.

    Source: `skimage.morphology.remove_small_objects` with `min_size` (`max_size = min_area - 1` from scikit-image 0.26
    on), and OpenCV's `connectedComponentsWithStats` with `CC_STAT_AREA`. See `pp_graph.steps.regions` for the algorithm
    and a proof that it ends. The step needs opset 12, and is faster from opset 18 on.

    Attributes:
        source: Name of the mask, bool: (N,H,W), (N,1,H,W) or (N,H,W,1); a batch has less than 2**30 pixels.
        target: Name of the new mask, bool, of the same shape.
        min_area: Smallest number of pixels of a region to keep; 1 keeps all.
        connectivity: 4 connects pixels that share a side, 8 also pixels that share a corner.
        axes: Axes of the mask; None until the step is bound.

    Raises:
        PostProcessorError: `min_area` is not a whole number above 0, or `connectivity` is neither 4 nor 8.
    """

    accepts: ClassVar[tuple[Accepts, ...]] = (MASK,)
    source: str
    target: str
    min_area: int
    connectivity: Connectivity = 8
    axes: str | None = None

    def __post_init__(self) -> None:
        """Check the parameters."""
        require_whole(self.min_area, f"min_area of '{self.target}'", 1, _LARGEST)
        require_one_of(self.connectivity, f"connectivity of '{self.target}'", CONNECTIVITIES)

    def reference(self, mask: Mask) -> Mask:
        """Keep the large regions of an array."""
        return self._keep(mask, mask, self.min_area)

    def emit(self, op: Emitter, mask: ir.Value) -> ir.Value:
        """Write operators that find regions and count their pixels.

        Raises:
            OpsetError: The graph's opset is below 12.
        """
        return self._emit_keep(op, mask, None, self.min_area, "min_area")


@dataclass(frozen=True)
class Hysteresis(RegionStep):
    """Keep the regions of a weak mask that hold a pixel of a strong one, and no others.

    Let comparing steps write both masks, so that both thresholds are compiled to cutoffs. Strong pixels outside the
    weak mask are ignored.

    Source: `skimage.filters.apply_hysteresis_threshold` (with 4 neighbours), and the last stage of Canny's edge
    detector (with 8). See `pp_graph.steps.regions` for the algorithm and a proof that it ends. The step needs opset 12,
    and is faster from opset 18 on.

    Attributes:
        source: Name of the weak mask, bool: (N,H,W), (N,1,H,W) or (N,H,W,1); a batch has less than 2**30 pixels.
        strong: Name of the strong mask, bool, of the same shape.
        target: Name of the new mask, bool, of the same shape.
        connectivity: 4 connects pixels that share a side, 8 also pixels that share a corner.
        axes: Axes of the masks; None until the step is bound.

    Raises:
        PostProcessorError: `connectivity` is neither 4 nor 8.
    """

    accepts: ClassVar[tuple[Accepts, ...]] = (MASK, MASK)
    source: str
    strong: str
    target: str
    connectivity: Connectivity = 8
    axes: str | None = None

    def __post_init__(self) -> None:
        """Check the parameters."""
        require_one_of(self.connectivity, f"connectivity of '{self.target}'", CONNECTIVITIES)

    @property
    def reads(self) -> tuple[str, ...]:
        """The weak and the strong mask."""
        return (self.source, self.strong)

    def bind(self, weak: ValueType, strong: ValueType) -> Self:
        """Bind the step to its inputs.

        Raises:
            PostProcessorError: The masks differ in axes or size.
        """
        sizes = {value.map_size for value in (weak, strong) if value.map_size is not None}
        if weak.axes != strong.axes or len(sizes) > 1:
            raise PostProcessorError(
                f"'{self.source}' is {weak} and '{self.strong}' is {strong}, expected two masks of the same shape."
            )
        return replace(self, axes=weak.known_axes)

    def reference(self, weak: Mask, strong: Mask) -> Mask:
        """Keep the regions of an array with a strong pixel."""
        return self._keep(weak, strong, 1)

    def emit(self, op: Emitter, weak: ir.Value, strong: ir.Value) -> ir.Value:
        """Write operators that find regions and count their strong pixels.

        Raises:
            OpsetError: The graph's opset is below 12.
        """
        return self._emit_keep(op, weak, strong, 1, "one_pixel")
