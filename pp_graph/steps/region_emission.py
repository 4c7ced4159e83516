"""Operators of `RegionTable`: sums, minima and maxima over regions, and the best regions of each image.

Everything but the map is measured on runs of pixels. Lists of runs, pixels and regions begin with an entry that has no
pixel of the mask, so that none is empty; regions are in the order of their first pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from pp_graph.steps.classes import LIMIT
from pp_graph.steps.operators.integers import BEYOND
from pp_graph.steps.region_search import EmittedRuns

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.operators.emitter import Emitter
    from pp_graph.steps.region_search import Connectivity

PART_BITS: Final = 6
"""A sum of numbers below 2**6 over 2**24 pixels fits int32."""
MEAN_BITS: Final = 23
"""Numbers of a map are rounded to 2**-23 of the largest one before they are summed."""
PARTS: Final = 4
_WHOLE: Final = 2.0 ** (PART_BITS * (PARTS - 1))
_LOWEST: Final = np.float32(-(2.0**127))
"""Below the number of every region."""
_FLOAT, _INT32, _INT64, _BOOL = (np.dtype(kind) for kind in (np.float32, np.int32, np.int64, np.bool_))


def emit_table(
    op: Emitter, images: ir.Value, map_: ir.Value | None, k: int, connectivity: Connectivity, *, by_max: bool
) -> ir.Value:
    """Write the table of the `k` best regions of each image.

    Args:
        op: Emitter at the graph's opset, at least 18.
        images: The mask, bool (N,H,W).
        map_: The numbers at its pixels, float32, flat; None without a map.
        k: Number of rows.
        connectivity: 4 or 8 neighbours.
        by_max: Order by the largest number instead of the area.

    Returns:
        The table, float32 (N,k,10).
    """
    regions = _Regions(op, images, connectivity)
    length = op.difference(regions.stop, regions.start)
    area = op.number(regions.reduced(length, np.int32(0), "add"))
    inverse = _inverse(op, area)
    # The sum of the columns of a run, twice.
    twice = op.mul(length, op.difference(op.add(regions.start, regions.stop), op.integer(1, "next")))
    row = op.difference(regions.after_row, op.integer(1, "next"))
    sums = _times(op, op.number(twice), 0.5), op.number(op.mul(length, row))
    x, y = (_times(op, _mean(op, each, regions.of_run, inverse), _WHOLE) for each in sums)
    columns = [
        op.number(regions.reduced(regions.start, np.int32(BEYOND), "min")),
        op.number(regions.row),
        op.number(regions.reduced(regions.stop, np.int32(0), "max")),
        op.number(regions.reduced(regions.after_row, np.int32(0), "max")),
        area,
        x,
        y,
    ]
    if map_ is None:
        columns += [op.difference(area, area)] * 2
    else:
        columns += _measured(op, images, map_, regions, inverse)
    return _best(op, columns, regions, k, columns[7] if by_max else area)


class _Regions:
    """The runs of a mask with the regions they belong to.

    Run 0 and region 0 have no pixel of the mask, and belong to an image behind the last.
    """

    def __init__(self, op: Emitter, images: ir.Value, connectivity: Connectivity) -> None:
        self._op = op
        batch = op.slice(op.sizes_of(images), (0,), (1,), (0,), (1,))
        self.images = op.add(batch, op.constant((1,), "one_more"))
        self.runs = EmittedRuns.of(op, images, connectivity)
        parents = self.runs.regions
        numbers = op.numbered(parents)
        # A root is its own parent; no parent is above its run.
        roots = op.places_of(op.logical_not(op.below(parents, numbers)))
        self.of_run = op.looked_up(op.put(parents, roots, op.numbered(roots)), parents)
        self.count = op.sizes_of(roots)
        image, row, column = map(op.counted, op.coordinates_of(self.runs.starts, 3))
        # A row of background precedes each image.
        self.after_row, self.start = (op.joined(op.integers((0,), "no_run"), each) for each in (row, column))
        self.behind_images = op.counted(batch)
        self.stop = op.joined(
            op.integers((1,), "one_pixel"),
            op.add(op.counted(op.coordinates_of(self.runs.stops, 3)[2]), op.integer(1, "next")),
        )
        self.image = op.chosen(op.joined(self.behind_images, image), roots)
        self.row = op.difference(op.chosen(self.after_row, roots), op.integer(1, "next"))

    def reduced(self, numbers: ir.Value, start: np.generic, kind: Literal["add", "min", "max"]) -> ir.Value:
        """Reduce numbers of runs over each region."""
        return self._op.put(self._op.filled(self.count, start), self.of_run, numbers, kind)


def _mean(op: Emitter, numbers: ir.Value, regions: ir.Value, inverse: ir.Value) -> ir.Value:
    """Write the mean over each region, from sums that no runtime rounds.

    Args:
        op: The emitter.
        numbers: Whole numbers of magnitude up to 2**24, float32: of pixels, or sums over runs.
        regions: The region of each.
        inverse: 1 divided by the area of each region.

    Returns:
        The mean divided by 64**3.
    """
    left, result = numbers, inverse
    for part in range(PARTS):
        digits = left
        if part < PARTS - 1:
            higher = op.node("Floor", [_times(op, left, 2.0**-PART_BITS)], {}, _FLOAT, (None,))
            digits, left = op.sub(left, _times(op, higher, 2.0**PART_BITS)), higher
        total = op.put(op.filled(op.sizes_of(inverse), np.int32(0)), regions, op.counted(digits), "add")
        share = op.mul(op.number(total), inverse)
        result = share if part == 0 else op.add(_times(op, result, 2.0**-PART_BITS), share)
    return result


def _times(op: Emitter, a: ir.Value, power: float) -> ir.Value:
    """Multiply by a power of two, which no runtime rounds."""
    return op.mul(a, op.constant(np.float32(power), "power"))


def _inverse(op: Emitter, a: ir.Value) -> ir.Value:
    """Write `1 / a`. Runtimes round it equally, but not divisions: OpenVINO multiplies by the inverse."""
    return op.node("Reciprocal", [a], {}, _FLOAT, op.shape_of(a))


def _measured(op: Emitter, images: ir.Value, map_: ir.Value, regions: _Regions, inverse: ir.Value) -> list[ir.Value]:
    """Write the largest number and the mean of a map in each region."""
    limit = op.constant(LIMIT, "limit")
    places = op.places_of(op.listed(images))
    # Not the other way round: OpenVINO 2026.4 joins the result of Clip wrongly.
    listed = op.joined(op.array(np.zeros(1, np.float32), "no_number"), op.chosen(map_, places))
    numbers = op.clip(op.where(op.is_nan(listed), limit, listed), -float(LIMIT), float(LIMIT))
    none = op.integers((0,), "no_run")
    of_pixel = op.chosen(regions.of_run, op.joined(none, op.chosen(regions.runs.numbers, places)))
    # The scale is that of the image, so that a result does not depend on the other images of a batch.
    image = op.chosen(regions.image, of_pixel)
    tiny = np.finfo(np.float32).tiny
    magnitudes = op.put(op.filled(regions.images, tiny), image, op.node("Abs", [numbers], {}, _FLOAT, (None,)), "max")
    share = op.mul(numbers, _inverse(op, op.chosen(magnitudes, image)))
    whole = op.node("Round", [_times(op, share, 2.0**MEAN_BITS)], {}, _FLOAT, (None,))
    unit = _times(op, op.chosen(magnitudes, regions.image), _WHOLE * 2.0**-MEAN_BITS)
    largest = op.put(op.filled(regions.count, _LOWEST), of_pixel, numbers, "max")
    return [largest, op.mul(_mean(op, whole, of_pixel, inverse), unit)]


def _best(
    op: Emitter,
    columns: list[ir.Value],
    regions: _Regions,
    k: int,
    keys: ir.Value,
) -> ir.Value:
    """Write the rows of the `k` regions with the largest keys of each image, equal ones by their first pixel."""
    ones = op.filled(op.sizes_of(regions.image), np.int32(1))
    counted = op.put(op.filled(regions.images, np.int32(0)), regions.image, ones, "add")
    before = op.node("CumSum", [counted, op.constant(np.int64(0), "images")], {"exclusive": 1}, _INT32, (None,))
    counted = op.without_last(counted)
    # A list of regions for each image, as long as the longest, and k more that stay empty.
    longest = op.node("ReduceMax", [counted], {"keepdims": 1}, _INT32, (1,))
    width = op.add(longest, op.integer(k, "k"))
    index = op.difference(op.numbered(regions.image), op.chosen(op.add(before, op.integer(1, "next")), regions.image))
    end = op.mul(regions.behind_images, width)
    slots = op.joined(end, op.without_first(op.add(op.mul(regions.image, width), index)))
    size = op.add(op.cast(end, _INT64), op.constant((1,), "one_more"))
    keys = op.without_last(op.put(op.filled(size, _LOWEST), slots, keys))
    rows = op.joined(op.cast(regions.behind_images, _INT64), op.constant((-1,), "rest"))
    best, order = _in_order(op, op.arranged(keys, rows, (None, None)), k)
    found = op.less(op.constant(_LOWEST, "lowest"), best)
    first = op.unsqueeze(op.add(op.without_last(before), op.integer(1, "next")), (1,))
    place = op.where(found, op.add(op.counted(order), first), op.integer(0, "no_region"))
    cells = op.concat([op.unsqueeze(column, (1,)) for column in columns], 1)
    chosen = op.node("Gather", [cells, place], {"axis": 0}, _FLOAT, (None, k, len(columns)))
    total = op.unsqueeze(op.number(counted), (1, 2))
    filled = op.unsqueeze(found, (2,))
    shown = op.node("Where", [filled, chosen, op.constant(np.float32(0), "zero")], {}, _FLOAT, (None, k, len(columns)))
    return op.concat([shown, op.node("Where", [filled, total, total], {}, _FLOAT, (None, k, 1))], 2)


def _in_order(op: Emitter, keys: ir.Value, k: int) -> tuple[ir.Value, ir.Value]:
    """Write the `k` largest keys of each row (N,L), and their places: equal keys from left to right."""
    one, zero = op.constant(np.float32(1), "one"), op.constant(np.float32(0), "zero")
    best = op.top_k(keys, k, 1)
    last = op.slice(best, (k - 1,), (k,), (1,))
    above, below = op.below_other(last, keys, keys), op.below_other(keys, last, keys)
    equal = op.logical_not(op.logical_or(above, below))
    turn = op.node("CumSum", [op.where(equal, one, zero), op.constant(np.int64(1), "along_row")], {}, _FLOAT, None)
    turn = op.add(turn, op.reduce("ReduceSum", op.where(above, one, zero), (1,), keepdims=True))
    first = op.less(turn, op.constant(np.float32(k + 0.5), "just_above_k"))
    taken = op.logical_or(above, op.logical_and(equal, first))
    _, places = op.coordinates_of(taken, 2)
    places = op.node("Reshape", [places, op.constant((-1, k), "rows")], {}, _INT64, (None, k))
    own = op.node("GatherElements", [keys, places], {"axis": 1}, _FLOAT, (None, k))
    mine, other = op.unsqueeze(own, (2,)), op.unsqueeze(own, (1,))
    behind, ahead = (op.node("Less", pair, {}, _BOOL, (None, k, k)) for pair in ([mine, other], [other, mine]))
    earlier = op.array(np.tri(k, k, -1, bool), "earlier")
    tied = op.logical_and(op.logical_not(op.logical_or(behind, ahead)), earlier)
    rank = op.reduce("ReduceSum", op.where(op.logical_or(behind, tied), one, zero), (2,))
    order = op.node("ScatterElements", [places, op.cast(rank, _INT64), places], {"axis": 1}, _INT64, (None, k))
    return best, order
