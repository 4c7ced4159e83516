"""Test a rewrite against the operators it replaces, on random inputs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from pp_graph.model.graphs import NameScope
from pp_graph.steps import Emitter

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from pp_graph.fusion.tail.rule import Match
    from pp_graph.fusion.tail.view import GraphView
    from pp_graph.model.constants import Array

TOLERANCE: Final = 1e-5
"""Maximum error of a rewrite, as a fraction of the largest absolute output of the original."""

_TRIALS: Final = ((1, 0.0), (3, 20.0))
"""Batch size and mean of the inputs. A mean far from zero reveals rewrites that lose digits by subtracting."""
_OPEN_SIZE: Final = 48
"""Assumed size of an open axis."""

_MOST_WEIGHTS: Final = 1 << 30
_SILENT: Final = 4


def disprove(view: GraphView, model: ir.Model, match: Match) -> str | None:
    """Try to find inputs on which a rewrite differs from the original.

    Args:
        view: The graph.
        model: The model of the graph. It is not modified.
        match: The rewrite.

    Returns:
        Why the rewrite must not be kept; None if both agree, bit for bit if the rewrite is exact and otherwise within
        `TOLERANCE`.
    """
    replaced = view.between(match.reads, match.target)
    weights = {value for node in replaced for value in node.inputs if value is not None and value.is_initializer()}
    size = sum(value.const_value.nbytes for value in weights if value.const_value is not None)
    if size > _MOST_WEIGHTS:
        return f"it cannot be tested: its weights take {size / 2**30:.1f} GiB, expected at most 1"
    try:
        original, fed = _alone(view, model, match, replaced)
        rewritten, also_fed = _alone(view, model, match, None)
        fed = list(dict.fromkeys([*fed, *also_fed]))
        for batch, offset in _TRIALS:
            feeds = _feeds(view, fed, match, batch, offset)
            difference = _differ(match, _run(original, feeds), _run(rewritten, feeds))
            if difference is not None:
                return difference
    except Exception as failure:
        reason = (str(failure).strip().splitlines() or [type(failure).__name__])[0]
        return f"it cannot be tested: {reason}"
    return None


def _differ(match: Match, expected: Array, found: Array) -> str | None:
    if expected.shape != found.shape or expected.dtype != found.dtype:
        return f"it would give {found.dtype} of shape {found.shape} instead of {expected.dtype} {expected.shape}"
    if match.exact:
        same = np.array_equal(expected, found, equal_nan=expected.dtype.kind == "f")
        return None if same else "it would not give the same numbers"
    error = np.abs(expected.astype(np.float64) - found).max(initial=0.0)
    scale = np.abs(expected.astype(np.float64)).max(initial=0.0)
    if not error <= TOLERANCE * scale:
        return f"it would be off by {error / scale if scale else math.inf:.1g} of the largest number"
    return None


def _alone(
    view: GraphView, model: ir.Model, match: Match, nodes: Sequence[ir.Node] | None
) -> tuple[bytes, list[ir.Value]]:
    """Build a model of the given operators, or of the rewrite if None. Returns it with the values to feed."""
    import onnx_ir as ir

    values: dict[ir.Value, ir.Value] = {}
    fed: list[ir.Value] = []
    graph = ir.Graph([], [], nodes=[], opset_imports=dict(model.opset_imports), name="alone")

    def inside(value: ir.Value) -> ir.Value:
        """Return the copy of a value, as an initializer or an input."""
        if value not in values:
            if value.is_initializer() and not (value.is_graph_input() and value in match.reads):
                copy = ir.Value(name=value.name, type=value.type, shape=value.shape, const_value=value.const_value)
                graph.register_initializer(copy)
            else:
                copy = ir.Value(name=value.name, type=ir.TensorType(_dtype(view, value)))
                graph.inputs.append(copy)
                fed.append(value)
            values[value] = copy
        return values[value]

    def copy_node(node: ir.Node) -> None:
        inputs = [None if value is None else inside(value) for value in node.inputs]
        outputs = [ir.Value(name=output.name) for output in node.outputs]
        values.update(zip(node.outputs, outputs, strict=True))
        attributes = list(node.attributes.values())
        graph.append(ir.Node(node.domain, node.op_type, inputs, attributes, outputs=outputs, name=node.name))

    if nodes is None:
        names = NameScope(graph)
        op = Emitter(graph, opset=view.opset, ir_version=10, names=names, prefix="rewrite")
        with op.scope("tail"):
            result = match.emit(op, inside)
    else:
        for node in nodes:
            copy_node(node)
        result = values[match.target]
    graph.outputs.append(result)
    result.type = result.type or ir.TensorType(_dtype(view, match.target))
    proto = ir.to_proto(ir.Model(graph, ir_version=10))
    del proto.graph.value_info[:]
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    return proto.SerializeToString(), fed


def _dtype(view: GraphView, value: ir.Value) -> ir.DataType:
    import onnx_ir as ir

    name = view.dtype(value)
    if name is None:
        raise ValueError(f"the type of '{value.name}' is not known")
    return ir.DataType[name]


def _feeds(view: GraphView, fed: Sequence[ir.Value], match: Match, batch: int, offset: float) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    feeds = {}
    for value in fed:
        shape = view.shape(value)
        if shape is None:
            raise ValueError(f"the rank of '{value.name}' is not known")
        sizes = tuple(
            dim if isinstance(dim, int) else batch if axis == 0 else _OPEN_SIZE for axis, dim in enumerate(shape)
        )
        if value in match.trial:
            rows, *others = match.trial[value]
            sizes = (batch * rows, *others)
        dtype = _dtype(view, value).numpy()
        if value in match.below:
            limits = [dim if isinstance(dim, int) else batch for dim in match.below[value]]
            bounds = limits[0] if len(limits) == 1 else limits
            feeds[value.name or ""] = rng.integers(0, bounds, sizes).astype(dtype)
            continue
        dims = view.integers(value) if dtype.kind == "i" else None
        if dims is not None:
            known = [dim if isinstance(dim, int) else batch for dim in dims]
            feeds[value.name or ""] = np.array(known, dtype).reshape(sizes)
            continue
        array = rng.normal(offset, 1, sizes) if dtype.kind == "f" else np.zeros(sizes)
        feeds[value.name or ""] = array.astype(dtype)
    return feeds


def _run(model: bytes, feeds: dict[str, Array]) -> Array:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = _SILENT
    # Folding large constants would take longer than a single run without optimisation.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    read = {node.name for node in session.get_inputs()}
    result: Array = session.run(None, {name: array for name, array in feeds.items() if name in read})[0]
    return result
