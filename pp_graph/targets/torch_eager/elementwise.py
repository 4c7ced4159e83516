"""Operators that look at one place at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


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
    """A constant as a number; a tensor as it is."""
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
    """Whether each number is infinite, of the signs asked for."""
    if detect_positive and detect_negative:
        return torch.isinf(a)
    return torch.isposinf(a) if detect_positive else torch.isneginf(a) & bool(detect_negative)


def cast(a: Tensor, to: Any) -> Tensor:
    """Convert to another element type, given as ONNX numbers it."""
    return a.to(torch_type(to))


def torch_type(number: int) -> torch.dtype:
    """The torch type that stands for an ONNX element type."""
    import onnx_ir as ir

    found: torch.dtype = getattr(torch, ir.DataType(number).numpy().name)
    return found


def leaky_relu(a: Tensor, alpha: float = 0.01) -> Tensor:
    """Keep positive numbers, shrink negative ones."""
    return torch.where(a < 0, a * alpha, a)


def gelu(a: Tensor, approximate: str = "none") -> Tensor:
    """Gaussian error linear unit."""
    return torch.nn.functional.gelu(a, approximate=approximate)
