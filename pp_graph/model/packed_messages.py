"""Pack protobuf messages and other bytes into text that JSON can hold."""

from __future__ import annotations

import base64
import zlib
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    import onnx

_Message = TypeVar("_Message", "onnx.GraphProto", "onnx.ModelProto")

_ALWAYS_ALLOWED: Final = 2**26
_LARGEST_RATIO: Final = 4
"""Weights hardly compress, so a large message that shrank more than this was not written by pp_graph."""


def pack_message(message: onnx.GraphProto | onnx.ModelProto) -> str:
    """Compress a message with zlib and encode it as base64."""
    return pack_bytes(message.SerializeToString(deterministic=True))


def pack_bytes(content: bytes) -> str:
    """Compress bytes with zlib and encode them as base64."""
    return base64.b64encode(zlib.compress(content, 9)).decode()


def unpack_message(kind: type[_Message], text: str) -> _Message:
    """Decode a message that `pack_message` encoded. Memory is bounded by the size of the text.

    Args:
        kind: Type of the message, such as `onnx.GraphProto`.
        text: The text.

    Raises:
        ValueError: The text is damaged, or its content is larger than 64 MiB and than four times its compressed size.
    """
    content = unpack_bytes(text)
    try:
        message: _Message = kind.FromString(content)
    except Exception as error:  # of protobuf
        raise ValueError(str(error)) from error
    return message


def unpack_bytes(text: str) -> bytes:
    """Decode bytes that `pack_bytes` encoded; limit and error are those of `unpack_message`."""
    try:
        packed = base64.b64decode(text, validate=True)
        limit = max(_ALWAYS_ALLOWED, _LARGEST_RATIO * len(packed))
        decompressor = zlib.decompressobj()
        content = decompressor.decompress(packed, limit)
        if decompressor.unconsumed_tail:
            raise ValueError(f"{len(packed):,} bytes hold more than {limit:,}")
    except Exception as error:  # base64 and zlib have no common base
        raise ValueError(str(error)) from error
    return content
