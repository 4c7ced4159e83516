"""Tell if the `.bin` beside an `.xml` is the one it was saved with.

OpenVINO reads any `.bin` that is long enough. The XML therefore records the size of its `.bin`, the hash of a sample of
it, and a hash of the XML itself: other programs that read an IR and save it again copy the record, which then says
nothing.
"""

from __future__ import annotations

import hashlib
import os
import re
from typing import TYPE_CHECKING, Final

from pp_graph.errors import TargetError
from pp_graph.fusion import METADATA_KEY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WEIGHTS_PATH: Final = [METADATA_KEY, "weights"]
_BLOCK: Final = 4096
_BLOCKS: Final = 64
_DIGITS: Final = 16
UNKNOWN: Final = f"{0:0{_DIGITS}}:{'0' * 64}:{'0' * 64}"
"""Placeholder of the record, of the same length."""
_RECORD: Final = re.compile(rb'(<weights\s+value=")(\d{16}:[0-9a-f]{64}):([0-9a-f]{64})(")')


def weights_mark(weights: Path, size: int | None = None, appended: bytes = b"") -> str:
    """Return the size of a `.bin`, and the hash of up to 64 blocks of 4 KiB.

    Args:
        weights: The file.
        size: Number of its bytes that count; None for all.
        appended: Bytes that will follow.
    """
    with weights.open("rb") as stream:
        own = os.fstat(stream.fileno()).st_size if size is None else size

        def read(start: int, stop: int) -> bytes:
            stream.seek(start)
            found = stream.read(max(0, min(stop, own) - start)) if start < own else b""
            return found + appended[max(0, start - own) : max(0, stop - own)]

        return _mark(read, own + len(appended))


def _mark(read: Callable[[int, int], bytes], size: int) -> str:
    digest = hashlib.sha256()
    last = max(0, size - _BLOCK)
    for start in sorted({last * index // (_BLOCKS - 1) for index in range(_BLOCKS)}):
        digest.update(read(start, min(size, start + _BLOCK)))
    return f"{size:0{_DIGITS}}:{digest.hexdigest()}"


def marked(text: bytes, mark: str) -> bytes:
    """Return an IR's XML with another record of its `.bin`; unchanged if it has none."""
    own = _hash_without_record(text)
    return _RECORD.sub(lambda match: match[1] + mark.encode() + b":" + own + match[4], text, count=1)


def _hash_without_record(text: bytes) -> bytes:
    plain = _RECORD.sub(lambda match: match[1] + UNKNOWN.encode() + match[4], text, count=1)
    return hashlib.sha256(plain).hexdigest().encode()


def check_weights_file(path: Path, text: bytes | None = None) -> None:
    """Raise if the `.bin` beside an `.xml` is not the one it was saved with.

    Args:
        path: The `.xml`.
        text: Its content; None to read it.

    Raises:
        TargetError: The `.bin` belongs to another model.
    """
    text = path.read_bytes() if text is None else text
    found = _RECORD.search(text)
    if found is None or found[3] != _hash_without_record(text):
        return  # written by an earlier version, or by another program
    expected = found[2].decode()
    weights = path.with_suffix(".bin")
    # Retuning in place appends to the .bin before it replaces the .xml.
    size = int(expected[:_DIGITS])
    own = weights.stat().st_size
    if own < size or weights_mark(weights, size) != expected:
        raise TargetError(
            f"Weights file '{weights}' ({own:,} bytes) is not the one that '{path}' was saved with, expected "
            f"{size:,} bytes with hash {expected[_DIGITS + 1 :][:12]}. Copy both files of one conversion, or convert "
            "the model again."
        )
