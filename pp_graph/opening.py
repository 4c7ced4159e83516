"""Open a fused ONNX model or an OpenVINO IR by what the file contains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from pp_graph.errors import ModelError
from pp_graph.fusion import FusedModel
from pp_graph.openvino.model import OpenVINOModel
from pp_graph.urls import local_file

if TYPE_CHECKING:
    from pathlib import Path

    from pp_graph.fusion import Artifact

_HEADER_BYTES: Final = 256
_BYTE_ORDER_MARKS: Final = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")


def open_artifact(path: str | Path) -> Artifact:
    """Open a model that pp_graph wrote: a fused ONNX model or an OpenVINO IR.

    Args:
        path: The file. Its content decides, not its name.

    Returns:
        The artifact: a `FusedModel` or an `OpenVINOModel`.

    Raises:
        ModelError: The file is missing or not a valid model.
        TargetError: OpenVINO cannot read the IR.
        ProvenanceError: pp_graph did not write the file.
    """
    return OpenVINOModel.load(path) if kind_of(path) == "ir" else FusedModel.load(path)


def kind_of(path: str | Path) -> Literal["onnx", "ir"]:
    """Return the kind of a model file, by its first bytes.

    Raises:
        ModelError: The file does not exist or cannot be read.
    """
    path = local_file(path)
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
    # An ONNX model begins with the key of a protobuf field, which is never a bracket.
    return "ir" if start.lstrip().startswith(b"<") else "onnx"
