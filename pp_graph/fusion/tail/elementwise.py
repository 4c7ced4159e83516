"""Elementwise operators with one variable input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection

    import onnx_ir as ir

    from pp_graph.fusion.tail.view import GraphView
    from pp_graph.model.constants import Array
    from pp_graph.steps import Emitter

_UNARY: Final = frozenset({"Abs", "Ceil", "Clip", "Floor", "Identity", "Neg", "Relu", "Sqrt"})
_ARITHMETIC: Final = frozenset({"Add", "Div", "Mul", "Sub"})
"""With a scalar constant. OpenVINO rounds a sequence of them once, or after each, depending on the operators around."""
_BINARY: Final = _ARITHMETIC | {"Max", "Min"}


@dataclass(frozen=True)
class Elementwise:
    """An elementwise operator whose other inputs are scalar constants.

    Attributes:
        node: The operator.
        place: Position of the numbers among its inputs.
        constants: The other inputs, as scalars; None for those left out.
    """

    node: ir.Node
    place: int
    constants: tuple[Array | None, ...]

    @property
    def exact(self) -> bool:
        """True if runtimes compute it bit-identically, whatever operators are next to it."""
        return self.node.op_type not in _ARITHMETIC

    def emit(self, op: Emitter, numbers: ir.Value) -> ir.Value:
        """Write the operator for other numbers."""
        inputs = [
            None if number is None else op.constant(number.dtype.type(number), "number") for number in self.constants
        ]
        inputs.insert(self.place, numbers)
        return op.rewired(self.node, inputs)


def elementwise(view: GraphView, node: ir.Node) -> Elementwise | None:
    """Return an elementwise operator with one variable input; None if the operator is not one."""
    if node.domain != "" or node.op_type not in _UNARY | _BINARY or len(node.outputs) != 1:
        return None
    constants = [view.constant(value) for value in node.inputs]
    places = [place for place, value in enumerate(node.inputs) if value is not None and constants[place] is None]
    others = [number for place, number in enumerate(constants) if place not in places]
    if len(places) != 1 or any(number is not None and (number.size != 1 or number.ndim > 1) for number in others):
        return None
    if node.op_type in _UNARY and places != [0]:
        return None
    return Elementwise(node, places[0], tuple(None if number is None else number.reshape(()) for number in others))


def elementwise_before(
    view: GraphView, value: ir.Value, readers: Collection[str], *, exact: bool = False
) -> tuple[ir.Value, tuple[Elementwise, ...]]:
    """Follow a value back through elementwise operators, as long as only some types of operators read it.

    Args:
        view: The graph.
        value: The value.
        readers: Types of operators that may read it.
        exact: True for exact operators only.

    Returns:
        The value before these operators, and the operators in order.
    """
    functions: list[Elementwise] = []
    while (node := view.producer(value)) is not None:
        function = elementwise(view, node)
        users = {user for user in value.consumers() if not functions or user is not functions[0].node}
        others = any(user.op_type not in readers for user in users)
        if (
            function is None
            or others
            or (exact and not function.exact)
            or value.is_graph_output()
            or view.is_rewritten(node)
        ):
            break
        source = node.inputs[function.place]
        assert source is not None
        functions.insert(0, function)
        value = source
    return value, tuple(functions)
