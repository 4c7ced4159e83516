"""Keep what onnx_ir does not: which empty domains a file writes out, and the order of its metadata.

Neither changes what a model means, but a model that was stripped should equal the raw one to the byte.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import onnx
    import onnx_ir as ir

_EXPLICIT: Final = "pp_graph.explicit_domain"
_IMPLICIT: Final = "pp_graph.implicit_domain"


def _proto_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Nodes and those of their subgraphs, in the order in which onnx_ir walks them."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _proto_nodes(attribute.g.node)
            for graph in attribute.graphs:
                yield from _proto_nodes(graph.node)


def _pairs(proto: onnx.ModelProto, model: ir.Model) -> Iterator[tuple[onnx.NodeProto, ir.Node]]:
    yield from zip(_proto_nodes(proto.graph.node), model.graph.all_nodes(), strict=False)
    for theirs, ours in zip(proto.functions, model.functions.values(), strict=False):
        yield from zip(_proto_nodes(theirs.node), ours.all_nodes(), strict=False)


def remember(proto: onnx.ModelProto, model: ir.Model) -> None:
    """Note in a model, just read, what `restore` needs.

    onnx_ir writes no empty domain of a node, and the domain of every import.
    """
    for theirs, ours in _pairs(proto, model):
        if theirs.HasField("domain") and not theirs.domain:
            ours.meta[_EXPLICIT] = True
    model.meta[_IMPLICIT] = any(not entry.HasField("domain") for entry in proto.opset_import)


def restore(model: ir.Model, proto: onnx.ModelProto) -> None:
    """Give a serialised model back what was noted."""
    for theirs, ours in _pairs(proto, model):
        if ours.meta.get(_EXPLICIT):
            theirs.domain = ""
    if model.meta.get(_IMPLICIT):
        for entry in proto.opset_import:
            if not entry.domain:
                entry.ClearField("domain")
    del proto.metadata_props[:]
    for key, value in model.metadata_props.items():
        proto.metadata_props.add(key=key, value=value)
