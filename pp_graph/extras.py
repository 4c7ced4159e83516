"""Optional libraries, imported late."""

from __future__ import annotations

import importlib
from typing import Any

from pp_graph.errors import ExtraError


def require_extra(module: str, extra: str, purpose: str) -> Any:
    """Import a library that is an optional extra.

    Args:
        module: The module.
        extra: Name of the extra that installs it.
        purpose: What it is needed for.

    Raises:
        ExtraError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        library = module.split(".", 1)[0]
        raise ExtraError(
            f"{purpose[0].upper()}{purpose[1:]} needs {library}, which is not installed. "
            f"Install it: pip install 'pp_graph[{extra}]'."
        ) from error
