"""Undo the changes that onnx_ir makes on reading and writing, so that a stripped model equals the raw one to the byte.

onnx_ir omits empty domains of nodes, writes the domain of every import, sorts metadata, declares the types of
constants in subgraphs, and keeps only location, offset and length of external weights. None of this changes the meaning
of a model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pp_graph.model.graphs import DEFAULT_DOMAINS, all_nodes, bodies_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import onnx
    import onnx_ir as ir

_DOMAIN: Final = "pp_graph.domain"
_IN_NODES: Final = "pp_graph.in_nodes"
_IMPLICIT: Final = "pp_graph.implicit_domain"
_VALUE_INFO: Final = "pp_graph.value_info"
_EXTERNAL: Final = "pp_graph.external_entries"
_KNOWN_ENTRIES: Final = frozenset({"location", "offset", "length"})


def _proto_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yield nodes and the nodes of their subgraphs in onnx_ir's order."""
    for node in nodes:
        yield node
        for graph in _proto_subgraphs(node) if node.attribute else ():
            yield from _proto_nodes(graph.node)


def _proto_subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _pairs(proto: onnx.ModelProto, model: ir.Model) -> Iterator[tuple[onnx.NodeProto, ir.Node]]:
    yield from zip(_proto_nodes(proto.graph.node), all_nodes(model.graph), strict=False)
    for proto_function, function in zip(proto.functions, model.functions.values(), strict=False):
        yield from zip(_proto_nodes(proto_function.node), all_nodes(function), strict=False)


def external_protos(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield all tensors of a model with bytes in another file, including nested ones."""
    import onnx

    nodes = _nodes_with_attributes(proto)
    tensors = [tensor for graph in _proto_graphs(proto, nodes) for tensor in graph.initializer]
    for node in nodes:
        for attribute in node.attribute:
            tensors += [*attribute.tensors, *([attribute.t] if attribute.HasField("t") else [])]
    for tensor in tensors:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield tensor


def sparse_weights(proto: onnx.ModelProto) -> int:
    """Return how many sparse weights all graphs of a model have. onnx_ir drops some and refuses others."""
    nodes = _nodes_with_attributes(proto)
    count = sum(len(graph.sparse_initializer) for graph in _proto_graphs(proto, nodes))
    for attribute in (attribute for node in nodes for attribute in node.attribute):
        count += len(attribute.sparse_tensors) + int(attribute.HasField("sparse_tensor"))
    return count


def _nodes_with_attributes(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for owner in (proto.graph, *proto.functions) for node in _proto_nodes(owner.node) if node.attribute]


def _proto_graphs(proto: onnx.ModelProto, nodes: Iterable[onnx.NodeProto]) -> list[onnx.GraphProto]:
    return [proto.graph, *(graph for node in nodes for graph in _proto_subgraphs(node))]


def reference_of(tensor: onnx.TensorProto) -> tuple[str, int, int | None]:
    """Location, offset and length of an external tensor."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    length = int(entries["length"]) if "length" in entries else None
    return entries["location"], int(entries.get("offset", 0)), length


def remember(proto: onnx.ModelProto, model: ir.Model) -> None:
    """Record in a model just read the details that `restore` needs."""
    model.meta[_IN_NODES] = False
    for proto_node, node in _pairs(proto, model):
        if proto_node.HasField("domain") and proto_node.domain in DEFAULT_DOMAINS:
            node.meta[_DOMAIN] = proto_node.domain
            model.meta[_IN_NODES] = True
        bodies = bodies_of(node)
        for proto_graph, graph in zip(_proto_subgraphs(proto_node), bodies, strict=False) if bodies else ():
            graph.meta[_VALUE_INFO] = tuple(proto_graph.value_info)
            model.meta[_IN_NODES] = True
    model.meta[_IMPLICIT] = any(not entry.HasField("domain") for entry in proto.opset_import)
    model.meta[_EXTERNAL] = {
        reference_of(tensor): tuple(tensor.external_data)
        for tensor in external_protos(proto)
        if any(entry.key not in _KNOWN_ENTRIES for entry in tensor.external_data)
    }


def restore(model: ir.Model, proto: onnx.ModelProto) -> None:
    """Write the recorded details into a serialised model."""
    for proto_node, node in _pairs(proto, model) if model.meta.get(_IN_NODES, True) else ():
        if _DOMAIN in node.meta:
            proto_node.domain = node.meta[_DOMAIN]
        for proto_graph, graph in zip(_proto_subgraphs(proto_node), bodies_of(node), strict=False):
            if _VALUE_INFO in graph.meta:
                del proto_graph.value_info[:]
                proto_graph.value_info.extend(graph.meta[_VALUE_INFO])
    if model.meta.get(_IMPLICIT):
        for entry in proto.opset_import:
            if not entry.domain:
                entry.ClearField("domain")
    entries = model.meta.get(_EXTERNAL) or {}
    for tensor in external_protos(proto) if entries else ():
        if (reference := reference_of(tensor)) in entries:
            del tensor.external_data[:]
            tensor.external_data.extend(entries[reference])
    del proto.metadata_props[:]
    for key, value in model.metadata_props.items():
        proto.metadata_props.add(key=key, value=value)
