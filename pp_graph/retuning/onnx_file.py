"""Change only the post-processing's constants and the provenance in an ONNX file."""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pp_graph.files import written_together
from pp_graph.fusion import METADATA_KEY, Provenance
from pp_graph.fusion.emission import Numbers
from pp_graph.fusion.stripping import check_weights
from pp_graph.model import RawModel
from pp_graph.model.onnx_layout import LayoutError, OnnxLayout, metadata_entry
from pp_graph.model.patching import Region, copy_file, patch_draft, patch_in_place, region_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from pp_graph.program import Program

_COPIED_AT_MOST: Final = 16 * 2**20
"""Files up to this size are copied, patched and replaced, which is atomic and takes milliseconds. Larger ones are
patched in place."""
_LARGEST_ONNX: Final = 2**31 - 1


@dataclass(frozen=True)
class OnnxEdit:
    """A change of an ONNX file.

    Attributes:
        path: The file.
        provenance: The new provenance.
        size: Bytes of new constants and provenance.
        region: The change.
        padded: The change with blanks after the provenance, so that the file does not become shorter.
    """

    path: Path
    provenance: Provenance
    size: int
    region: Region
    padded: Region

    def fits(self, target: Path) -> bool:
        """True if the model can be written to `target` without copying external weights."""
        same_folder = target.parent.resolve() == self.path.parent.resolve()
        if same_folder and not target.exists():
            return True
        with _mapped(self.path) as data:
            return not OnnxLayout(data).refers_to_files(target.name if same_folder else None)

    def write(self, target: Path, *, overwrite: bool, inputs: Iterable[Path]) -> None:
        """Write the changed model to another file."""
        with written_together(target, overwrite=overwrite, inputs=inputs) as (draft,):
            copy_file(self.path, draft)
            patch_draft(draft, self.region, durable=False)

    def write_in_place(self) -> None:
        """Change the file itself."""
        status = self.path.stat()
        # A file with hard links is replaced, so that the other names keep the old content.
        if status.st_size <= _COPIED_AT_MOST or status.st_nlink > 1:
            with written_together(self.path, overwrite=True) as (draft,):
                copy_file(self.path, draft)
                patch_draft(draft, self.region, durable=True)
                shutil.copymode(self.path, draft)
        else:
            patch_in_place(self.path, self.padded)


def find_in_onnx(path: Path, program_for: Callable[[Provenance], Program]) -> OnnxEdit | None:
    """Find the bytes to change in an ONNX file.

    Args:
        path: The file.
        program_for: Returns the new program for the provenance of the file.

    Returns:
        The change; None if the whole model must be rewritten, or pp_graph did not write it.

    Raises:
        LayoutError: The layout of the file is unusual.
        OSError: The file cannot be read.
        PPGraphError: See `retune`.
    """
    import onnx

    if not path.is_file():
        return None
    with _mapped(path) as data:
        layout = OnnxLayout(data)
        entry = layout.metadata.get(METADATA_KEY)
        if entry is None or not layout.opset:
            return None
        provenance = Provenance.from_json(entry.value)
        numbers = Numbers.of(provenance, program_for(provenance), opset=layout.opset, ir_version=layout.ir_version)
        if (numbers.old.opset, numbers.old.ir_version) != (layout.opset, layout.ir_version):
            return None
        spans = layout.float_initializers(numbers.old.constants)
        for name, span in spans.items():
            numbers.check(name, data[span.start : span.stop], path)
        if not {*provenance.adjustable, *provenance.output_names} <= layout.port_names():
            return None
        if not numbers.only_numbers or len(spans) < len(numbers.old.constants):
            return None
        nodes = layout.nodes([operator.outputs[0].name or "" for operator in numbers.operators])
        if not numbers.are_operators({name: onnx.NodeProto.FromString(node) for name, node in nodes.items()}):
            return None
        if provenance.weights is not None:
            check_weights(RawModel.open(path), provenance)
        text = numbers.provenance.to_json()
        constants = {spans[name]: content for name, content in numbers.changed.items()}
        before = entry.span.stop - entry.span.start
        missing = max(0, before - len(metadata_entry(METADATA_KEY, text)))
        entries = [metadata_entry(METADATA_KEY, padded_text) for padded_text in (text, text + " " * missing)]
        region, padded = (region_of(data, {**constants, entry.span: encoded}) for encoded in entries)
        too_large = len(data) - before + len(entries[1]) > _LARGEST_ONNX
        if region is None or padded is None or too_large or len(entries[1]) < before:
            return None
        return OnnxEdit(path, numbers.provenance, numbers.size, region, padded)


@contextlib.contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap]:
    """Map a file into memory."""
    with path.open("rb") as stream:
        if not os.fstat(stream.fileno()).st_size:
            raise LayoutError("it is empty")
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data
