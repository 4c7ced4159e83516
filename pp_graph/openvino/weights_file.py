"""Check whether the `.bin` beside an `.xml` is the one it was saved with.

OpenVINO reads any `.bin` that is long enough. The XML therefore records the size of its `.bin`, a hash of it (in a
large one, of a sample of every constant), and a hash of the XML itself: other programs that read an IR and save it
again copy the record, which then no longer applies.
"""

from __future__ import annotations

import hashlib
import os
import re
from typing import TYPE_CHECKING, Final

from pp_graph.errors import TargetError
from pp_graph.fusion import METADATA_KEY

if TYPE_CHECKING:
    from pathlib import Path

WEIGHTS_PATH: Final = [METADATA_KEY, "weights_file"]
_LARGE: Final = 1 << 24
"""Bytes of a `.bin` that are hashed in about 10 ms; larger files are sampled."""
_SAMPLE: Final = 256
"""Bytes read at the start, in the middle and at the end of each constant of a large `.bin`."""
_DIGITS: Final = 16
UNKNOWN: Final = f"{0:0{_DIGITS}}:{'0' * 64}:{'0' * 64}"
"""Placeholder of the record, of the same length."""
_CONSTANT: Final = re.compile(rb'\boffset="(\d{1,18})" size="(\d{1,18})"')
_RECORD: Final = re.compile(rb'(<weights_file\s+value=")(\d{16}:[0-9a-f]{64}):([0-9a-f]{64})(")')


def weights_mark(weights: Path, text: bytes, size: int | None = None, appended: bytes = b"") -> str:
    """Return the size and the hash of a `.bin`.

    Args:
        weights: The file.
        text: The XML, which holds the position of each constant.
        size: Number of its bytes that count; None for all.
        appended: Bytes that will follow.
    """
    with weights.open("rb") as stream:
        own = os.fstat(stream.fileno()).st_size if size is None else size

        def read(start: int, stop: int) -> bytes:
            stream.seek(start)
            found = stream.read(max(0, min(stop, own) - start)) if start < own else b""
            return found + appended[max(0, start - own) : max(0, stop - own)]

        total = own + len(appended)
        digest = hashlib.sha256()
        for start, stop in [(0, total)] if total <= _LARGE else _sampled(text):
            digest.update(read(start, stop))
    return f"{total:0{_DIGITS}}:{digest.hexdigest()}"


def _sampled(text: bytes) -> list[tuple[int, int]]:
    found = set()
    for offset, size in ((int(offset), int(size)) for offset, size in _CONSTANT.findall(text)):
        for start in (0, max(0, size - _SAMPLE) // 2, max(0, size - _SAMPLE)):
            found.add((offset + start, offset + min(size, start + _SAMPLE)))
    return sorted(found)


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
        TargetError: The `.bin` belongs to a different model.
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
    if own < size or weights_mark(weights, text, size) != expected:
        raise TargetError(
            f"Weights file '{weights}' ({own:,} bytes) is not the one that '{path}' was saved with, expected "
            f"{size:,} bytes with hash {expected[_DIGITS + 1 :][:12]}. Copy both files of one conversion, or convert "
            "the model again."
        )
