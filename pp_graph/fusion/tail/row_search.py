"""A search of the rows of a table, and the operators that number and gather rows."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from pp_graph.fusion.tail import cost
from pp_graph.fusion.tail.elementwise import Elementwise, elementwise_before

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import onnx_ir as ir

    from pp_graph.fusion.tail.view import GraphView
    from pp_graph.model.shapes import Shape
    from pp_graph.steps import Emitter

SEARCHES: Final = frozenset({"ArgMin", "ArgMax", "TopK"})
_INT64: Final = np.dtype(np.int64)


@dataclass(frozen=True)
class RowSearch:
    """A search of the rows of a table.

    Attributes:
        result: Index, or greatest or least number, of each row.
        shape: Shape of the result.
        node: The operator.
        table: The numbers before `functions`.
        functions: Elementwise operators between `table` and the search.
        columns: Size of a row.
    """

    result: ir.Value
    shape: Shape
    node: ir.Node
    table: ir.Value
    functions: tuple[Elementwise, ...]
    columns: int

    @property
    def kind(self) -> tuple[object, ...]:
        """Settings that tables must share for their rows to be searched together."""
        settings = sorted(f"{name} {each.value}" for name, each in self.node.attributes.items() if name != "axis")
        return self.node.op_type, self.node.outputs.index(self.result), self.columns, self.table.dtype, *settings

    def rows_of(self, op: Emitter, table: ir.Value, numbers: ir.Value) -> ir.Value:
        """Emit the rows with the given numbers."""
        rows = op.arranged(table, op.constant((-1, self.columns), "rows"), None)
        if self.functions:  # OpenVINO moves elementwise operators before a Gather, where they apply to all rows
            rows = op.node("GatherND", [rows, op.unsqueeze(numbers, (1,))], {}, op.dtype_of(rows), None)
        else:
            rows = op.gather(rows, numbers, 0)
        for function in self.functions:
            rows = function.emit(op, rows)
        return rows

    def search(self, op: Emitter, rows: ir.Value, at: Callable[[ir.Value], ir.Value]) -> ir.Value:
        """Emit the search of some rows; returns one result per row."""
        count = [None if value is None else at(value) for value in self.node.inputs[1:]]
        copy = op.rewired(self.node, [rows, *count], axis=1).producer()
        assert copy is not None
        found = copy.outputs[self.node.outputs.index(self.result)]
        keeps = self.node.op_type == "TopK" or self.node.attributes.get_int("keepdims", 1) != 0
        return op.listed(found) if keeps else found


def row_search(view: GraphView, node: ir.Node, result: ir.Value) -> RowSearch | str | None:
    """Return the search that finds a value; or why its rows cannot be selected; or None if it finds several per row."""
    table = node.inputs[0]
    shape = None if table is None else view.shape(table)
    if table is None or shape is None:
        return "the shape of the searched tensor is not known"
    if node.op_type == "TopK" and view.known_integers(node.inputs[1]) != (1,):
        return None  # not one result for each row
    axis = node.attributes.get_int("axis", -1 if node.op_type == "TopK" else 0) % len(shape)
    if axis != len(shape) - 1:
        return f"axis {axis} is searched, not the last, where runtimes differ in which of equal numbers they choose"
    columns = shape[axis]
    if not isinstance(columns, int):
        return "the size of a row is not known"
    keeps = node.op_type == "TopK" or node.attributes.get_int("keepdims", 1) != 0
    kept = (*shape[:axis], *((1,) if keeps else ()))
    if sum(not isinstance(dim, int) for dim in kept) > 1:
        return "the searched tensor has more than one open size"
    source, functions = elementwise_before(view, table, {"ReduceMin", "ReduceMax", *SEARCHES}, exact=True)
    return RowSearch(result, kept, node, source, functions, columns)


def rows_per_image(view: GraphView, search: RowSearch) -> int:
    """Return the number of rows of a table; for one image if images are flattened into an open number of rows."""
    value: ir.Value | None = search.table
    rows = max(1, cost.elements(view, search.table) // search.columns)
    while value is not None and isinstance((view.shape(value) or (0,))[0], str | None):
        node = view.producer(value)
        if node is None or not node.inputs or node.inputs[0] is None:
            break
        if node.op_type in ("Reshape", "Flatten"):
            return max(rows, cost.elements(view, node.inputs[0]) // max(1, cost.elements(view, value)))
        value = node.inputs[0]
    return rows


def gathered(
    searches: Sequence[RowSearch],
    chosen: ir.Value,
    starts: Sequence[ir.Value],
    op: Emitter,
    at: Callable[[ir.Value], ir.Value],
) -> ir.Value:
    """Emit the rows with the given numbers. Each comes from the last table whose first number is not above it."""
    if len(searches) == 1:
        return searches[0].rows_of(op, at(searches[0].table), chosen)
    rows: ir.Value | None = None
    zero, one = op.constant((0,), "none"), op.constant((1,), "single")
    for search, (start, stop) in zip(searches, itertools.pairwise(starts), strict=True):
        place = op.difference(chosen, start)
        last = op.difference(op.difference(stop, start), one)
        inside = op.node("Max", [op.node("Min", [place, last], {}, _INT64, None), zero], {}, _INT64, None)
        ours = search.rows_of(op, at(search.table), inside)
        if rows is not None:
            earlier = op.node("Less", [place, zero], {}, np.dtype(np.bool_), None)
            ours = op.where(op.unsqueeze(earlier, (1,)), rows, ours)
        rows = ours
    assert rows is not None
    return rows


def numbered(
    searches: Sequence[RowSearch], op: Emitter, at: Callable[[ir.Value], ir.Value]
) -> tuple[dict[ir.Value, ir.Value], list[ir.Value]]:
    """Number the rows of all tables. Returns the numbers by search result, and the first of each table and the end."""
    numbers: dict[ir.Value, ir.Value] = {}
    starts = [op.constant(np.int64(0), "start")]
    known: int | None = 0
    one = op.constant(np.int64(1), "one")
    for search in searches:
        shape = search.shape
        sizes = [dim for dim in shape if isinstance(dim, int)]
        if len(sizes) == len(shape) and known is not None:
            known += math.prod(sizes)
            stop = op.constant(np.int64(known), "stop")
        else:
            columns = op.constant(np.int64(search.columns), "columns")
            rows = op.node("Div", [op.count_of(at(search.table)), columns], {}, _INT64, ())
            stop = op.node("Add", [starts[-1], rows], {}, _INT64, ())
            known = None
        flat = op.node("Range", [starts[-1], stop, one], {}, _INT64, (None,))
        arranged = op.constant(tuple(dim if isinstance(dim, int) else -1 for dim in shape), "results")
        numbers[search.result] = op.arranged(flat, arranged, shape)
        starts.append(stop)
    return numbers, starts
