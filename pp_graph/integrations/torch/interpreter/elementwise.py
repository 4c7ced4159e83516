"""Element by element, and reductions: ONNX operators in torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def divide(a: Tensor, b: Tensor) -> Tensor:
    """Divide; whole numbers towards zero."""
    return torch.div(a, b) if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def power(a: Tensor, b: Tensor) -> Tensor:
    """Raise to a power, in the type of the base."""
    return torch.pow(a, b.to(a.dtype))


def modulo(a: Tensor, b: Tensor, fmod: int = 0) -> Tensor:
    """Remainder, with the sign of the divisor, or with `fmod` that of the dividend."""
    return torch.fmod(a, b) if fmod else torch.remainder(a, b)


def clip(a: Tensor, low: Any = None, high: Any = None, **bounds: float) -> Tensor:
    """Limit; NaN stays NaN. Bounds are attributes before opset 11."""
    lowest, highest = (_number(bounds.get(name, given)) for name, given in (("min", low), ("max", high)))
    return a if lowest is None and highest is None else torch.clamp(a, lowest, highest)


def _number(bound: Any) -> Any:
    """Return a constant as a number, a tensor unchanged."""
    return bound.item() if isinstance(bound, np.ndarray) else bound


def maximum(*values: Tensor) -> Tensor:
    """The largest at each place; NaN where any is."""
    largest = values[0]
    for value in values[1:]:
        largest = torch.maximum(largest, value)
    return largest


def minimum(*values: Tensor) -> Tensor:
    """The smallest at each place; NaN where any is."""
    smallest = values[0]
    for value in values[1:]:
        smallest = torch.minimum(smallest, value)
    return smallest


def total(*values: Tensor) -> Tensor:
    """The sum at each place."""
    added = values[0]
    for value in values[1:]:
        added = added + value
    return added


def is_infinite(a: Tensor, detect_positive: int = 1, detect_negative: int = 1) -> Tensor:
    """Mark infinities of the requested signs."""
    if detect_positive and detect_negative:
        return torch.isinf(a)
    return torch.isposinf(a) if detect_positive else torch.isneginf(a) & bool(detect_negative)


def cast(a: Tensor, to: Any) -> Tensor:
    """Convert to another element type, given as ONNX numbers it."""
    return a.to(torch_type(to))


def torch_type(number: int) -> torch.dtype:
    """The torch type of an ONNX element type."""
    import onnx_ir as ir

    found: torch.dtype = getattr(torch, ir.DataType(number).numpy().name)
    return found


def leaky_relu(a: Tensor, alpha: float = 0.01) -> Tensor:
    """Keep positive numbers, shrink negative ones."""
    return torch.where(a < 0, a * alpha, a)


def gelu(a: Tensor, approximate: str = "none") -> Tensor:
    """Gaussian error linear unit."""
    return torch.nn.functional.gelu(a, approximate=approximate)


def reducing(function: Callable[[Tensor, list[int], bool], Tensor]) -> Callable[..., Tensor]:
    """Build an ONNX reduction from a function of a tensor, the axes, and a flag that keeps them with size 1."""

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
    """Index of the largest value along an axis, the first of several."""
    if select_last_index:
        last = a.shape[axis] - 1
        return last - torch.argmax(a.flip(axis), axis, keepdim=bool(keepdims))
    return torch.argmax(a, axis, keepdim=bool(keepdims))


def arg_min(a: Tensor, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    """Index of the smallest value along an axis, the first of several."""
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
    """Largest values along an axis with their indices; the first of equal ones, as ONNX requires."""
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
