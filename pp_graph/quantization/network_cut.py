"""Cut a converted model in two: the layers, which can be quantised, and what only float32 can compute.

Behind the last layer an anomaly model computes distances, likelihoods or differences of features. They are no
business of eight bits, for two reasons. Such a number is a small difference of large ones; and it grows with the
anomaly, so that a range calibrated on normal images cuts it off where anomalies begin. So the layers are quantised, and
all that follows them stays float32, like the post-processing behind it. What a layer is shows in the graph; names say
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pp_graph.errors import TargetError
from pp_graph.openvino.island.graph import detach, find_tensor, is_constant, nodes_between, tensor_key
from pp_graph.openvino.island.island import island_border

if TYPE_CHECKING:
    from collections.abc import Sequence

    import openvino as ov

    from pp_graph.fusion import Provenance

# Where a convolution's weights have the channels that it computes, and those that it reads.
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
    """A model that was cut in two.

    Attributes:
        layers: The part to quantise, a copy with an output for each tensor that leads out of it.
        whole: The model; it is not complete until the parts are joined.
        joints: What the other part is fed from in the meantime, one a tensor.
    """

    layers: ov.Model
    whole: ov.Model
    joints: tuple[ov.op.Parameter, ...]

    def tail(self, tensors: Sequence[str]) -> ov.Model:
        """The float32 part, up to some tensors of it.

        Args:
            tensors: Names of the tensors.

        Returns:
            A copy, with an input a joint, those of the model behind them, and an output a tensor.
        """
        import openvino as ov
        from openvino import opset13 as ops

        results = [ops.result(find_tensor(self.whole, name)) for name in tensors]
        return ov.Model(results, [*self.joints, *self.whole.get_parameters()], "tail").clone()

    def join(self, layers: ov.Model) -> None:
        """Put the layers before the float32 part again, in the model itself.

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
    """Cut a model behind the last layer on every way to its outputs. Changes the model in place.

    A layer mixes channels: a convolution, or a product with one matrix for all positions. A convolution that blurs or
    shifts each channel by itself is none. Nor is a product with a matrix for each position (a Mahalanobis distance), or
    one of whose results the smallest is sought (the nearest neighbour).

    Args:
        model: The converted model.
        provenance: What is fused into it.
        float_from: Names of tensors from which on to stay float32 instead.

    Raises:
        TargetError: There is nothing to quantise, the network is no float32 one, or a tensor is not in the model.
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
            "The network has nothing to quantise, expected convolutions or matrix products with weights, and something "
            "behind them that stays f32. Convert with precision f32 or f16"
            + (", or let it stay f32 from other tensors on (float_from=..., --float-from)." if float_from else ".")
        )
    _require_f32(layers)
    joints = detach(list(border.values()), model.get_results())
    return CutModel(layers, model, tuple(joints))


def count_layers(model: ov.Model) -> int:
    """Number of convolutions and matrix products with weights."""
    return len(_weights(model))


def count_quantised_layers(model: ov.Model) -> int:
    """Number of those whose weights are integers."""
    return sum(any(kind in _INTEGERS for kind in _constant_types(each)) for each in _weights(model))


def _simplify(model: ov.Model, provenance: Provenance, float_from: Sequence[str]) -> list[ov.Output]:
    """Fold constants in the raw part, as OpenVINO would when compiling; NNCF knows biases by that.

    The island is left as it is: its arithmetic has an order.

    Returns:
        The tensors named, in the simplified part.
    """
    import openvino as ov
    from openvino import opset13 as ops
    from openvino._offline_transformations import apply_moc_transformations

    begins = _border(model, provenance)
    island = nodes_between(begins, model.get_results())
    marks = [_find_mark(model, provenance, name) for name in float_from]
    beyond = next((name for name, mark in zip(float_from, marks, strict=True) if _is_beyond(mark, island)), None)
    if beyond is not None:
        raise TargetError(
            f"Tensor '{beyond}' is behind the beginning of the post-processing, which is float32 in any case, expected "
            "one in the network before it. Name another (--float-from, float_from=...)."
        )
    if not begins:
        return []
    outputs = [ops.result(value) for value in (*begins, *marks)]
    part = ov.Model(outputs, model.get_parameters(), "raw").clone()
    del outputs
    apply_moc_transformations(part, cf=False)
    own_inputs = {parameter.get_friendly_name(): parameter for parameter in model.get_parameters()}
    found = [result.input_value(0) for result in part.get_results()]
    for value, renewed in zip((*begins, *marks), found, strict=True):
        renewed.get_tensor().add_names(value.get_names())
    for value, renewed in zip(begins, found, strict=False):
        for target in list(value.get_target_inputs()):
            if target.get_node().get_instance_id() in island:
                target.replace_source_output(renewed)
    for own, copied in zip(model.get_parameters(), part.get_parameters(), strict=True):
        own.output(0).get_tensor().add_names(copied.output(0).get_names())
        _exchange(copied.output(0), own.output(0))
    model.validate_nodes_and_infer_types()
    return [
        own_inputs[mark.get_node().get_friendly_name()].output(0) if _is_input(mark.get_node()) else mark
        for mark in found[len(begins) :]
    ]


def _border(model: ov.Model, provenance: Provenance) -> list[ov.Output]:
    """Tensors that lead from the raw part into the island, and to other outputs."""
    begins, ends = island_border(model, provenance)
    inside = {result.get_instance_id() for result in ends}
    begins += [result.input_value(0) for result in model.get_results() if result.get_instance_id() not in inside]
    return list({tensor_key(value): value for value in begins if not _is_input(value.get_node())}.values())


def _is_beyond(mark: ov.Output, island: set[int]) -> bool:
    return mark.get_node().get_instance_id() in island


def _find_mark(model: ov.Model, provenance: Provenance, name: str) -> ov.Output:
    renamed = {old: new for new, old in provenance.raw.renamed.items()}
    try:
        return find_tensor(model, renamed.get(name, name))
    except TargetError:
        raise TargetError(
            f"Tensor '{name}' is not in the converted model, expected a tensor of the raw model from which on it stays "
            "float32. Rewriting its tail may have replaced it: name one further up, or fuse with --no-tail."
        ) from None


def _behind(model: ov.Model, island: set[int], marks: Sequence[ov.Output]) -> set[int]:
    """The island, nodes that read some tensors, and all that follow from them."""
    begins = {tensor_key(mark) for mark in marks}
    found = set(island)
    for node in model.get_ordered_ops():
        reads = any(
            tensor_key(value) in begins or value.get_node().get_instance_id() in found for value in node.input_values()
        )
        if reads:
            found.add(node.get_instance_id())
    return found


def _behind_layers(model: ov.Model, island: set[int]) -> set[int]:
    """Nodes behind which no layer follows, and that are none themselves. Nothing in the island is a layer."""
    before_layer: set[int] = set()
    seeks_smallest: set[int] = set()
    found: set[int] = set()
    for node in reversed(model.get_ordered_ops()):
        own = node.get_instance_id()
        layer = own not in island and _is_layer(node, seeks_smallest)
        if own not in before_layer and not layer:
            found.add(own)
        for value in node.input_values():
            source = value.get_node().get_instance_id()
            if own in before_layer or layer:
                before_layer.add(source)
            if own not in island and not layer and (own in seeks_smallest or _seeks_smallest(node)):
                seeks_smallest.add(source)
    return found


def _is_layer(node: ov.Node, seeks_smallest: set[int]) -> bool:
    kind = node.get_type_name()
    if kind in _CONVOLUTIONS:
        return _mixes_channels(node)
    if kind == "MatMul" and is_constant(node.input_value(1).get_node()):
        matrices = sum(size != 1 for size in list(node.input_value(1).get_shape())) > 2
        return not (matrices or node.get_instance_id() in seeks_smallest)
    return False


def _seeks_smallest(node: ov.Node) -> bool:
    kind = node.get_type_name()
    return bool(kind == "ReduceMin" or (kind == "TopK" and node.get_attributes()["mode"] == "min"))


def _mixes_channels(node: ov.Node) -> bool:
    """Whether a convolution computes a channel from several."""
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
                "with precision f32: what is int8 in it stays int8."
            )
        if kind in (*_CONVOLUTIONS, "MatMul"):
            found = node.get_output_element_type(0).get_type_name()
            if found != "f32":
                raise TargetError(
                    f"The network computes in {found} ('{node.get_friendly_name()}'), expected f32 to quantise from. "
                    "Export the raw model in float32."
                )


def _weights(model: ov.Model) -> list[ov.Output]:
    """Weights of the layers, or products with a constant, whatever they mix."""
    found = []
    for node in model.get_ordered_ops():
        if node.get_type_name() in (*_CONVOLUTIONS, "MatMul"):
            found += [value for value in node.input_values()[1:] if is_constant(value.get_node())][:1]
    return found


def _constant_types(value: ov.Output) -> set[str]:
    pending, seen, kinds = [value.get_node()], set(), set()
    while pending:
        node = pending.pop()
        if node.get_instance_id() in seen:
            continue
        seen.add(node.get_instance_id())
        if node.get_type_name() == "Constant":
            kinds.add(str(node.get_element_type().get_type_name()))
        pending += [each.get_node() for each in node.input_values()]
    return kinds


def _exchange(old: ov.Output, new: ov.Output) -> None:
    """Let all that reads one tensor read another."""
    for target in list(old.get_target_inputs()):
        target.replace_source_output(new)
