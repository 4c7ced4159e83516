"""Remove the post-processing from a fused model, or extract it to run alone."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from typing import TYPE_CHECKING

from pp_graph.errors import ProvenanceError, first_line
from pp_graph.fusion.artifact import Artifact
from pp_graph.fusion.provenance import Provenance
from pp_graph.fusion.tail import restore_tail
from pp_graph.model import METADATA_KEY, RawModel, opset_raising
from pp_graph.model.graphs import all_nodes, all_values, bodies_of, rename_values
from pp_graph.model.message_difference import with_difference
from pp_graph.model.weights import weights_record
from pp_graph.sessions import OnnxSession

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import onnx
    import onnx_ir as ir

    from pp_graph.fusion.fused_model import FusedModel


def extract_post_processing(fused: FusedModel) -> RawModel:
    """Extract the exact part of the post-processing: raw values and intermediates in, post-processed outputs out.

    Args:
        fused: The fused model. It is not modified.

    Returns:
        A model whose inputs are the tensors of `Provenance.tensors`.

    Raises:
        ProvenanceError: The model was changed so that no output follows from these tensors.
    """
    from onnx import helper

    proto = fused.to_proto()
    dtypes = {value.name: value.dtype for value in all_values(fused.network.model.graph)}
    tensors = list(fused.provenance.tensors.values())
    fed = {value.name for value in proto.graph.input}
    initializers = {tensor.name for tensor in proto.graph.initializer}
    reached = {
        # A kept raw output may have the name of a post-processed output that was not requested.
        output.name: values
        for output in proto.graph.output
        if output.name in fused.provenance.output_names
        and not (values := _reached(proto, output.name, tensors)) & (fed - initializers)
    }
    needed = set[str]().union(*reached.values())
    kept = [node for node in proto.graph.node if needed & set(node.output)]
    if not kept:
        raise ProvenanceError(
            f"No operator computes outputs from {', '.join(map(repr, tensors))} any more, expected the post-processing "
            "to read these. The model was changed after it was fused, as by a float16 converter: apply such tools to "
            "the raw model, and fuse it then."
        )
    read = {name for node in kept for name in _read_by(node)}
    graph = helper.make_graph(
        kept,
        "post_processing",
        [helper.make_tensor_value_info(name, int(dtypes[name] or 1), None) for name in tensors],
        [output for output in proto.graph.output if output.name in reached],
        [tensor for tensor in proto.graph.initializer if tensor.name in read and tensor.name not in tensors],
    )
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")
    return RawModel.open(helper.make_model(graph, opset_imports=proto.opset_import, ir_version=proto.ir_version))


def _reached(proto: onnx.ModelProto, output: str, tensors: list[str]) -> set[str]:
    """Return the values of the main graph that an output depends on, stopping at some tensors."""
    producers = {name: node for node in proto.graph.node for name in node.output}
    pending, reached = [output], set[str]()
    while pending:
        name = pending.pop()
        if name in reached or name in tensors:
            continue
        reached.add(name)
        if name in producers:
            pending += _read_by(producers[name])
    return reached


def _read_by(node: onnx.NodeProto) -> set[str]:
    """Return the names that an operator and its subgraphs read. Names inside the subgraphs are included."""
    names = set(node.input)
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs):
            names |= {output.name for output in body.output}
            names = names.union(*map(_read_by, body.node))
    return names


def strip(model: str | Path | onnx.ModelProto | ir.Model | RawModel | FusedModel) -> RawModel:
    """Return the raw model inside a fused one.

    Graph, weights, names and metadata equal those of the raw export. Save it with `RawModel.save`.

    Args:
        model: Path of a fused ONNX model, or one in memory, which is not modified.

    Returns:
        The raw model.

    Raises:
        ModelError: The model is not usable.
        ProvenanceError: The model was not fused by pp_graph, or was edited afterwards.
    """
    opened = RawModel.open(model.network if isinstance(model, Artifact) else model)
    provenance = Provenance.from_metadata(opened.model.metadata_props)
    if provenance is None:
        raise ProvenanceError(
            "The model has no post-processing by pp_graph, expected a model written by pp_graph fuse. "
            "There is nothing to strip."
        )
    raw, sha256 = restore_raw(opened, provenance)
    return dataclasses.replace(raw, sha256=sha256)


def restore_raw(opened: RawModel, provenance: Provenance) -> tuple[RawModel, str]:
    """Remove the post-processing from a fused model, and check the result.

    Args:
        opened: The fused model. Changed in place.
        provenance: Its provenance.

    Returns:
        The raw model, under the hash of the file that was fused, and its actual hash. The two differ if the fused model
        was changed by another tool, if its external weights were moved, or if the raw file was not serialised in
        protobuf's usual order.

    Raises:
        ProvenanceError: The model was changed so that the raw model cannot be restored, or does not load.
    """
    check_weights(opened, provenance)
    try:
        raw = without_post_processing(opened, provenance)
    except ProvenanceError:
        raise
    except Exception as error:  # a record that was edited fails in many ways
        raise _changed(f"its record does not fit ({type(error).__name__}: {error})") from error
    raw = _with_lost_details(raw, provenance.raw.difference)
    proto = raw.to_proto()
    hashes = [hashlib.sha256(proto.SerializeToString()).hexdigest()]
    if hashes[0] != provenance.raw.sha256:
        hashes.append(hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest())
    if provenance.raw.sha256 in hashes:
        return raw, provenance.raw.sha256
    reason = _why_invalid(raw, proto)
    if reason is not None:
        raise _changed(f"the raw model in it is not valid any more: {reason}")
    return raw, hashes[0]


def _with_lost_details(raw: RawModel, record: str | None) -> RawModel:
    """Return the raw model with what onnx_ir did not keep; without it if the model was changed after it was fused."""
    import onnx

    if record is None:
        return raw
    kind = onnx.ModelProto
    try:
        content = with_difference(raw.to_proto().SerializeToString(), record, kind.DESCRIPTOR)
    except ValueError as error:
        raise _changed(f"its record of the raw file is damaged ({error})") from error
    return raw if content is None else dataclasses.replace(raw, original=kind.FromString(content), exact=True)


def check_weights(opened: RawModel, provenance: Provenance) -> None:
    """Raise if the external weights of a fused model are not those it was saved with.

    Raises:
        ProvenanceError: They are those of a different model.
    """
    record = provenance.weights
    if record is None:
        return
    found = weights_record(opened.external_tensors())
    # Another tool may have embedded some or all of them.
    if found is not None and found.tensors == record.tensors and found != record:
        files = sorted({str(tensor.location) for tensor in opened.external_tensors()})
        raise ProvenanceError(
            f"External weights in {', '.join(map(repr, files))} are not those that the model was saved with: found "
            f"{found.size:,} bytes with hash {found.sample[:12]}, expected {record.size:,} bytes with hash "
            f"{record.sample[:12]}. Copy the weights that belong to the model beside it, or fuse again."
        )


def _why_invalid(raw: RawModel, proto: onnx.ModelProto) -> str | None:
    """Return the reason why a model cannot be used; None if it can."""
    import onnx

    # onnx 1.23 cannot infer its own definition of MeanVarianceNormalization.
    strict = all(node.op_type != "MeanVarianceNormalization" for node in proto.graph.node)
    try:
        onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=strict)
        if not raw.external_tensors():
            onnx.checker.check_model(proto)
        OnnxSession(raw)
    except Exception as error:  # the checker, inference and the runtime have no common base
        return first_line(error)
    return None


def without_post_processing(opened: RawModel, provenance: Provenance) -> RawModel:
    """Remove the post-processing from a fused model, which is changed in place. Nothing is checked."""
    import onnx
    import onnx_ir as ir

    scope = f"{provenance.prefix}/"
    raw = provenance.raw
    fused_name = {old: new for new, old in raw.renamed.items()}
    if provenance.replaced is not None:
        opened = restore_tail(opened, provenance.replaced, provenance.prefix, fused_name)
    graph = opened.model.graph
    values = {value.name: value for value in all_values(graph)}
    wanted = [fused_name.get(name, name) for name in raw.outputs]
    missing = [name for name in wanted if name not in values]
    if missing:
        raise _changed(f"value '{missing[0]}' of the raw model is missing")
    emitted: set[str | None] = {value.name for value in graph.outputs if value.name in provenance.output_names}
    graph.outputs.clear()
    graph.outputs.extend(values[name] for name in wanted)
    _remove_post_processing(graph, scope, emitted - set(wanted), provenance.adjustable)
    rename_values(graph, raw.renamed)
    for record in (*raw.read.values(), *raw.unread):
        declaration = onnx.ValueInfoProto.FromString(base64.b64decode(record.declaration))
        ir.serde.deserialize_value_info_proto(declaration, values[record.tensor])
    if raw.opset_added:
        del opened.model.opset_imports[""]
    del opened.model.metadata_props[METADATA_KEY]
    declared = tuple(_raw_declarations(opened, provenance))
    stripped = dataclasses.replace(
        opened, sha256=raw.sha256, value_info=declared, edited=True, original=None, exact=False
    )
    return stripped if provenance.raised is None else opset_raising.undo(stripped, provenance.raised)


def _remove_post_processing(graph: ir.Graph, scope: str, emitted: set[str | None], adjustable: Sequence[str]) -> None:
    def is_emitted(node: ir.Node) -> bool:
        names = [node.name or "", *(value.name or "" for value in node.outputs)]
        return any(name.startswith(scope) for name in names) or any(value.name in emitted for value in node.outputs)

    removed = [node for node in graph if is_emitted(node)]
    outputs = {value for node in removed for value in node.outputs}
    constants = {value for name, value in graph.initializers.items() if name.startswith(scope)}
    fed = {graph.initializers[name] for name in adjustable if name in graph.initializers}
    constants |= fed
    inside = [inner for node in removed for body in bodies_of(node) for inner in all_nodes(body)]
    emitted_nodes = {*removed, *inside}
    for node in all_nodes(graph):
        read = next((value for value in node.inputs if value in outputs | constants), None)
        if read is not None and node not in emitted_nodes:
            raise _changed(f"operator '{node.name or node.op_type}' reads '{read.name}' of the post-processing")
    for node in inside:
        # Operators of subgraphs are removed with their parent, which requires that they read nothing outside.
        for position in range(len(node.inputs)):
            node.replace_input_with(position, None)
    graph.remove(removed, safe=True)
    for name in adjustable:
        if name not in {value.name for value in graph.inputs}:
            raise _changed(f"its input '{name}', which holds a cutoff, is missing")
    # Another tool may have listed all constants as inputs, or removed the defaults of inputs.
    for value in list(graph.inputs):
        if value in constants or value.name in adjustable or (value.name or "").startswith(scope):
            graph.inputs.remove(value)
    for constant in constants:
        del graph.initializers[constant.name or ""]


def _changed(how: str) -> ProvenanceError:
    return ProvenanceError(
        f"The model was changed after it was fused, as by a simplifier, an optimiser or a float16 converter: {how}. "
        "Use the raw export, and apply such tools to it before fusing."
    )


def _raw_declarations(opened: RawModel, provenance: Provenance) -> Iterator[onnx.ValueInfoProto]:
    """Yield the raw model's declarations of inner values, under their original names."""
    import onnx

    raw = provenance.raw
    former = {record.tensor for record in (*raw.read.values(), *raw.unread) if not record.declared_inside}
    for entry in opened.value_info:
        if entry.name in former or entry.name.startswith(f"{provenance.prefix}/"):
            continue
        renamed = onnx.ValueInfoProto()
        renamed.CopyFrom(entry)
        if entry.name in raw.renamed:
            renamed.name = raw.renamed[entry.name]
        yield renamed
