"""Import onnx_ir without loading sympy, which takes longer than everything else that fusing imports.

onnx_ir (1.1) needs sympy only to compute with symbolic sizes. Both modules below load when they are first used.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_LATE: Final = ("sympy", "onnx_ir._symbolic_shapes")


class _LateFinder:
    """Finds the modules of `_LATE`, to be loaded on first use."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name in _LATE else None
        if spec is not None and spec.loader is not None:
            spec.loader = LazyLoader(spec.loader)
        return spec


def import_onnx_ir() -> None:
    """Import onnx_ir, if it is not imported yet. Other imports of these modules are not affected."""
    if "onnx_ir" in sys.modules:
        return
    finder = _LateFinder()
    sys.meta_path.insert(0, finder)
    try:
        import onnx_ir  # noqa: F401 - imported for the next one who does
    finally:
        sys.meta_path.remove(finder)
