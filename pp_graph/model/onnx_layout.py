"""Positions of the parts of an ONNX file. Only lengths are read, never weights.

An ONNX file is a protobuf message, and each field states its length. Walking over the fields reads a few bytes of each
and skips the rest, so a memory-mapped file of gigabytes takes milliseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pp_graph.model.graphs import default_opset

if TYPE_CHECKING:
    import mmap
    from collections.abc import Collection, Iterator

# Field numbers of onnx.proto, which no version of ONNX may change.
_IR_VERSION, _GRAPH, _OPSET_IMPORT, _METADATA = 1, 7, 8, 14
_DOMAIN, _VERSION = 1, 2
_PORT_NAME = 1
_KEY, _VALUE = 1, 2
_NODE, _INITIALIZER, _INPUT, _OUTPUT = 1, 5, 11, 12
_NODE_OUTPUT = 2
_DATA_TYPE, _FLOAT_DATA, _NAME, _RAW_DATA, _DATA_LOCATION = 2, 4, 8, 9, 14
_FLOAT, _EXTERNAL = 1, 1
_VARINT, _EIGHT_BYTES, LENGTH, _FOUR_BYTES = 0, 1, 2, 5
_LOCATION_ENTRY: Final = b"\n\x08location"
"""Start of the metadata entry that names the file of an external tensor."""


class LayoutError(ValueError):
    """The bytes are not an ONNX model, or an unusual one."""


class Span(NamedTuple):
    """A range of bytes in a file, from `start` up to `stop`."""

    start: int
    stop: int


class Entry(NamedTuple):
    """Position and text of a metadata entry."""

    span: Span
    value: str


class OnnxLayout:
    """The layout of an ONNX file.

    Args:
        data: The bytes of the file, preferably a memory map, which must stay open.

    Attributes:
        ir_version: The model's IR version.
        opset: Version of the default ONNX domain; 0 if it is not imported.
        metadata: The model's metadata by key.

    Raises:
        LayoutError: The bytes are not an ONNX model, or it has two graphs or two entries with the same key.
    """

    def __init__(self, data: bytes | mmap.mmap) -> None:
        self._data = data
        self.ir_version = 0
        self.metadata: dict[str, Entry] = {}
        imports: dict[str, int] = {}
        graph: Span | None = None
        self._other: list[Span] = []
        for number, wire, head, span in message_fields(data, Span(0, len(data))):
            if number == _IR_VERSION and wire == _VARINT:
                self.ir_version = _integer(data, span)
            elif wire != LENGTH:
                continue
            elif number == _GRAPH:
                if graph is not None:
                    raise LayoutError("it has two graphs")
                graph = span
            elif number == _OPSET_IMPORT:
                domain, version = self._opset(span)
                imports[domain] = version
            elif number == _METADATA:
                key, value = self._entry(span)
                if key in self.metadata:
                    raise LayoutError(f"it has two entries '{key}'")
                self.metadata[key] = Entry(Span(head, span.stop), value)
            else:
                self._other.append(span)
        if graph is None:
            raise LayoutError("it has no graph")
        self._graph = graph
        self.opset = default_opset(imports)

    def float_initializers(self, names: Collection[str]) -> dict[str, Span]:
        """Find the bytes of float32 initializers of the main graph, by name.

        Initializers that do not exist or are stored in another file are left out.

        Raises:
            LayoutError: The graph is cut short, or two initializers have the same name.
        """
        wanted = {name.encode(): name for name in names}
        spans: dict[str, Span] = {}
        for number, wire, _, span in message_fields(self._data, self._graph):
            if number != _INITIALIZER or wire != LENGTH:
                continue
            name, span_of_bytes, _ = self._tensor(span)
            if name not in wanted:
                continue
            if wanted[name] in spans:
                raise LayoutError(f"it has two initializers '{wanted[name]}'")
            if span_of_bytes is not None:
                spans[wanted[name]] = span_of_bytes
        return spans

    def port_names(self) -> set[str]:
        """Return the names of the main graph's inputs and outputs.

        Raises:
            LayoutError: The graph is cut short.
        """
        found = set()
        for number, wire, _, span in message_fields(self._data, self._graph):
            if number in (_INPUT, _OUTPUT) and wire == LENGTH:
                found |= {
                    self._text(name) for part, _, _, name in message_fields(self._data, span) if part == _PORT_NAME
                }
        return found

    def nodes(self, names: Collection[str]) -> dict[str, bytes]:
        """Return the bytes of the main graph's nodes whose first output has one of some names, by that name.

        Raises:
            LayoutError: The graph is cut short.
        """
        wanted = {name.encode(): name for name in names}
        found: dict[str, bytes] = {}
        for number, wire, _, span in message_fields(self._data, self._graph):
            if number != _NODE or wire != LENGTH:
                continue
            for part, part_wire, _, place in message_fields(self._data, span):
                if part == _NODE_OUTPUT and part_wire == LENGTH:
                    name = self._data[place.start : place.stop]
                    if name in wanted:
                        found[wanted[name]] = self._data[span.start : span.stop]
                    break
        return found

    def refers_to_files(self, name: str | None = None) -> bool:
        """True if a tensor may be stored in another file. May be true by mistake, because bytes are searched for it.

        Args:
            name: Name of the file; None for any.
        """
        wanted = _LOCATION_ENTRY if name is None else name.encode()
        for number, wire, _, span in message_fields(self._data, self._graph):
            if wire != LENGTH or (number == _INITIALIZER and not self._tensor(span)[2]):
                continue
            if self._data.find(wanted, *span) >= 0:
                return True
        return any(self._data.find(wanted, *span) >= 0 for span in self._other)

    def _opset(self, span: Span) -> tuple[str, int]:
        domain, version = "", 0
        for number, wire, _, part in message_fields(self._data, span):
            if number == _DOMAIN and wire == LENGTH:
                domain = self._text(part)
            elif number == _VERSION and wire == _VARINT:
                version = _integer(self._data, part)
        return domain, version

    def _entry(self, span: Span) -> tuple[str, str]:
        parts = {number: part for number, wire, _, part in message_fields(self._data, span) if wire == LENGTH}
        return tuple(self._text(parts[number]) if number in parts else "" for number in (_KEY, _VALUE))  # type: ignore[return-value]

    def _tensor(self, span: Span) -> tuple[bytes, Span | None, bool]:
        """Return a tensor's name, the position of its float32 bytes, and True if they are in another file."""
        name, dtype, span_of_bytes, external = b"", 0, None, False
        for number, wire, _, part in message_fields(self._data, span):
            if number == _NAME:
                name = self._data[part.start : part.stop]
            elif number == _DATA_TYPE:
                dtype = _integer(self._data, part)
            elif number == _RAW_DATA or (number == _FLOAT_DATA and wire in (LENGTH, _FOUR_BYTES)):
                span_of_bytes = part
            elif number == _DATA_LOCATION:
                external = _integer(self._data, part) == _EXTERNAL
        return name, span_of_bytes if dtype == _FLOAT and not external else None, external

    def _text(self, span: Span) -> str:
        try:
            return self._data[span.start : span.stop].decode()
        except UnicodeDecodeError as error:
            raise LayoutError(f"its text is not UTF-8: {error}") from error


def metadata_entry(key: str, value: str) -> bytes:
    """Encode an entry of a model's metadata as it is stored in the file."""
    body = _encode_field(_KEY, key.encode()) + _encode_field(_VALUE, value.encode())
    return _encode_field(_METADATA, body)


def _encode_field(number: int, content: bytes) -> bytes:
    return _encode_varint(number << 3 | LENGTH) + _encode_varint(len(content)) + content


def _encode_varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def message_fields(data: bytes | mmap.mmap, span: Span) -> Iterator[tuple[int, int, int, Span]]:
    """Yield number, wire type, start and content of each field of a message."""
    at, stop = span
    while at < stop:
        head = at
        tag, at = _varint(data, at, stop)
        number, wire = tag >> 3, tag & 7
        if wire == LENGTH:
            length, at = _varint(data, at, stop)
            end = at + length
        elif wire == _VARINT:
            end = _varint(data, at, stop)[1]
        elif wire in (_FOUR_BYTES, _EIGHT_BYTES):
            end = at + (4 if wire == _FOUR_BYTES else 8)
        else:
            raise LayoutError(f"a field at byte {head} has wire type {wire}")
        if end > stop or number == 0:
            raise LayoutError(f"a field at byte {head} reaches past the end of its message")
        yield number, wire, head, Span(at, end)
        at = end


def _varint(data: bytes | mmap.mmap, at: int, stop: int) -> tuple[int, int]:
    """Read a varint. Return the number and the position after it."""
    number = shift = 0
    while at < stop and shift < 70:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7
    raise LayoutError(f"a number before byte {at} does not end")


def _integer(data: bytes | mmap.mmap, span: Span) -> int:
    return _varint(data, *span)[0]
