"""Convert a graph to a later opset with `onnx.version_converter`; operators it need not change keep their bytes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from pp_graph.errors import OpsetError, first_line
from pp_graph.model import fidelity
from pp_graph.model.detached_weights import LEAST_DETACHED
from pp_graph.model.graphs import DEFAULT_DOMAINS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import onnx
    import onnx_ir as ir

_RESIZE_ASYMMETRIC_UNTIL: Final = 10


def convert_opset(
    original: onnx.ModelProto, weights: Mapping[str, ir.TensorProtocol], before: int, target: int
) -> tuple[onnx.ModelProto, list[str], dict[int, onnx.NodeProto]]:
    """Convert a model whose weights are detached.

    Args:
        original: The model; it is not changed.
        weights: Its detached weights, by location.
        before: Its opset.
        target: The opset to convert to.

    Returns:
        The converted model, an output of each new operator, and the replaced operators by their index in `original`.

    Raises:
        OpsetError: The converter fails.
    """
    import onnx
    from onnx import version_converter

    try:
        converted = version_converter.convert_version(_with_small_weights(original, weights), target)
    except Exception as error:  # C++ raises errors of many kinds
        raise OpsetError(
            f"The model is at opset {before} and cannot be raised to {target}: onnx.version_converter reports "
            f"'{first_line(error)}'. Choose a lower opset, or export it again with opset_version={target}."
        ) from error
    if before <= _RESIZE_ASYMMETRIC_UNTIL < target:
        _keep_asymmetric(converted.graph.node)
    known = {tensor.name for tensor in original.graph.initializer}
    # Before IR version 4 an initializer must be an input as well, and the inputs stay as they are.
    nodes = [
        onnx.helper.make_node("Constant", [], [tensor.name], value=tensor)
        for tensor in converted.graph.initializer
        if tensor.name not in known
    ]
    added = [node.output[0] for node in nodes]
    originals = {tuple(node.output): node for node in original.graph.node}
    kept: set[tuple[str, ...]] = set()
    for node in converted.graph.node:
        outputs = tuple(node.output)
        before_conversion = originals.get(outputs)
        if before_conversion is not None and _same(before_conversion, node):
            kept.add(outputs)
            nodes.append(before_conversion)
        else:
            _drop_value_info(node)
            added.append(next(filter(None, outputs)))
            nodes.append(node)
    replaced = {index: node for index, node in enumerate(original.graph.node) if tuple(node.output) not in kept}
    raised = onnx.ModelProto()
    raised.CopyFrom(original)
    set_operators(raised, nodes, target)
    return raised, added, replaced


def set_operators(proto: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], opset: int) -> None:
    """Replace all operators of a model's main graph, and set its opset."""
    import onnx

    graph = onnx.GraphProto(node=nodes)
    del proto.graph.node[:]
    proto.graph.node.extend(graph.node)
    for entry in proto.opset_import:
        if entry.domain in DEFAULT_DOMAINS:
            entry.version = opset


def _with_small_weights(original: onnx.ModelProto, weights: Mapping[str, ir.TensorProtocol]) -> onnx.ModelProto:
    """Copy a model and embed small external weights: the converter needs sizes and scales, and reads no other files."""
    import onnx
    import onnx_ir as ir

    proto = onnx.ModelProto()
    proto.CopyFrom(original)
    for tensor in fidelity.external_protos(proto):
        weight = weights.get(fidelity.reference_of(tensor)[0])
        if isinstance(weight, ir.ExternalTensor) and weight.nbytes < LEAST_DETACHED:
            with Path(weight.path).open("rb") as stream:
                stream.seek(weight.offset or 0)
                tensor.raw_data = stream.read(weight.nbytes)
            del tensor.external_data[:]
            tensor.data_location = onnx.TensorProto.DEFAULT
    return proto


def _keep_asymmetric(nodes: Iterable[onnx.NodeProto]) -> None:
    """Give Resize the coordinates it has up to opset 10; the converter omits them."""
    import onnx

    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _keep_asymmetric(attribute.g.node)
        names = {attribute.name for attribute in node.attribute}
        if (
            node.op_type == "Resize"
            and node.domain in DEFAULT_DOMAINS
            and "coordinate_transformation_mode" not in names
        ):
            node.attribute.append(onnx.helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
            node.attribute.append(onnx.helper.make_attribute("nearest_mode", "floor"))


def _same(original: onnx.NodeProto, node: onnx.NodeProto) -> bool:
    """True if the converter left an operator unchanged, except for doc strings."""
    if original.op_type != node.op_type or (original.domain or "ai.onnx") != (node.domain or "ai.onnx"):
        return False
    if original.op_type == "Constant":
        return True  # small ones were embedded for the converter; no opset changes their meaning
    return list(original.input) == list(node.input) and _attributes(original) == _attributes(node)


def _attributes(node: onnx.NodeProto) -> dict[str, bytes]:
    import onnx

    plain = onnx.NodeProto()
    plain.CopyFrom(node)
    _drop_value_info(plain)
    for attribute in plain.attribute:
        attribute.ClearField("doc_string")
    return {attribute.name: attribute.SerializeToString(deterministic=True) for attribute in plain.attribute}


def _drop_value_info(node: onnx.NodeProto) -> None:
    """Remove the value declarations that the converter adds to an operator's subgraphs."""
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
            del body.value_info[:]
            for inner in body.node:
                _drop_value_info(inner)
