"""Record how two serialised ONNX models differ, in a text that grows with the differences and not with the weights."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from typing import TYPE_CHECKING, Final

import msgspec

from pp_graph.model.onnx_layout import LENGTH, Span, message_fields
from pp_graph.model.packed_messages import pack_bytes, unpack_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.descriptor import Descriptor

_ALWAYS_ALLOWED: Final = 2**26
_LARGEST_RATIO: Final = 4
"""Limit of what a record makes of a model, as a multiple of the model's size: a record may copy parts repeatedly."""


class _Record(msgspec.Struct, forbid_unknown_fields=True):
    """Parts of the wanted message: the first part and number of parts to copy from the other, or bytes."""

    sha256: str
    parts: list[tuple[int, int] | bytes]


def difference(wanted: bytes, other: bytes, kind: Descriptor) -> str:
    """Describe a serialised message by the parts of a similar one.

    Args:
        wanted: The message.
        other: The similar one.
        kind: Descriptor of both.

    Returns:
        Text for `with_difference`.
    """
    places: dict[memoryview, list[int]] = defaultdict(list)
    others = list(_parts(other, kind))
    for place, part in enumerate(others):
        places[part].append(place)
    parts: list[tuple[int, int] | bytes] = []
    for part in _parts(wanted, kind):
        last = parts[-1] if parts else b""
        following = sum(last) if isinstance(last, tuple) else _following(parts)
        if following < len(others) and others[following] == part:
            found = following
        elif part in places:
            found = next((place for place in places[part][:8] if place > following), places[part][0])
        elif isinstance(last, bytes) and parts:
            parts[-1] = last + bytes(part)
            continue
        else:
            parts.append(bytes(part))
            continue
        if isinstance(last, tuple) and found == following:
            parts[-1] = last[0], last[1] + 1
        else:
            parts.append((found, 1))
    return pack_bytes(msgspec.json.encode(_Record(hashlib.sha256(wanted).hexdigest(), parts)))


def _following(parts: list[tuple[int, int] | bytes]) -> int:
    """Return the part after the one copied last, skipping one that was replaced by bytes."""
    copied = parts[-2] if len(parts) > 1 else (0, 0)
    return sum(copied) if isinstance(copied, tuple) else 0


def with_difference(other: bytes, record: str, kind: Descriptor) -> bytes | None:
    """Return the message that a difference describes; None if `other` is not the message it was computed with.

    Raises:
        ValueError: The record is damaged.
    """
    read = msgspec.json.decode(unpack_bytes(record), type=_Record)
    others = list(_parts(other, kind))
    limit = max(_ALWAYS_ALLOWED, _LARGEST_RATIO * len(other))
    pieces: list[memoryview | bytes] = []
    for part in read.parts:
        pieces += [part] if isinstance(part, bytes) else others[max(part[0], 0) : max(sum(part), 0)]
        limit -= len(part) if isinstance(part, bytes) else sum(map(len, others[max(part[0], 0) : max(sum(part), 0)]))
        if limit < 0:
            return None
    content = b"".join(pieces)
    return content if hashlib.sha256(content).hexdigest() == read.sha256 else None


def _parts(data: bytes, kind: Descriptor) -> Iterator[memoryview]:
    """Yield the bytes of a message in pieces: each scalar field, and of each inner message its head and its pieces."""
    view = memoryview(data)
    pending = [message_fields(data, Span(0, len(data)))]
    kinds: list[Descriptor | None] = [kind]
    while pending:
        entry = next(pending[-1], None)
        if entry is None:
            pending.pop()
            kinds.pop()
            continue
        number, wire, head, span = entry
        own = kinds[-1]
        field = None if own is None else own.fields_by_number.get(number)
        if field is None or field.message_type is None or wire != LENGTH:
            yield view[head : span.stop]
            continue
        yield view[head : span.start]
        pending.append(message_fields(data, span))
        kinds.append(field.message_type)
