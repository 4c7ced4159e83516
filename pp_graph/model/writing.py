"""Write an ONNX model: atomically, with its external weights in place or copied beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from pp_graph.errors import OutputFileError
from pp_graph.files import refuse_inputs, written_together
from pp_graph.model import fidelity

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import onnx
    import onnx_ir as ir


# File extensions of ONNX text formats and of OpenVINO IRs.
_OTHER_FORMATS = frozenset(
    {".json", ".onnxjson", ".textproto", ".prototxt", ".pbtxt", ".txtpb", ".onnxtxt", ".onnxtext", ".xml", ".bin"}
)
_PROTOBUF_LIMIT = 2**31 - 1
_COPY_CHUNK = 16 * 2**20


def write_onnx(
    proto: onnx.ModelProto,
    external: Sequence[ir.ExternalTensor],
    path: Path,
    *,
    overwrite: bool,
    copy_weights: bool,
    inputs: Iterable[Path],
) -> None:
    """Write a model to a file.

    External weights stay where they are if the file is written beside them. Otherwise, or with `copy_weights`, they are
    copied into `<name>.data`, because ONNX does not allow weights outside the model's folder. Embedded weights stay
    embedded.

    Args:
        proto: The model.
        external: Its tensors in other files.
        path: The `.onnx` file to write.
        overwrite: Replace an existing file.
        copy_weights: Copy external weights even if they could stay where they are.
        inputs: Files that are never replaced, in addition to the files of `external`.

    Raises:
        OutputFileError: The file cannot be written, exists and `overwrite` is false, or is an input.
    """
    protected = [*inputs, *{Path(tensor.path) for tensor in external}]
    refuse_inputs([path], protected)
    if path.suffix.lower() in _OTHER_FORMATS:
        raise OutputFileError(
            f"Output '{path}' ends in '{path.suffix}', which ONNX tools read as another format, expected '.onnx'. "
            "Rename it."
        )
    # Runtimes do not follow links out of the model's folder, so linked weights (as in a hub's cache) are copied.
    here = path.parent.resolve()
    in_place = all(Path(tensor.path).resolve() == here / tensor.location for tensor in external)
    if in_place and not (external and copy_weights):
        with written_together(path, overwrite=overwrite, inputs=protected) as (draft,):
            _write(proto, draft)
        return
    data = path.with_name(f"{path.name}.data")
    with written_together(data, path, overwrite=overwrite, inputs=protected) as (data_draft, draft):
        _copy_weights(proto, external, data_draft)
        _write(proto, draft)


def _write(proto: onnx.ModelProto, path: Path) -> None:
    size = proto.ByteSize()
    if size > _PROTOBUF_LIMIT:
        raise OutputFileError(
            f"Output '{path.name}' would have {size:,} bytes, expected less than the 2 GiB of a protobuf file. Save "
            "the raw model with external weights first."
        )
    with path.open("wb") as stream:
        stream.write(proto.SerializeToString())


def _copy_weights(proto: onnx.ModelProto, external: Sequence[ir.ExternalTensor], data: Path) -> None:
    """Copy all external tensors into one file, and refer to it in `proto`."""
    sources = {(str(tensor.location), tensor.offset or 0, tensor.length): tensor for tensor in external}
    places: dict[tuple[str, int, int | None], tuple[int, int]] = {}
    with data.open("wb") as out:
        for tensor_proto in fidelity.external_protos(proto):
            reference = fidelity.reference_of(tensor_proto)
            if reference not in places:
                tensor = sources[reference]
                size = tensor.length or tensor.nbytes
                # Page-aligned, so that runtimes can map the weights into memory.
                out.write(b"\0" * (-out.tell() % 4096))
                places[reference] = (out.tell(), size)
                _copy_range(Path(tensor.path), reference[1], size, out)
            del tensor_proto.external_data[:]
            offset, size = places[reference]
            for key, value in (("location", data.name), ("offset", str(offset)), ("length", str(size))):
                tensor_proto.external_data.add(key=key, value=value)


def _copy_range(source: Path, offset: int, length: int, out: BinaryIO) -> None:
    with source.open("rb") as stream:
        stream.seek(offset)
        while length > 0:
            chunk = stream.read(min(length, _COPY_CHUNK))
            if not chunk:
                raise OutputFileError(f"Weight file '{source}' ended early while it was copied. Try again.")
            out.write(chunk)
            length -= len(chunk)
