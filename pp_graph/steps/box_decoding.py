"""Steps that turn what a detector's head returns for chosen candidates into boxes: grids, anchors, distances.

Only the chosen candidates are decoded. Runtimes round exponentials and sums of products differently, so these steps are
not exact: `verify` starts from the boxes that the artifact decoded.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.steps.boxes import BOXES, check_boxes
from pp_graph.steps.candidates import PARTS, PLACES
from pp_graph.steps.step import Accepts, Array, Step, require_whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from pp_graph.steps.operators.emitter import Emitter
    from pp_graph.values import ValueType

Level = tuple[int, int, int]
"""Rows, columns and stride in pixels of one level of a head."""

_F32: Final = np.dtype(np.float32)


def grid(levels: Sequence[Level], per_cell: int = 1) -> Array:
    """Return column, row and stride of each candidate, row by row and level by level; float32, (K,3)."""
    cells = [
        np.repeat(
            np.stack([*np.meshgrid(np.arange(width), np.arange(height)), np.full((height, width), stride)], -1),
            per_cell,
            axis=1,
        ).reshape(-1, 3)
        for height, width, stride in levels
    ]
    return np.concatenate(cells).astype(np.float32)


@dataclass(frozen=True)
class PlacedStep(Step):
    """Base class of steps that decode boxes with constants of each candidate.

    Attributes:
        source: Name of the four numbers of each chosen candidate, float32, (N,K,4).
        target: Name of the boxes, corners in pixels, float32, (N,K,4).
        places: Name of the candidates' indices, int64, (N,K).
    """

    exact: ClassVar[bool] = False
    pointwise: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (BOXES, PLACES)
    source: str
    target: str
    places: str

    @property
    def reads(self) -> tuple[str, ...]:
        """Numbers and indices."""
        return (self.source, self.places)

    def bind(self, value: ValueType, places: ValueType) -> Self:
        """Bind the step to its inputs."""
        del places
        check_boxes(value, self.target)
        return self

    @property
    @abstractmethod
    def table(self) -> Array:
        """Constants of each candidate, float32, (K,T)."""

    def _looked_up(self, op: Emitter, places: ir.Value) -> list[ir.Value]:
        """Write each column of the table at the indices, (N,K,1)."""
        return [
            op.unsqueeze(op.look_up(op.array(np.ascontiguousarray(column), "table"), places), (2,))
            for column in self.table.T
        ]


@dataclass(frozen=True)
class GridBoxes(PlacedStep):
    """Decode centres in cells and logarithms of sizes: `(xy + cell + centre) * stride`, `exp(wh) * stride`.

    Source: YOLOX, `demo_postprocess`; CenterFace, with a centre of 0.5; CenterNet, whose sizes are no logarithms.

    Attributes:
        source: Name of the four numbers of each chosen candidate, float32, (N,K,4).
        target: Name of the boxes, corners in pixels, float32, (N,K,4).
        places: Name of the candidates' indices, int64, (N,K).
        levels: Rows, columns and stride of each level.
        centre: Centre of a cell from its corner, in strides.
        exponential: True if sizes are logarithms.
    """

    levels: tuple[Level, ...]
    centre: float = 0.0
    exponential: bool = True

    @property
    def table(self) -> Array:
        """Column and row of the centre, and stride."""
        return grid(self.levels) + np.array([self.centre, self.centre, 0], np.float32)

    def reference(self, array: Array, places: Array) -> Array:
        """Decode an array."""
        column, row, stride = (each[..., None] for each in np.moveaxis(self.table[places], -1, 0))
        with np.errstate(over="ignore", invalid="ignore"):
            centre = (array[..., :2] + np.concatenate([column, row], -1)) * stride
            size = array[..., 2:]
            if self.exponential:
                size = np.exp(size.astype(np.float64)).astype(np.float32)
            half = size * stride * np.float32(0.5)
            return np.concatenate([centre - half, centre + half], -1)

    def emit(self, op: Emitter, value: ir.Value, places: ir.Value) -> ir.Value:
        """Write the formula."""
        column, row, stride = self._looked_up(op, places)
        centre = op.mul(op.add(op.slice(value, (0,), (2,), (2,)), op.concat([column, row], 2)), stride)
        size = op.slice(value, (2,), (4,), (2,))
        size = op.exp(size) if self.exponential else size
        half = op.mul(op.mul(size, stride), op.constant(np.float32(0.5), "half"))
        return op.concat([op.sub(centre, half), op.add(centre, half)], 2)


@dataclass(frozen=True)
class AnchorBoxes(PlacedStep):
    """Decode offsets from anchors: `xy * variance * anchor size + anchor centre`, and sizes likewise.

    Source: SSD (Liu et al., 2016), with sizes as `exp(wh * variance) * anchor size`; MediaPipe's BlazeFace, where sizes
    are linear.

    Attributes:
        source: Name of the four numbers of each chosen candidate, float32, (N,K,4): centre and size.
        target: Name of the boxes, corners in pixels, float32, (N,K,4).
        places: Name of the candidates' indices, int64, (N,K).
        anchors: Centre and size of each anchor in pixels, such as `((8.0, 8.0, 16.0, 16.0), ...)`.
        variances: Factors of the offsets and of the sizes.
        exponential: True if sizes are logarithms.
    """

    anchors: tuple[tuple[float, float, float, float], ...]
    variances: tuple[float, float] = (0.1, 0.2)
    exponential: bool = True

    @property
    def table(self) -> Array:
        """Centre and size of the anchors."""
        return np.array(self.anchors, np.float32)

    def reference(self, array: Array, places: Array) -> Array:
        """Decode an array."""
        anchors = self.table[places]
        first, second = (np.float32(each) for each in self.variances)
        with np.errstate(over="ignore", invalid="ignore"):
            centre = array[..., :2] * first * anchors[..., 2:] + anchors[..., :2]
            size = array[..., 2:] * second
            if self.exponential:
                size = np.exp(size.astype(np.float64)).astype(np.float32)
            half = size * anchors[..., 2:] * np.float32(0.5)
            return np.concatenate([centre - half, centre + half], -1)

    def emit(self, op: Emitter, value: ir.Value, places: ir.Value) -> ir.Value:
        """Write the formula."""
        x, y, width, height = self._looked_up(op, places)
        anchor = op.concat([width, height], 2)
        first, second = (op.constant(np.float32(each), name) for each, name in zip(self.variances, "xs", strict=True))
        offset = op.mul(op.mul(op.slice(value, (0,), (2,), (2,)), first), anchor)
        centre = op.add(offset, op.concat([x, y], 2))
        size = op.mul(op.slice(value, (2,), (4,), (2,)), second)
        size = op.exp(size) if self.exponential else size
        half = op.mul(op.mul(size, anchor), op.constant(np.float32(0.5), "half"))
        return op.concat([op.sub(centre, half), op.add(centre, half)], 2)


@dataclass(frozen=True)
class DistanceBoxes(PlacedStep):
    """Decode distances of a box's sides from the centre of a cell, in strides: left, top, right, bottom.

    Source: FCOS (Tian et al., 2019), NanoDet and PicoDet (`distance2bbox`), SCRFD.

    Attributes:
        source: Name of the four distances of each chosen candidate, float32, (N,K,4).
        target: Name of the boxes, corners in pixels, float32, (N,K,4).
        places: Name of the candidates' indices, int64, (N,K).
        levels: Rows, columns and stride of each level.
        centre: Centre of a cell from its corner, in strides.
        per_cell: Number of candidates in each cell.
    """

    levels: tuple[Level, ...]
    centre: float = 0.5
    per_cell: int = 1

    @property
    def table(self) -> Array:
        """Centre and stride."""
        cells = grid(self.levels, self.per_cell)
        shift = np.float32(self.centre)
        return np.stack([(cells[:, 0] + shift) * cells[:, 2], (cells[:, 1] + shift) * cells[:, 2], cells[:, 2]], 1)

    def reference(self, array: Array, places: Array) -> Array:
        """Decode an array."""
        cells = self.table[places]
        with np.errstate(over="ignore", invalid="ignore"):
            reach = array * cells[..., 2:]
            return np.concatenate([cells[..., :2] - reach[..., :2], cells[..., :2] + reach[..., 2:]], -1)

    def emit(self, op: Emitter, value: ir.Value, places: ir.Value) -> ir.Value:
        """Write the formula."""
        x, y, stride = self._looked_up(op, places)
        reach, centre = op.mul(value, stride), op.concat([x, y], 2)
        low, high = (op.slice(reach, (start,), (start + 2,), (2,)) for start in (0, 2))
        return op.concat([op.sub(centre, low), op.add(centre, high)], 2)


@dataclass(frozen=True)
class ExpectedDistances(Step):
    """Turn the logits of discrete distances 0, 1, 2, ... of four sides into their expectations.

    Source: Li et al., "Generalized Focal Loss", 2020 (distribution focal loss, DFL).

    Attributes:
        source: Name of the logits, float32, (N,K,4*B) or (N,4*B,K): B for each side.
        target: Name of the distances, float32, (N,K,4).
        axes: Axes of the logits; None until the step is bound.
        bins: Number B of distances; None until the step is bound.
        count: Number of candidates; None until the step is bound.
    """

    exact: ClassVar[bool] = False
    pointwise: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (PARTS,)
    settled: ClassVar[frozenset[str]] = frozenset({"axes", "bins", "count"})
    source: str
    target: str
    axes: str | None = None
    bins: int | None = None
    count: int | None = None

    def bind(self, value: ValueType, *_: Any) -> Self:
        """Bind the step to its input.

        Raises:
            PostProcessorError: The number of logits is not a multiple of four, or a size is open.
        """
        parts, count = value.size("P"), value.size("K")
        if parts is None or count is None or parts % 4 or parts < 8:
            raise PostProcessorError(f"'{self.target}' is computed from {value}, expected two or more logits a side.")
        require_whole(parts // 4, "bins", 2)
        return dataclasses.replace(self, axes=value.known_axes, bins=parts // 4, count=count)

    def output_type(self, value: ValueType) -> ValueType:
        """float32, (N,K,4)."""
        return dataclasses.replace(value, axes="NKP", sizes=(value.size("N"), value.size("K"), 4))

    def reference(self, array: Array) -> Array:
        """Compute the expectations of an array, in float64."""
        x = array if self.axes != "NPK" else np.moveaxis(array, 1, 2)
        logits = x.reshape(*x.shape[:2], 4, -1).astype(np.float64)
        with np.errstate(invalid="ignore"):
            powers = np.exp(logits - logits.max(-1, keepdims=True))
        expected: Array = (powers * np.arange(logits.shape[-1])).sum(-1) / powers.sum(-1)
        return expected.astype(np.float32)

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write a softmax and a weighted sum, without a matrix product."""
        assert self.bins is not None, "bind() sets it"
        assert self.count is not None, "bind() sets it"
        if self.axes == "NPK":
            value = op.transpose(value, (0, 2, 1))
        logits = op.reshape(value, (0, self.count, 4, self.bins))
        powers = op.exp(op.sub(logits, op.reduce("ReduceMax", logits, (3,), keepdims=True)))
        weighted = op.mul(powers, op.array(np.arange(self.bins, dtype=np.float32), "distances"))
        return op.div(op.reduce("ReduceSum", weighted, (3,)), op.reduce("ReduceSum", powers, (3,)))
