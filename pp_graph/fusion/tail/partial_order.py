"""Order only the values that are used.

Exporters write a sort as a TopK of all numbers. If only the first m are used, a TopK of m finds them.

The k smallest of many numbers lie in the k groups with the smallest minima: any other number is at least its group's
minimum, and so at least k others. A search of the minima and one of the k groups replace that of all numbers. In the
minima, NaN counts as infinity, which is how onnxruntime orders it.

The numbers are identical. Their indices may differ where numbers are equal, so these rules do not apply if indices are
used.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from pp_graph.fusion.tail import cost
from pp_graph.fusion.tail.rule import Match, Miss, Rule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import onnx_ir as ir

    from pp_graph.fusion.tail.view import GraphView
    from pp_graph.steps import Emitter

_NEEDS: Final = 12
"""Opset from which GatherND selects in each row."""
_GROUPS: Final = "groups are searched before numbers"
_LEAST_ROW: Final = 16
"""Smallest ratio of row size to k for which groups are tried."""


def _rows(view: GraphView, node: ir.Node) -> tuple[ir.Value, int, int] | str | None:
    """Return the numbers that a TopK orders, the size of a row and k; why they are unknown; None for no TopK."""
    if node.op_type != "TopK" or view.opset < _NEEDS or node.inputs[0] is None:
        return None
    if any(output.consumers() or output.is_graph_output() for output in node.outputs[1:]):
        return "the indices are used too, and may differ where numbers are equal"
    shape, count = view.shape(node.inputs[0]), view.known_integers(node.inputs[1])
    axis = node.attributes.get_int("axis", -1)
    if shape is None or count is None or axis % len(shape) != len(shape) - 1 or not isinstance(shape[-1], int):
        return "the last axis, its size and the number of results must be known"
    return node.inputs[0], shape[-1], count[0]


class ShorterOrder(Rule):
    """Rule that orders only as many numbers as are used; see the module."""

    name: ClassVar[str] = "shorter order"

    def find(self, view: GraphView) -> Iterator[Match | Miss]:
        """Propose a smaller TopK for each Slice of ordered numbers."""
        for node in reversed(view.nodes()):
            order = view.producer(node.inputs[0], "TopK") if node.op_type == "Slice" else None
            if order is None or node.inputs[0] is not order.outputs[0]:
                continue
            what = "fewer numbers are ordered"
            found = _rows(view, order)
            if isinstance(found, str):
                yield Miss(node.outputs[0], what, found)
            elif found is not None:
                source, columns, count = found
                stop = _stop(view, node, len(view.shape(source) or ()), count)
                if isinstance(stop, int):
                    yield _shorter(view, node, order, source, columns, count, stop)
                else:
                    yield Miss(node.outputs[0], what, stop)


def _stop(view: GraphView, node: ir.Node, rank: int, count: int) -> int | str:
    """Return how many of the first numbers a Slice keeps, or why it does not keep the first."""
    bounds = [view.known_integers(value) for value in node.inputs[1:]]
    if any(bound is None or len(bound) != 1 for bound in bounds) or len(bounds) < 2:
        return "it does not slice one axis with constant bounds"
    start, stop, axis, step = [bound[0] for bound in bounds if bound is not None] + [0, 1][len(bounds) - 2 :]
    if axis % rank != rank - 1:
        return "it does not slice the sorted axis"
    stop = max(0, stop + count) if stop < 0 else min(stop, count)
    return stop if (start, step) == (0, 1) and stop > 0 else "it does not keep the first numbers"


def _shorter(
    view: GraphView, node: ir.Node, order: ir.Node, source: ir.Value, columns: int, count: int, stop: int
) -> Match:
    rows = cost.elements(view, source) / columns

    def emit(op: Emitter, at: Callable[[ir.Value], ir.Value]) -> ir.Value:
        return op.rewired(order, [at(source), op.constant((stop,), "k")])

    return Match(
        target=node.outputs[0],
        what=f"{stop} of {count} numbers are ordered",
        reads=(source,),
        before=cost.of_nodes(view, view.only_for([node.outputs[0]], [source])),
        after=cost.search(rows * columns, rows * stop, stop),
        emit=emit,
        exact=True,
    )


class GroupedOrder(Rule):
    """Rule that finds the groups of the smallest numbers first; see the module."""

    name: ClassVar[str] = "groups before order"

    def find(self, view: GraphView) -> Iterator[Match | Miss]:
        """Propose to search groups for each TopK of few numbers in long rows."""
        for node in reversed(view.nodes()):
            found = _rows(view, node)
            if isinstance(found, str) and view.dtype(node.outputs[0]) == "FLOAT":
                yield Miss(node.outputs[0], _GROUPS, found)
            elif isinstance(found, tuple) and view.dtype(found[0]) == "FLOAT" and found[2] * _LEAST_ROW <= found[1]:
                yield _grouped(view, node, *found)


def _grouped(view: GraphView, node: ir.Node, source: ir.Value, columns: int, count: int) -> Match | Miss:
    rows = cost.elements(view, source) / columns
    prices = {
        size: cost.moved(4.5 * rows * columns)
        + cost.moved(2 * rows * count * size)
        + cost.search(rows * columns / size, rows * count, count)
        + cost.search(rows * count * size, rows * count, count)
        for size in range(2, columns // count)
        if columns % size == 0
    }
    shape = view.shape(node.outputs[0])
    if node.attributes.get_int("largest", 1) != 0:
        return Miss(node.outputs[0], _GROUPS, "it finds the largest, and NaN comes before infinity there")
    if node.attributes.get_int("sorted", 1) == 0:
        return Miss(node.outputs[0], _GROUPS, "its numbers are not sorted, so another search may order them otherwise")
    if not prices or shape is None or sum(not isinstance(dim, int) for dim in shape) > 1:
        return Miss(node.outputs[0], _GROUPS, f"a row of {columns} cannot be cut into equal groups")
    count_of = node.inputs[1]
    assert count_of is not None
    size = min(prices, key=prices.__getitem__)

    def emit(op: Emitter, at: Callable[[ir.Value], ir.Value]) -> ir.Value:
        numbers = at(source)
        groups = op.reshape(numbers, (-1, columns // size, size))
        clean = op.where(op.is_nan(groups), op.constant(np.float32(math.inf), "infinity"), groups)
        ends = op.reduce("ReduceMin", clean, (2,))
        chosen = op.rewired(node, [ends, at(count_of)], axis=1).producer()
        assert chosen is not None
        places = op.unsqueeze(chosen.outputs[1], (2,))
        kept = op.node("GatherND", [groups, places], {"batch_dims": 1}, np.dtype(np.float32), None)
        candidates = op.reshape(kept, (-1, count * size))
        found = op.rewired(node, [candidates, at(count_of)], axis=1)
        return op.reshape(found, tuple(dim if isinstance(dim, int) else -1 for dim in shape))

    return Match(
        target=node.outputs[0],
        what=f"{count} of {columns // size} groups are searched for {count} of {columns} numbers",
        reads=(source, count_of),
        before=cost.of_nodes(view, [node]),
        after=prices[size],
        emit=emit,
        exact=True,
    )
