"""Refuse models that onnx_ir reads, and that libraries hang or crash on."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

from pp_graph.errors import ModelError
from pp_graph.model.graphs import DEFAULT_DOMAINS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import onnx

_MOST_CALLED: Final = 1_000_000
"""Operators in a model once its functions are inlined."""


def check_structure(model: onnx.ModelProto, name: str) -> None:
    """Check what neither protobuf nor onnx_ir check.

    Raises:
        ModelError: Operators need each other's results, lack inputs, or call functions without end; or a size is
            negative.
    """
    opset = next((entry.version for entry in model.opset_import if entry.domain in DEFAULT_DOMAINS), 0)
    for value in model.graph.input:
        sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if min(sizes, default=0) < -1:  # -1 means open in some exports
            raise ModelError(f"{name} declares input '{value.name}' with sizes {sizes}, expected none below 0.")
    _check_functions(model, name)
    for graph in _graphs(model.graph):
        _check_graph(graph, name, opset)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        yield from _bodies(node)


def _bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        for body in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
            yield from _graphs(body)


def _reads(node: onnx.NodeProto) -> set[str]:
    """Return the values that an operator reads, with those that its branches may take from outside."""
    inner = {name for body in _bodies(node) for each in body.node for name in each.input}
    return inner.union(node.input)


def _check_graph(graph: onnx.GraphProto, name: str, opset: int) -> None:
    """Order the operators; those that are left wait for each other."""
    makers = {output: place for place, node in enumerate(graph.node) for output in node.output if output}
    ready: list[int] = []
    waiting: dict[int, int] = {}
    readers: dict[int, list[int]] = {}
    for place, node in enumerate(graph.node):
        least = _least_inputs(node.op_type, opset) if node.domain in DEFAULT_DOMAINS else 0
        if len(node.input) < least:
            raise ModelError(
                f"{name} has an operator {node.op_type} ('{node.name}') with {len(node.input)} inputs, expected at "
                f"least {least}. Check it with onnx.checker."
            )
        needs = {makers[read] for read in (_reads(node) if node.attribute else node.input) if read in makers}
        for maker in needs:
            readers.setdefault(maker, []).append(place)
        waiting[place] = len(needs)
        if not needs:
            ready.append(place)
    done = 0
    while ready:
        done += 1
        for reader in readers.get(ready.pop(), ()):
            waiting[reader] -= 1
            if not waiting[reader]:
                ready.append(reader)
    if done < len(graph.node):
        stuck = next(graph.node[place] for place, count in waiting.items() if count)
        raise ModelError(
            f"{name} has operators that need their own results, such as {stuck.op_type} of '{stuck.output[0]}', "
            "expected a graph without cycles. Check it with onnx.checker."
        )


@cache
def _least_inputs(kind: str, opset: int) -> int:
    import onnx

    try:
        return int(onnx.defs.get_schema(kind, opset, "").min_input)
    except onnx.defs.SchemaError:
        return 0


def _check_functions(model: onnx.ModelProto, name: str) -> None:
    """Count the operators that calls lead to, and refuse calls that lead back."""
    functions = {(function.domain, function.name): function for function in model.functions}
    if not functions:
        return
    counts: dict[tuple[str, str], int] = {}

    def count(nodes: Iterable[onnx.NodeProto]) -> int:
        return sum(counts.get((node.domain, node.op_type), 1) for node in nodes)

    called = {
        key: {(node.domain, node.op_type) for node in _all_nodes(function.node)} & functions.keys()
        for key, function in functions.items()
    }
    while len(counts) < len(functions):
        known = [key for key in functions if key not in counts and called[key] <= counts.keys()]
        if not known:
            looping = next(key for key in functions if key not in counts)
            raise ModelError(
                f"{name} has functions that call themselves, such as '{looping[1]}', expected none. Check it with "
                "onnx.checker."
            )
        for key in known:
            counts[key] = count(_all_nodes(functions[key].node))
    total = count(node for graph in _graphs(model.graph) for node in graph.node)
    if total > _MOST_CALLED:
        raise ModelError(
            f"{name} has {total:,} operators once its functions are inlined, expected at most {_MOST_CALLED:,}. Export "
            "it with fewer."
        )


def _all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for body in _bodies(node):
            yield from body.node
