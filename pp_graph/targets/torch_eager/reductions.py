"""Operators that sum, sort or choose over axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def reducing(function: Callable[[Tensor, list[int], bool], Tensor]) -> Callable[..., Tensor]:
    """An ONNX reduction from a function of a tensor, the axes, and whether these stay with size 1."""

    def reduce(
        a: Tensor,
        given: Any = None,
        *,
        axes: Sequence[int] | None = None,
        keepdims: int = 1,
        noop_with_empty_axes: int = 0,
    ) -> Tensor:
        named = given if given is not None else axes
        chosen = [] if named is None else [int(axis) for axis in named]
        if not chosen and noop_with_empty_axes:
            return a
        return function(a, chosen or list(range(a.ndim)), bool(keepdims))

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


def arg_max(a: Tensor, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    """Where the largest lies along an axis, the first of several."""
    if select_last_index:
        last = a.shape[axis] - 1
        return last - torch.argmax(a.flip(axis), axis, keepdim=bool(keepdims))
    return torch.argmax(a, axis, keepdim=bool(keepdims))


def arg_min(a: Tensor, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    """Where the smallest lies along an axis, the first of several."""
    if select_last_index:
        last = a.shape[axis] - 1
        return last - torch.argmin(a.flip(axis), axis, keepdim=bool(keepdims))
    return torch.argmin(a, axis, keepdim=bool(keepdims))


def cumulative_sum(a: Tensor, axis: Any, exclusive: int = 0, reverse: int = 0) -> Tensor:
    """Sums up to each place along an axis."""
    along = int(axis.ravel()[0])
    turned = a.flip(along) if reverse else a
    sums = torch.cumsum(turned, along, dtype=a.dtype)
    if exclusive:
        none = torch.zeros_like(sums.narrow(along, 0, 1))
        sums = torch.cat([none, sums.narrow(along, 0, a.shape[along] - 1)], along)
    return sums.flip(along) if reverse else sums


def top_k(a: Tensor, k: Any, axis: int = -1, largest: int = 1, sorted: int = 1) -> tuple[Tensor, Tensor]:  # noqa: A002
    """The largest along an axis and where they lie; of equal ones the first, as ONNX asks for."""
    del sorted
    values, places = torch.sort(a, dim=axis, descending=bool(largest), stable=True)
    return values.narrow(axis, 0, int(k.ravel()[0])), places.narrow(axis, 0, int(k.ravel()[0]))


def top_values(a: Tensor, k: Any, axis: int = -1, largest: int = 1, sorted: int = 1) -> Tensor:  # noqa: A002
    """The largest along an axis, where nobody asks for their places."""
    return torch.topk(a, int(k.ravel()[0]), dim=axis, largest=bool(largest), sorted=bool(sorted))[0]


def softmax(a: Tensor, axis: int = -1) -> Tensor:
    """Exponentials that sum to 1 along an axis."""
    return torch.softmax(a, axis)


def log_softmax(a: Tensor, axis: int = -1) -> Tensor:
    """Logarithm of the softmax."""
    return torch.log_softmax(a, axis)


def gemm(a: Tensor, b: Tensor, c: Tensor | None = None, **attributes: float) -> Tensor:
    """`alpha * a @ b + beta * c`."""
    product = torch.matmul(a.t() if attributes.get("transA") else a, b.t() if attributes.get("transB") else b)
    product = product * attributes.get("alpha", 1.0)
    return product if c is None else product + c * attributes.get("beta", 1.0)
