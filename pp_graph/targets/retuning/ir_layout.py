"""Where our constants and provenance lie in the XML of an OpenVINO IR, found in its text, without OpenVINO.

OpenVINO writes `<`, `>`, `&` and `"` inside values as entities, so each `<` of the text begins a tag. What could break
this (comments, CDATA, a DOCTYPE, another encoding) OpenVINO never writes, and a text with one of them is not read here.
Checked against OpenVINO 2026.4.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from pp_graph.model.onnx_layout import LayoutError, Span

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_TAG: Final = re.compile(rb'<([\w:.-]+)((?:\s+[\w:.-]+="[^"<]*")*)\s*/?>')
_ATTRIBUTE: Final = re.compile(rb'\s([\w:.-]+)="([^"<]*)"')
_DATA: Final = re.compile(rb'<data(?:\s+[\w:.-]+="[^"<]*")*\s*/?>')
_PROVENANCE: Final = re.compile(rb'<pp_graph>\s*<provenance\s+value="([^"<]*)"\s*/>')
_ENCODING: Final = re.compile(rb'^<\?xml[^>]*\sencoding="(?!utf-?8")', re.IGNORECASE)


@dataclass(frozen=True)
class IRConstant:
    """A constant of an IR.

    Attributes:
        element_type: OpenVINO's name of the element type, such as `f32`.
        size: Number of bytes.
        offset: Where they begin in the `.bin`. Other constants may share them.
        digits: Where the XML says so.
        readers: How many operators read it.
    """

    element_type: str
    size: int
    offset: int
    digits: Span
    readers: int


class IRLayout:
    """The layout of an IR's XML.

    Args:
        text: The XML.

    Attributes:
        provenance: What pp_graph says there about what it fused.

    Raises:
        LayoutError: It is not laid out as OpenVINO does it, or carries no provenance.
    """

    def __init__(self, text: bytes) -> None:
        if _ENCODING.match(text) or any(mark in text for mark in (b"<!--", b"<![CDATA[", b"<!DOCTYPE")):
            raise LayoutError("its XML is not as OpenVINO writes it")
        self._text = text
        # Bodies of operators such as If have edges of their own; those of the model come last.
        self._edges = text.rfind(b"<edges>")
        found = list(_PROVENANCE.finditer(text, max(self._edges, 0)))
        if self._edges < 0 or len(found) != 1:
            raise LayoutError("it has no provenance where OpenVINO would write it")
        self._place = Span(*found[0].span(1))
        try:
            self.provenance = ET.fromstring(b'<a value="%s"/>' % found[0][1]).get("value", "")  # noqa: S314 - one tag
        except ET.ParseError as error:
            raise LayoutError(f"its provenance is no XML: {error}") from error

    def constant(self, name: str) -> IRConstant | None:
        """The constant of a name; None where there is none.

        Raises:
            LayoutError: Two layers have the name, or it is described in an unusual way.
        """
        attribute = b' name="%s"' % _escaped(name)
        places = []
        at = self._text.find(attribute)
        while at >= 0:
            start = self._text.rfind(b"<", 0, at)
            if self._text.startswith(b"<layer ", start):
                places.append(start)
            at = self._text.find(attribute, at + 1)
        if not places:
            return None
        if len(places) > 1:
            raise LayoutError(f"it has {len(places)} layers named '{name}'")
        layer, end = self._tag(places[0])
        if layer.get("type") != "Const":
            return None
        start = self._text.find(b"<", end)
        data, _ = self._tag(start)
        digits = re.compile(rb'\soffset="(\d+)"').search(self._text, start)
        if not self._text.startswith(b"<data ", start) or digits is None or not {"element_type", "size"} <= data.keys():
            raise LayoutError(f"its constant '{name}' is not as OpenVINO writes it")
        return IRConstant(
            element_type=data["element_type"],
            size=int(data["size"]),
            offset=int(digits[1]),
            digits=Span(*digits.span(1)),
            readers=self._text.count(b'<edge from-layer="%s" ' % layer["id"].encode(), self._edges),
        )

    def changed(self, offsets: Mapping[Span, int], provenance: str) -> bytes:
        """The XML with other offsets, by the place of their digits, and another provenance; all else as it is."""
        patches = {place: str(offset).encode() for place, offset in offsets.items()}
        return _patched(self._text, {**patches, self._place: _escaped(provenance)})

    def _tag(self, start: int) -> tuple[dict[str, str], int]:
        """Attributes of a tag that need no unescaping, and where it ends."""
        found = _TAG.match(self._text, start)
        if found is None:
            raise LayoutError(f"its tag at byte {start} is not as OpenVINO writes it")
        return {key.decode(): value.decode() for key, value in _ATTRIBUTE.findall(found[0])}, found.end()


def data_spans(text: bytes) -> Iterator[tuple[Span, int, int]]:
    """Every constant of an IR's XML: where the digits of its offset stand, its offset and its size in bytes."""
    for tag in _DATA.finditer(text):
        attributes = {found[1]: found for found in _ATTRIBUTE.finditer(text, *tag.span())}
        if b"offset" in attributes and b"size" in attributes:
            offset, size = attributes[b"offset"], attributes[b"size"]
            yield Span(*offset.span(2)), int(offset[2]), int(size[2])


def with_offsets(text: bytes, offsets: Mapping[Span, int]) -> bytes:
    """An IR's XML with other offsets, by the place of their digits."""
    return _patched(text, {place: str(offset).encode() for place, offset in offsets.items()})


def _patched(text: bytes, patches: Mapping[Span, bytes]) -> bytes:
    parts, at = [], 0
    for place in sorted(patches):
        parts += [text[at : place.start], patches[place]]
        at = place.stop
    return b"".join([*parts, text[at:]])


def _escaped(text: str) -> bytes:
    return escape(text, {'"': "&quot;"}).encode()
