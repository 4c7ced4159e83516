"""Open a model that pp_graph wrote, ONNX or IR."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from pp_graph.errors import ModelError
from pp_graph.fusion import FusedModel
from pp_graph.openvino.model import OpenVINOModel

if TYPE_CHECKING:
    from pp_graph.fusion import Artifact

_LOOKED_AT: Final = 256
_MARKS: Final = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
"""Byte order marks, with which a text may begin."""


def open_artifact(path: str | Path) -> Artifact:
    """Open a model that pp_graph wrote: a fused ONNX model or an OpenVINO IR.

    Args:
        path: The file; what it holds decides, not its name.

    Returns:
        The artifact: a `FusedModel` or an `OpenVINOModel`.

    Raises:
        ModelError: The file cannot be used.
        TargetError: It is an IR that OpenVINO cannot read.
        ProvenanceError: It was not written by pp_graph.
    """
    return OpenVINOModel.load(path) if kind_of(path) == "ir" else FusedModel.load(path)


def kind_of(path: str | Path) -> Literal["onnx", "ir"]:
    """Return `onnx` or `ir`, judged by the file's first bytes.

    Raises:
        ModelError: There is no such file.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            start = stream.read(_LOOKED_AT)
    except FileNotFoundError as error:
        raise ModelError(f"Model file '{path}' does not exist. Check the path.") from error
    except IsADirectoryError as error:
        raise ModelError(f"Model '{path}' is a folder, expected an .onnx or .xml file. Name the file in it.") from error
    except OSError as error:
        raise ModelError(f"Model file '{path}' cannot be read: {error.strerror or error}. Check the path.") from error
    for mark in _MARKS:
        start = start.removeprefix(mark)
    # No ONNX model begins with a bracket: its first byte is the key of a field of the protobuf.
    return "ir" if start.lstrip().startswith(b"<") else "onnx"
