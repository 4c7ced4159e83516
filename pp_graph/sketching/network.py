"""The last layers of a network, found by walking back from the values that matter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pp_graph.model import format_shape
from pp_graph.sketching.parts import Part

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import onnx_ir as ir
    import openvino as ov

    from pp_graph.model import RawModel

_LAYERS = 8
"""Layers to draw, or one for each value, if these are more."""
BEFORE = "before"
"""Key of the box that stands for all layers that are not drawn."""


def _last(ends: Sequence[str], reads: Callable[[str], Sequence[str]]) -> tuple[list[str], int]:
    """Walk back from some operators. Returns the nearest ones, and the number of all others before them."""
    nearest: list[str] = []
    seen, pending = set(ends), list(dict.fromkeys(ends))
    for name in pending:  # grows while it is read, so that the nearest come first
        if len(nearest) < max(_LAYERS, len(ends)):
            nearest.append(name)
        fresh = [source for source in reads(name) if source not in seen]
        seen.update(fresh)
        pending += dict.fromkeys(fresh)
    return nearest, len(seen) - len(nearest)


def _parts(
    order: Iterable[str],
    ends: Mapping[str, str],
    reads: Callable[[str], Sequence[str]],
    describe: Callable[[str], tuple[str, str, str]],
    feeds: Callable[[str], bool],
) -> tuple[Part, ...]:
    """Return the layers as parts, in the order of the graph.

    Args:
        order: All operators in order.
        ends: The operator that computes each tensor to draw.
        reads: Operators that an operator reads.
        describe: Operator, shape and name.
        feeds: True if an operator reads an input of the model.
    """
    nearest, before = _last(list(dict.fromkeys(ends.values())), reads)
    drawn = set(nearest)
    parts = []
    if before:
        parts.append(Part(BEFORE, "layer", f"… {before:,} operators before" if before > 1 else "… 1 operator before"))
    for name in order:
        if name not in drawn:
            continue
        sources = reads(name)
        keys = [f"layer {source}" for source in sources if source in drawn]
        if before and len(keys) < len(sources):
            keys.append(BEFORE)
        title, shape, detail = describe(name)
        if feeds(name):
            detail = f"{detail}, reads the input" if detail else "reads the input"
        parts.append(Part(f"layer {name}", "layer", title, shape, detail, tuple(dict.fromkeys(keys))))
    return tuple(parts)


def _linked(layers: tuple[Part, ...], ends: Mapping[str, str]) -> tuple[tuple[Part, ...], dict[str, str]]:
    return layers, {f"tensor {tensor}": f"layer {operator}" for tensor, operator in ends.items()}


def layers_of_onnx(
    raw: RawModel, tensors: Iterable[str], shapes: Mapping[str, str]
) -> tuple[tuple[Part, ...], dict[str, str]]:
    """Return the layers of an ONNX model that compute some tensors last.

    Args:
        raw: The model.
        tensors: Names of the tensors.
        shapes: Shapes of tensors that the file does not declare.

    Returns:
        The layers in order, and the key of the layer that computes `tensor NAME`.
    """
    graph = raw.model.graph
    nodes = {f"{index}": node for index, node in enumerate(graph)}
    index_of = {id(node): index for index, node in nodes.items()}
    made = {value.name: index for index, node in nodes.items() for value in node.outputs if value.name}
    inputs = {id(value) for value in graph.inputs}

    def reads(index: str) -> list[str]:
        producers = [value.producer() for value in nodes[index].inputs if value is not None]
        return [
            index_of[id(node)] for node in producers if node is not None and node.op_type != "Constant" and id(node) in
            index_of
        ]  # fmt: skip

    def describe(index: str) -> tuple[str, str, str]:
        node = nodes[index]
        value = node.outputs[0]
        return node.op_type, shapes.get(value.name or "", _shape(value)), node.name or value.name or ""

    def feeds(index: str) -> bool:
        return any(id(value) in inputs and not value.is_initializer() for value in nodes[index].inputs if value)

    ends = {tensor: made[tensor] for tensor in tensors if tensor in made}
    return _linked(_parts(nodes, ends, reads, describe, feeds), ends)


def _shape(value: ir.Value) -> str:
    if value.shape is None:
        return ""
    return format_shape(tuple(size if isinstance(size, int) else size.value for size in value.shape))


def layers_of_ir(model: ov.Model, tensors: Iterable[str]) -> tuple[tuple[Part, ...], dict[str, str]]:
    """Return the layers of an OpenVINO model that compute some tensors last; see `layers_of_onnx`."""
    nodes = {node.get_friendly_name(): node for node in model.get_ordered_ops()}
    sources = {
        name: [port.get_source_output().get_node() for port in node.inputs()] for name, node in nodes.items()
    }  # fmt: skip
    # A constant and what is computed from constants alone, such as weights that are decompressed, is no layer.
    layers: dict[str, None] = {}
    for name, node in nodes.items():
        kind = node.get_type_name()
        if kind not in ("Constant", "Parameter", "Result") and (
            not sources[name]
            or any(
                source.get_type_name() == "Parameter" or source.get_friendly_name() in layers
                for source in sources[name]
            )
        ):
            layers[name] = None

    def reads(name: str) -> list[str]:
        return [found for source in sources[name] if (found := source.get_friendly_name()) in layers]

    def describe(name: str) -> tuple[str, str, str]:
        from pp_graph.openvino.core import partial_shape

        node = nodes[name]
        return node.get_type_name(), format_shape(partial_shape(node.output(0))), name

    def feeds(name: str) -> bool:
        return any(source.get_type_name() == "Parameter" for source in sources[name])

    named = {tensor: name for name, node in nodes.items() for port in node.outputs() for tensor in port.get_names()}
    ends = {tensor: named.get(tensor, tensor) for tensor in tensors}
    # A Result carries the names of what it returns.
    ends = {
        tensor: sources[name][0].get_friendly_name() if name in nodes and nodes[name].get_type_name() == "Result"
        else name for tensor, name in ends.items()
    }  # fmt: skip
    ends = {tensor: name for tensor, name in ends.items() if name in layers}
    return _linked(_parts(nodes, ends, reads, describe, feeds), ends)
