"""Read and write models with OpenVINO, whatever the process's locale.

OpenVINO 2026.4 reads and writes the numbers of an IR with the locale of the process: where a comma parts decimals, it
writes `-0,75`, and reads `-0.75` as `-0` without an error. The thread that reads or writes therefore uses the C locale
meanwhile; other threads keep theirs.
"""

from __future__ import annotations

import contextlib
import ctypes
import locale
import sys
from typing import TYPE_CHECKING, Final

from pp_graph.errors import TargetError
from pp_graph.openvino.core import openvino_core

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import openvino as ov

_ALL_CATEGORIES: Final = 0x1FBF if sys.platform == "linux" else 0x3F
"""`LC_ALL_MASK` of glibc, or of macOS."""


def read_model(model: bytes | str | Path, weights: bytes | None = None) -> ov.Model:
    """Read a model from a file, or from its content.

    Args:
        model: An ONNX model or the XML of an IR.
        weights: The IR's weights; None for those beside the file, and for ONNX.

    Raises:
        RuntimeError: OpenVINO cannot read the model.
        TargetError: The locale parts decimals with a comma, and cannot be changed for one thread.
    """
    with decimal_points():
        if isinstance(model, bytes):
            return openvino_core().read_model(model, weights or b"")
        return openvino_core().read_model(model)


@contextlib.contextmanager
def decimal_points() -> Iterator[None]:
    """Part decimals with a point in this thread.

    Raises:
        TargetError: The locale parts them with a comma, and cannot be changed for one thread.
    """
    if locale.localeconv()["decimal_point"] == ".":
        yield
        return
    try:
        library = ctypes.CDLL(None)
        create, use, free = library.newlocale, library.uselocale, library.freelocale
    except (AttributeError, OSError, TypeError) as error:  # Windows has none of them
        raise TargetError(
            f"The locale '{locale.setlocale(locale.LC_NUMERIC)}' parts decimals with a comma, expected a point: "
            'OpenVINO would read and write wrong numbers. Call locale.setlocale(locale.LC_NUMERIC, "C") first.'
        ) from error
    create.argtypes, create.restype = (ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p), ctypes.c_void_p
    use.argtypes, use.restype = (ctypes.c_void_p,), ctypes.c_void_p
    free.argtypes, free.restype = (ctypes.c_void_p,), None
    own = create(_ALL_CATEGORIES, b"C", None)
    before = use(own)
    try:
        yield
    finally:
        use(before)
        free(own)
