"""Open an ONNX file without loading its external weights."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pp_graph.errors import ModelError
from pp_graph.model import fidelity
from pp_graph.model.graphs import all_nodes, default_opset, quiet_onnx_ir, subgraphs
from pp_graph.model.light_onnx_ir import import_onnx_ir
from pp_graph.model.shapes import Shape, declared_shape, format_shape
from pp_graph.model.structure import check_structure
from pp_graph.model.writing import write_onnx
from pp_graph.urls import local_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import onnx
    import onnx_ir as ir

METADATA_KEY = "pp_graph"
"""Name of the entry with provenance in ONNX metadata and in an IR's `rt_info`."""


class FrameFormat(NamedTuple):
    """Memory layout of frames.

    Attributes:
        layout: `NHWC` or `NCHW`.
        channel_order: `RGB`, `BGR`, `NV12`, `I420` or `YUYV`.
    """

    layout: str
    channel_order: str


@dataclass(frozen=True)
class Port:
    """An input or output of a model.

    Attributes:
        name: Its name in the model.
        dtype: NumPy name of the element type, such as `float32`; None if undeclared.
        shape: Sizes; None for an open size without a name. None if even the rank is unknown.
    """

    name: str
    dtype: str | None
    shape: Shape | None


@dataclass(frozen=True)
class ModelInput(Port):
    """An input that the caller must feed.

    Attributes:
        frames: Format of unprocessed frames; None if the caller preprocesses images, usually to values in [0, 1].
        batch_axis: The batch axis, if it does not follow from `shape`; see `batch_places`.
    """

    frames: FrameFormat | None = None
    batch_axis: int | None = None


@dataclass(frozen=True)
class RawModel:
    """An opened ONNX model: graph in memory, external weights on disk.

    Open one with `RawModel.open`, which never modifies its argument.

    Attributes:
        model: The graph, owned by this object.
        source: The file it was read from; None for a model in memory.
        sha256: Hash of the `.onnx` file, or of the serialised graph for a model in memory. It covers location, offset
            and length of external weights, not their content, because hashing gigabytes takes too long.
        value_info: The file's declarations of inner values. Writing adds no others.
        edited: True if the graph differs from `source`, which then only locates the external weights.
        original: What `model` was made from. onnx_ir loses some of it, such as fields that are present and empty.
        exact: True if `model` still is what was made from `original`, so that this is written.
    """

    model: ir.Model
    source: Path | None

    def __repr__(self) -> str:
        """Return the file, inputs and outputs in a line."""
        file = "(in memory)" if self.source is None else self.source.name
        inputs = ", ".join(f"{each.name} {format_shape(each.shape)}" for each in self.inputs)
        outputs = ", ".join(each.name or "" for each in self.model.graph.outputs)
        return f"<RawModel {file}: {inputs} -> {outputs}>"

    sha256: str
    value_info: tuple[onnx.ValueInfoProto, ...] = field(repr=False)
    edited: bool = False
    original: onnx.ModelProto | None = field(default=None, repr=False, compare=False)
    exact: bool = False

    @classmethod
    def open(cls, model: str | Path | onnx.ModelProto | ir.Model | RawModel) -> RawModel:
        """Open a model from a file, or copy one in memory.

        Args:
            model: Path of an ONNX file (weights embedded, external or in Constant nodes), or a model in memory.

        Returns:
            The opened model; it shares nothing with `model`.

        Raises:
            ModelError: The file is missing or not an ONNX model, external weights are missing or cut short, or the
                model has sparse weights or training information, which could not be written back.
        """
        import_onnx_ir()
        import onnx
        import onnx_ir as ir

        if isinstance(model, RawModel):
            if model.source is not None and not model.edited:
                return cls.open(model.source)
            proto = model.to_proto()
            copy = cls._from_proto(proto, None, _sha256(proto))._with_weights_of(model.model)
            return replace(copy, source=model.source, edited=model.edited)
        if isinstance(model, ir.Model):
            proto = ir.to_proto(model)
            return cls._from_proto(proto, None, _sha256(proto))._with_weights_of(model)
        if isinstance(model, onnx.ModelProto):
            proto = onnx.ModelProto()
            proto.CopyFrom(model)
            opened = cls._from_proto(proto, None, _sha256(proto))
            for tensor in opened.external_tensors():
                tensor.base_dir = str(Path.cwd())
            opened._check_external_weights("the model in memory", Path.cwd())
            return opened
        if not isinstance(model, str | Path):
            raise ModelError(
                f"Model is of type {type(model).__name__}, expected a path, an onnx.ModelProto or an onnx_ir.Model."
            )
        return cls._from_file(local_file(model))

    @classmethod
    def _from_file(cls, path: Path) -> RawModel:
        import onnx

        if not path.exists():
            raise ModelError(f"Model file '{path}' does not exist. Check the path.")
        if path.is_dir():
            raise ModelError(f"Model '{path}' is a folder, expected an ONNX file. Name the .onnx file in it.")
        if not path.is_file():
            raise ModelError(f"Model '{path}' is a device or pipe, expected an ONNX file. Save it first.")
        try:
            digest = _hash_file(path)
            proto = onnx.load(str(path), load_external_data=False)
        except OSError as error:
            raise ModelError(
                f"Model file '{path}' cannot be read: {error.strerror or error}. Check the path and its permissions."
            ) from error
        except Exception as error:
            with path.open("rb") as stream:
                is_xml = stream.read(64).lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"<")
            if is_xml:
                raise ModelError(
                    f"Model file '{path}' is an OpenVINO IR, expected an ONNX model. Name the .onnx file it came from."
                ) from error
            what = "not an ONNX model" if path.stat().st_size else "empty"
            raise ModelError(
                f"Model file '{path}' is {what}, expected one that torch.onnx.export, tf2onnx or a similar exporter "
                "wrote. Name that file."
            ) from error
        # Absolute, because the working directory may change before weights are read.
        raw = cls._from_proto(proto, path.absolute(), digest)
        raw._check_external_weights(f"model '{path}'", path.absolute().parent)
        return raw

    @classmethod
    def _from_proto(cls, proto: onnx.ModelProto, source: Path | None, digest: str) -> RawModel:
        import onnx_ir as ir

        name = f"Model '{source.name}'" if source is not None else "The model"
        if not proto.graph.node or not proto.graph.output:
            raise ModelError(
                f"{name} has {len(proto.graph.node)} nodes and {len(proto.graph.output)} outputs, expected at "
                "least one of each. Is this an ONNX model?"
            )
        for entry in proto.opset_import:
            if not 0 < entry.version < 2**31:
                raise ModelError(
                    f"{name} imports version {entry.version} of the domain '{entry.domain or 'ai.onnx'}', expected a "
                    "number from 1 to 2,147,483,647. Check it with onnx.checker."
                )
        for tensor in proto.graph.initializer:
            if tensor.data_type == 0:  # undefined
                raise ModelError(
                    f"{name} stores weight '{tensor.name}' without an element type, expected one. Check it with "
                    "onnx.checker."
                )
        if sparse := fidelity.sparse_weights(proto):
            raise ModelError(
                f"{name} stores {sparse} weights as sparse tensors, expected dense ones. Export it with those."
            )
        # onnx_ir silently drops it.
        if proto.training_info:
            raise ModelError(f"{name} has training_info, expected none. Export it for inference.")
        check_structure(proto, name)
        try:
            with quiet_onnx_ir():
                model = ir.from_proto(proto)
            fidelity.remember(proto, model)
        except Exception as error:
            raise ModelError(f"{name} is not valid ONNX: {_root_cause(error)}. Check it with onnx.checker.") from error
        raw = cls(model, source, digest, tuple(proto.graph.value_info), original=proto)
        if source is not None:
            for tensor in raw.external_tensors():
                tensor.base_dir = str(source.parent)
        for output in model.graph.outputs:
            if output.producer() is None and not output.is_graph_input() and not output.is_initializer():
                raise ModelError(
                    f"{name} lists output '{output.name}', which no node produces. Check it with onnx.checker."
                )
        return raw

    def _with_weights_of(self, other: ir.Model) -> RawModel:
        """Copy the folders of external weights from another model; serialising loses them."""
        folders = {str(tensor.location): tensor.base_dir for tensor in _external(other)}
        for tensor in self.external_tensors():
            tensor.base_dir = folders[str(tensor.location)]
        return self

    def with_graph(self, proto: onnx.ModelProto) -> RawModel:
        """Return the model with the graph of `proto`, which the result owns. External weights stay on disk."""
        changed = RawModel._from_proto(proto, None, self.sha256)._with_weights_of(self.model)
        return replace(changed, source=self.source, edited=True)

    def _check_external_weights(self, description: str, base: Path) -> None:
        sizes: dict[str, int] = {}
        start = description[0].upper() + description[1:]
        for tensor in self.external_tensors():
            location = str(tensor.location)
            if Path(location).is_absolute() or ".." in Path(location).parts:
                raise ModelError(
                    f"{start} keeps weight '{tensor.name}' in '{location}', expected a file inside the model's "
                    "folder. Save the model again with its weights beside it."
                )
            file = base / location
            if location not in sizes:
                if not file.is_file():
                    raise ModelError(
                        f"{start} keeps weight '{tensor.name}' in '{location}', which is not "
                        f"in '{base}'. Put the weight file beside the model."
                    )
                sizes[location] = file.stat().st_size
            end = (tensor.offset or 0) + (tensor.length or tensor.nbytes)
            if end > sizes[location]:
                raise ModelError(
                    f"Weight file '{location}' of {description} has {sizes[location]:,} bytes, expected at "
                    f"least {end:,} for weight '{tensor.name}'. The file is cut short: copy it again."
                )

    def to_proto(self) -> onnx.ModelProto:
        """Serialise the model with the declarations of `value_info` only. External weights stay references."""
        import onnx
        import onnx_ir as ir

        if self.exact and self.original is not None:
            copy = onnx.ModelProto()
            copy.CopyFrom(self.original)
            return copy
        proto = ir.to_proto(self.model)
        fidelity.restore(self.model, proto)
        del proto.graph.value_info[:]
        proto.graph.value_info.extend(self.value_info)
        return proto

    def save(
        self, path: str | Path, *, overwrite: bool = False, copy_weights: bool = False, inputs: Iterable[Path] = ()
    ) -> Path:
        """Write the model to a file, whole or not at all.

        External weights stay where they are if the file is written beside them. Otherwise, or with `copy_weights`, they
        are copied into `<name>.data`.

        Args:
            path: The `.onnx` file. The model's source and weights are never overwritten.
            overwrite: Replace an existing file.
            copy_weights: Copy external weights even if they could stay where they are.
            inputs: Further files that are never overwritten.

        Returns:
            The path.

        Raises:
            OutputFileError: The file cannot be written.
        """
        protected = [*inputs, *([self.source] if self.source is not None else [])]
        write_onnx(
            self.to_proto(),
            self.external_tensors(),
            Path(path),
            overwrite=overwrite,
            copy_weights=copy_weights,
            inputs=protected,
        )
        return Path(path)

    def unchanged_file(self) -> bool:
        """True if the file `source` still contains this graph."""
        return self.source is not None and not self.edited and _hash_file(self.source) == self.sha256

    def external_tensors(self) -> list[ir.ExternalTensor]:
        """Return all tensors with bytes in another file, including attributes and local functions."""
        return list(_external(self.model))

    @property
    def opset(self) -> int:
        """Version of the default ONNX domain; 0 if the model imports only other domains."""
        return default_opset(self.model.opset_imports)

    @property
    def inputs(self) -> tuple[ModelInput, ...]:
        """Inputs that a caller must feed, which are those without a default in an initializer."""
        return tuple(
            ModelInput(
                name=value.name or "",
                dtype=None if value.dtype is None else _numpy_name(value.dtype),
                shape=declared_shape(value),
            )
            for value in self.model.graph.inputs
            if not value.is_initializer()
        )

    @property
    def weight_bytes(self) -> int:
        """Size in bytes of all initializers and tensor attributes, embedded or external."""
        return sum(tensor.nbytes for tensor in _tensors(self.model))


def _numpy_name(dtype: ir.DataType) -> str | None:
    try:
        return str(dtype.numpy())
    except TypeError:
        return None


def _tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    import onnx_ir as ir

    owners: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for graph in (model.graph, *(graph for owner in owners for graph in subgraphs(owner))):
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.const_value
    for owner in owners:
        for node in all_nodes(owner):
            for attribute in node.attributes.values() if node.attributes else ():
                if attribute.is_ref():
                    continue
                if attribute.type == ir.AttributeType.TENSOR:
                    yield attribute.as_tensor()
                elif attribute.type == ir.AttributeType.TENSORS:
                    yield from attribute.as_tensors()


def _external(model: ir.Model) -> Iterator[ir.ExternalTensor]:
    import onnx_ir as ir

    for tensor in _tensors(model):
        if isinstance(tensor, ir.ExternalTensor):
            yield tensor


def _hash_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sha256(proto: onnx.ModelProto) -> str:
    return hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).rstrip(".")
