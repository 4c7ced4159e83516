"""Open a fused ONNX model or an OpenVINO IR by what the file contains."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from pp_graph.errors import ModelError
from pp_graph.fusion import FusedModel
from pp_graph.openvino.model import OpenVINOModel

if TYPE_CHECKING:
    from pp_graph.fusion import Artifact

_HEADER_BYTES: Final = 256
_BYTE_ORDER_MARKS: Final = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")


def open_artifact(path: str | Path) -> Artifact:
    """Open a model that pp_graph wrote: a fused ONNX model or an OpenVINO IR.

    Args:
        path: The file. Its content decides the kind, not its name.

    Returns:
        The artifact: a `FusedModel` or an `OpenVINOModel`.

    Raises:
        ModelError: The file cannot be used.
        TargetError: It is an IR that OpenVINO cannot read.
        ProvenanceError: It was not written by pp_graph.
    """
    return OpenVINOModel.load(path) if kind_of(path) == "ir" else FusedModel.load(path)


def kind_of(path: str | Path) -> Literal["onnx", "ir"]:
    """Tell an ONNX model from the XML of an OpenVINO IR by the first bytes of the file.

    Raises:
        ModelError: The file does not exist or cannot be read.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            start = stream.read(_HEADER_BYTES)
    except FileNotFoundError as error:
        raise ModelError(f"Model file '{path}' does not exist. Check the path.") from error
    except IsADirectoryError as error:
        raise ModelError(f"Model '{path}' is a folder, expected an .onnx or .xml file. Name the file in it.") from error
    except OSError as error:
        raise ModelError(f"Model file '{path}' cannot be read: {error.strerror or error}. Check the path.") from error
    for mark in _BYTE_ORDER_MARKS:
        start = start.removeprefix(mark)
    # No ONNX model begins with a bracket: its first byte is the key of a field of the protobuf.
    return "ir" if start.lstrip().startswith(b"<") else "onnx"
