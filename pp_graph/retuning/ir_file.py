"""Replace the post-processing's constants in a saved IR.

OpenVINO writes `<`, `>`, `&` and `"` inside values as entities, so each `<` of the text begins a tag. What could break
this (comments, CDATA, a DOCTYPE, another encoding) OpenVINO never writes, and a text with one of them is not read here.
Checked against OpenVINO 2026.4.

OpenVINO lets equal constants share bytes, those of the network included, so none are changed where they are.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from pp_graph.errors import OutputFileError
from pp_graph.files import written_together
from pp_graph.fusion import Provenance
from pp_graph.fusion.emission import Numbers
from pp_graph.model.onnx_layout import LayoutError, Span
from pp_graph.model.patching import changing, copy_file, write_at
from pp_graph.openvino.island.exchange import IR_VERSION, OPSET
from pp_graph.openvino.usage import renamed_usage, usage_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from io import FileIO
    from pathlib import Path

    from pp_graph.program import Program


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


_ALIGNMENT: Final = 64
"""What constants are aligned to when they are appended; runtimes map the file into memory."""
_SEARCHED: Final = 4096
"""Bytes at the end of the weights in which a number is looked for before it is appended."""


@dataclass(frozen=True)
class IREdit:
    """What to change in an IR. No byte of its weights is changed: new constants are appended to them.

    The old XML fits the weights before and after that, so that replacing the XML is the one moment of change.

    Attributes:
        path: The `.xml`.
        provenance: What it will say.
        size: Bytes of constants and provenance that are new.
        before: The XML.
        after: The XML to be.
        length: Size of the `.bin`.
        appended: What to append to it.
    """

    path: Path
    provenance: Provenance
    size: int
    before: bytes
    after: bytes
    length: int
    appended: bytes

    def fits(self, target: Path) -> bool:
        """Whether the model can be written to a file: an IR refers to no others."""
        return target.suffix.lower() == ".xml"

    def write(self, target: Path, *, overwrite: bool, inputs: Iterable[Path]) -> None:
        """Write the changed model to other files."""
        weights, usage = self.path.with_suffix(".bin"), usage_path(self.path)
        texts = [usage_path(target)] if usage.is_file() else []
        targets = (target.with_suffix(".bin"), *texts, target)
        protected = (*inputs, weights, *([usage] if texts else []))
        with written_together(*targets, overwrite=overwrite, inputs=protected) as drafts:
            copy_file(weights, drafts[0])
            for draft in drafts[1:-1]:
                # It names no number that retuning changes.
                text = renamed_usage(usage.read_text(encoding="utf-8"), self.path.name, target.name)
                draft.write_text(text, encoding="utf-8")
            with drafts[0].open("r+b", buffering=0) as stream:
                self._check_unchanged(stream)
                write_at(stream, self.length, self.appended)
            drafts[-1].write_bytes(self.after)

    def write_in_place(self) -> None:
        """Change the files themselves."""
        with changing(self.path.with_suffix(".bin")) as stream:
            self._check_unchanged(stream)
            try:
                write_at(stream, self.length, self.appended)
                os.fsync(stream.fileno())
                with written_together(self.path, overwrite=True) as (draft,):
                    self._write_text(draft)
                    shutil.copymode(self.path, draft)
            except BaseException:
                if self.path.read_bytes() == self.before:
                    stream.truncate(self.length)
                raise

    def _check_unchanged(self, weights: FileIO) -> None:
        if os.fstat(weights.fileno()).st_size != self.length or self.path.read_bytes() != self.before:
            raise OutputFileError(f"IR '{self.path}' was changed by somebody else meanwhile. Try again.")

    def _write_text(self, draft: Path) -> None:
        with draft.open("wb") as stream:
            stream.write(self.after)
            stream.flush()
            os.fsync(stream.fileno())


def find_in_ir(path: Path, program_for: Callable[[Provenance], Program]) -> IREdit | None:
    """Find out what to change in an IR; arguments, result and errors are those of `find_in_onnx`."""
    weights = path.with_suffix(".bin")
    if not path.is_file() or not weights.is_file():
        return None
    text = path.read_bytes()
    layout = IRLayout(text)
    provenance = Provenance.from_json(layout.provenance)
    numbers = Numbers.of(provenance, program_for(provenance), opset=OPSET, ir_version=IR_VERSION)
    found = {name: each for name in numbers.old.constants if (each := layout.constant(name)) is not None}
    with weights.open("rb") as stream:
        for name, constant in found.items():
            if constant.element_type != "f32":
                return None
            stream.seek(constant.offset)
            content = stream.read(constant.size)
            if len(content) < constant.size:
                return None
            numbers.check(name, content, path)
        if not numbers.only_numbers:
            return None
        # A constant that other operators read as well was merged with one of the same number.
        for name in numbers.changed:
            if name not in found or found[name].readers != numbers.new.readers[name]:
                return None
        length = stream.seek(0, os.SEEK_END)
        start = max(0, length - _SEARCHED) // 4 * 4
        stream.seek(start)
        end = stream.read()
    offsets: dict[Span, int] = {}
    appended = b""
    for name, content in numbers.changed.items():
        at = _aligned_find(end + appended, content)
        if at < 0:
            if not appended:
                appended = bytes(-length % _ALIGNMENT)
            at = len(end) + len(appended)
            appended += content
        offsets[found[name].digits] = start + at
    after = layout.changed(offsets, numbers.provenance.to_json())
    return IREdit(path, numbers.provenance, numbers.size, text, after, length, appended)


def replace_ir(path: Path, written: Path, provenance: Provenance) -> IREdit:
    """Find out how an IR becomes another one of the same network, so that the old XML fits all the time.

    What the new weights have in common with the old ones is read where it lies; the rest is appended.

    Args:
        path: The IR's `.xml`.
        written: The `.xml` of the new one.
        provenance: What it says.
    """
    before, after = path.read_bytes(), written.read_bytes()
    old, new = path.with_suffix(".bin").read_bytes(), written.with_suffix(".bin").read_bytes()
    places: dict[tuple[int, bytes], int] = {}
    for _, offset, size in data_spans(before):
        places.setdefault((size, hashlib.sha256(old[offset : offset + size]).digest()), offset)
    appended = bytearray()
    moved: dict[Span, int] = {}
    for digits, offset, size in data_spans(after):
        content = new[offset : offset + size]
        key = (size, hashlib.sha256(content).digest())
        if key not in places:
            appended += bytes(-(len(old) + len(appended)) % _ALIGNMENT)
            places[key] = len(old) + len(appended)
            appended += content
        moved[digits] = places[key]
    text = with_offsets(after, moved)
    return IREdit(path, provenance, len(text) + len(appended), before, text, len(old), bytes(appended))


def _aligned_find(data: bytes, content: bytes) -> int:
    """Where some float32 numbers lie in others; -1 where they do not."""
    at = data.find(content)
    while at >= 0 and at % 4:
        at = data.find(content, at + 1)
    return at
