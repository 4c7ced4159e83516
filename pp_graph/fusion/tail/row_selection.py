"""Select rows before searching them.

PatchCore finds the nearest neighbour of every patch, but uses only that of the most anomalous patch. With D the
distances, one row per patch, and i the selected rows:

    argmin(D)[i] = argmin(D[i])

Between search and selection, exporters write operators that only move numbers: one search per chunk of patches,
concatenated, reshaped and sliced. The rule numbers the rows, sends the row numbers through copies of these operators,
and searches the rows whose numbers come out. Runtimes fold the copies if sizes are constant. Where the graph reads the
shape of a search result, it reads the shape of the row numbers instead. Elementwise operators, such as a square root,
move after the selection if nothing else reads all their results. The results are identical.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from pp_graph.fusion.tail import cost
from pp_graph.fusion.tail.row_search import SEARCHES, RowSearch, gathered, numbered, row_search, rows_per_image
from pp_graph.fusion.tail.rule import Match, Miss, Rule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import onnx_ir as ir

    from pp_graph.fusion.tail.view import GraphView
    from pp_graph.model.shapes import Dimension
    from pp_graph.steps import Emitter

_SELECTIONS: Final = frozenset({"Gather", "GatherElements", "GatherND", "Slice"})
_MOVES: Final = _SELECTIONS | {
    "Cast", "Concat", "Expand", "Flatten", "Identity", "Reshape", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"
}  # fmt: skip
_HOLD_INDICES: Final = frozenset({"INT32", "INT64", "UINT32", "UINT64", "DOUBLE"})
_NEEDS: Final = 12
"""Opset from which Min, Max and Range take integers."""


@dataclass(frozen=True)
class _Selection:
    """A selection from search results, or their shape.

    Attributes:
        node: The operator that selects, or Shape.
        searches: The searches.
        moves: Operators between the searches and what is selected, in order.
    """

    node: ir.Node
    searches: tuple[RowSearch, ...]
    moves: tuple[ir.Node, ...]

    @property
    def target(self) -> ir.Value:
        """The selected results."""
        return self.node.outputs[0]


class RowSelection(Rule):
    """Rule that selects rows before ArgMin, ArgMax and TopK with k=1; see the module."""

    name: ClassVar[str] = "row selection"

    def find(self, view: GraphView) -> Iterator[Match | Miss]:
        """Propose to search only the selected rows, for each operator that selects from search results."""
        found: dict[ir.Value, str | None] = {}
        selections: list[_Selection] = []
        for node in view.nodes():
            if not view.is_live(node):
                continue
            if node.op_type in SEARCHES:
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
                yield Miss(node.outputs[0], "rows are searched before they are selected", selection)
        for selection in reversed(selections):
            proposal = _propose(view, selection, selections)
            if isinstance(proposal, Match) or selection.node.op_type != "Shape":
                yield proposal


def _data(node: ir.Node) -> Sequence[ir.Value | None]:
    """Return the inputs that an operator moves."""
    return node.inputs if node.op_type == "Concat" else node.inputs[:1]


def _obstacle(
    view: GraphView, node: ir.Node, data: Sequence[ir.Value | None], found: dict[ir.Value, str | None]
) -> str | None:
    """Return why row numbers cannot go through an operator."""
    if any(value not in found for value in data):
        return "search results are concatenated with other values"
    if node.op_type == "Cast" and view.dtype(node.outputs[0]) not in _HOLD_INDICES:
        return f"a Cast to {view.dtype(node.outputs[0])} may round the results"
    return next((reason for value in data if value is not None and (reason := found[value]) is not None), None)


def _trace(view: GraphView, selecting: ir.Node) -> _Selection | str | None:
    """Return the selection of an operator; or why rows cannot be selected first; or None if no rows are searched."""
    searches: dict[ir.Value, RowSearch] = {}
    moves: set[ir.Node] = set()
    pending = [value for value in _data(selecting) if value is not None]
    while pending:
        value = pending.pop()
        node = value.producer()
        assert node is not None
        if node.op_type in SEARCHES:
            search = row_search(view, node, value)
            if not isinstance(search, RowSearch):
                return search
            searches[value] = search
        elif node not in moves:
            moves.add(node)
            pending += [data for data in _data(node) if data is not None]
    parts = tuple(searches[value] for node in view.graph for value in node.outputs if value in searches)
    if len({part.kind for part in parts}) > 1:
        return "the concatenated parts are searched differently"
    if view.opset < _NEEDS:
        return f"opset {view.opset} is below {_NEEDS}"
    return _Selection(selecting, parts, tuple(node for node in view.graph if node in moves))


def _propose(view: GraphView, selection: _Selection, others: Sequence[_Selection]) -> Match | Miss:
    node, searches, first = selection.node, selection.searches, selection.searches[0]
    what = f"{first.node.op_type} over {first.columns} columns runs on the selected rows only"
    # A Shape moves no numbers, and reads no indices.
    moves = selection.moves if node.op_type == "Shape" else (*selection.moves, node)
    indices = {value: move for move in moves for value in move.inputs[len(_data(move)) :] if value is not None}
    below = {}
    for value, move in indices.items():
        if view.constant(value) is None and view.integers(value) is None:
            limit = _limit(view, move)
            if limit is None:
                return Miss(node.outputs[0], what, f"{move.op_type} has inputs that are computed and not indices")
            below[value] = limit
    counts = [value for search in searches for value in search.node.inputs[1:] if value is not None]
    reads = tuple(dict.fromkeys([*(search.table for search in searches), *indices, *counts]))
    dead = _redundant(view, selection, others, reads)
    if alive := [search.node for search in searches if search.node not in dead]:
        return Miss(node.outputs[0], what, f"all results of the search are read by {_readers(alive, dead)}")
    rows = [rows_per_image(view, search) for search in searches]
    found = max(cost.elements(view, value) for move in (*moves, node) for value in _data(move) if value is not None)
    if found > sum(rows):  # images are split only after the search
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
    rest = [each for each in dead if each.op_type not in SEARCHES]
    return Match(
        target=node.outputs[0],
        what="the shape of a search result is read before the search" if node.op_type == "Shape" else what,
        reads=reads,
        before=cost.of_nodes(view, rest) + sum(cost.search(count * first.columns) for count in rows),
        after=cost.moved(2 * picked) * (len(searches) + functions) + cost.search(picked),
        emit=lambda op, at: _emit(view, selection, op, at),
        exact=True,
        trial=trial,
        below=below,
    )


def _trial_shape(view: GraphView, value: ir.Value, rows: int) -> dict[ir.Value, tuple[int, ...]]:
    """Return the shape of the search results of one image, if it has open sizes."""
    sizes = [dim if isinstance(dim, int) else None for dim in view.shape(value) or ()]
    if None not in sizes:
        return {}
    last = len(sizes) - 1 - sizes[::-1].index(None)
    rest = rows // math.prod(size or 1 for size in sizes)
    return {value: tuple(rest if axis == last else size or 1 for axis, size in enumerate(sizes))}


def _readers(alive: Sequence[ir.Node], dead: Sequence[ir.Node]) -> str:
    """Name the operators that read the results of some searches."""
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
    """Return exclusive upper bounds of the indices of a selection; None if its inputs are not indices."""
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
    """Return the operators that become unused when all selections from the same searches are rewritten.

    The smallest or largest values that a TopK also returns need no search: they are a reduction.
    """
    nodes = {search.node for search in selection.searches}
    targets = [each.target for each in others if nodes & {search.node for search in each.searches}]
    values = [node.outputs[0] for node in nodes if node.op_type == "TopK"]
    return view.only_for([*targets, *values], reads)


def _emit(view: GraphView, selection: _Selection, op: Emitter, at: Callable[[ir.Value], ir.Value]) -> ir.Value:
    import onnx_ir as ir

    searches, node, target = selection.searches, selection.node, selection.target
    numbers, starts = numbered(searches, op, at)
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
    found = searches[0].search(op, gathered(searches, chosen, starts, op, at), at)
    if shape is None or len(shape) != 1:
        known = shape is not None and sum(not isinstance(dim, int) for dim in shape) < 2
        sizes = tuple(dim if isinstance(dim, int) else -1 for dim in shape or ())
        found = op.arranged(found, op.constant(sizes, "shape") if known else op.sizes_of(numbers[target]), shape)
    dtype = view.dtype(target)
    return found if dtype in (None, view.dtype(searches[0].result)) else op.cast(found, ir.DataType[dtype].numpy())
