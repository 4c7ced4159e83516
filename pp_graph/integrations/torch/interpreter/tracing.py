"""Detect if torch executes or traces."""

from __future__ import annotations

import contextlib
import sys
import warnings
from typing import TYPE_CHECKING, Any, Final

import torch

_JIT: Final[Any] = torch.jit  # untyped in torch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


def is_exporting() -> bool:
    """Return True inside `torch.export` or `torch.compile`, where tensors have no values."""
    return torch.compiler.is_compiling()


def is_jit_traced() -> bool:
    """Return True inside `torch.jit.trace`."""
    return bool(_JIT.is_tracing())


def is_strict_trace() -> bool:
    """Return True inside `torch.jit.trace(strict=True)`, which refuses a dict.

    torch has no API for this, so the argument is read from the tracer's stack frame.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == "trace_module" and "strict" in frame.f_locals:
            return bool(frame.f_locals["strict"])
        frame = frame.f_back
    return True


def is_traced() -> bool:
    """Return True inside `torch.export`, `torch.compile` or `torch.jit.trace`."""
    return is_exporting() or is_jit_traced()


@contextlib.contextmanager
def without_trace_warnings() -> Iterator[None]:
    """Silence the warnings of `torch.jit.trace` about tensors that become constants."""
    if not is_jit_traced():
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", _JIT.TracerWarning)
        yield


def known_sizes(tensor: torch.Tensor) -> tuple[int | None, ...]:
    """Return the sizes of a tensor; None for the batch and for sizes that `torch.export` leaves open."""
    with without_trace_warnings():
        if is_jit_traced():
            sizes: tuple[int | None, ...] = tuple(int(size) for size in tensor.shape)
        else:
            sizes = tuple(size if isinstance(size, int) else None for size in tensor.shape)
    return (None, *sizes[1:]) if sizes else ()
