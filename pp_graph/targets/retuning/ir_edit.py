"""Change the post-processing's constants in an OpenVINO IR, and nothing else.

OpenVINO lets equal constants share bytes, those of the network included, so none are changed where they are.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pp_graph.errors import OutputFileError
from pp_graph.files import written_together
from pp_graph.fusion import Provenance
from pp_graph.fusion.emission import Numbers
from pp_graph.model.patching import changing, copy_file, write_at
from pp_graph.targets.retuning.ir_layout import IRLayout, data_spans, with_offsets
from pp_graph.targets.retuning.programs import IR_VERSION, OPSET
from pp_graph.targets.usage.text import renamed_usage, usage_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from io import FileIO
    from pathlib import Path

    from pp_graph.model.onnx_layout import Span
    from pp_graph.program import Program

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
