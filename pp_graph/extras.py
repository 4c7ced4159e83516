"""Optional libraries, imported late."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any

from pp_graph.errors import ExtraError


def require_extra(module: str, extra: str, purpose: str) -> Any:
    """Import a library that is an optional extra.

    Args:
        module: The module.
        extra: Name of the extra that installs it.
        purpose: The feature that needs it, for the message.

    Raises:
        ExtraError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise _missing(module, extra, purpose) from error


def check_extra(module: str, extra: str, purpose: str) -> None:
    """Raise if an optional library is missing, without importing it.

    Arguments and errors are those of `require_extra`.
    """
    if (module in sys.modules and sys.modules[module] is None) or importlib.util.find_spec(module) is None:
        raise _missing(module, extra, purpose)


def _missing(module: str, extra: str, purpose: str) -> ExtraError:
    library = module.split(".", 1)[0]
    return ExtraError(
        f"{purpose[0].upper()}{purpose[1:]} needs {library}, which is not installed. "
        f"Install it: pip install 'pp_graph[{extra}]'."
    )
