"""Rewrite parts of a network that OpenVINO's CPU plugin computes wrongly.

Found in OpenVINO 2025.0 to 2026.4.1. `tests/openvino/test_workarounds.py` has minimal models. Its tests of OpenVINO
alone are skipped with a reason once a version computes them right: then this file can go.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from pp_graph.fusion.injection import PREFIX
from pp_graph.fusion.tail import NETWORK_SCOPE
from pp_graph.openvino.island.rewrites import move_names_and_consumers

if TYPE_CHECKING:
    from collections.abc import Iterator

    import openvino as ov

    from pp_graph.steps import Array

_VARYING: Final = frozenset({"Parameter", "ReadValue", "RandomUniform", "Multinomial"})
_FLOATS: Final = frozenset({"f64", "f32", "f16", "bf16"})
_CONVERSIONS: Final = frozenset({"Convert", "ConvertLike"})
_ADDITIONS: Final = frozenset({"Add", "Subtract"})
_ARITHMETIC: Final = _ADDITIONS | {"Multiply", "Divide"}
_REDUCTIONS: Final = {
    "ReduceL1": "reduce_l1",
    "ReduceL2": "reduce_l2",
    "ReduceMax": "reduce_max",
    "ReduceMean": "reduce_mean",
    "ReduceMin": "reduce_min",
    "ReduceProd": "reduce_prod",
    "ReduceSum": "reduce_sum",
}
# Operators that the plugin runs within a reduction.
_FUSED_WITH_REDUCTIONS: Final = _CONVERSIONS | _ARITHMETIC | {
    "Abs", "Clamp", "Elu", "Gelu", "HSigmoid", "HSwish", "Maximum", "Minimum", "Mish", "Negative", "PRelu", "Relu",
    "Round", "Sigmoid", "SoftPlus", "Sqrt", "Swish", "Tanh",
}  # fmt: skip


def work_around_defects(model: ov.Model, prefix: str = PREFIX) -> list[str]:
    """Rewrite the parts of a network that OpenVINO's CPU plugin computes wrongly. Changes the model in place.

    Results stay the same up to rounding. Shapes, element types and names of outputs stay. Bodies of control flow are
    not rewritten.

    Args:
        model: A model as read from ONNX.
        prefix: Prefix of the names of the post-processing's nodes. These are not rewritten: `verify` checks them alone.

    Returns:
        A sentence for each kind of rewriting that was applied.
    """
    applied = []
    if joined := _join_added_constants(_Network(model, prefix)):
        applied.append(
            "constants added one after the other behind a matrix product are added as one, because OpenVINO's CPU "
            f"plugin loses the first ({_places(joined)})"
        )
    if separated := _separate_reductions(_Network(model, prefix)):
        applied.append(
            "reductions of the last of three axes are written in another form, because OpenVINO's CPU plugin applies a "
            f"per-channel constant behind them along the batch ({_places(separated)})"
        )
    if applied:
        model.validate_nodes_and_infer_types()
    return applied


def _places(count: int) -> str:
    return "1 place" if count == 1 else f"{count} places"


class _Network:
    """The network in a model: all nodes but those of the post-processing. A rewritten tail belongs to the network."""

    def __init__(self, model: ov.Model, prefix: str) -> None:
        self.nodes: list[ov.Node] = []
        self._varying: set[int] = set()
        self._prefix = f"{prefix}/"
        for node in model.get_ordered_ops():
            if self.contains(node):
                self.nodes.append(node)
            if node.get_type_name() in _VARYING or not all(map(self.is_constant, node.input_values())):
                self._varying.add(node.get_instance_id())

    def contains(self, node: ov.Node) -> bool:
        name = node.get_friendly_name()
        return not name.startswith(self._prefix) or name.startswith(f"{self._prefix}{NETWORK_SCOPE}/")

    def is_constant(self, value: ov.Output) -> bool:
        return value.get_node().get_instance_id() not in self._varying

    def operands(self, node: ov.Node) -> tuple[ov.Output, ov.Output] | None:
        """Return the varying and the constant operand of a binary operator; None if it has not one of each."""
        if node.get_input_size() != 2:
            return None
        first, second = node.input_values()
        if self.is_constant(first) == self.is_constant(second):
            return None
        return (second, first) if self.is_constant(first) else (first, second)


# --- constants added after a matrix product ---


@dataclass
class _Sum:
    """A chain of conversions and arithmetic with constants: `source * factors + terms`."""

    source: ov.Output
    factors: Array = field(default_factory=lambda: np.ones((), np.float64))
    terms: Array = field(default_factory=lambda: np.zeros((), np.float64))
    element_types: set[str] = field(default_factory=set)
    nodes: set[int] = field(default_factory=set)


def _join_added_constants(network: _Network) -> int:
    """Add the constants of `Add(Convert(Add(MatMul(x, w), a)), b)` at once; return the number of rewritten places.

    The plugin computes in float32, so the conversion vanishes. It then loses `a` if both constants are per channel. The
    sum is computed in the widest type of the chain, so rounding is never coarser than before.
    """
    import openvino as ov
    from openvino import opset13 as ops

    joined: set[int] = set()
    count = 0
    for node in reversed(network.nodes):
        chain = _lossy_sum(node, network) if node.get_instance_id() not in joined else None
        if chain is None:
            continue
        widest = ov.Type.f64 if "f64" in chain.element_types else ov.Type.f32
        value = _converted(chain.source, widest)
        if (chain.factors != 1).any():
            value = ops.multiply(value, ops.constant(chain.factors, widest)).output(0)
        value = ops.add(value, ops.constant(chain.terms, widest)).output(0)
        _replace(node, _converted(value, node.get_output_element_type(0)))
        joined |= chain.nodes
        count += 1
    return count


def _lossy_sum(node: ov.Node, network: _Network) -> _Sum | None:
    """Return the chain of additions that ends in a node, if the plugin loses a constant of it."""
    if node.get_type_name() not in _ADDITIONS:
        return None
    value = node.output(0)
    chain = _Sum(value)
    factors, terms = chain.factors, chain.terms
    per_channel = converted = lossy = False
    while not chain.nodes or len(value.get_target_inputs()) == 1:
        above, element_type = value.get_node(), value.get_element_type().get_type_name()
        kind = above.get_type_name()
        if not network.contains(above) or element_type not in _FLOATS:
            break
        if kind in _CONVERSIONS or _keeps_shape(above):
            value = above.input_value(0)
            converted |= per_channel and value.get_element_type() != above.get_output_element_type(0)
        else:
            operands = network.operands(above) if kind in _ARITHMETIC else None
            affine = _as_affine(above, *operands) if operands is not None else None
            # Factors after the last conversion keep the plugin from fusing the additions.
            if operands is None or affine is None or not (converted or (affine[0] == 1).all()):
                break
            value, constant = operands
            factors, terms = factors * affine[0], terms + factors * affine[1]
            if kind in _ADDITIONS:
                chain.source, chain.factors, chain.terms = value, factors, terms
                chain.nodes.add(above.get_instance_id())
                if _is_per_channel(constant, value.get_partial_shape(), -1):
                    lossy |= converted
                    per_channel = True
        chain.element_types |= {element_type, value.get_element_type().get_type_name()}
    return chain if lossy and _is_behind_product(chain.source, network) else None


def _as_affine(node: ov.Node, value: ov.Output, constant: ov.Output) -> tuple[Array, Array] | None:
    """Return factors and terms with which a node computes `value * factors + terms`; None if it changes the shape."""
    numbers = _values(constant) if _keeps_shape_of(value, constant) else None
    if numbers is None:
        return None
    kind, one, zero = node.get_type_name(), np.ones(()), np.zeros(())
    constant_first = node.input_value(0) == constant
    if kind == "Add":
        return one, numbers
    if kind == "Subtract":
        return (-one, numbers) if constant_first else (one, -numbers)
    if kind == "Multiply":
        return numbers, zero
    return None if constant_first or not numbers.all() else (1 / numbers, zero)


def _keeps_shape(node: ov.Node) -> bool:
    """Return True if a node is a Reshape without effect."""
    if node.get_type_name() != "Reshape":
        return False
    before, after = node.get_input_partial_shape(0), node.get_output_partial_shape(0)
    return bool(before.rank.is_static and before == after and sum(size.is_dynamic for size in before) <= 1)


def _keeps_shape_of(value: ov.Output, constant: ov.Output) -> bool:
    """Return True if a constant is a scalar or has one number per entry of a value's last axis."""
    shape, added = value.get_partial_shape(), constant.get_partial_shape()
    if shape.rank.is_dynamic or added.is_dynamic or len(added) > len(shape):
        return False
    return _size(constant) == 1 or _is_per_channel(constant, shape, -1)


def _is_behind_product(value: ov.Output, network: _Network) -> bool:
    """Return True if nothing but arithmetic that the plugin may merge lies between a matrix product and a value."""
    while len(value.get_target_inputs()) == 1:
        node = value.get_node()
        kind = node.get_type_name()
        if kind == "MatMul":
            return network.is_constant(node.input_value(1))
        if kind == "Einsum":
            return any(map(network.is_constant, node.input_values()))
        operands = network.operands(node) if kind in _ARITHMETIC else None
        if operands is not None:
            value = operands[0]
        elif kind in _CONVERSIONS or _keeps_shape(node):
            value = node.input_value(0)
        else:
            break
    return False


def _values(value: ov.Output) -> Array | None:
    """Return a constant's numbers in float64, computed by OpenVINO if it is an expression such as `Convert`."""
    import openvino as ov
    from openvino import opset13 as ops
    from openvino.passes import ConstantFolding, Manager

    node = value.get_node()
    if node.get_type_name() != "Constant":
        copy = ov.Model([ops.result(value)], [], "constant").clone()
        manager = Manager()
        manager.register_pass(ConstantFolding())
        try:
            manager.run_passes(copy)
        except RuntimeError:  # too large for the memory, for example
            return None
        node = copy.get_results()[0].input_value(0).get_node()
        if node.get_type_name() != "Constant":
            return None
    return np.array(node.get_data(dtype=np.float64))


def _converted(value: ov.Output, element_type: ov.Type) -> ov.Output:
    from openvino import opset13 as ops

    return value if value.get_element_type() == element_type else ops.convert(value, element_type).output(0)


# --- reductions of the last of three axes ---


def _separate_reductions(network: _Network) -> int:
    """Rewrite reductions that the plugin fuses wrongly with what follows; return the number of rewritten places.

    After a reduction of (N,C,K) to (N,C) or (N,C,1), the plugin applies a per-channel constant along N instead of C. It
    does not fuse across a Squeeze, and handles (N,C,K,1) to (N,C,1,1) correctly, so the reduction is rewritten in that
    form. A static batch of 1 is rewritten too, because the model may be reshaped.
    """
    from openvino import opset13 as ops

    count = 0
    for node in network.nodes:
        if node.get_type_name() not in _REDUCTIONS or not _reduces_last_of_three(node, network):
            continue
        keeps_axis = node.get_attributes()["keep_dims"]
        if not _meets_per_channel_constant(node, -2 if keeps_axis else -1, network):
            continue
        reduce = getattr(ops, _REDUCTIONS[node.get_type_name()])
        if keeps_axis:
            unsqueezed = ops.unsqueeze(node.input_value(0), _axes(3))
            reduced = reduce(unsqueezed, _axes(2, 3), keep_dims=True)
            squeezed = ops.squeeze(reduced, _axes(3))
        else:
            reduced = reduce(node.input_value(0), _axes(2), keep_dims=True)
            squeezed = ops.squeeze(reduced, _axes(2))
        reduced.set_friendly_name(f"{node.get_friendly_name()}/reduced")
        _replace(node, squeezed.output(0))
        count += 1
    return count


def _reduces_last_of_three(node: ov.Node, network: _Network) -> bool:
    rank, axes = node.get_input_partial_shape(0).rank, node.input_value(1)
    if rank.is_dynamic or rank.get_length() != 3:
        return False
    # ONNX's global pooling reduces Range(2, rank), with the rank read from the tensor.
    if axes.get_node().get_type_name() == "Range" and axes.get_partial_shape() == [1]:
        axes = axes.get_node().input_value(0)
    values = _values(axes) if network.is_constant(axes) else None
    return values is not None and {int(axis) % 3 for axis in values.ravel()} == {2}


def _meets_per_channel_constant(reduction: ov.Node, axis: int, network: _Network) -> bool:
    """Return True if operators that the plugin fuses into a reduction read a constant per channel.

    Args:
        reduction: The reduction.
        axis: Axis of the channels in its output, counted from the end.
        network: The network.
    """
    shape = reduction.get_output_partial_shape(0)
    for node in _only_consumers(reduction):
        kind = node.get_type_name()
        if not network.contains(node) or kind not in _FUSED_WITH_REDUCTIONS:
            return False
        operands = network.operands(node)
        if operands is not None and _size(operands[1]) != 1:
            fused = kind in _ARITHMETIC | {"PRelu"} and not (
                kind == "Divide" and network.is_constant(node.input_value(0))
            )
            return fused and _is_per_channel(operands[1], shape, axis)
    return False


def _only_consumers(node: ov.Node) -> Iterator[ov.Node]:
    """Yield the consumer of a node's output, the consumer of that one's, and so on, while there is exactly one."""
    while node.get_output_size() == 1 and len(consumers := node.output(0).get_target_inputs()) == 1:
        node = next(iter(consumers)).get_node()
        yield node


def _axes(*axes: int) -> ov.Node:
    from openvino import opset13 as ops

    return ops.constant(np.array(axes, np.int64))


# --- both ---


def _is_per_channel(constant: ov.Output, shape: ov.PartialShape, axis: int) -> bool:
    """Return True if a constant has one number per entry of an axis of a tensor with a shape."""
    sizes, size = constant.get_partial_shape(), _size(constant)
    if size < 1 or not -axis <= len(shape) >= len(sizes) or not (shape[axis].is_dynamic or shape[axis] == size):
        return False
    return size == 1 or bool(len(sizes) >= -axis and sizes[axis] == size)


def _size(constant: ov.Output) -> int:
    """Return how many numbers a constant has; 0 if OpenVINO does not know."""
    shape = constant.get_partial_shape()
    return int(np.prod(shape.to_shape())) if shape.is_static else 0


def _replace(node: ov.Node, new: ov.Output) -> None:
    """Give a node's names and consumers to another output."""
    new.get_node().set_friendly_name(node.get_friendly_name())
    move_names_and_consumers(node.output(0), new, list(node.output(0).get_target_inputs()))
