"""Keep the regions of a table that are large and certain enough, and grow their boxes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, Self

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.steps.region_table import COLUMNS
from pp_graph.steps.step import MAP, Accepts, Array, Step, as_float32, require_whole

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.operators.emitter import Emitter
    from pp_graph.values import ValueType

_FLOAT, _INT64 = np.dtype(np.float32), np.dtype(np.int64)
LARGEST_AREA: Final = 2**24
"""Most pixels that float32 counts exactly."""
_AREA, _MEAN, _WIDTH = COLUMNS.index("area"), COLUMNS.index("mean"), len(COLUMNS)


@dataclass(frozen=True)
class SelectRegions(Step):
    """Keep the regions with enough pixels and a mean of at least `min_mean`, in their order, and grow their boxes.

    A box of w by h pixels grows on each side by `unclip * (w - 1) * (h - 1) / (2 * (w - 1 + h - 1))`, up to the border
    of the map. Rows of other regions are left out, and the following ones move up. `count` becomes the number of kept
    rows.

    Source: `DBPostProcess` of PaddleOCR with upright rectangles and `score_mode="slow"`. There, w - 1 and h - 1 are the
    distances between the centres of the outermost pixels.

    Attributes:
        source: Name of the table of regions, with a map; see `RegionTable`.
        target: Name of the new table, float32, (N,K,10).
        map: Name of the map, float32, which limits the boxes.
        min_area: Smallest number of pixels.
        min_mean: Smallest mean of the map in the region; None for any.
        unclip: Growth of the boxes, 0 or more.
        axes: Axes of the map; None until the step is bound.

    Raises:
        PostProcessorError: A parameter is outside its range.
    """

    pointwise: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (Accepts(axes=("NKP",), known_rank=True), MAP)
    source: str
    target: str
    map: str
    min_area: int = 1
    min_mean: float | None = None
    unclip: float = 0.0
    axes: str | None = None

    def __post_init__(self) -> None:
        """Check the parameters."""
        require_whole(self.min_area, f"min_area of '{self.target}'", 1, LARGEST_AREA)
        if self.min_mean is not None:
            as_float32(self.min_mean, f"min_mean of '{self.target}'")
        if as_float32(self.unclip, f"unclip of '{self.target}'") < 0:
            raise PostProcessorError(f"unclip of '{self.target}' is {self.unclip:g}, expected a number from 0.")

    @property
    def reads(self) -> tuple[str, ...]:
        """The table and the map."""
        return (self.source, self.map)

    def bind(self, table: ValueType, map_: ValueType) -> Self:
        """Bind the step to its inputs.

        Raises:
            PostProcessorError: The first input is not a table of regions.
        """
        if table.size("P") != _WIDTH:
            raise PostProcessorError(
                f"{table} is not a table of regions, expected {_WIDTH} columns. Read the target of a RegionTable."
            )
        return dataclasses.replace(self, axes=map_.known_axes)

    def output_type(self, table: ValueType, map_: ValueType) -> ValueType:
        """The type of the table."""
        del map_
        return table

    def reference(self, table: Array, map_: Array) -> Array:
        """Select the regions of an array."""
        height, width = (np.shape(map_)[axis] for axis in self._pixels)
        low, high = table[..., 0:2], table[..., 2:4]
        sides = high - low - np.float32(1)
        share = np.float32(1) / np.maximum((sides[..., :1] + sides[..., 1:]) * np.float32(2), np.float32(1))
        growth = sides[..., :1] * sides[..., 1:] * np.float32(self.unclip) * share
        grown = [
            np.maximum(low - growth, np.float32(0)),
            np.minimum(high + growth, np.array([width, height], np.float32)),
        ]
        kept = table[..., _AREA] >= np.float32(self.min_area)
        if self.min_mean is not None:
            kept &= table[..., _MEAN] >= np.float32(self.min_mean)
        result = np.zeros_like(table)
        for image, keep in enumerate(kept):
            rows = np.concatenate([*(part[image] for part in grown), table[image, :, 4:]], axis=1)[keep]
            result[image, : len(rows)] = rows
            result[image, :, -1] = len(rows)
        return result

    def emit(self, op: Emitter, table: ir.Value, map_: ir.Value) -> ir.Value:
        """Write the arithmetic of boxes, and gather the kept rows."""
        one, zero = op.constant(np.float32(1), "one"), op.constant(np.float32(0), "zero")
        low, high = (op.slice(table, (start,), (start + 2,), (2,)) for start in (0, 2))
        sides = op.sub(op.sub(high, low), one)
        width, height = (op.slice(sides, (place,), (place + 1,), (2,)) for place in (0, 1))
        around = op.mul(op.add(width, height), op.constant(np.float32(2), "two"))
        share = op.node("Reciprocal", [op.clip(around, 1.0, 2.0**30)], {}, _FLOAT, op.shape_of(around))
        area = op.mul(op.mul(width, height), _number(op, self.unclip, "unclip", 3))
        growth = op.mul(area, share)
        rows, columns = (op.slice(op.sizes_of(map_), (axis,), (axis + 1,), (0,), (1,)) for axis in self._pixels)
        border = op.number(op.joined(columns, rows))
        first = op.node("Max", [op.sub(low, growth), zero], {}, _FLOAT, op.shape_of(low))
        last = op.node("Min", [op.add(high, growth), border], {}, _FLOAT, op.shape_of(low))
        kept = op.logical_not(op.less(self._column(op, table, _AREA), _number(op, self.min_area, "area", 2)))
        if self.min_mean is not None:
            mean = self._column(op, table, _MEAN)
            kept = op.logical_and(kept, op.logical_not(op.less(mean, _number(op, self.min_mean, "mean", 1))))
        count = op.reduce("ReduceSum", op.where(kept, one, zero), (1,), keepdims=True)
        return self._compacted(op, [first, last, op.slice(table, (4,), (_WIDTH - 1,), (2,))], kept, count)

    def _compacted(self, op: Emitter, parts: list[ir.Value], kept: ir.Value, count: ir.Value) -> ir.Value:
        """Move the kept rows up, and append their number."""
        one, zero = op.constant(np.float32(1), "one"), op.constant(np.float32(0), "zero")
        shape, axis = op.shape_of(kept), op.constant(np.int64(1), "along_rows")
        mine, others = op.where(kept, one, zero), op.where(kept, zero, one)
        place, behind = (op.node("CumSum", [each, axis], {}, _FLOAT, shape) for each in (mine, others))
        place = op.sub(op.where(kept, place, op.add(behind, count)), one)
        numbers = op.node("CumSum", [op.add(mine, others), axis], {"exclusive": 1}, _FLOAT, shape)
        order = op.node("ScatterElements", [numbers, op.cast(place, _INT64), numbers], {"axis": 1}, _FLOAT, shape)
        # Rows of 9 numbers are gathered along their own axis, so their order is repeated for each column.
        joined, columns = op.concat(parts, 2), op.unsqueeze(order, (2,))
        sizes = op.shape_of(joined)
        cells = op.node("Where", [op.unsqueeze(kept, (2,)), joined, zero], {}, _FLOAT, sizes)
        spread = op.node("Expand", [columns, op.sizes_of(cells)], {}, _FLOAT, sizes)
        moved = op.node("GatherElements", [cells, op.cast(spread, _INT64)], {"axis": 1}, _FLOAT, sizes)
        total = op.node("Expand", [op.unsqueeze(count, (2,)), op.sizes_of(columns)], {}, _FLOAT, op.shape_of(columns))
        return op.concat([moved, total], 2)

    def _column(self, op: Emitter, table: ir.Value, place: int) -> ir.Value:
        return op.squeeze(op.slice(table, (place,), (place + 1,), (2,)), 2)

    @property
    def _pixels(self) -> tuple[int, int]:
        axes = self.axes or "NCHW"
        return axes.index("H"), axes.index("W")


def _number(op: Emitter, number: float, name: str, rank: int) -> ir.Value:
    """Write a constant of a rank of its own: equal ones of one shape are written once, and could not be retuned."""
    return op.array(np.full((1,) * rank, number, np.float32), name)
