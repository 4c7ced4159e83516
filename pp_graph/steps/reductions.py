"""Reduce a map to a score: maximum, mean, mean of the largest values."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, Literal, Self

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.steps.step import MAP_AXES, MAPS, Accepts, Array, Step, as_float32, require_whole
from pp_graph.values import Scale, spatial_axes

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.operators.emitter import Emitter
    from pp_graph.values import ValueType


class MapReduction(Step):
    """Base class of steps that reduce maps to scores."""

    pointwise: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (MAPS,)

    def output_type(self, value: ValueType) -> ValueType:
        """One number for each image and class."""
        return value.reduced("HW")

    def output_scale(self, *scales: Scale | None) -> Scale | None:
        """Scale of the input without its threshold, which does not apply to scores."""
        return None if scales[0] is None else Scale(scales[0].low, scales[0].high)


@dataclass(frozen=True)
class MaxOverMap(MapReduction):
    """Take the maximum of a map over height and width; NaN if any pixel is NaN.

    Source: Anomalib 2.7, `PostProcessor.forward`, for models that return no score. A map of rank 4 has one channel, on
    any axis.

    Attributes:
        source: Name of the map, float32: (N,H,W), (N,1,H,W) or (N,H,W,1).
        target: Name of the score, float32: (N,) for a map of rank 3, (N,1) for rank 4.
        axes: Axes of the map; rank 4 if unknown.
    """

    selects: ClassVar[bool] = True
    accepts: ClassVar[tuple[Accepts, ...]] = (Accepts(needs="HW", axes=MAP_AXES, single="C"),)
    source: str
    target: str
    axes: str | None = None

    def output_type(self, value: ValueType) -> ValueType:
        """One number for each image."""
        return value.reduced("HW").resized(C=1)

    def reference(self, array: Array) -> Array:
        """Reduce an array; NumPy's max propagates NaN.

        Raises:
            PostProcessorError: The map has no pixels.
        """
        x = np.asarray(array, np.float32)
        if 0 in x.shape[1:]:
            raise PostProcessorError(
                f"The map from which '{self.target}' is computed has shape {x.shape}, expected at least one pixel."
            )
        maximum: Array = x.max(axis=tuple(range(1, x.ndim)))
        return maximum if x.ndim == 3 else maximum[:, None]

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write ReduceMax. NaN bypasses it, since runtimes disagree on it.

        A map of -inf reduces to the lowest finite float32 in OpenVINO on CPU, and to -inf in onnxruntime; both are
        below any calibrated threshold.
        """
        # A sum of squares is NaN if and only if a number is, as no infinities cancel. ReduceL1 would do as well, but
        # OpenVINO 2026.4 reduces all axes with it at opsets 13 to 17.
        magnitudes = self._reduce(op, value, "ReduceL2")
        # Less is false for NaN in every runtime. With a constant NaN as a branch, Where always returns NaN in OpenVINO
        # 2026.4 on CPU.
        numbers = op.less(op.constant(np.float32(-1), "below_all"), magnitudes)
        return op.where(numbers, self._reduce(op, value, "ReduceMax"), magnitudes)

    def _reduce(self, op: Emitter, value: ir.Value, kind: Literal["ReduceMax", "ReduceL2"]) -> ir.Value:
        if self.axes == "NHW":
            return op.reduce(kind, value, (1, 2))
        # Reduces all three axes, as the channel may be any of them.
        return op.reduce(kind, op.reduce(kind, value, (2, 3)), (1,), keepdims=True)


@dataclass(frozen=True)
class MeanOverMap(MapReduction):
    """Take the mean of a map over height and width; NaN if any pixel is NaN.

    Source: `x.mean(dim=(-2, -1))`, global average pooling. Runtimes round sums differently, so the step is not exact. A
    map of known size is summed in stages, within 1e-6 of the exact mean up to 4096 x 4096; one of open size row by row,
    within 5e-6. If the sum of all pixels exceeds float32 (3.4e38), a runtime may return infinity or NaN.

    Attributes:
        source: Name of the map, float32: (N,H,W), (N,C,H,W) or (N,H,W,C).
        target: Name of the score, float32: (N,) for a map of rank 3, (N,C) for rank 4, with C of 1 or more.
        axes: Axes of the map; None until they are known.
        size: Height and width of the map; None if open, or until the step is bound.
        classes: Size of the axis C; None if open, or until the step is bound.
    """

    exact: ClassVar[bool] = False
    settled: ClassVar[frozenset[str]] = frozenset({"axes", "size", "classes"})
    source: str
    target: str
    axes: str | None = None
    size: tuple[int, int] | None = None
    classes: int | None = None

    def bind(self, value: ValueType) -> Self:
        """Bind the step to its input."""
        return dataclasses.replace(self, axes=value.known_axes, size=value.map_size, classes=value.size("C"))

    def reference(self, array: Array) -> Array:
        """Reduce an array in float64 and round once."""
        with np.errstate(over="ignore", invalid="ignore"):
            mean: Array = np.asarray(array, np.float32).mean(axis=spatial_axes(self.axes or "NHW"), dtype=np.float64)
            return mean.astype(np.float32)

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write short sums, which lose fewer digits than a sum over all pixels."""
        if self.size is not None:
            pixels, axis = _flatten_pixels(op, value, self.axes, self.classes, self.size[0] * self.size[1])
            return _mean_in_stages(op, pixels, axis, self.size[0] * self.size[1])
        rows, columns = spatial_axes(self.axes or "NHW")
        # OpenVINO joins two reductions of one kind to one.
        sums = op.reduce("ReduceMean", op.reduce("ReduceSum", value, (columns,)), (rows,))
        width = op.look_up(op.sizes_of(value), op.constant(np.int64(columns), "columns"))
        return op.div(sums, op.cast(width, np.dtype(np.float32)))


@dataclass(frozen=True)
class TopKMean(MapReduction):
    """Take the mean of the largest pixels of a map; NaN if any pixel is NaN.

    Source: `torch.topk(x.flatten(-2), k).values.mean(-1)`, the image score of DSR- and CLIP-style anomaly models among
    others. A single noisy pixel affects it less than the maximum. Runtimes round sums differently, so the step is not
    exact. The size of the map must be known, so that every runtime takes the same number of pixels.

    Attributes:
        source: Name of the map, float32: (N,H,W), (N,C,H,W) or (N,H,W,C).
        target: Name of the score, float32: (N,) for a map of rank 3, (N,C) for rank 4, with C of 1 or more.
        k: Number of pixels; None if `fraction` is given.
        fraction: Share of all pixels, above 0 and at most 1; rounded down to whole pixels, at least one.
        axes: Axes of the map; None until the step is bound.
        size: Height and width of the map; None until the step is bound.
        classes: Size of the axis C; None until the step is bound.

    Raises:
        PostProcessorError: Not exactly one of `k` and `fraction` is given, or it is outside its range.
    """

    exact: ClassVar[bool] = False
    settled: ClassVar[frozenset[str]] = frozenset({"axes", "size", "classes"})
    source: str
    target: str
    k: int | None = None
    fraction: float | None = None
    axes: str | None = None
    size: tuple[int, int] | None = None
    classes: int | None = None

    def __post_init__(self) -> None:
        """Check the number of pixels."""
        if (self.k is None) == (self.fraction is None):
            given = "Neither k nor fraction" if self.k is None else "Both k and fraction"
            raise PostProcessorError(f"{given} of '{self.target}' are given, expected one of them.")
        if self.k is not None:
            require_whole(self.k, f"k of '{self.target}'", 1)
            object.__setattr__(self, "k", int(self.k))
        if self.fraction is not None:
            as_float32(self.fraction, f"fraction of '{self.target}'")
            if not 0 < self.fraction <= 1:
                raise PostProcessorError(
                    f"fraction of '{self.target}' is {self.fraction!r}, expected a number above 0 and at most 1."
                )

    def bind(self, value: ValueType) -> Self:
        """Bind the step to its input.

        Raises:
            PostProcessorError: The size is open, or the map has fewer pixels than `k`.
        """
        size = value.map_size
        if size is None:
            raise PostProcessorError(
                f"the size of the map, {value}, is open, expected a known one. Export the model with a fixed size, or "
                "resize the map first with ResizeMap."
            )
        pixels = size[0] * size[1]
        if self.k is not None and self.k > pixels:
            raise PostProcessorError(f"k is {self.k}, and {value} has {pixels} pixels, expected at most that many.")
        return dataclasses.replace(self, axes=value.known_axes, size=size, classes=value.size("C"))

    def _count(self, height: int, width: int) -> int:
        if self.k is not None:
            return self.k
        assert self.fraction is not None
        # In floating point, 0.29 of 100 pixels are 28.999999999999996.
        return max(1, math.floor(self.fraction * height * width + 1e-6))

    def reference(self, array: Array) -> Array:
        """Reduce an array in float64 and round once."""
        x = np.asarray(array, np.float32)
        if self.axes == "NHWC":
            x = np.moveaxis(x, 3, 1)
        height, width = x.shape[-2:]
        pixels = np.sort(x.reshape(*x.shape[:-2], height * width), axis=-1)
        largest = pixels[..., height * width - self._count(height, width) :]
        with np.errstate(over="ignore", invalid="ignore"):
            # Sorting puts NaN last, so it is among the largest.
            mean: Array = largest.mean(axis=-1, dtype=np.float64)
            return mean.astype(np.float32)

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write TopK over the pixels and its mean. NaN bypasses it, since runtimes sort it differently."""
        assert self.size is not None, "bind() sets it"
        height, width = self.size
        # Along the last axis TopK is many times faster in OpenVINO (2026.4, CPU).
        pixels, axis = _flatten_pixels(op, value, self.axes, self.classes, height * width)
        count = self._count(height, width)
        # A sum of squares is NaN if and only if a number is; see MaxOverMap.
        magnitudes = op.reduce("ReduceL2", pixels, (axis,))
        mean = _mean_in_stages(op, op.top_k(pixels, count, axis), axis, count)
        numbers = op.less(op.constant(np.float32(-1), "below_all"), magnitudes)
        return op.where(numbers, mean, magnitudes)


_LONGEST_SUM: Final = 16
"""Numbers summed at once. In OpenVINO, one sum of 262,144 numbers is off by 3e-5, and stages of 16 by 3e-7."""


def _flatten_pixels(
    op: Emitter, value: ir.Value, axes: str | None, classes: int | None, pixels: int
) -> tuple[ir.Value, int]:
    """Reshape a map to (N,P) or (N,C,P), and return it with the axis P of its pixels.

    The number of pixels is written, because nothing can be inferred from an empty batch.
    """
    if axes == "NHW":
        return op.reshape(value, (0, pixels)), 1
    if axes == "NHWC" and classes == 1:
        # A Transpose would lose its mark there; see `pp_graph.openvino.island`.
        return op.reshape(value, (0, 1, pixels)), 2
    return op.reshape(op.transpose(value, (0, 3, 1, 2)) if axes == "NHWC" else value, (0, 0, pixels)), 2


def _mean_in_stages(op: Emitter, values: ir.Value, axis: int, count: int) -> ir.Value:
    """Write the mean over the last axis, which has `count` numbers."""
    remaining = count
    while remaining > _LONGEST_SUM:
        missing = -remaining % _LONGEST_SUM
        if missing:
            values = op.pad_end(values, axis, missing, rank=axis + 1)
        remaining = (remaining + missing) // _LONGEST_SUM
        groups = op.reshape(values, (*(0 for _ in range(axis)), remaining, _LONGEST_SUM))
        values = op.reduce("ReduceSum", groups, (axis + 1,))
    return op.div(op.reduce("ReduceSum", values, (axis,)), op.constant(np.float32(count), "count"))
