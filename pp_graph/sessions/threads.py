"""How many threads a runtime may use in this process."""

from __future__ import annotations

import contextlib
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_limit: Final[ContextVar[int | None]] = ContextVar("thread_limit", default=None)


def thread_limit() -> int | None:
    """Return the number of threads that a session opened now may use; None for the runtime's own choice."""
    return _limit.get()


@contextlib.contextmanager
def limited_threads(count: int | None) -> Iterator[None]:
    """Open sessions with at most this many threads each, because other processes use the rest of the cores.

    Args:
        count: Number of threads; None for the runtime's own choice.
    """
    token = _limit.set(count)
    try:
        yield
    finally:
        _limit.reset(token)
