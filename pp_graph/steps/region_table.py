"""Measure the connected regions of a mask: boxes, areas, centroids, and the largest and mean number of a map in each.

A step has one result, and regions are searched once, so `RegionTable` writes all measurements into one tensor, from
which `RegionPart` takes each.

Every runtime computes the same bits. Sums over regions are sums of integers: a coordinate or a number of the map is
split into parts of six bits, so that the sum of a part over 2**24 pixels fits int32. `TopK` may order equal numbers in
any way, so only its values are used, and equal regions are ordered by comparison. Divisions are products with the
inverse, which is how OpenVINO divides.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, Literal, Self, get_args

import numpy as np
import numpy.typing as npt

from pp_graph.errors import OpsetError, PostProcessorError
from pp_graph.model.opset_raising import HOW_TO_RAISE
from pp_graph.steps.classes import LIMIT
from pp_graph.steps.masks import Mask, emit_without_channel, without_channel
from pp_graph.steps.region_emission import MEAN_BITS, PART_BITS, PARTS, emit_table
from pp_graph.steps.region_search import CONNECTIVITIES, Connectivity, Runs
from pp_graph.steps.step import MAP, MASK, Accepts, Array, Step, require_one_of, require_whole

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.operators.emitter import Emitter
    from pp_graph.values import DType, ValueType

COLUMNS: Final = ("x1", "y1", "x2", "y2", "area", "x", "y", "max", "mean", "count")
"""Columns of a table of regions."""
MOST_REGIONS: Final = 1000
LARGEST_SIDE: Final = 4096
"""Height and width up to which areas and sums are exact."""
Order = Literal["area", "max"]
Part = Literal["boxes", "areas", "centroids", "max", "mean", "count"]

_OPSET: Final = 18
_PARTS: Final[dict[str, tuple[slice | int, str, DType]]] = {
    "boxes": (slice(0, 4), "NKP", "float32"),
    "areas": (4, "NK", "int32"),
    "centroids": (slice(5, 7), "NKP", "float32"),
    "max": (7, "NK", "float32"),
    "mean": (8, "NK", "float32"),
    "count": (9, "N", "int32"),
}
_Float = npt.NDArray[np.float32]


@dataclass(frozen=True)
class RegionTable(Step):
    """Measure the `k` largest connected regions of a mask, and count all.

    Rows are ordered by area, or by the largest number of the map, descending, and regions that are equal by their
    first pixel, row by row. Missing rows are 0. The columns are `COLUMNS`:

    - `x1`, `y1`, `x2`, `y2`: the box, in pixels of the mask. `x2` and `y2` are exclusive: the width is `x2 - x1`;
    - `area`: number of pixels;
    - `x`, `y`: the centroid; the centre of a pixel is at its index, as in OpenCV and SciPy;
    - `max`, `mean`: of the numbers of the map in the region; 0 without a map. Numbers are limited to +-2**126, and NaN
      counts as 2**126. Before they are summed, they are rounded to 2**-23 of the largest magnitude in the mask;
    - `count`: number of all regions of the image, the same in each row; above `k`, regions are missing.

    Source: `cv2.connectedComponentsWithStats` and `scipy.ndimage`. The step needs opset 18.

    Attributes:
        source: Name of the mask, bool: (N,H,W), (N,1,H,W) or (N,H,W,1); at most 4096x4096, and a batch has less than
            2**30 pixels.
        target: Name of the table, float32, (N,K,10). All whole numbers in it are exact.
        k: Number of rows, at most 1000.
        map: Name of a map of the same size, float32; None without one.
        order: `area`, or `max` for the largest number of the map.
        connectivity: 4 connects pixels that share a side, 8 also pixels that share a corner.
        axes: Axes of the mask; None until the step is bound.
        map_axes: Axes of the map; None until the step is bound.

    Raises:
        PostProcessorError: `k`, `order` or `connectivity` is outside its range, or `order` is `max` without a map.
    """

    pointwise: ClassVar[bool] = False
    settled: ClassVar[frozenset[str]] = frozenset({"axes", "map_axes"})
    source: str
    target: str
    k: int
    map: str | None = None
    order: Order = "area"
    connectivity: Connectivity = 8
    axes: str | None = None
    map_axes: str | None = None
    accepts: ClassVar[tuple[Accepts, ...]] = (MASK, MAP)

    def __post_init__(self) -> None:
        """Check the parameters."""
        require_whole(self.k, f"k of '{self.target}'", 1, MOST_REGIONS)
        require_one_of(self.order, f"order of '{self.target}'", get_args(Order))
        require_one_of(self.connectivity, f"connectivity of '{self.target}'", CONNECTIVITIES)
        if self.order == "max" and self.map is None:
            raise PostProcessorError(
                f"order of '{self.target}' is 'max' without a map, expected one to find the largest number in. Name a "
                "map, or order by 'area'."
            )

    @property
    def reads(self) -> tuple[str, ...]:
        """The mask, and the map if there is one."""
        return (self.source,) if self.map is None else (self.source, self.map)

    def bind(self, *values: ValueType) -> Self:
        """Bind the step to its inputs.

        Raises:
            PostProcessorError: Mask and map differ in size, or are larger than 4096x4096.
        """
        sizes = {value.map_size for value in values if value.map_size is not None}
        if len(sizes) > 1:
            raise PostProcessorError(
                f"'{self.source}' is {values[0]} and '{self.map}' is {values[1]}, expected a map of the mask's size. "
                "Resize one of them with ResizeMap first."
            )
        large = next((value for value in values for axis in "HW" if (value.size(axis) or 0) > LARGEST_SIDE), None)
        if large is not None:
            raise PostProcessorError(
                f"{large} has more than {LARGEST_SIDE} pixels along an axis, expected at most {LARGEST_SIDE}, up to "
                "which areas are exact. Resize the map before it is compared, with ResizeMap."
            )
        return dataclasses.replace(
            self, axes=values[0].known_axes, map_axes=values[1].known_axes if len(values) > 1 else None
        )

    def output_type(self, *values: ValueType) -> ValueType:
        """float32, (N,K,10)."""
        sizes = (values[0].size("N"), self.k, len(COLUMNS))
        return dataclasses.replace(values[0], axes="NKP", sizes=sizes, dtype="float32", rank_known=True)

    def reference(self, mask: Mask, map_: Array | None = None) -> Array:
        """Measure the regions of an array, of at most 4096x4096 pixels."""
        images = without_channel(mask, self.axes)
        table = np.zeros((len(images), self.k, len(COLUMNS)), np.float32)
        runs = Runs.of(images, self.connectivity)
        roots, region = np.unique(runs.regions, return_inverse=True)
        image, row, start = np.unravel_index(runs.starts, runs.padded)
        length = runs.stops - runs.starts
        of_image, count = image[roots], len(roots)
        cells = np.zeros((count, len(COLUMNS)), np.float32)
        box = np.concatenate([np.full((2, count), LARGEST_SIDE), np.zeros((2, count), np.int64)])
        for place, (reduce, numbers) in enumerate(
            ((np.minimum, start), (np.minimum, row), (np.maximum, start + length), (np.maximum, row + 1))
        ):
            reduce.at(box[place], region, numbers)
        cells[:, :4] = box.T
        cells[:, 4] = area = np.bincount(region, length, count).astype(np.float32)
        inverse = np.float32(1) / area
        cells[:, 5] = _means(length * (2 * start + length - 1) // 2, region, inverse)
        cells[:, 6] = _means(length * row, region, inverse)
        if map_ is not None:
            of_pixel = np.repeat(region, length)
            numbers = _limited(np.asarray(map_, np.float32).reshape(images.shape)[images])
            largest = np.full(count, -LIMIT, np.float32)
            np.maximum.at(largest, of_pixel, numbers)
            magnitude = np.full(len(images), np.finfo(np.float32).tiny, np.float32)
            np.maximum.at(magnitude, of_image[of_pixel], np.abs(numbers))
            share = numbers * (np.float32(1) / magnitude[of_image[of_pixel]])
            whole = np.round(share * np.float32(2**MEAN_BITS)).astype(np.int64)
            unit = magnitude[of_image] * np.float32(2**-MEAN_BITS)
            cells[:, 7], cells[:, 8] = largest, _means(whole, of_pixel, inverse) * unit
        keys = cells[:, COLUMNS.index(self.order)]
        order = np.lexsort((np.arange(count), -keys, of_image))
        for place in range(len(images)):
            rows = cells[order[of_image[order] == place]]
            table[place, : len(rows)] = rows[: self.k]
            table[place, :, 9] = len(rows)
        return table

    def emit(self, op: Emitter, mask: ir.Value, map_: ir.Value | None = None) -> ir.Value:
        """Write operators that find regions and measure them.

        Raises:
            OpsetError: The graph's opset is below 18.
        """
        if op.opset < _OPSET:
            raise OpsetError(
                f"The model is at opset {op.opset}, expected {_OPSET} or later to measure regions. "
                f"Fuse with {HOW_TO_RAISE}, export it again with opset_version={_OPSET} or later, or "
                "leave the step out."
            )
        images = emit_without_channel(op, mask, self.axes)
        numbers = None if map_ is None else op.listed(map_)
        return emit_table(op, images, numbers, self.k, self.connectivity, by_max=self.order == "max")


def _means(numbers: npt.NDArray[np.int64], region: npt.NDArray[np.int64], inverse: _Float) -> _Float:
    """Mean of whole numbers over each region; see `pp_graph.steps.region_emission`."""
    left, result = numbers, np.zeros_like(inverse)
    for part in range(PARTS):
        digits = left & (2**PART_BITS - 1) if part < PARTS - 1 else left
        left = left >> PART_BITS
        total = np.bincount(region, digits, len(inverse)).astype(np.float32)
        result = result * np.float32(2**-PART_BITS) + total * inverse
    return result * np.float32(2 ** (PART_BITS * (PARTS - 1)))


def _limited(numbers: _Float) -> _Float:
    limited: _Float = np.clip(np.where(np.isnan(numbers), LIMIT, numbers), -LIMIT, LIMIT)
    return limited


@dataclass(frozen=True)
class RegionPart(Step):
    """Take some columns of a table of regions.

    | part | columns | result |
    |---|---|---|
    | `boxes` | x1, y1, x2, y2 | float32, (N,K,4) |
    | `areas` | area | int32, (N,K) |
    | `centroids` | x, y | float32, (N,K,2) |
    | `max`, `mean` | the same | float32, (N,K) |
    | `count` | count | int32, (N,) |

    Attributes:
        source: Name of the table, the target of `RegionTable`.
        target: Name of the result.
        part: What to take.

    Raises:
        PostProcessorError: `part` is unknown.
    """

    pointwise: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (Accepts(axes=("NKP",), known_rank=True),)
    source: str
    target: str
    part: Part

    def __post_init__(self) -> None:
        """Check the part."""
        require_one_of(self.part, f"part of '{self.target}'", get_args(Part))

    def bind(self, value: ValueType) -> Self:
        """Bind the step to its input.

        Raises:
            PostProcessorError: The input is not a table of regions.
        """
        if value.size("P") != len(COLUMNS):
            raise PostProcessorError(
                f"{value} is not a table of regions, expected {len(COLUMNS)} columns. Read the target of a RegionTable."
            )
        return self

    def output_type(self, value: ValueType) -> ValueType:
        """As in the table above."""
        columns, axes, dtype = _PARTS[self.part]
        width = columns.stop - columns.start if isinstance(columns, slice) else 1
        sizes = (value.size("N"), value.size("K"), width)[: len(axes)]
        return dataclasses.replace(value, axes=axes, sizes=sizes, dtype=dtype)

    def reference(self, table: Array) -> Array:
        """Take the columns from an array."""
        columns, axes, dtype = _PARTS[self.part]
        taken = table[:, :, columns]
        result: Array = (taken[:, 0] if axes == "N" else taken).astype(dtype)
        return result

    def emit(self, op: Emitter, table: ir.Value) -> ir.Value:
        """Write Slice, and Cast for integers."""
        columns, axes, dtype = _PARTS[self.part]
        first, last = (columns.start, columns.stop) if isinstance(columns, slice) else (columns, columns + 1)
        taken = op.slice(table, (first,), (last,), (2,))
        if axes != "NKP":
            taken = op.squeeze(taken, 2)
        if axes == "N":
            taken = op.squeeze(op.slice(taken, (0,), (1,), (1,)), 1)
        return taken if dtype == "float32" else op.cast(taken, np.dtype(dtype))
