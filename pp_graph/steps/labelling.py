"""Connected regions of masks as ONNX operators: every pixel learns which region it belongs to.

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

from typing import TYPE_CHECKING, Final, Literal

from pp_graph.errors import OpsetError
from pp_graph.model.opset_raising import HOW_TO_RAISE
from pp_graph.steps.vocabulary.integers import BEYOND

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.emitter import Emitter

Connectivity = Literal[4, 8]
"""Whether regions are connected by the sides of their pixels alone, or by corners, too."""

CONNECTIVITIES: Final = (4, 8)

_LEAST_OPSET: Final = 12
"""Min of integers, which runtimes compute exactly."""
_MOST_ROUNDS: Final = 62
_MOST_JUMPS: Final = 32


def require_opset(op: Emitter, target: str) -> None:
    """Make sure that regions can be found at the graph's opset.

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
    """Write what finds the regions of a mask.

    Args:
        op: The vocabulary.
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
    """Write what counts, for each pixel, the true ones in its region.

    Args:
        op: The vocabulary.
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
