"""Import a user's own post-processors and steps, so that models that name them can be read."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from pathlib import Path

import click


def import_plugin(name: str) -> None:
    """Import a file or a module.

    A file becomes the module named after it (`my_post.py` becomes `my_post`), as if imported from its own folder.
    Provenance records this module name.

    Args:
        name: Path of a `.py` file, or name of an installed module.

    Raises:
        click.BadParameter: There is no such file or module, or it fails.
    """
    path = Path(name)
    is_file = path.suffix == ".py"
    if is_file and not path.is_file():
        raise click.BadParameter(
            f"File '{name}' does not exist. Give a Python file, or a module.", param_hint="--plugin"
        )
    module = path.stem if is_file else name
    if is_file and module in sys.modules:
        known = getattr(sys.modules[module], "__file__", None)
        if known is not None and Path(known).resolve() == path.resolve():
            return
        raise click.BadParameter(
            f"File '{name}' has the name of a different module, '{module}'. Rename it.", param_hint="--plugin"
        )
    if is_file and _is_another(module, path):
        raise click.BadParameter(
            f"File '{name}' has the name of a different module, '{module}'. Rename it.", param_hint="--plugin"
        )
    try:
        # What it prints must not get into a result on standard output.
        with contextlib.redirect_stdout(sys.stderr):
            _import(module, path if is_file else None)
    except (Exception, SystemExit) as error:
        sys.modules.pop(module, None)
        raise click.BadParameter(
            f"'{name}' cannot be imported: {type(error).__name__}: {error}. It must be a Python file or an installed "
            "module that can be imported on its own.",
            param_hint="--plugin",
        ) from error


def _is_another(module: str, path: Path) -> bool:
    """True if Python finds a different module of that name."""
    if module in sys.modules:
        return False
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return False
    return spec is not None and (spec.origin is None or Path(spec.origin).resolve() != path.resolve())


def _import(module: str, path: Path | None) -> None:
    if path is None:
        importlib.import_module(module)
        return
    spec = importlib.util.spec_from_file_location(module, path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[module] = loaded
    spec.loader.exec_module(loaded)
