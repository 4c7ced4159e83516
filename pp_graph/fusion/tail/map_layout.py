"""How values are laid out that operators compute from a feature map, and how a result reads them.

An axis of such a value is made of factors of the map's axes: the batch, the height, the width, and features, which are
channels or places around each place. Reshaping (N,C,H,W) to (N,H*W,C) keeps the factors and groups them differently.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from pp_graph.model.shapes import Dimension

BATCH: Final = "N"
HEIGHT: Final = "H"
WIDTH: Final = "W"
PLACES: Final = ((HEIGHT,), (WIDTH,))

Factor = str | int
"""`BATCH`, `HEIGHT`, `WIDTH`, or a number of features."""
Axis = tuple[Factor, ...]
Weights = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Layout:
    """The axes of a value.

    Attributes:
        axes: Factors of each axis, the slowest first. Factors of size 1 are left out, neighbouring features are joined.
        batch: Size of the batch; a name if open.
        height: Size of the height, above 1.
        width: Size of the width, above 1.
    """

    axes: tuple[Axis, ...]
    batch: Dimension
    height: int
    width: int

    @classmethod
    def of_map(cls, batch: Dimension, channels: int, height: int, width: int) -> Layout:
        """Return the layout of a map (N,C,H,W)."""
        return cls(_joined([[BATCH] * (batch != 1), [channels], [HEIGHT], [WIDTH]]), batch, height, width)

    @property
    def features(self) -> tuple[int, ...]:
        """Sizes of the features, in the order of the axes."""
        return tuple(factor for axis in self.axes for factor in axis if isinstance(factor, int))

    @property
    def elements(self) -> int:
        """Number of elements; an open batch counts as 1."""
        batch = self.batch if isinstance(self.batch, int) else 1
        return batch * self.height * self.width * math.prod(self.features)

    def is_map(self) -> bool:
        """Return True if the axes are those of a map (N,C,H,W)."""
        return self == Layout.of_map(self.batch, math.prod(self.features), self.height, self.width)

    def is_features(self, axis: int) -> bool:
        """Return True if an axis has only features."""
        return all(isinstance(factor, int) for factor in self.axes[axis])

    def count(self, axis: int) -> int:
        """Return the size of an axis that has only features, or only the height or the width."""
        return math.prod(self.size(factor) or 1 for factor in self.axes[axis])

    def position(self, axis: int) -> int:
        """Return how many features are in the axes before an axis."""
        return len(replace(self, axes=self.axes[:axis]).features)

    def size(self, factor: Factor) -> int | None:
        """Return the size of a factor; None for an open batch."""
        if isinstance(factor, int):
            return factor
        size = {BATCH: self.batch, HEIGHT: self.height, WIDTH: self.width}[factor]
        return size if isinstance(size, int) else None

    def with_axes(self, axes: Sequence[Sequence[Factor]]) -> Layout:
        """Return a layout of the same places with other axes."""
        return replace(self, axes=_joined(axes))

    def reshaped(self, sizes: Sequence[Dimension]) -> Layout | None:
        """Return the layout after a Reshape; None if it splits the batch, height or width, or is not known."""
        factors = [factor for axis in self.axes for factor in axis]
        opened = [axis for axis, size in enumerate(sizes) if not isinstance(size, int) and size != self.batch]
        if len(opened) > 1:
            return None
        first = opened[0] if opened else len(sizes)
        axes: list[Sequence[Factor]] = []
        for size in sizes[:first]:
            taken = self._take(factors, size)
            if taken is None:
                return None
            axes.append(taken)
        factors.reverse()
        behind: list[Sequence[Factor]] = []
        for size in reversed(sizes[first + 1 :]):
            taken = self._take(factors, size)
            if taken is None:
                return None
            behind.insert(0, taken[::-1])
        if opened:
            axes.append(factors[::-1])
        elif factors:
            return None
        return self.with_axes([*axes, *behind])

    def _take(self, factors: list[Factor], size: Dimension) -> list[Factor] | None:
        """Remove factors from the front that make up a size, and return them."""
        if not isinstance(size, int):
            return [factors.pop(0)] if factors[:1] == [BATCH] else None
        taken: list[Factor] = []
        while size > 1:
            factor = factors[0] if factors else None
            found = None if factor is None else self.size(factor)
            if found is None or factor is None:
                return None
            if size % found == 0:
                taken.append(factors.pop(0))
                size //= found
            elif isinstance(factor, int) and factor % size == 0:
                taken.append(size)
                factors[0] = factor // size
                size = 1
            else:
                return None
        return taken


def _joined(axes: Sequence[Sequence[Factor]]) -> tuple[Axis, ...]:
    joined: list[Axis] = []
    for axis in axes:
        factors: list[Factor] = []
        for factor in axis:
            if isinstance(factor, int) and factors and isinstance(factors[-1], int):
                factors[-1] *= factor
            elif factor != 1:
                factors.append(factor)
        joined.append(tuple(factors))
    return tuple(joined)


@dataclass(frozen=True)
class Window:
    """Which rows or columns of a value a result at place p reads: `stride * p + offset`, for each offset."""

    stride: int = 1
    offsets: tuple[int, ...] = (0,)

    def through(self, step: int, starts: Index) -> tuple[Window, Index]:
        """Return the window of what a Gather reads, if it reads `step * p + start` for each start.

        Also returns the position of each pair of an offset and a start among the new offsets.
        """
        pairs = step * np.array(self.offsets)[:, None] + starts
        offsets, positions = np.unique(pairs.ravel(), return_inverse=True)
        return Window(step * self.stride, tuple(offsets.tolist())), positions.ravel()


@dataclass(frozen=True)
class Reading:
    """How a result with some outputs reads a value.

    Attributes:
        weights: Shape (outputs, offsets of the rows, offsets of the columns, *features).
        rows: The rows that are read.
        columns: The columns that are read.
        behind: Operators that act on each channel alike and come after the weights, in order.
        padded: True if places outside the value are read as 0.
    """

    weights: Weights
    rows: Window = Window()
    columns: Window = Window()
    behind: tuple[ir.Node, ...] = ()
    padded: bool = False

    @property
    def in_place(self) -> bool:
        """True if each place of the result reads the same place of the value."""
        return self.rows == self.columns == Window() and not self.padded

    def window(self, axis: Literal[1, 2]) -> Window:
        """Return the window of an axis of the weights."""
        return self.rows if axis == 1 else self.columns

    def with_window(self, axis: Literal[1, 2], window: Window, weights: Weights) -> Reading:
        """Replace the window of an axis of the weights."""
        if axis == 1:
            return replace(self, weights=weights, rows=window)
        return replace(self, weights=weights, columns=window)

    def with_features(self, weights: Weights, features: Sequence[int]) -> Reading:
        """Replace the weights, whose features are reshaped."""
        return replace(self, weights=weights.reshape(*weights.shape[:3], *features))


def scattered(array: Weights, positions: Index, size: int) -> Weights:
    """Add the rows of an array at some positions of an array of zeros with `size` rows."""
    result = np.zeros((size, *array.shape[1:]))
    if len(np.unique(positions)) == len(positions):
        result[positions] = array
    else:
        np.add.at(result, positions, array)
    return result


Pull = Callable[[Reading], Reading | None]
"""Turns a reading of a result into one of an input; None if that is not possible."""


@dataclass(frozen=True)
class Step:
    """A value that is linear in feature maps.

    Attributes:
        layout: Its layout.
        sources: The values it is computed from, each with its function; none for a map to start from.
    """

    layout: Layout
    sources: tuple[tuple[ir.Value, Pull], ...] = ()
