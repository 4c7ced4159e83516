"""ONNX operators in torch: elementwise functions and reductions."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def divide(a: Tensor, b: Tensor) -> Tensor:
    """Divide; integers round towards zero."""
    return torch.div(a, b) if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def power(a: Tensor, b: Tensor) -> Tensor:
    """Raise to a power, in the element type of the base."""
    return torch.pow(a, b.to(a.dtype))


def modulo(a: Tensor, b: Tensor, fmod: int = 0) -> Tensor:
    """Return the remainder, with the sign of the divisor, or with `fmod` the sign of the dividend."""
    return torch.fmod(a, b) if fmod else torch.remainder(a, b)


def clip(a: Tensor, low: Any = None, high: Any = None, **bounds: float) -> Tensor:
    """Clamp to bounds; NaN stays NaN. Before opset 11, bounds are attributes."""
    lowest, highest = bounds.get("min", low), bounds.get("max", high)
    if lowest is None and highest is None:
        return a
    return torch.clamp(a, *(bound.item() if isinstance(bound, np.ndarray) else bound for bound in (lowest, highest)))


def folding(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """Extend a function of two tensors to any number of them."""

    def fold(*values: Tensor) -> Tensor:
        return functools.reduce(function, values)

    return fold


def is_infinite(a: Tensor, detect_positive: int = 1, detect_negative: int = 1) -> Tensor:
    """Mark infinities of the requested signs."""
    if detect_positive and detect_negative:
        return torch.isinf(a)
    return torch.isposinf(a) if detect_positive else torch.isneginf(a) & bool(detect_negative)


def cast(a: Tensor, to: Any) -> Tensor:
    """Convert to a different element type, given as its ONNX number."""
    return a.to(getattr(torch, ir.DataType(to).numpy().name))


def leaky_relu(a: Tensor, alpha: float = 0.01) -> Tensor:
    """Multiply negative numbers by `alpha`."""
    return torch.where(a < 0, a * alpha, a)


def gelu(a: Tensor, approximate: str = "none") -> Tensor:
    """Compute the Gaussian error linear unit."""
    return torch.nn.functional.gelu(a, approximate=approximate)


def reducing(function: Callable[[Tensor, list[int], bool], Tensor]) -> Callable[..., Tensor]:
    """Build an ONNX reduction from a function of a tensor, axes, and a flag to keep them with size 1."""

    def reduce(
        a: Tensor,
        axes_input: Any = None,
        *,
        axes: Sequence[int] | None = None,
        keepdims: int = 1,
        noop_with_empty_axes: int = 0,
    ) -> Tensor:
        # Older opsets have axes as an attribute.
        axes = axes_input if axes_input is not None else axes
        reduced = [] if axes is None else [int(axis) for axis in axes]
        if not reduced and noop_with_empty_axes:
            return a
        return function(a, reduced or list(range(a.ndim)), bool(keepdims))

    return reduce


def _product(a: Tensor, axes: list[int], keepdims: bool) -> Tensor:
    for axis in sorted((axis % a.ndim for axis in axes), reverse=True):
        a = torch.prod(a, axis, keepdim=keepdims)
    return a


REDUCTIONS: dict[str, Callable[..., Tensor]] = {
    "ReduceMax": reducing(torch.amax),
    "ReduceMin": reducing(torch.amin),
    "ReduceSum": reducing(lambda a, axes, keep: torch.sum(a, axes, keepdim=keep, dtype=a.dtype)),
    "ReduceMean": reducing(lambda a, axes, keep: torch.mean(a, axes, keepdim=keep)),
    "ReduceProd": reducing(_product),
    "ReduceL1": reducing(lambda a, axes, keep: torch.sum(a.abs(), axes, keepdim=keep)),
    "ReduceL2": reducing(lambda a, axes, keep: torch.sum(a * a, axes, keepdim=keep).sqrt()),
    "ReduceSumSquare": reducing(lambda a, axes, keep: torch.sum(a * a, axes, keepdim=keep)),
    "ReduceLogSumExp": reducing(lambda a, axes, keep: torch.logsumexp(a, axes, keepdim=keep)),
}


def locating(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Build ArgMax or ArgMin from `torch.argmax` or `torch.argmin`. Of equal values, the first counts."""

    def locate(a: Tensor, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
        if select_last_index:
            return a.shape[axis] - 1 - function(a.flip(axis), axis, keepdim=bool(keepdims))
        return function(a, axis, keepdim=bool(keepdims))

    return locate


def cumulative_sum(a: Tensor, axis: Any, exclusive: int = 0, reverse: int = 0) -> Tensor:
    """Sum up to each element along an axis."""
    dim = int(axis.ravel()[0])
    flipped = a.flip(dim) if reverse else a
    sums = torch.cumsum(flipped, dim, dtype=a.dtype)
    if exclusive:
        zeros = torch.zeros_like(sums.narrow(dim, 0, 1))
        sums = torch.cat([zeros, sums.narrow(dim, 0, a.shape[dim] - 1)], dim)
    return sums.flip(dim) if reverse else sums


def top_k(a: Tensor, k: Any, axis: int = -1, largest: int = 1, sorted: int = 1) -> tuple[Tensor, Tensor]:  # noqa: A002
    """Return the largest values along an axis and their indices. Of equal values, take the first, as ONNX requires."""
    del sorted
    values, indices = torch.sort(a, dim=axis, descending=bool(largest), stable=True)
    return values.narrow(axis, 0, int(k.ravel()[0])), indices.narrow(axis, 0, int(k.ravel()[0]))


def top_values(a: Tensor, k: Any, axis: int = -1, largest: int = 1, sorted: int = 1) -> Tensor:  # noqa: A002
    """Return the largest values along an axis without their indices."""
    return torch.topk(a, int(k.ravel()[0]), dim=axis, largest=bool(largest), sorted=bool(sorted))[0]


def softmax(a: Tensor, axis: int = -1) -> Tensor:
    """Compute the softmax along an axis."""
    return torch.softmax(a, axis)


def log_softmax(a: Tensor, axis: int = -1) -> Tensor:
    """Compute the logarithm of the softmax."""
    return torch.log_softmax(a, axis)


def gemm(a: Tensor, b: Tensor, c: Tensor | None = None, **attributes: float) -> Tensor:
    """Compute `alpha * a @ b + beta * c`."""
    product = torch.matmul(a.t() if attributes.get("transA") else a, b.t() if attributes.get("transB") else b)
    product = product * attributes.get("alpha", 1.0)
    return product if c is None else product + c * attributes.get("beta", 1.0)
