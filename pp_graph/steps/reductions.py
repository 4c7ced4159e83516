"""Reduce a map to a score: maximum, mean, mean of the largest values."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.steps.step import MAP_AXES, MAPS, Accepts, Array, Step, as_float32
from pp_graph.values import Scale

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.operators.emitter import Emitter
    from pp_graph.values import ValueType


@dataclass(frozen=True)
class MaxOverMap(Step):
    """Take the maximum of a map over height and width; NaN if any pixel is NaN.

    Source: Anomalib 2.7, `PostProcessor.forward`, for models without a score of their own. A map of
    rank 4 has one channel, so it does not matter which axis that is.

    Attributes:
        source: Name of the map, float32: (N,H,W), (N,1,H,W) or (N,H,W,1).
        target: Name of the score, float32: (N,) for a map of rank 3, (N,1) for rank 4.
        axes: Axes of the map; those of rank 4 where they are not known.
    """

    pointwise: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (Accepts(needs="HW", axes=MAP_AXES, single="C"),)
    source: str
    target: str
    axes: str | None = None

    def output_type(self, value: ValueType) -> ValueType:
        """One number an image."""
        return value.reduced("HW").resized(C=1)

    def output_scale(self, *scales: Scale | None) -> Scale | None:
        """Scale of the input without its threshold, which does not apply to scores."""
        return None if scales[0] is None else Scale(scales[0].low, scales[0].high)

    def reference(self, array: Array) -> Array:
        """Reduce an array; NumPy's max already spreads NaN.

        Raises:
            PostProcessorError: The map has no pixels.
        """
        x = np.asarray(array, np.float32)
        if 0 in x.shape[1:]:
            raise PostProcessorError(
                f"What '{self.target}' is computed from has shape {x.shape}, expected at least one pixel."
            )
        maximum: Array = x.max(axis=tuple(range(1, x.ndim)))
        return maximum if x.ndim == 3 else maximum[:, None]

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write ReduceMax. NaN bypasses it, since runtimes disagree on it.

        A map that holds -inf only reduces to the lowest finite float32 in OpenVINO on CPU, and to -inf in
        onnxruntime; both lie below any calibrated threshold.
        """
        # A sum of squares is NaN if and only if a number is: nothing cancels in it, and infinity stays infinity.
        # ReduceL1 would do as well, but of that OpenVINO 2026.4 reduces all axes at opsets 13 to 17.
        magnitudes = self._reduce(op, value, "ReduceL2")
        # Less is false for NaN in every runtime. IsNaN and a constant NaN would not do: in OpenVINO 2026.4 on CPU the
        # choice between a number and NaN is NaN.
        numbers = op.less(op.constant(np.float32(-1), "below_all"), magnitudes)
        return op.where(numbers, self._reduce(op, value, "ReduceMax"), magnitudes)

    def _reduce(self, op: Emitter, value: ir.Value, kind: Literal["ReduceMax", "ReduceL2"]) -> ir.Value:
        if self.axes == "NHW":
            return op.reduce(kind, value, (1, 2))
        # Two of the three axes disappear, whichever of them is the channel.
        return op.reduce(kind, op.reduce(kind, value, (2, 3)), (1,), keepdims=True)


@dataclass(frozen=True)
class MeanOverMap(Step):
    """Take the mean of a map over height and width; NaN if any pixel is NaN.

    Source: `x.mean(dim=(-2, -1))`, global average pooling. Runtimes round sums differently, so the step is not exact.
    Where the sum of a row lies beyond float32 (3.4e38), the mean is infinite or NaN in a runtime.

    Attributes:
        source: Name of the map, float32: (N,H,W), (N,C,H,W) or (N,H,W,C).
        target: Name of the score, float32: (N,) for a map of rank 3, (N,C) for rank 4, with C of 1 or more.
        axes: Axes of the map; None until they are known.
    """

    exact: ClassVar[bool] = False
    pointwise: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (MAPS,)
    source: str
    target: str
    axes: str | None = None

    def output_type(self, value: ValueType) -> ValueType:
        """One number an image and class."""
        return value.reduced("HW")

    @property
    def _spatial(self) -> tuple[int, int]:
        return (2, 3) if self.axes == "NCHW" else (1, 2)

    def output_scale(self, *scales: Scale | None) -> Scale | None:
        """Scale of the input without its threshold, which does not apply to scores."""
        return None if scales[0] is None else Scale(scales[0].low, scales[0].high)

    def reference(self, array: Array) -> Array:
        """Reduce an array: in float64, rounded once."""
        with np.errstate(over="ignore", invalid="ignore"):
            mean: Array = np.asarray(array, np.float32).mean(axis=self._spatial, dtype=np.float64)
            return mean.astype(np.float32)

    def emit(self, op: Emitter, value: ir.Value) -> ir.Value:
        """Write ReduceMean twice: short sums lose fewer digits than one over all pixels."""
        rows, columns = self._spatial
        return op.reduce("ReduceMean", op.reduce("ReduceMean", value, (columns,)), (rows,))


@dataclass(frozen=True)
class TopKMean(Step):
    """Take the mean of the largest pixels of a map; NaN if any pixel is NaN.

    Source: `torch.topk(x.flatten(-2), k).values.mean(-1)`, the image score of, among others, DSR- and CLIP-style
    anomaly models, which a single noisy pixel does not lift as it does the maximum. Runtimes round sums differently, so
    the step is not exact. The size of the map must be known, so that the same pixels count everywhere.

    Attributes:
        source: Name of the map, float32: (N,H,W), (N,C,H,W) or (N,H,W,C).
        target: Name of the score, float32: (N,) for a map of rank 3, (N,C) for rank 4, with C of 1 or more.
        k: How many pixels; None where `fraction` says it.
        fraction: Which part of all pixels, above 0 and at most 1, rounded down to whole pixels, at least one.
        axes: Axes of the map; None until they are known.
        size: Height and width of the map; None until they are known.
        classes: Size of the axis C; None until it is known.

    Raises:
        PostProcessorError: Not exactly one of `k` and `fraction` is given, or it is outside its range.
    """

    exact: ClassVar[bool] = False
    pointwise: ClassVar[bool] = False
    accepts: ClassVar[tuple[Accepts, ...]] = (MAPS,)
    settled: ClassVar[frozenset[str]] = frozenset({"axes", "size", "classes"})
    source: str
    target: str
    k: int | None = None
    fraction: float | None = None
    axes: str | None = None
    size: tuple[int, int] | None = None
    classes: int | None = None

    def __post_init__(self) -> None:
        """Refuse counts that do not exist."""
        if (self.k is None) == (self.fraction is None):
            found = "neither" if self.k is None else "both"
            raise PostProcessorError(f"Of k and fraction of '{self.target}' {found} is given, expected one of the two.")
        if self.k is not None:
            if isinstance(self.k, bool) or not isinstance(self.k, int | np.integer) or self.k < 1:
                raise PostProcessorError(f"k of '{self.target}' is {self.k!r}, expected a whole number from 1.")
            object.__setattr__(self, "k", int(self.k))
        if self.fraction is not None:
            as_float32(self.fraction, f"fraction of '{self.target}'")
            if not 0 < self.fraction <= 1:
                raise PostProcessorError(
                    f"fraction of '{self.target}' is {self.fraction!r}, expected a number above 0 and at most 1."
                )

    def bind(self, value: ValueType) -> Self:
        """The step with the axes and size of the map.

        Raises:
            PostProcessorError: The size is open, or the map has fewer pixels than `k`.
        """
        size = value.map_size
        if size is None:
            raise PostProcessorError(
                f"the size of the map, {value}, is open, expected a known one. Export the model with a fixed size, or "
                "resize the map first, with ResizeMap."
            )
        pixels = size[0] * size[1]
        if self.k is not None and self.k > pixels:
            raise PostProcessorError(f"k is {self.k}, and {value} has {pixels} pixels, expected at most as many.")
        return dataclasses.replace(self, axes=value.known_axes, size=size, classes=value.size("C"))

    def output_type(self, value: ValueType) -> ValueType:
        """One number an image and class."""
        return value.reduced("HW")

    def _count(self, height: int, width: int) -> int:
        if self.k is not None:
            return self.k
        assert self.fraction is not None
        # 0.29 of 100 pixels are 28.999999999999996 in floating point.
        return max(1, math.floor(self.fraction * height * width + 1e-6))

    def output_scale(self, *scales: Scale | None) -> Scale | None:
        """Scale of the input without its threshold, which does not apply to scores."""
        return None if scales[0] is None else Scale(scales[0].low, scales[0].high)

    def reference(self, array: Array) -> Array:
        """Reduce an array: in float64, rounded once."""
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
        """Write TopK over the pixels, and its mean, and carry NaN past it: runtimes sort it differently."""
        assert self.size is not None, "bound() asks for it"
        height, width = self.size
        # Along the last axis TopK is many times faster in OpenVINO (2026.4, CPU).
        if self.axes == "NHW":
            pixels = op.reshape(value, (0, -1))
        elif self.axes == "NHWC" and self.classes == 1:
            # A Transpose would lose its mark there; see `targets.island`.
            pixels = op.reshape(value, (0, 1, -1))
        else:
            pixels = op.reshape(op.transpose(value, (0, 3, 1, 2)) if self.axes == "NHWC" else value, (0, 0, -1))
        axis = 1 if self.axes == "NHW" else 2
        # A sum of squares is NaN if and only if a number is; see MaxOverMap.
        magnitudes = op.reduce("ReduceL2", pixels, (axis,))
        mean = op.reduce("ReduceMean", op.top_k(pixels, self._count(height, width), axis), (axis,))
        numbers = op.less(op.constant(np.float32(-1), "below_all"), magnitudes)
        return op.where(numbers, mean, magnitudes)
