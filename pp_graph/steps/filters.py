"""Filter maps: Gaussian blur and median.

A median of `size` by `size` pixels is a sorting network. Each column of a window belongs to `size` windows, so columns
are sorted once for the whole map. Sorted columns are merged by doubling: two neighbours, two such pairs, and so on; the
second operand of each merge is the first one, shifted. `_in_order` then keeps only the comparisons that the median
depends on.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Final, Literal, Self

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.steps.step import MAPS, Array, Step, as_float32, require_size, require_whole
from pp_graph.values import ValueType, spatial_axes

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from pp_graph.model import Shape
    from pp_graph.steps.operators.emitter import Emitter
    from pp_graph.steps.step import Accepts


_LARGEST_KERNEL: Final = 255


@dataclass(frozen=True)
class GaussianBlur(Step):
    """Replace each pixel by a weighted mean of its neighbours, with weights that fall off as a Gaussian.

    Along the height, then along the width: `y[i] = sum_k w[k] * x[i + k]` for `|k| <= kernel_size // 2`. The weights
    `w[k]` are proportional to `exp(-k**2 / (2 * sigma**2))` and sum to 1. At its border the map is mirrored without
    repeating the outermost pixel, so it must be larger than `kernel_size // 2`. Source: Anomalib 2.7, `GaussianBlur2d`,
    that is, kornia's `gaussian_blur2d` with `border_type="reflect"`. Kornia multiplies both kernels first, so results
    differ by rounding.

    Weights are computed in float64 and rounded to float32; weights below the smallest normal float32 are left out. The
    two pixels at the same distance are added first, so above half the largest float32 their sum is infinite. NaN and
    infinities spread to every pixel whose kernel covers them; infinities of opposite sign give NaN.

    Attributes:
        source: Name of the map, float32: (N,H,W), (N,C,H,W) or (N,H,W,C), each channel by itself.
        target: Name of the smoothed map, float32, of the same shape.
        sigma: Standard deviation in pixels, above 0.
        kernel_size: Size of the kernel in pixels, odd, up to 255; None for `2 * int(4 * sigma + 0.5) + 1`, as in
            Anomalib.
        axes: Axes of the map; None until the step is bound.

    Raises:
        PostProcessorError: `sigma` is not above 0, or the kernel's size is even or too large.
    """

    exact: ClassVar[bool] = False
    pointwise: ClassVar[bool] = False
    keeps_scale: ClassVar[bool] = True
    accepts: ClassVar[tuple[Accepts, ...]] = (MAPS,)
    source: str
    target: str
    sigma: float
    kernel_size: int | None = None
    axes: str | None = None

    def __post_init__(self) -> None:
        """Check the kernel."""
        if as_float32(self.sigma, f"sigma of '{self.target}'") <= 0:
            raise PostProcessorError(f"sigma of '{self.target}' is {self.sigma}, expected a number above 0.")
        if self.kernel_size is not None:
            require_whole(self.kernel_size, f"kernel_size of '{self.target}'", 1, _LARGEST_KERNEL, odd=True)
        elif self._size > _LARGEST_KERNEL:
            raise PostProcessorError(
                f"sigma of '{self.target}' is {self.sigma}, which needs a kernel of {self._size} pixels, expected "
                f"at most {_LARGEST_KERNEL}. Give a smaller sigma, or a kernel_size."
            )

    @property
    def _size(self) -> int:
        return 2 * int(4.0 * self.sigma + 0.5) + 1 if self.kernel_size is None else int(self.kernel_size)

    @cached_property
    def _weights(self) -> Array:
        """Weights by distance from the middle, float32."""
        distance = np.arange(self._size // 2 + 1, dtype=np.float64)
        with np.errstate(under="ignore"):
            weights = np.exp(-((distance / float(self.sigma)) ** 2) / 2)
            rounded = (weights / (weights[0] + 2 * weights[1:].sum())).astype(np.float32)
        normal: Array = rounded[rounded >= np.finfo(np.float32).smallest_normal]
        return normal

    @property
    def _radius(self) -> int:
        return len(self._weights) - 1

    @property
    def least_size(self) -> int:
        """One pixel more than the radius of the kernel."""
        return self._radius + 1

    def bind(self, value: ValueType) -> Self:
        """Bind the step to a map; raise `PostProcessorError` if it is too small."""
        self._check_size(value.map_size)
        return super().bind(value)

    def _check_size(self, size: tuple[int, int] | None) -> None:
        require_size(size, (self.least_size, self.least_size), self.target, f"to be mirrored by {self._radius}")

    def reference(self, array: Array) -> Array:
        """Smooth an array."""
        x = np.asarray(array, np.float32)
        axes = spatial_axes(self.axes)
        self._check_size((x.shape[axes[0]], x.shape[axes[1]]))
        radius = self._radius
        for axis in axes:
            pads = [(radius, radius) if padded == axis else (0, 0) for padded in range(x.ndim)]
            taps = np.moveaxis(np.pad(x, pads, mode="reflect"), axis, 0)
            size = x.shape[axis]
            with np.errstate(invalid="ignore", over="ignore", under="ignore"):
                total = taps[radius : radius + size] * self._weights[0]
                for k in range(1, radius + 1):
                    pair = taps[radius - k : radius - k + size] + taps[radius + k : radius + k + size]
                    total = total + pair * self._weights[k]
            x = np.moveaxis(total, 0, axis)
        return np.ascontiguousarray(x)

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write Pad, then a weighted sum of shifted slices, along each axis.

        Two convolutions are not faster (256 x 256 pixels, 33 weights, one thread of OpenVINO 2026.4: 1.0 to 1.6 ms; the
        sum 0.8 to 1.3 ms). They also do not take (N,H,W) and (N,H,W,1), and make OpenVINO run the operators before them
        in the network's precision.
        """
        shape = op.shape_of(value)
        radius = self._radius
        for axis in spatial_axes(self.axes):
            padded = op.pad(value, (axis,), radius, "reflect", rank=len(self.axes or "NCHW")) if radius else value
            total = None
            for k, weight in enumerate(self._weights):
                cuts = [
                    op.shortened(padded, (axis,), (radius + shift,), (radius - shift,), shape)
                    for shift in dict.fromkeys((-k, k))
                ]
                pair = cuts[0] if k == 0 else op.add(*cuts)
                term = op.mul(pair, op.constant(weight, f"weight_{k}"))
                total = term if total is None else op.add(total, term)
            assert total is not None, "a kernel has a middle"
            value = total
        return value


Kind = Literal["rows", "columns", "min", "max"]


@dataclass(frozen=True, eq=False)
class Node:
    """A map in the network that computes a median from a padded map.

    Attributes:
        kind: `rows`: the padded map from row `start` on, cut to the height of the map. `columns`: its part from column
            `start` on. `min`, `max`: the pixelwise minimum or maximum of its two parts.
        parts: Nodes from which it is computed; none for `rows`.
        start: First row or column of a slice.
        lost: Number of columns by which it is narrower than the padded map.
    """

    kind: Kind
    parts: tuple[Node, ...] = ()
    start: int = 0
    lost: int = 0


def median_network(size: int) -> list[Node]:
    """Return the comparisons that give the median of a window, the median last.

    Args:
        size: Height and width of the window, odd, at least 3. The map is padded by `size // 2` on each side.
    """
    column = _sorted([Node("rows", start=start) for start in range(size)])
    merged = {1: column}
    while 2 * max(merged) <= size:
        span = max(merged)
        merged[2 * span] = _merged(*(_cut(merged[span], start, 2 * span - 1) for start in (0, span)))
    # Compose the window of spans of columns, the widest first.
    start, lists = 0, []
    for span in sorted(merged, reverse=True):
        if start + span <= size:
            lists.append(_cut(merged[span], start, size - 1))
            start += span
    while len(lists) > 2:
        lists = [_merged(lists[0], lists[1]), *lists[2:]]
    middle = (size * size - 1) // 2
    return _in_order(_ranked(lists[0], lists[1], middle))


def _in_order(last: Node) -> list[Node]:
    """The nodes on which a node depends, each after its parts, itself last."""
    ordered: dict[Node, None] = {}
    pending = [last]
    while pending:
        missing = [part for part in pending[-1].parts if part not in ordered]
        if missing:
            pending += missing
        else:
            ordered.setdefault(pending.pop())
    return list(ordered)


def _cut(nodes: Sequence[Node], start: int, lost: int) -> list[Node]:
    return [Node("columns", (node,), start, lost) if node.lost != lost else node for node in nodes]


def _smaller(a: Node, b: Node) -> Node:
    return Node("min", (a, b), lost=a.lost)


def _larger(a: Node, b: Node) -> Node:
    return Node("max", (a, b), lost=a.lost)


def _sorted(nodes: Sequence[Node]) -> list[Node]:
    if len(nodes) < 2:
        return list(nodes)
    half = len(nodes) // 2
    return _merged(_sorted(nodes[:half]), _sorted(nodes[half:]))


def _merged(a: Sequence[Node], b: Sequence[Node]) -> list[Node]:
    """Merge two sorted lists by Batcher's odd-even merge (Knuth, The Art of Computer Programming, 5.3.4)."""
    if not a or not b:
        return [*a, *b]
    if len(a) == len(b) == 1:
        return [_smaller(a[0], b[0]), _larger(a[0], b[0])]
    even, odd = _merged(a[::2], b[::2]), _merged(a[1::2], b[1::2])
    merged = [even[0]]
    for low, high in zip(odd, even[1:], strict=False):
        merged += [_smaller(low, high), _larger(low, high)]
    paired = min(len(odd), len(even) - 1)
    return [*merged, *odd[paired:], *even[1 + paired :]]


def _ranked(a: Sequence[Node], b: Sequence[Node], rank: int) -> Node:
    """Element at a rank of the merge of two sorted lists: the least maximum over all splits of the first `rank + 1`."""
    ranked: Node | None = None
    for from_a in range(max(0, rank + 1 - len(b)), min(len(a), rank + 1) + 1):
        from_b = rank + 1 - from_a
        if from_a == 0:
            largest = b[from_b - 1]
        elif from_b == 0:
            largest = a[from_a - 1]
        else:
            largest = _larger(a[from_a - 1], b[from_b - 1])
        ranked = largest if ranked is None else _smaller(ranked, largest)
    assert ranked is not None, "the rank lies in the lists"
    return ranked


_LARGEST_WINDOW: Final = 9
_MOST_NUMBERS: Final = 2**24
"""Largest number of window elements in memory at once."""


@dataclass(frozen=True)
class MedianFilter(Step):
    """Replace each pixel by the median of the square window around it.

    At the border, the outermost pixels are repeated. A window with a NaN gives NaN, as in `numpy.median`. Infinities
    are ordered like other numbers. Source: `scipy.ndimage.median_filter(map, size, mode="nearest")`, which does not
    define NaN; OpenCV's `medianBlur` treats borders the same way.

    Attributes:
        source: Name of the map, float32: (N,H,W), (N,C,H,W) or (N,H,W,C), each channel by itself.
        target: Name of the filtered map, float32, of the same shape.
        size: Height and width of the window in pixels, odd, from 3 to 9.
        axes: Axes of the map; None until the step is bound.

    Raises:
        PostProcessorError: The window is even, or too small or large.
    """

    pointwise: ClassVar[bool] = False
    keeps_scale: ClassVar[bool] = True
    selects: ClassVar[bool] = True
    accepts: ClassVar[tuple[Accepts, ...]] = (MAPS,)
    source: str
    target: str
    size: int
    axes: str | None = None

    def __post_init__(self) -> None:
        """Check the size."""
        require_whole(self.size, f"size of '{self.target}'", 3, _LARGEST_WINDOW, odd=True)

    @property
    def least_size(self) -> int:
        """Any size is valid; from this one on, the middle of the map has a whole window."""
        return self.size

    def reference(self, array: Array) -> Array:
        """Filter an array."""
        x = np.asarray(array, np.float32)
        axes = spatial_axes(self.axes)
        padded = np.pad(x, [(self.size // 2,) * 2 if axis in axes else (0, 0) for axis in range(x.ndim)], mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, (self.size, self.size), axes)
        filtered = np.empty(x.shape, np.float32)
        middle = self.size**2 // 2
        # Strips of rows limit the memory.
        rows = x.shape[axes[0]]
        at_once = max(1, _MOST_NUMBERS * rows // max(1, windows.size))
        for start in range(0, rows, at_once):
            strip = (*(slice(None),) * axes[0], slice(start, start + at_once))
            pixels = windows[strip].reshape(*windows[strip].shape[:-2], self.size**2)
            median = np.partition(pixels, middle, axis=-1)[..., middle]
            filtered[strip] = np.where(np.isnan(pixels).any(axis=-1), np.float32(np.nan), median)
        return filtered

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write Pad and a network of Min and Max. NaN bypasses them, since runtimes disagree on it.

        TopK over the windows is slower: in OpenVINO 2026.4 on CPU 1.3 times at size 3, 8 times at size 5.
        """
        axes = spatial_axes(self.axes)
        padded = op.pad(value, axes, self.size // 2, "edge", rank=len(self.axes or "NCHW"))
        nan = op.is_nan(padded)
        zero = op.constant(np.float32(0), "zero")
        median = self._emit_network(op, op.where(nan, zero, padded), op.shape_of(value))
        # Sum over each window: 0, or NaN if the window has one.
        nan_or_zero = op.where(nan, padded, zero)
        for axis in axes:
            cuts = [op.shortened(nan_or_zero, (axis,), (at,), (self.size - 1 - at,)) for at in range(self.size)]
            nan_or_zero = functools.reduce(op.add, cuts)
        return op.add(median, nan_or_zero)

    def _emit_network(self, op: Emitter, padded: ir.Value, shape: Shape | None) -> ir.Value:
        height, width = spatial_axes(self.axes)
        values: dict[Node, ir.Value] = {}
        network = median_network(self.size)
        for node in network:
            parts = [values[part] for part in node.parts]
            if node.kind == "rows":
                behind = self.size - 1 - node.start
                values[node] = op.shortened(padded, (height,), (node.start,), (behind,))
            elif node.kind == "columns":
                behind = node.lost - node.parts[0].lost - node.start
                whole = shape if node.lost == self.size - 1 else None
                values[node] = op.shortened(parts[0], (width,), (node.start,), (behind,), whole)
            else:
                values[node] = (op.minimum if node.kind == "min" else op.maximum)(*parts)
        return values[network[-1]]
