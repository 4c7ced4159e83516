"""Apply order-preserving operators after a minimum, maximum or TopK.

A square root, a lower bound or a positive factor preserves the order, also after rounding, so the least, greatest or k
greatest numbers can be found first:

    min(sqrt(max(x, 0))) = sqrt(max(min(x), 0))

Both sides compute the function of the same numbers, so results are identical, except that runtimes may round products
and sums differently. Indices may change, because different numbers can have the same square root: if an index is used,
nothing is moved. What a minimum makes of NaN depends on the runtime, before and after.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Final

from pp_graph.fusion.tail import cost
from pp_graph.fusion.tail.elementwise import Elementwise, elementwise_before
from pp_graph.fusion.tail.rule import Match, Miss, Rule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import onnx_ir as ir

    from pp_graph.fusion.tail.view import GraphView
    from pp_graph.steps import Emitter

_REDUCTIONS: Final = frozenset({"ReduceMin", "ReduceMax", "TopK"})
_KEEP_ORDER: Final = frozenset({"Ceil", "Clip", "Floor", "Identity", "Max", "Min", "Relu", "Add"})
_NOT_NEGATIVE: Final = frozenset({"Abs", "Relu", "Sqrt", "ReduceL1", "ReduceL2", "ReduceSumSquare"})


class MonotoneReduction(Rule):
    """Rule that applies order-preserving operators after a reduction; see the module."""

    name: ClassVar[str] = "monotone reduction"

    def find(self, view: GraphView) -> Iterator[Match | Miss]:
        """Propose to move order-preserving operators after each minimum, maximum and TopK."""
        for node in reversed(view.nodes()):
            if node.op_type not in _REDUCTIONS or node.inputs[0] is None:
                continue
            _, functions = elementwise_before(view, node.inputs[0], {node.op_type})
            if not functions:
                continue
            moved = list(functions)
            for index in reversed(range(len(functions))):
                if (why := _obstacle(view, functions[index])) is not None:
                    moved = list(functions[index + 1 :])
                    if not moved:
                        yield Miss(node.outputs[0], f"{functions[index].node.op_type} before {node.op_type}", why)
                    break
            if not moved:
                continue
            value = moved[0].node.inputs[moved[0].place]
            if any(output.consumers() or output.is_graph_output() for output in node.outputs[1:]):
                what = f"{moved[-1].node.op_type} before {node.op_type}"
                yield Miss(node.outputs[0], what, "its indices are used, and may differ where numbers become equal")
            elif value is not None:
                yield _propose(view, node, value, moved)


def _obstacle(view: GraphView, function: Elementwise) -> str | None:
    """Say why a function may change the order of numbers."""
    node = function.node
    numbers = [float(number) for number in function.constants if number is not None]
    if not all(map(math.isfinite, numbers)) and node.op_type != "Clip":
        return "its constant is not finite"
    if node.op_type in _KEEP_ORDER:
        return None
    if node.op_type == "Sub" and function.place == 0:
        return None
    if node.op_type == "Mul" or (node.op_type == "Div" and function.place == 0):
        return None if numbers[0] > 0 else "its constant is not positive"
    if node.op_type == "Sqrt":
        return None if _not_negative(view, node.inputs[0]) else "its numbers may be negative"
    return "it does not keep the order"


def _not_negative(view: GraphView, value: ir.Value | None) -> bool:
    node = view.producer(value)
    if node is None:
        return False
    if node.op_type == "Clip":
        low = view.uniform(node.inputs[1]) if len(node.inputs) > 1 else node.attributes.get_float("min", -1.0)
        return low is not None and low >= 0
    return node.op_type in _NOT_NEGATIVE or (node.op_type == "Mul" and node.inputs[0] is node.inputs[1])


def _propose(view: GraphView, node: ir.Node, source: ir.Value, functions: list[Elementwise]) -> Match:
    reads = tuple(dict.fromkeys([source, *(value for value in node.inputs[1:] if value is not None)]))

    def emit(op: Emitter, at: Callable[[ir.Value], ir.Value]) -> ir.Value:
        value = op.rewired(node, [at(source), *(operand and at(operand) for operand in node.inputs[1:])])
        for function in functions:
            value = function.emit(op, value)
        return value

    written = cost.elements(view, node.outputs[0])
    return Match(
        target=node.outputs[0],
        what=f"{', '.join(function.node.op_type for function in functions)} after {node.op_type}",
        reads=reads,
        before=cost.of_nodes(view, view.only_for([node.outputs[0]], reads)),
        after=cost.of_nodes(view, [node]) + len(functions) * cost.moved(2 * written),
        emit=emit,
        exact=all(function.exact for function in functions),
    )
