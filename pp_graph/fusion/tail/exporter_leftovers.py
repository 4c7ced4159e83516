"""Remove operators without effect that exporters leave in the graph.

Exporters such as `torch.onnx` write operators that would matter only for dynamic shapes:

    Where(true, a, b) = a             Where(false, a, b) = b
    Expand(x, shape of x) = x         f(Expand(x), y) = f(x, y)   if f broadcasts and y has the expanded shape
    Reshape(x, shape of x) = x
    Cast(x, type of x) = x            Cast(Cast(x, t), u) = Cast(x, u)   if t represents all values of x

The operator that reads such a leftover is written again to read the leftover's source instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from pp_graph.fusion.tail import cost
from pp_graph.fusion.tail.rule import Match, Miss, Rule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import onnx_ir as ir

    from pp_graph.fusion.tail.view import GraphView
    from pp_graph.steps import Emitter

_BROADCASTING: Final = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Less", "Greater", "Where"})

_WIDENING: Final = {
    "BOOL": {"UINT8", "INT32", "INT64", "FLOAT16", "FLOAT", "DOUBLE"},
    "FLOAT16": {"FLOAT", "DOUBLE"},
    "BFLOAT16": {"FLOAT", "DOUBLE"},
    "FLOAT": {"DOUBLE"},
    "UINT8": {"INT32", "INT64", "FLOAT", "DOUBLE"},
    "INT32": {"INT64", "DOUBLE"},
}
"""Types that represent all values of another type."""


class ExporterLeftovers(Rule):
    """Rule that bypasses operators without effect; see the module."""

    name: ClassVar[str] = "exporter leftovers"

    def find(self, view: GraphView) -> Iterator[Match | Miss]:
        """Propose to rewrite each operator that reads leftovers."""
        for node in reversed(view.nodes()):
            if len(node.outputs) != 1 or node.attributes.keys() & {"body", "then_branch", "else_branch"}:
                continue
            if view.dtype(node.outputs[0]) is None or view.shape(node.outputs[0]) is None:
                continue  # `disprove` needs both
            replaced = {}
            for position, value in enumerate(node.inputs):
                source = value
                while source is not None and (further := _bypassed(view, node, position, source)) is not None:
                    source = further
                if value is not None and source is not None and source is not value:
                    replaced[position] = (value, source)
            if replaced:
                yield _propose(view, node, replaced)


def _bypassed(view: GraphView, reader: ir.Node, position: int, value: ir.Value) -> ir.Value | None:
    """Return the value that an operator can read instead of a leftover's output; None if there is none."""
    node = view.producer(value)
    if node is None or not node.inputs or node.inputs[0] is None or view.constant(value) is not None:
        return None
    source = node.inputs[0]
    if node.op_type == "Where":
        condition = view.constant(source)
        if condition is None or condition.size == 0 or condition.min() != condition.max():
            return None
        chosen = node.inputs[1 if condition.min() else 2]
        if chosen is None or not view.same_shape(chosen, value):
            return None
        return None if view.constant(chosen) is not None else chosen
    if node.op_type == "Expand":
        if view.same_shape(source, value):
            return source
        others = [other for index, other in enumerate(reader.inputs) if index != position and other is not None]
        expanded = any(view.same_shape(other, value) for other in others)
        return source if reader.op_type in _BROADCASTING and expanded else None
    if node.op_type == "Reshape" and view.same_shape(source, value):
        return source
    if node.op_type == "Cast":
        dtype, source_dtype = view.dtype(value), view.dtype(source)
        if dtype is not None and dtype == source_dtype:
            return source
        inner = view.producer(source, "Cast")
        first = None if inner is None else inner.inputs[0]
        first_dtype = None if first is None else view.dtype(first)
        if first_dtype is not None and first_dtype == dtype and source_dtype in _WIDENING.get(first_dtype, ()):
            return first
    if (
        reader.op_type == "Cast"
        and node.op_type == "Cast"
        and view.dtype(value) in _WIDENING.get(view.dtype(source) or "", ())
    ):
        return source
    return None


def _propose(view: GraphView, node: ir.Node, replaced: dict[int, tuple[ir.Value, ir.Value]]) -> Match:
    reads = tuple(
        dict.fromkeys(
            replaced[position][1] if position in replaced else value
            for position, value in enumerate(node.inputs)
            if value is not None
        )
    )

    def emit(op: Emitter, at: Callable[[ir.Value], ir.Value]) -> ir.Value:
        inputs = [replaced[place][1] if place in replaced else value for place, value in enumerate(node.inputs)]
        return op.rewired(node, [None if value is None else at(value) for value in inputs])

    leftovers = [producer.op_type for value, _ in replaced.values() if (producer := value.producer()) is not None]
    dead = view.only_for([node.outputs[0]], reads)
    return Match(
        target=node.outputs[0],
        what=f"{node.op_type} is read past {' and '.join(leftovers)}",
        reads=reads,
        before=cost.of_nodes(view, dead),
        after=cost.of_nodes(view, [node]),
        emit=emit,
        exact=True,
        tidies=True,
    )
