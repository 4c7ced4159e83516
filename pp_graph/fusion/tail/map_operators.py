"""Trace values back to feature maps, through operators that are linear in the channels at each place.

Each reader returns the layout of an operator's result, and for each input a function that turns a reading of the result
into one of the input. This pushes the identity backwards through the operator: sums repeat weights, and a Gather adds
up the weights of what it repeats. To support another operator, write a reader and list it in `_READERS`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from pp_graph.fusion.tail.linear_operators import fixed_scales
from pp_graph.fusion.tail.map_indexing import concat, cut, gather, of_features, pad, split
from pp_graph.fusion.tail.map_layout import PLACES, Layout, Reading, Step, Weights
from pp_graph.fusion.tail.view import resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    import onnx_ir as ir

    from pp_graph.fusion.tail.view import GraphView
    from pp_graph.model.constants import Array

MOVES: Final = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
MIXES: Final = frozenset({"Add", "AveragePool", "Gemm", "MatMul", "ReduceMean", "ReduceSum", "Sum"})


class Tracer:
    """Traces values of a graph, each once."""

    def __init__(self, view: GraphView) -> None:
        self.view = view
        self._steps: dict[ir.Value, Step | None] = {}
        self._passes: dict[ir.Value, bool] = {}

    def step(self, value: ir.Value | None) -> Step | None:
        """Return how a value is computed; None if its layout is not known."""
        return None if value is None else resolve(value, self._steps, self._operands, self._read)

    def _operands(self, value: ir.Value) -> list[ir.Value]:
        node = self.view.producer(value, *_READERS)
        return [] if node is None else [operand for operand in node.inputs if operand is not None]

    def _read(self, value: ir.Value) -> Step | None:
        node = self.view.producer(value, *_READERS)
        step = None
        if node is not None and self.view.dtype(value) in (None, "FLOAT"):
            step = _READERS[node.op_type](self, node, value)
        return step or self._map(value)

    def layout(self, value: ir.Value | None) -> Layout | None:
        """Return the layout of a value; None if it is not known."""
        step = self.step(value)
        return None if step is None else step.layout

    def first(self, node: ir.Node) -> tuple[ir.Value, Layout] | None:
        """Return the first input of an operator with its layout; None if it is not known."""
        source = node.inputs[0] if node.inputs else None
        layout = self.layout(source)
        return None if source is None or layout is None else (source, layout)

    def passes(self, value: ir.Value, op_types: Collection[str]) -> bool:
        """Return True if an operator of some types (always the same) is between feature maps and a value."""

        def sources(value: ir.Value) -> list[ir.Value]:
            step = self.step(value)
            return [] if step is None else [source for source, _ in step.sources]

        def read(value: ir.Value) -> bool:
            node, before = value.producer(), sources(value)
            return (
                bool(before)
                and node is not None
                and (node.op_type in op_types or any(self._passes[source] for source in before))
            )

        return resolve(value, self._passes, sources, read)

    def _map(self, value: ir.Value) -> Step | None:
        sizes, channels, shape = self.view.sizes(value), self.view.channels(value), self.view.named_shape(value)
        if sizes is None or channels is None or shape is None or min(sizes) < 2 or self.view.dtype(value) != "FLOAT":
            return None
        if value.is_initializer() or self.view.constant(value) is not None:
            return None
        return Step(Layout.of_map(shape[0], channels, *sizes))


def _moved(tracer: Tracer, node: ir.Node, value: ir.Value) -> Step | None:
    """Read an operator that keeps the elements in order."""
    found, sizes = tracer.first(node), tracer.view.named_shape(value)
    if found is None or sizes is None:
        return None
    source, before = found
    if node.op_type == "Cast" and tracer.view.dtype(source) != "FLOAT":
        return None
    after = before.reshaped(sizes)
    if after is None:
        return None
    return Step(after, ((source, lambda reading: reading.with_features(reading.weights, before.features)),))


def _transpose(tracer: Tracer, node: ir.Node, value: ir.Value) -> Step | None:
    found = tracer.first(node)
    if found is None:
        return None
    source, before = found
    order = tuple(node.attributes.get_ints("perm", tuple(range(len(before.axes)))[::-1]))
    numbers = [range(before.position(axis), before.position(axis + 1)) for axis in range(len(before.axes))]
    moved = np.argsort([number for axis in order for number in numbers[axis]], kind="stable")

    def pull(reading: Reading) -> Reading:
        weights = reading.weights.transpose(0, 1, 2, *(3 + moved.astype(np.int64)))
        return reading.with_features(weights, before.features)

    # An axis may have factors of features on both sides of a place, so the features of the result are not joined.
    return Step(before.with_axes([before.axes[axis] for axis in order]), ((source, pull),))


def _sum(tracer: Tracer, node: ir.Node, value: ir.Value) -> Step | None:
    layouts = [tracer.layout(part) for part in node.inputs]
    if layouts[0] is None or any(layout != layouts[0] for layout in layouts):
        return None
    return Step(layouts[0], tuple((part, lambda reading: reading) for part in node.inputs if part is not None))


def _scaled(tracer: Tracer, node: ir.Node, value: ir.Value) -> Step | None:
    """Read Mul or Div by a constant that is the same at all places."""
    first, second = node.inputs
    if node.op_type == "Mul" and tracer.view.constant(first) is not None:
        first, second = second, first
    before, constant = tracer.layout(first), floats(tracer.view, second)
    if first is None or before is None or constant is None or constant.ndim > len(before.axes):
        return None
    if node.op_type == "Div" and not constant.all():
        return None
    factors = 1 / constant if node.op_type == "Div" else constant
    factors = factors.reshape((1,) * (len(before.axes) - factors.ndim) + factors.shape)
    if any(size not in (1, before.count(axis) if before.is_features(axis) else 1)
           for axis, size in enumerate(factors.shape)):  # fmt: skip
        return None
    sizes = [factors.shape[axis] for axis, factored in enumerate(before.axes) for factor in factored
             if isinstance(factor, int)]  # fmt: skip
    return Step(before, ((first, lambda reading: replace(reading, weights=reading.weights * factors.reshape(sizes))),))


def _reduce(tracer: Tracer, node: ir.Node, value: ir.Value) -> Step | None:
    found, axes = tracer.first(node), tracer.view.reduced_axes(node)
    if found is None or not axes:
        return None
    source, before = found
    reduced = {axis % len(before.axes) for axis in axes}
    if not all(before.is_features(axis) for axis in reduced):
        return None
    keep = node.attributes.get_int("keepdims", 1)
    kept = [
        () if axis in reduced else factors for axis, factors in enumerate(before.axes) if keep or axis not in reduced
    ]
    after = before.with_axes(kept)
    count = np.prod([before.count(axis) for axis in reduced]) if node.op_type == "ReduceMean" else 1
    sizes = [1 if axis in reduced else factor for axis, factored in enumerate(before.axes) for factor in factored
             if isinstance(factor, int)]  # fmt: skip

    def pull(reading: Reading) -> Reading:
        shape = reading.weights.shape[:3]
        return replace(
            reading,
            weights=np.broadcast_to(reading.weights.reshape(*shape, *sizes) / count, (*shape, *before.features)),
        )

    return Step(after, ((source, pull),))


def _product(tracer: Tracer, node: ir.Node, value: ir.Value) -> Step | None:
    """Read MatMul or Gemm with a constant matrix."""
    first, second = node.inputs[:2]
    left, right = floats(tracer.view, first), floats(tracer.view, second)
    gemm = node.op_type == "Gemm"
    if gemm and (len(node.inputs) > 2 or node.attributes.get_int("transA", 0) != 0):
        return None
    matrix, source, contracted = (right, first, -1) if left is None else (left, second, -2)
    before = tracer.layout(source)
    if (
        source is None
        or before is None
        or matrix is None
        or matrix.ndim != 2
        or len(before.axes) < 2
        or (gemm and left is not None)
    ):
        return None
    if contracted == -1:
        matrix = matrix if gemm and node.attributes.get_int("transB", 0) != 0 else matrix.T
    scale = node.attributes.get_float("alpha", 1.0) if gemm else 1.0
    axis = contracted % len(before.axes)
    if not before.is_features(axis) or before.count(axis) != matrix.shape[1]:
        return None
    after = before.with_axes([*before.axes[:axis], (matrix.shape[0],), *before.axes[axis + 1 :]])
    at = 3 + before.position(axis)

    def pull(reading: Reading) -> Reading:
        weights = reading.weights.reshape(*reading.weights.shape[:3], *before.features[: at - 3], len(matrix), -1)
        weights = np.moveaxis(np.tensordot(weights, scale * matrix, (at, 0)), -1, at)
        return reading.with_features(weights, before.features)

    return Step(after, ((source, pull),))


def _pool(tracer: Tracer, node: ir.Node, value: ir.Value) -> Step | None:
    """Read AveragePool over places, which acts on each channel alike, or over features."""
    found, shape = tracer.first(node), tracer.view.shape(value)
    if found is None or shape is None or node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return None
    source, before = found
    if before.axes[2:] == PLACES:
        return _on_places(tracer, node, value)
    kernel = node.attributes.get_ints("kernel_shape", ())
    strides = node.attributes.get_ints("strides", (1,) * len(kernel))
    dilations = node.attributes.get_ints("dilations", (1,) * len(kernel))
    if len(shape) != 3 or any(node.attributes.get_ints("pads", ())) or not before.is_features(2):
        return None
    count = shape[2]
    if not isinstance(count, int) or (count - 1) * strides[0] + (kernel[0] - 1) * dilations[0] >= before.count(2):
        return None
    windows = strides[0] * np.arange(count)[:, None] + dilations[0] * np.arange(kernel[0])
    layout, gather = of_features(before, 2, windows)

    def pull(reading: Reading) -> Reading | None:
        weights = np.repeat(reading.weights[..., None], kernel[0], -1) / kernel[0]
        return gather(reading.with_features(weights, layout.features))

    return Step(layout.with_axes(layout.axes[:-1]), ((source, pull),))


def _resize(tracer: Tracer, node: ir.Node, value: ir.Value) -> Step | None:
    return None if fixed_scales(tracer.view, node) is None else _on_places(tracer, node, value)


def _on_places(tracer: Tracer, node: ir.Node, value: ir.Value) -> Step | None:
    """Read an operator that acts on each channel alike, and so may come after the weights."""
    found, sizes = tracer.first(node), tracer.view.sizes(value)
    if found is None or sizes is None or min(sizes) < 2:
        return None
    source, before = found
    if len(before.axes) != 4 or before.axes[2:] != PLACES:
        return None

    def pull(reading: Reading) -> Reading | None:
        return replace(reading, behind=(node, *reading.behind)) if reading.in_place else None

    return Step(replace(before, height=sizes[0], width=sizes[1]), ((source, pull),))


def floats(view: GraphView, value: ir.Value | None) -> Weights | None:
    """Return a constant of finite float32 numbers in float64; None if it is not one."""
    array: Array | None = view.constant(value)
    if array is None or array.dtype != np.float32 or not np.isfinite(array).all():
        return None
    return array.astype(np.float64)


_READERS: Final[dict[str, Callable[[Tracer, ir.Node, ir.Value], Step | None]]] = {
    "Add": _sum,
    "AveragePool": _pool,
    "Cast": _moved,
    "Concat": concat,
    "Div": _scaled,
    "Flatten": _moved,
    "Gather": gather,
    "Gemm": _product,
    "Identity": _moved,
    "MatMul": _product,
    "Mul": _scaled,
    "Pad": pad,
    "ReduceMean": _reduce,
    "ReduceSum": _reduce,
    "Reshape": _moved,
    "Resize": _resize,
    "Slice": cut,
    "Split": split,
    "Squeeze": _moved,
    "Sum": _sum,
    "Transpose": _transpose,
    "Unsqueeze": _moved,
}
