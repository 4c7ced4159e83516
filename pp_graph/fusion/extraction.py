"""Cut the post-processing out of a fused model, to run it on raw values of one's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pp_graph.model import RawModel
from pp_graph.model.names import all_values

if TYPE_CHECKING:
    import onnx

    from pp_graph.fusion.fused_model import FusedModel


def extract_post_processing(fused: FusedModel) -> RawModel:
    """Return the exact part of the post-processing alone: raw values and intermediates in, post-processed outputs out.

    Args:
        fused: The fused model; it is not changed.

    Returns:
        A model whose inputs are the tensors of `Provenance.tensors`.
    """
    from onnx import helper

    proto = fused.to_proto()
    dtypes = {value.name: value.dtype for value in all_values(fused.network.model.graph)}
    tensors = list(fused.provenance.tensors.values())
    fed = {value.name for value in proto.graph.input}
    initializers = {tensor.name for tensor in proto.graph.initializer}
    reached = {
        # A raw output that was kept may have the name of a post-processed one that was not asked for.
        output.name: values
        for output in proto.graph.output
        if output.name in fused.provenance.output_names
        and not (values := _reached(proto, output.name, tensors)) & (fed - initializers)
    }
    needed = set[str]().union(*reached.values())
    kept = [node for node in proto.graph.node if needed & set(node.output)]
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
    """Values of the main graph from which an output is computed, up to some tensors."""
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
    """Names that an operator reads, and the bodies that it holds; with names of their own."""
    names = set(node.input)
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs):
            names |= {output.name for output in body.output}
            names = names.union(*map(_read_by, body.node))
    return names
