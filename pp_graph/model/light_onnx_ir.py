"""Import onnx_ir without sympy, which takes longer than everything else that fusing imports.

onnx_ir (1.1) needs it only to compute with symbolic sizes.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any, Final

_LATE: Final = ("sympy", "onnx_ir._symbolic_shapes")


class _Late(ModuleType):
    """Stands for a module in onnx_ir until an attribute of the module is read."""

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def import_onnx_ir() -> None:
    """Import onnx_ir, if it is not imported yet. Other modules that import sympy get the module itself."""
    if "onnx_ir" in sys.modules:
        return
    late = {name: _Late(name) for name in _LATE if name not in sys.modules}
    sys.modules.update(late)
    try:
        importlib.import_module("onnx_ir")
    finally:
        for name, module in late.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
