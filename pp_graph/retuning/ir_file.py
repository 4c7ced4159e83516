"""Replace the post-processing's constants in a saved IR.

OpenVINO escapes `<`, `>`, `&` and `"` inside values, so each `<` in the XML begins a tag. It never writes comments,
CDATA, a DOCTYPE or another encoding; XML with one of these is refused. Checked against OpenVINO 2026.4.

Equal constants, including the network's, may share bytes in the `.bin`. Therefore new constants are appended, and old
ones are never overwritten.
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
from pp_graph.model.patching import changing, copy_file, patched, write_at
from pp_graph.openvino.island.exchange import IR_VERSION, OPSET
from pp_graph.openvino.usage import renamed_usage, usage_path
from pp_graph.openvino.weights_file import check_weights_file, marked, weights_mark

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
        offset: Position in the `.bin`. Other constants may share the bytes.
        digits: Position of the offset in the XML.
        readers: Number of operators that read it.
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
        provenance: The provenance as JSON.

    Raises:
        LayoutError: OpenVINO would not write such XML, or there is no provenance.
    """

    def __init__(self, text: bytes) -> None:
        if _ENCODING.match(text) or any(mark in text for mark in (b"<!--", b"<![CDATA[", b"<!DOCTYPE")):
            raise LayoutError("its XML is not as OpenVINO writes it")
        self._text = text
        # Subgraphs, as of If, have their own edges; the model's edges come last.
        self._edges = text.rfind(b"<edges>")
        matches = list(_PROVENANCE.finditer(text, max(self._edges, 0)))
        if self._edges < 0 or len(matches) != 1:
            raise LayoutError("it has no provenance where OpenVINO would write it")
        self._provenance_span = Span(*matches[0].span(1))
        try:
            self.provenance = ET.fromstring(b'<a value="%s"/>' % matches[0][1]).get("value", "")  # noqa: S314 - one tag
        except ET.ParseError as error:
            raise LayoutError(f"its provenance is not XML: {error}") from error

    def constant(self, name: str) -> IRConstant | None:
        """Find a constant by name; None if it does not exist.

        Raises:
            LayoutError: Several layers have the name, or its XML is unusual.
        """
        attribute = b' name="%s"' % _escaped(name)
        tags = [self._text.rfind(b"<", 0, match.start()) for match in re.finditer(re.escape(attribute), self._text)]
        layers = [start for start in tags if self._text.startswith(b"<layer ", start)]
        if not layers:
            return None
        if len(layers) > 1:
            raise LayoutError(f"it has {len(layers)} layers named '{name}'")
        layer, end = self._tag(layers[0])
        if layer.get("type") != "Const":
            return None
        start = self._text.find(b"<", end)
        data, _ = self._tag(start)
        digits = re.compile(rb'\soffset="(\d{1,15})"').search(self._text, start)
        size = re.fullmatch(r"\d{1,15}", data.get("size", ""))
        written = self._text.startswith(b"<data ", start) and "element_type" in data
        if not written or digits is None or size is None:
            raise LayoutError(f"its constant '{name}' is not as OpenVINO writes it")
        return IRConstant(
            element_type=data["element_type"],
            size=int(size[0]),
            offset=int(digits[1]),
            digits=Span(*digits.span(1)),
            readers=self._text.count(b'<edge from-layer="%s" ' % layer["id"].encode(), self._edges),
        )

    @property
    def quantised_by_others(self) -> bool:
        """True if NNCF quantised the whole model. `convert` quantises layers only, and keeps no record of NNCF's."""
        return b"<nncf>" in self._text[self._edges :]

    def changed(self, offsets: Mapping[Span, bytes], provenance: str) -> bytes:
        """Return the XML with other digits of offsets and another provenance."""
        return patched(self._text, {**offsets, self._provenance_span: _escaped(provenance)})

    def _tag(self, start: int) -> tuple[dict[str, str], int]:
        """Return the attributes of a tag, still escaped, and the position after it."""
        tag = _TAG.match(self._text, start)
        if tag is None:
            raise LayoutError(f"its tag at byte {start} is not as OpenVINO writes it")
        return {key.decode(): value.decode() for key, value in _ATTRIBUTE.findall(tag[0])}, tag.end()


def _constant_offsets(text: bytes) -> Iterator[tuple[Span, int, int]]:
    """Yield the position of the offset's digits, the offset and the size in bytes of every constant in an IR's XML."""
    for tag in _DATA.finditer(text):
        attributes = {match[1]: match for match in _ATTRIBUTE.finditer(text, *tag.span())}
        if b"offset" in attributes and b"size" in attributes:
            offset, size = attributes[b"offset"], attributes[b"size"]
            yield Span(*offset.span(2)), int(offset[2]), int(size[2])


def _escaped(text: str) -> bytes:
    return escape(text, {'"': "&quot;"}).encode()


_ALIGNMENT: Final = 64
"""Alignment in bytes of appended constants, because runtimes map the file into memory."""
_SEARCHED_BYTES: Final = 4096
"""Number of bytes at the end of the `.bin` that are searched for a constant before it is appended."""


@dataclass(frozen=True)
class IREdit:
    """A change of an IR: bytes to append to the `.bin`, and new XML.

    The old XML fits the `.bin` before and after appending, so replacing the XML changes the model in one step.

    Attributes:
        path: The `.xml`.
        provenance: The new provenance.
        size: Bytes of new constants and provenance.
        before: The old XML.
        after: The new XML.
        length: Size of the `.bin`.
        appended: Bytes to append to it.
    """

    path: Path
    provenance: Provenance
    size: int
    before: bytes
    after: bytes
    length: int
    appended: bytes

    def fits(self, target: Path) -> bool:
        """True if the model can be written to `target`."""
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
                # Only the file name in it changes; it contains no statistics.
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
            raise OutputFileError(f"IR '{self.path}' was changed by another program in the meantime. Try again.")

    def _write_text(self, draft: Path) -> None:
        with draft.open("wb") as stream:
            stream.write(self.after)
            stream.flush()
            os.fsync(stream.fileno())


def find_in_ir(path: Path, program_for: Callable[[Provenance], Program]) -> IREdit | None:
    """Find the bytes to change in an IR. Arguments, result and errors are those of `find_in_onnx`."""
    weights = path.with_suffix(".bin")
    if not path.is_file() or not weights.is_file():
        return None
    text = path.read_bytes()
    layout = IRLayout(text)
    if layout.quantised_by_others:
        return None
    check_weights_file(path, text)
    provenance = Provenance.from_json(layout.provenance)
    numbers = Numbers.of(provenance, program_for(provenance), opset=OPSET, ir_version=IR_VERSION)
    constants = {name: each for name in numbers.old.constants if (each := layout.constant(name)) is not None}
    with weights.open("rb") as stream:
        for name, constant in constants.items():
            if constant.element_type != "f32":
                return None
            stream.seek(constant.offset)
            content = stream.read(constant.size)
            if len(content) < constant.size:
                return None
            numbers.check(name, content, path)
        if not numbers.only_numbers:
            return None
        # If other operators read a constant too, OpenVINO merged it with an equal one of the network.
        for name in numbers.changed:
            if name not in constants or constants[name].readers != numbers.new.readers[name]:
                return None
        length = stream.seek(0, os.SEEK_END)
        start = max(0, length - _SEARCHED_BYTES) // 4 * 4
        stream.seek(start)
        end = stream.read()
    offsets: dict[Span, bytes] = {}
    appended = b""
    for name, content in numbers.changed.items():
        at = _aligned_find(end + appended, content)
        if at < 0:
            if not appended:
                appended = bytes(-length % _ALIGNMENT)
            at = len(end) + len(appended)
            appended += content
        offsets[constants[name].digits] = str(start + at).encode()
    after = layout.changed(offsets, numbers.provenance.to_json())
    after = marked(after, weights_mark(weights, after, length, appended))
    return IREdit(path, numbers.provenance, numbers.size, text, after, length, appended)


def replace_ir(path: Path, written: Path, provenance: Provenance) -> IREdit:
    """Turn one IR into another of the same network by appending only the constants that its `.bin` lacks.

    Args:
        path: The `.xml` of the IR to change.
        written: The `.xml` of the new IR.
        provenance: The provenance of the new IR.
    """
    before, after = path.read_bytes(), written.read_bytes()
    old, new = path.with_suffix(".bin").read_bytes(), written.with_suffix(".bin").read_bytes()
    known: dict[tuple[int, bytes], int] = {}
    for _, offset, size in _constant_offsets(before):
        known.setdefault((size, hashlib.sha256(old[offset : offset + size]).digest()), offset)
    appended = bytearray()
    offsets: dict[Span, bytes] = {}
    for digits, offset, size in _constant_offsets(after):
        content = new[offset : offset + size]
        key = (size, hashlib.sha256(content).digest())
        if key not in known:
            appended += bytes(-(len(old) + len(appended)) % _ALIGNMENT)
            known[key] = len(old) + len(appended)
            appended += content
        offsets[digits] = str(known[key]).encode()
    text = patched(after, offsets)
    text = marked(text, weights_mark(path.with_suffix(".bin"), text, len(old), bytes(appended)))
    return IREdit(path, provenance, len(text) + len(appended), before, text, len(old), bytes(appended))


def _aligned_find(data: bytes, content: bytes) -> int:
    """Return the position of float32 numbers in others; -1 if they are not there."""
    at = data.find(content)
    while at >= 0 and at % 4:
        at = data.find(content, at + 1)
    return at
