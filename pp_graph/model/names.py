"""Names that are still free in a graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import onnx_ir as ir


def all_values(graph: ir.Graph) -> Iterator[ir.Value]:
    """Every value of a graph, its nodes and its subgraphs."""
    yield from graph.inputs
    yield from graph.initializers.values()
    for subgraph in graph.subgraphs():
        yield from subgraph.inputs
        yield from subgraph.initializers.values()
    for node in graph.all_nodes():
        yield from node.outputs


def bodies_of(node: ir.Node) -> Iterator[ir.Graph]:
    """The graphs that an operator such as If holds."""
    import onnx_ir as ir

    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def rename_values(graph: ir.Graph, new_names: Mapping[str, str]) -> None:
    """Rename values, old name to new, and keep the order of the initializers, which renaming would change."""
    order = list(graph.initializers.values())
    for value in [value for value in all_values(graph) if value.name in new_names]:
        value.name = new_names[value.name or ""]
    if any(value.name in new_names.values() for value in order):
        graph.initializers.clear()
        for value in order:
            graph.initializers.add(value)


def _names_in(graph: ir.Graph) -> Iterator[str | None]:
    # ONNX forbids an inner graph to shadow an outer name, so the names of the bodies of If, Loop
    # and Scan are as taken as those of the main graph.
    for value in all_values(graph):
        yield value.name
    for node in graph.all_nodes():
        yield node.name


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
