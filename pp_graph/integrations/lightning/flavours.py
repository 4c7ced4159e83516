"""The callback base classes of those Lightning packages that are installed."""

from __future__ import annotations

import importlib
from typing import Any, Final

from pp_graph.extras import require_extra

_PACKAGES: Final = ("lightning.pytorch", "pytorch_lightning")
"""Two names of one library, with classes of their own; a trainer takes those of its own package."""


def callback_bases() -> tuple[type[Any], ...]:
    """`Callback` of each package that is installed.

    Raises:
        ExtraError: None is.
    """
    found: list[type[Any]] = []
    for name in _PACKAGES:
        try:
            package = importlib.import_module(name)
        except ImportError:
            continue
        found.append(package.Callback)
    if not found:
        require_extra(_PACKAGES[0], "lightning", "the Lightning callback")
    return tuple(found)
