"""Names that are still free in a graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx_ir as ir


def _names_in(graph: ir.Graph) -> Iterator[str | None]:
    for value in (*graph.inputs, *graph.initializers.values()):
        yield value.name
    # ONNX forbids an inner graph to shadow an outer name, so the names of the bodies of If, Loop
    # and Scan are as taken as those of the main graph.
    for node in graph.all_nodes():
        yield node.name
        for value in node.outputs:
            yield value.name
    for subgraph in graph.subgraphs():
        for value in (*subgraph.inputs, *subgraph.initializers.values()):
            yield value.name


class NameScope:
    """The names taken in a graph, its nodes and its subgraphs, and fresh ones beside them.

    Args:
        graph: The main graph. Local functions have a scope of their own and are left out.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self._taken = {name for name in _names_in(graph) if name}

    def __contains__(self, name: str) -> bool:
        return name in self._taken

    def fresh(self, wanted: str) -> str:
        """Take `wanted`, or the first of `wanted_1`, `wanted_2`, … that is free."""
        name, count = wanted, 0
        while name in self._taken:
            count += 1
            name = f"{wanted}_{count}"
        self._taken.add(name)
        return name

    def fresh_prefix(self, wanted: str) -> str:
        """Take a prefix under which the graph has no name yet: `wanted`, `wanted_1`, …."""
        prefix, count = wanted, 0
        while any(name == prefix or name.startswith(f"{prefix}/") for name in self._taken):
            count += 1
            prefix = f"{wanted}_{count}"
        return prefix
