"""Cut a converted model in two: layers, which can be quantised, and operators that need float32.

After the last layer, an anomaly model computes distances, likelihoods or differences of features. Eight bits are not
enough for these: they are small differences of large numbers, and they grow with the anomaly, so ranges calibrated on
normal images clip anomalies. Therefore only layers are quantised, and everything after the last one stays float32,
like the post-processing. Layers are recognised by the graph alone, never by names, except convolutions that a
rewritten tail computes instead of products and sums: these are recognised by the name of their weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pp_graph.errors import TargetError
from pp_graph.fusion.tail import NETWORK_SCOPE, PROJECTION
from pp_graph.openvino.island.graph import detach, find_tensor, is_constant, nodes_between, tensor_key
from pp_graph.openvino.island.island import island_border

if TYPE_CHECKING:
    from collections.abc import Sequence

    import openvino as ov

    from pp_graph.fusion import Provenance

# Axes of a convolution's weights: output channels, input channels.
_CONVOLUTIONS: Final = {
    "Convolution": (0, 1),
    "ConvolutionBackpropData": (1, 0),
    "DeformableConvolution": (0, 1),
    "GroupConvolution": (1, 2),
    "GroupConvolutionBackpropData": (2, 1),
}
_JOINT: Final = "quantised_{}"
_INTEGERS: Final = frozenset({"i8", "u8", "i4", "u4"})


@dataclass(frozen=True)
class CutModel:
    """A model cut into layers and a float32 part.

    Attributes:
        layers: Copy of the layers, with one output per tensor that the float32 part reads.
        whole: The original model, incomplete until `join` is called.
        joints: Placeholder inputs of the float32 part, one for each output of `layers`.
    """

    layers: ov.Model
    whole: ov.Model
    joints: tuple[ov.op.Parameter, ...]

    def tail(self, tensors: Sequence[str]) -> ov.Model:
        """Copy the float32 part up to some tensors.

        Args:
            tensors: Names of the tensors.

        Returns:
            A model whose inputs are the joints, followed by those of the model, and whose outputs are the tensors.
        """
        import openvino as ov
        from openvino import opset13 as ops

        results = [ops.result(find_tensor(self.whole, name)) for name in tensors]
        return ov.Model(results, [*self.joints, *self.whole.get_parameters()], "tail").clone()

    def join(self, layers: ov.Model) -> None:
        """Connect quantised layers to the float32 part in the original model.

        Args:
            layers: The quantised layers.
        """
        inputs = {parameter.get_friendly_name(): parameter for parameter in self.whole.get_parameters()}
        outputs = {result.get_friendly_name(): result.input_value(0) for result in layers.get_results()}
        for index, joint in enumerate(self.joints):
            _exchange(joint.output(0), outputs[_JOINT.format(index)])
        for parameter in layers.get_parameters():
            _exchange(parameter.output(0), inputs[parameter.get_friendly_name()].output(0))
        self.whole.validate_nodes_and_infer_types()


def cut_behind_layers(model: ov.Model, provenance: Provenance, float_from: Sequence[str] = ()) -> CutModel:
    """Cut a model after the last layer on every path to its outputs. Changes the model in place.

    A layer mixes channels: it is a convolution, or a product with one matrix for all positions. These are not layers:
    depthwise convolutions such as blurs, products with a matrix per position (Mahalanobis distances), and products
    whose smallest result is selected (nearest neighbours). Convolutions of a rewritten tail are no layers either.

    Args:
        model: The converted model.
        provenance: Provenance of the model.
        float_from: Names of tensors to cut at instead.

    Raises:
        TargetError: There is nothing to quantise, the network is not float32, or a tensor is not in the model.
    """
    from openvino import opset13 as ops

    marks = _simplify(model, provenance, float_from)
    island = nodes_between(_border(model, provenance), model.get_results())
    behind = _behind(model, island, marks) if marks else _behind_layers(model, island)
    border: dict[tuple[int, int], ov.Output] = {}
    for node in model.get_ordered_ops():
        for value in node.input_values() if node.get_instance_id() in behind else ():
            source = value.get_node()
            if source.get_instance_id() not in behind and not is_constant(source) and not _is_input(source):
                border.setdefault(tensor_key(value), value)
    results = [ops.result(value, name=_JOINT.format(index)) for index, value in enumerate(border.values())]
    layers = _with_used_inputs(model, results).clone() if results else None
    if layers is None or not count_layers(layers):
        raise TargetError(
            "The network has nothing to quantise, expected convolutions or matrix products with weights, and operators "
            "after them. Convert with precision f32 or f16"
            + (
                ", or name other tensors after which it stays f32 (float_from=..., --float-from)."
                if float_from
                else "."
            )
        )
    _require_f32(layers)
    joints = detach(list(border.values()), model.get_results())
    return CutModel(layers, model, tuple(joints))


def split_network(model: ov.Model, provenance: Provenance) -> tuple[list[ov.Node], list[ov.Node]]:
    """Return the operators of the network up to its last layers, and those between the last layers and the island.

    Args:
        model: A converted model; it is not changed.
        provenance: Provenance of the model.

    Returns:
        Two lists in topological order, without constants, parameters and results.
    """
    island = nodes_between(_border(model, provenance), model.get_results())
    behind = _behind_layers(model, island)
    own = [
        node
        for node in model.get_ordered_ops()
        if node.get_instance_id() not in island
        and node.get_type_name() not in ("Constant", "Parameter", "Result")
        and not is_constant(node)
    ]
    before = [node for node in own if node.get_instance_id() not in behind]
    return before, [node for node in own if node.get_instance_id() in behind]


def is_quantisable(node: ov.Node) -> bool:
    """Return True if an operator is of a type that can compute in int8: a convolution or matrix product."""
    return node.get_type_name() in (*_CONVOLUTIONS, "MatMul")


def count_layers(model: ov.Model) -> int:
    """Count convolutions and matrix products with weights."""
    return len(_weights(model))


def count_quantised_layers(model: ov.Model) -> int:
    """Count convolutions and matrix products with integer weights."""
    return sum(not _INTEGERS.isdisjoint(_constant_types(weights)) for weights in _weights(model))


def _simplify(model: ov.Model, provenance: Provenance, float_from: Sequence[str]) -> list[ov.Output]:
    """Fold constants before the island, as OpenVINO would when compiling, so that NNCF recognises biases.

    The island stays unchanged, because the order of its operations matters.

    Returns:
        The tensors named in `float_from`, in the simplified model.
    """
    import openvino as ov
    from openvino import opset13 as ops
    from openvino._offline_transformations import apply_moc_transformations

    begins = _border(model, provenance)
    island = nodes_between(begins, model.get_results())
    marks = [_find_mark(model, provenance, name) for name in float_from]
    for name, mark in zip(float_from, marks, strict=True):
        if mark.get_node().get_instance_id() in island:
            raise TargetError(
                f"Tensor '{name}' is part of the post-processing, which is always float32, expected one in the "
                "network. Name another (--float-from, float_from=...)."
            )
    if not begins:
        return []
    outputs = [ops.result(value) for value in (*begins, *marks)]
    part = ov.Model(outputs, model.get_parameters(), "raw").clone()
    del outputs
    apply_moc_transformations(part, cf=False)
    own_inputs = {parameter.get_friendly_name(): parameter for parameter in model.get_parameters()}
    simplified = [result.input_value(0) for result in part.get_results()]
    for value, folded in zip((*begins, *marks), simplified, strict=True):
        folded.get_tensor().add_names(value.get_names())
    for value, folded in zip(begins, simplified, strict=False):
        for target in list(value.get_target_inputs()):
            if target.get_node().get_instance_id() in island:
                target.replace_source_output(folded)
    for own, copied in zip(model.get_parameters(), part.get_parameters(), strict=True):
        own.output(0).get_tensor().add_names(copied.output(0).get_names())
        _exchange(copied.output(0), own.output(0))
    model.validate_nodes_and_infer_types()
    return [
        own_inputs[mark.get_node().get_friendly_name()].output(0) if _is_input(mark.get_node()) else mark
        for mark in simplified[len(begins) :]
    ]


def _border(model: ov.Model, provenance: Provenance) -> list[ov.Output]:
    """Return the tensors that the island and other outputs read from the network."""
    begins, ends = island_border(model, provenance)
    inside = {result.get_instance_id() for result in ends}
    begins += [result.input_value(0) for result in model.get_results() if result.get_instance_id() not in inside]
    return list({tensor_key(value): value for value in begins if not _is_input(value.get_node())}.values())


def _find_mark(model: ov.Model, provenance: Provenance, name: str) -> ov.Output:
    renamed = {old: new for new, old in provenance.raw.renamed.items()}
    try:
        return find_tensor(model, renamed.get(name, name))
    except TargetError:
        raise TargetError(
            f"Tensor '{name}' is not in the converted model, expected a tensor of the raw model. If rewriting the tail "
            "replaced it, name an earlier one, or fuse with --no-tail."
        ) from None


def _behind(model: ov.Model, island: set[int], marks: Sequence[ov.Output]) -> set[int]:
    """Return the island, and all nodes that depend on some tensors."""
    begins = {tensor_key(mark) for mark in marks}
    behind = set(island)
    for node in model.get_ordered_ops():
        for value in node.input_values():
            if tensor_key(value) in begins or value.get_node().get_instance_id() in behind:
                behind.add(node.get_instance_id())
    return behind


def _behind_layers(model: ov.Model, island: set[int]) -> set[int]:
    """Return the nodes that are not layers and lead to none. Nothing in the island is a layer."""
    before_layer: set[int] = set()
    before_minimum: set[int] = set()
    behind: set[int] = set()
    for node in reversed(model.get_ordered_ops()):
        node_id = node.get_instance_id()
        layer = node_id not in island and _is_layer(node, before_minimum)
        if node_id not in before_layer and not layer:
            behind.add(node_id)
        for value in node.input_values():
            source = value.get_node().get_instance_id()
            if node_id in before_layer or layer:
                before_layer.add(source)
            if node_id not in island and not layer and (node_id in before_minimum or _is_minimum(node)):
                before_minimum.add(source)
    return behind


def _is_layer(node: ov.Node, before_minimum: set[int]) -> bool:
    kind = node.get_type_name()
    if kind in _CONVOLUTIONS:
        projects = f"/{NETWORK_SCOPE}/{PROJECTION}" in node.input_value(1).get_node().get_friendly_name()
        return _mixes_channels(node) and not projects
    if kind == "MatMul" and is_constant(node.input_value(1).get_node()):
        matrices = sum(size != 1 for size in list(node.input_value(1).get_shape())) > 2
        return not (matrices or node.get_instance_id() in before_minimum)
    return False


def _is_minimum(node: ov.Node) -> bool:
    kind = node.get_type_name()
    return bool(kind == "ReduceMin" or (kind == "TopK" and node.get_attributes()["mode"] == "min"))


def _mixes_channels(node: ov.Node) -> bool:
    """True if a convolution computes a channel from several."""
    made, read = _CONVOLUTIONS[node.get_type_name()]
    weights = node.input_value(1 if node.get_type_name() != "DeformableConvolution" else 2)
    source = weights.get_node()
    if source.get_type_name() != "Constant":
        shape = weights.get_partial_shape()
        return bool(shape.rank.is_dynamic or shape[read] != 1)
    data: np.ndarray[Any, Any] = source.data
    others = tuple(axis for axis in range(data.ndim) if axis > max(made, read))
    used = np.moveaxis((data != 0).any(axis=others), (made, read), (-2, -1))
    return bool((used.sum(axis=-1) > 1).any())


def _is_input(node: ov.Node) -> bool:
    return bool(node.get_type_name() == "Parameter")


def _with_used_inputs(model: ov.Model, results: list[ov.op.Result]) -> ov.Model:
    import openvino as ov

    reached = nodes_between((), results)
    used = [parameter for parameter in model.get_parameters() if parameter.get_instance_id() in reached]
    return ov.Model(results, used, "layers")


def _require_f32(layers: ov.Model) -> None:
    for node in layers.get_ordered_ops():
        kind = node.get_type_name()
        if kind == "FakeQuantize":
            raise TargetError(
                f"The network is quantised already ('{node.get_friendly_name()}'), expected a float32 one. Convert it "
                "with precision f32: its int8 layers stay int8."
            )
        if kind in (*_CONVOLUTIONS, "MatMul"):
            element_type = node.get_output_element_type(0).get_type_name()
            if element_type != "f32":
                raise TargetError(
                    f"The network computes in {element_type} ('{node.get_friendly_name()}'), expected f32 to quantise "
                    "from. Export the raw model in float32."
                )


def _weights(model: ov.Model) -> list[ov.Output]:
    """Return the weights of all convolutions and matrix products."""
    weights = []
    for node in model.get_ordered_ops():
        if node.get_type_name() in (*_CONVOLUTIONS, "MatMul"):
            weights += [value for value in node.input_values()[1:] if is_constant(value.get_node())][:1]
    return weights


def _constant_types(value: ov.Output) -> set[str]:
    pending, visited, types = [value.get_node()], set(), set()
    while pending:
        node = pending.pop()
        if node.get_instance_id() in visited:
            continue
        visited.add(node.get_instance_id())
        if node.get_type_name() == "Constant":
            types.add(str(node.get_element_type().get_type_name()))
        pending += [source.get_node() for source in node.input_values()]
    return types


def _exchange(old: ov.Output, new: ov.Output) -> None:
    """Redirect all readers of one tensor to another."""
    for target in list(old.get_target_inputs()):
        target.replace_source_output(new)
