"""Serialise a graph without its weights, and attach them again."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING, Final

from pp_graph.model import fidelity
from pp_graph.model.graphs import quiet_onnx_ir

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import onnx
    import onnx_ir as ir

    from pp_graph.model.raw_model import RawModel

LOCATION_PREFIX: Final = "pp_graph.held/"
"""How the location of a detached weight begins. Provenance of raised opsets contains it."""
LEAST_DETACHED: Final = 1024
"""Size in bytes from which embedded weights are detached. Smaller ones are sizes, scales and axes."""


def _weights(model: ir.Model) -> Iterator[tuple[str, ir.TensorProtocol, Callable[[ir.TensorProtocol], None]]]:
    """Yield a unique name of each weight, its tensor, and a function that replaces the tensor."""
    import onnx_ir as ir

    def in_value(value: ir.Value) -> Callable[[ir.TensorProtocol], None]:
        return lambda tensor: setattr(value, "const_value", tensor)

    def in_attribute(node: ir.Node, old: ir.Attr) -> Callable[[ir.TensorProtocol], None]:
        def replace(tensor: ir.TensorProtocol) -> None:
            node.attributes[old.name] = ir.Attr(old.name, old.type, tensor, doc_string=old.doc_string)

        return replace

    counts: dict[str, int] = {}

    def unique(name: str) -> str:
        # Both branches of an If may have a weight of the same name; their order does not change.
        counts[name] = counts.get(name, 0) + 1
        return name if counts[name] == 1 else f"{name}#{counts[name]}"

    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield unique(f"{value.name}"), value.const_value, in_value(value)
    for node in model.graph.all_nodes():
        first_output = next((output.name for output in node.outputs if output.name), "")
        for attribute in list(node.attributes.values()):
            if not attribute.is_ref() and attribute.type == ir.AttributeType.TENSOR:
                name = unique(f"{first_output}.{attribute.name}")
                yield name, attribute.as_tensor(), in_attribute(node, attribute)


@contextlib.contextmanager
def detached_weights(model: ir.Model) -> Iterator[dict[str, ir.TensorProtocol]]:
    """Replace large and external weights by references while the graph is serialised.

    Yields:
        The detached weights, by the location in their references.
    """
    import onnx_ir as ir

    detached: dict[str, ir.TensorProtocol] = {}
    to_restore: list[tuple[Callable[[ir.TensorProtocol], None], ir.TensorProtocol]] = []
    try:
        for name, tensor, replace in list(_weights(model)):
            if tensor.nbytes < LEAST_DETACHED and not isinstance(tensor, ir.ExternalTensor):
                continue
            location = f"{LOCATION_PREFIX}{name}"
            to_restore.append((replace, tensor))
            detached[location] = tensor
            shape = ir.Shape(tensor.shape.numpy())
            replace(ir.ExternalTensor(location, None, None, tensor.dtype, shape=shape, name=tensor.name or name))
        yield detached
    finally:
        for replace, tensor in to_restore:
            replace(tensor)


def attach_weights(raw: RawModel, proto: onnx.ModelProto, weights: Mapping[str, ir.TensorProtocol]) -> RawModel:
    """Return a raw model with another graph, whose references to detached weights are resolved."""
    import onnx_ir as ir

    with quiet_onnx_ir():
        model = ir.from_proto(proto)
    fidelity.remember(proto, model)
    model.meta.update(raw.model.meta)
    for _, tensor, replace in list(_weights(model)):
        if isinstance(tensor, ir.ExternalTensor) and str(tensor.location) in weights:
            replace(weights[str(tensor.location)])
    return dataclasses.replace(raw, model=model, edited=True)
