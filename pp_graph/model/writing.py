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


# Endings by which onnx.load picks a text format, and those of an OpenVINO IR.
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

    External weights are referenced where they are when the file is written beside them; elsewhere,
    or when asked, they are copied byte by byte into `<name>.data` beside the file (ONNX allows no
    weights outside the model's folder). Embedded weights stay embedded.

    Args:
        proto: The model.
        external: The tensors of it that keep their bytes in other files.
        path: The `.onnx` file to write.
        overwrite: Whether a file of that name may be replaced.
        copy_weights: Copy external weights even where they could be referenced.
        inputs: Files never to be replaced; files with weights always count.

    Raises:
        OutputFileError: The file cannot be written, exists with `overwrite` off, or is an input.
    """
    protected = [*inputs, *{Path(tensor.path) for tensor in external}]
    refuse_inputs([path], protected)
    if path.suffix.lower() in _OTHER_FORMATS:
        raise OutputFileError(
            f"Output '{path}' ends in '{path.suffix}', expected '.onnx': ONNX tools read that ending as another format."
        )
    # Runtimes follow no link out of the model's folder, so a weight that is one (as in a hub's cache) is copied too.
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
            f"Output '{path.name}' would take {size:,} bytes, more than the 2 GiB that one protobuf file can "
            "hold. Save the raw model with external weights first."
        )
    with path.open("wb") as stream:
        stream.write(proto.SerializeToString())


def _copy_weights(proto: onnx.ModelProto, external: Sequence[ir.ExternalTensor], data: Path) -> None:
    """Copy the bytes of every external tensor into one file, and let the proto refer to that."""
    sources = {(str(tensor.location), tensor.offset or 0, tensor.length): tensor for tensor in external}
    places: dict[tuple[str, int, int | None], tuple[int, int]] = {}
    with data.open("wb") as out:
        for tensor_proto in fidelity.external_protos(proto):
            reference = fidelity.reference_of(tensor_proto)
            if reference not in places:
                tensor = sources[reference]
                size = tensor.length or tensor.nbytes
                # Whole pages, so that runtimes can map the weights into memory.
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
                raise OutputFileError(f"Weight file '{source}' ended early while it was copied. Copy it again.")
            out.write(chunk)
            length -= len(chunk)
