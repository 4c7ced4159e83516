"""Reduce a map to a score: the mean of the largest pixels of each image."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.steps.accepts import MAPS, Accepts
from pp_graph.steps.step import Array, Step, as_float32
from pp_graph.values import Scale

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.emitter import Emitter
    from pp_graph.values import ValueType


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
        """Range of what it reads; the threshold of pixels is none of the score."""
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
