"""Select rows before searching them.

PatchCore finds the nearest neighbour of every patch, but uses only that of the most anomalous patch. With D the
distances, one row per patch, and i the selected rows:

    argmin(D)[i] = argmin(D[i])

Between search and selection, exporters write operators that only move numbers: one search for each chunk of patches,
joined, reshaped and cut. So rows are numbered, the numbers go through copies of these operators, and the rows of the
numbers that come out are searched. Runtimes fold the copies where sizes are constant. Shapes that exporters read
on the way are those of the numbers. Operators that change each number by itself, such as a square root, move behind the
selection if nothing else reads all their results. The results are identical.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from pp_graph.fusion.tail import cost
from pp_graph.fusion.tail.elementwise import Elementwise, elementwise_before
from pp_graph.fusion.tail.rule import Match, Miss, Rule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import onnx_ir as ir

    from pp_graph.fusion.tail.view import GraphView
    from pp_graph.model.shapes import Dimension
    from pp_graph.steps import Emitter

_SEARCHES: Final = frozenset({"ArgMin", "ArgMax", "TopK"})
_SELECTIONS: Final = frozenset({"Gather", "GatherElements", "GatherND", "Slice"})
_MOVES: Final = _SELECTIONS | {
    "Cast", "Concat", "Expand", "Flatten", "Identity", "Reshape", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"
}  # fmt: skip
_HOLD_INDICES: Final = frozenset({"INT32", "INT64", "UINT32", "UINT64", "DOUBLE"})
_NEEDS: Final = 12
"""Opset from which Min, Max and Range take integers."""
_INT64: Final = np.dtype(np.int64)


@dataclass(frozen=True)
class _Search:
    """A search of the rows of a table.

    Attributes:
        result: Index, or greatest or least number, of each row.
        node: The operator.
        table: The numbers before `functions`.
        functions: Operators that change each number of the table by itself.
        columns: Size of a row.
        inner: Number of rows between neighbours in a row; 1 if the last axis is searched.
    """

    result: ir.Value
    node: ir.Node
    table: ir.Value
    functions: tuple[Elementwise, ...]
    columns: int
    inner: int

    @property
    def kind(self) -> tuple[object, ...]:
        """What must be the same for rows of several tables to be searched at once."""
        settings = sorted(f"{name} {each.value}" for name, each in self.node.attributes.items() if name != "axis")
        return self.node.op_type, self.node.outputs.index(self.result), self.columns, self.table.dtype, *settings

    @property
    def keeps_axis(self) -> bool:
        """True if the searched axis stays, with size 1."""
        return self.node.op_type == "TopK" or self.node.attributes.get_int("keepdims", 1) != 0

    def rows_of(self, op: Emitter, table: ir.Value, numbers: ir.Value) -> ir.Value:
        """Write the rows of some numbers, one after the other."""
        if self.inner == 1:
            rows = op.gather(op.arranged(table, op.constant((-1, self.columns), "rows"), None), numbers, 0)
        else:
            jump = op.constant((self.inner * (self.columns - 1),), "jump")
            outer = op.node("Div", [numbers, op.constant((self.inner,), "inner")], {}, _INT64, None)
            first = op.node("Add", [numbers, op.node("Mul", [outer, jump], {}, _INT64, None)], {}, _INT64, None)
            along = op.constant(tuple(range(0, self.inner * self.columns, self.inner)), "along")
            places = op.node("Add", [op.unsqueeze(first, (1,)), along], {}, _INT64, None)
            rows = op.gather(op.listed(table), places, 0)
        for function in self.functions:
            rows = function.emit(op, rows)
        return rows

    def search(self, op: Emitter, rows: ir.Value, at: Callable[[ir.Value], ir.Value]) -> ir.Value:
        """Write the search of some rows."""
        count = [None if value is None else at(value) for value in self.node.inputs[1:]]
        copy = op.rewired(self.node, [rows, *count], axis=1).producer()
        assert copy is not None
        return copy.outputs[self.node.outputs.index(self.result)]


@dataclass(frozen=True)
class _Selection:
    """A selection from what searches find, or its shape.

    Attributes:
        node: The operator that selects, or Shape.
        searches: The searches.
        moves: Operators between the searches and what is selected, in order.
    """

    node: ir.Node
    searches: tuple[_Search, ...]
    moves: tuple[ir.Node, ...]

    @property
    def target(self) -> ir.Value:
        """What is selected."""
        return self.node.outputs[0]


class RowSelection(Rule):
    """Rule that selects rows before ArgMin, ArgMax and TopK of one; see the module."""

    name: ClassVar[str] = "row selection"

    def find(self, view: GraphView) -> Iterator[Match | Miss]:
        """Propose to search only selected rows, for each operator that selects from what is found."""
        found: dict[ir.Value, str | None] = {}
        selections: list[_Selection] = []
        for node in view.nodes():
            if not view.is_live(node):
                continue
            if node.op_type in _SEARCHES:
                found.update(dict.fromkeys(node.outputs))
            data = _data(node)
            if node.op_type not in _MOVES | {"Shape"} or not any(value in found for value in data):
                continue
            reason = _obstacle(view, node, data, found)
            found.update(dict.fromkeys(node.outputs, reason))
            selection = _trace(view, node) if reason is None else reason
            if node.op_type not in _SELECTIONS | {"Shape"} or selection is None:
                continue
            if isinstance(selection, _Selection):
                selections.append(selection)
            elif node.op_type != "Shape":
                yield Miss(node.outputs[0], "rows are selected after all are searched", selection)
        for selection in reversed(selections):
            proposal = _propose(view, selection, selections)
            if isinstance(proposal, Match) or selection.node.op_type != "Shape":
                yield proposal


def _data(node: ir.Node) -> Sequence[ir.Value | None]:
    """Return the inputs whose numbers an operator moves."""
    return node.inputs if node.op_type == "Concat" else node.inputs[:1]


def _obstacle(
    view: GraphView, node: ir.Node, data: Sequence[ir.Value | None], found: dict[ir.Value, str | None]
) -> str | None:
    """Say why numbers of rows cannot go through an operator."""
    if any(value not in found for value in data):
        return "what is found is joined with other values"
    if node.op_type == "Cast" and view.dtype(node.outputs[0]) not in _HOLD_INDICES:
        return f"a Cast to {view.dtype(node.outputs[0])} may round what is found"
    return next((reason for value in data if value is not None and (reason := found[value]) is not None), None)


def _trace(view: GraphView, selecting: ir.Node) -> _Selection | str | None:
    """Return the selection by an operator; why rows cannot be selected first; None if no rows are searched."""
    searches: dict[ir.Value, _Search] = {}
    moves: set[ir.Node] = set()
    pending = [value for value in _data(selecting) if value is not None]
    while pending:
        value = pending.pop()
        node = value.producer()
        assert node is not None
        if node.op_type in _SEARCHES:
            search = _search(view, node, value)
            if not isinstance(search, _Search):
                return search
            searches[value] = search
        elif node not in moves:
            moves.add(node)
            pending += [data for data in _data(node) if data is not None]
    parts = tuple(searches[value] for node in view.graph for value in node.outputs if value in searches)
    if len({part.kind for part in parts}) > 1:
        return "the joined parts are searched differently"
    if view.opset < _NEEDS:
        return f"opset {view.opset} is below {_NEEDS}"
    return _Selection(selecting, parts, tuple(node for node in view.graph if node in moves))


def _search(view: GraphView, node: ir.Node, result: ir.Value) -> _Search | str | None:
    table = node.inputs[0]
    shape = None if table is None else view.shape(table)
    if table is None or shape is None:
        return "the shape of what is searched is not known"
    if node.op_type == "TopK" and view.known_integers(node.inputs[1]) != (1,):
        return None  # not one result for each row
    axis = node.attributes.get_int("axis", -1 if node.op_type == "TopK" else 0) % len(shape)
    columns, inner = shape[axis], 1
    for dim in shape[axis + 1 :]:
        if not isinstance(dim, int):
            return "the sizes behind the searched axis are not known"
        inner *= dim
    if not isinstance(columns, int):
        return "the size of a row is not known"
    if sum(not isinstance(dim, int) for dim in view.shape(result) or (None, None)) > 1:
        return "more than one size of what is searched is open"
    source, functions = elementwise_before(view, table, {"ReduceMin", "ReduceMax", *_SEARCHES})
    return _Search(result, node, source, functions, columns, inner)


def _propose(view: GraphView, selection: _Selection, others: Sequence[_Selection]) -> Match | Miss:
    node, searches, first = selection.node, selection.searches, selection.searches[0]
    what = f"{first.node.op_type} over {first.columns} columns runs on the rows that are asked for"
    # A Shape moves no numbers, and reads no indices.
    moves = selection.moves if node.op_type == "Shape" else (*selection.moves, node)
    indices = {value: move for move in moves for value in move.inputs[len(_data(move)) :] if value is not None}
    below = {}
    for value, move in indices.items():
        if view.constant(value) is None and view.integers(value) is None:
            limit = _limit(view, move)
            if limit is None:
                return Miss(node.outputs[0], what, f"{move.op_type} depends on numbers that are computed")
            below[value] = limit
    counts = [value for search in searches for value in search.node.inputs[1:] if value is not None]
    reads = tuple(dict.fromkeys([*(search.table for search in searches), *indices, *counts]))
    dead = _redundant(view, selection, others, reads)
    if alive := [search.node for search in searches if search.node not in dead]:
        return Miss(node.outputs[0], what, f"all that is found is read by {_readers(alive, dead)}")
    rows = [_rows_per_image(view, search) for search in searches]
    found = max(cost.elements(view, value) for move in (*moves, node) for value in _data(move) if value is not None)
    if found > sum(rows):  # rows become images only behind the search
        rows = [found // len(searches)] * len(searches)
    trial: dict[ir.Value, tuple[int, ...]] = {}
    for search, count in zip(searches, rows, strict=True):
        shape = view.shape(search.table) or ()
        if len(shape) == 2 and not isinstance(shape[0], int):
            trial[search.table] = (count, search.columns)
    if node.op_type == "Shape" and node.inputs[0] is not None:
        trial |= _trial_shape(view, node.inputs[0], sum(rows))
    functions = sum(len(search.functions) for search in searches)
    picked = 0 if node.op_type == "Shape" else cost.elements(view, node.outputs[0]) * first.columns
    rest = [each for each in dead if each.op_type not in _SEARCHES]
    return Match(
        target=node.outputs[0],
        what="the shape of what a search finds is known before it" if node.op_type == "Shape" else what,
        reads=reads,
        before=cost.of_nodes(view, rest) + sum(cost.search(count * first.columns) for count in rows),
        after=cost.moved(2 * picked) * (len(searches) + functions) + cost.search(picked),
        emit=lambda op, at: _emit(view, selection, op, at),
        exact=True,
        trial=trial,
        below=below,
    )


def _rows_per_image(view: GraphView, search: _Search) -> int:
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


def _trial_shape(view: GraphView, value: ir.Value, rows: int) -> dict[ir.Value, tuple[int, ...]]:
    """Return the shape of one image for what a search finds in some rows, if it has open sizes."""
    sizes = [dim if isinstance(dim, int) else None for dim in view.shape(value) or ()]
    if None not in sizes:
        return {}
    last = len(sizes) - 1 - sizes[::-1].index(None)
    rest = rows // math.prod(size or 1 for size in sizes)
    return {value: tuple(rest if axis == last else size or 1 for axis, size in enumerate(sizes))}


def _readers(alive: Sequence[ir.Node], dead: Sequence[ir.Node]) -> str:
    """Name the operators that read what some searches find."""
    pending, seen, names = list(alive), set(dead), set()
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        for output in node.outputs:
            names |= {"an output"} if output.is_graph_output() else set()
            names |= {user.op_type for user in output.consumers() if user not in seen and user.op_type not in _MOVES}
            pending += [user for user in output.consumers() if user.op_type in _MOVES]
    return ", ".join(sorted(names)) or "another selection"


def _limit(view: GraphView, node: ir.Node) -> tuple[Dimension, ...] | None:
    """Return the sizes that the indices of a selection stay below; None if it has other inputs."""
    data = node.inputs[0]
    shape = None if data is None else view.shape(data)
    if shape is None or node.op_type not in ("Gather", "GatherElements", "GatherND"):
        return None
    if node.op_type == "GatherND":
        asked = None if node.inputs[1] is None else view.shape(node.inputs[1])
        depth = None if asked is None else asked[-1]
        start = node.attributes.get_int("batch_dims", 0)
        return shape[start : start + depth] if isinstance(depth, int) else None
    return (shape[node.attributes.get_int("axis", 0) % len(shape)],)


def _redundant(
    view: GraphView, selection: _Selection, others: Sequence[_Selection], reads: Sequence[ir.Value]
) -> list[ir.Node]:
    """Return the operators that no one reads once all selections from the same searches are rewritten.

    The least or greatest numbers that a TopK also finds need no search: they are a reduction.
    """
    nodes = {search.node for search in selection.searches}
    targets = [each.target for each in others if nodes & {search.node for search in each.searches}]
    values = [node.outputs[0] for node in nodes if node.op_type == "TopK"]
    return view.only_for([*targets, *values], reads)


def _emit(view: GraphView, selection: _Selection, op: Emitter, at: Callable[[ir.Value], ir.Value]) -> ir.Value:
    searches, node, target = selection.searches, selection.node, selection.target
    numbers, starts = _numbered(view, searches, op, at)
    for move in (*selection.moves, node):
        if move.op_type in ("Cast", "Identity"):
            numbers[move.outputs[0]] = numbers[move.inputs[0]]  # type: ignore[index]
            continue
        inputs = [numbers[value] if value in numbers else value and at(value) for value in move.inputs]
        copy = op.rewired(move, inputs).producer()
        assert copy is not None
        for old, new in zip(move.outputs, copy.outputs, strict=True):
            new.type = numbers[searches[0].result].type
            numbers[old] = new
    if node.op_type == "Shape":
        return numbers[target]
    shape = view.shape(target)
    chosen = numbers[target] if shape is not None and len(shape) == 1 else op.listed(numbers[target])
    found = searches[0].search(op, _rows(searches, chosen, starts, op, at), at)
    if shape is None or len(shape) != 1 or searches[0].keeps_axis:
        known = shape is not None and sum(not isinstance(dim, int) for dim in shape) < 2
        sizes = tuple(dim if isinstance(dim, int) else -1 for dim in shape or ())
        found = op.arranged(found, op.constant(sizes, "shape") if known else op.sizes_of(numbers[target]), shape)
    return found if found.dtype == target.dtype or target.dtype is None else op.cast(found, target.dtype.numpy())


def _rows(
    searches: Sequence[_Search],
    chosen: ir.Value,
    starts: Sequence[ir.Value],
    op: Emitter,
    at: Callable[[ir.Value], ir.Value],
) -> ir.Value:
    """Write the rows of some numbers. Each comes from the last table whose first number is not above it."""
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


def _numbered(
    view: GraphView, searches: Sequence[_Search], op: Emitter, at: Callable[[ir.Value], ir.Value]
) -> tuple[dict[ir.Value, ir.Value], list[ir.Value]]:
    """Number the rows of all tables. Returns the numbers by search result, and the first of each table and the end."""
    numbers: dict[ir.Value, ir.Value] = {}
    starts = [op.constant(np.int64(0), "start")]
    known: int | None = 0
    one = op.constant(np.int64(1), "one")
    for search in searches:
        shape = view.shape(search.result) or ()
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
