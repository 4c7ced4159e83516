"""Trace values back to feature maps, through operators that are linear in the channels at each place.

Each reader returns the layout of an operator's result, and for each input a function that turns a reading of the result
into one of the input. This pushes the identity backwards through the operator: sums repeat weights, and a Gather adds
up the weights of what it repeats. To support another operator, write a reader and list it in `_READERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from pp_graph.fusion.tail.linear_operators import fixed_scales
from pp_graph.fusion.tail.map_layout import HEIGHT, PLACES, Index, Layout, Reading, Weights, scattered

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from pp_graph.fusion.tail.view import GraphView
    from pp_graph.model.constants import Array

MOVES: Final = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
MIXES: Final = frozenset({"Add", "AveragePool", "Gemm", "MatMul", "ReduceMean", "ReduceSum", "Sum"})

Pull = Callable[[Reading], Reading | None]
"""Turns a reading of a result into one of an input; None if that is not possible."""


@dataclass(frozen=True)
class Step:
    """A value that is linear in feature maps.

    Attributes:
        layout: Its layout.
        sources: The values it is computed from, each with its function; none for a map to start from.
    """

    layout: Layout
    sources: tuple[tuple[ir.Value, Pull], ...] = ()


class Tracer:
    """Traces values of a graph, each once."""

    def __init__(self, view: GraphView) -> None:
        self.view = view
        self._steps: dict[ir.Value, Step | None] = {}

    def step(self, value: ir.Value | None) -> Step | None:
        """Return how a value is computed; None if its layout is not known."""
        if value is None:
            return None
        if value not in self._steps:
            node = self.view.producer(value)
            reader = None if node is None else _READERS.get(node.op_type)
            step = None
            if node is not None and reader is not None and self.view.dtype(value) in (None, "FLOAT"):
                step = reader(self, node, value)
            self._steps[value] = step or self._map(value)
        return self._steps[value]

    def layout(self, value: ir.Value | None) -> Layout | None:
        """Return the layout of a value; None if it is not known."""
        step = self.step(value)
        return None if step is None else step.layout

    def passed(self, value: ir.Value) -> list[ir.Node]:
        """Return the operators between feature maps and a value."""
        found: dict[ir.Node, None] = {}
        pending = [value]
        while pending:
            value = pending.pop()
            step, node = self.step(value), value.producer()
            if step is not None and step.sources and node is not None and node not in found:
                found[node] = None
                pending += [source for source, _ in step.sources]
        return list(found)

    def _map(self, value: ir.Value) -> Step | None:
        sizes, channels, shape = self.view.sizes(value), self.view.channels(value), self.view.named_shape(value)
        if sizes is None or channels is None or shape is None or min(sizes) < 2 or self.view.dtype(value) != "FLOAT":
            return None
        if value.is_initializer() or self.view.constant(value) is not None:
            return None
        return Step(Layout.of_map(shape[0], channels, *sizes))


def _first(tracer: Tracer, node: ir.Node) -> tuple[ir.Value, Layout] | None:
    source = node.inputs[0] if node.inputs else None
    layout = tracer.layout(source)
    return None if source is None or layout is None else (source, layout)


def _moved(tracer: Tracer, node: ir.Node, value: ir.Value) -> Step | None:
    """Read an operator that keeps the elements in order."""
    found, sizes = _first(tracer, node), tracer.view.named_shape(value)
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
    found = _first(tracer, node)
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


def _indexed(before: Layout, axis: int, index: Index) -> tuple[Layout, Pull] | None:
    """Read a Gather: of features, or of places whose distance is constant."""
    index = np.where(index < 0, index + before.count(axis), index)
    if before.is_features(axis):
        return _of_features(before, axis, index)
    if before.axes[axis] not in PLACES or not index.ndim:
        return None
    for along in (index.ndim - 1, 0):
        moved = np.moveaxis(index, along, -1)
        steps = np.diff(moved, axis=-1)
        if moved.shape[-1] > 1 and (steps == steps.flat[0]).all() and steps.flat[0] > 0:
            return _of_places(before, axis, moved, along, int(steps.flat[0]))
    return None


def _of_features(before: Layout, axis: int, index: Index) -> tuple[Layout, Pull]:
    at, count = 3 + before.position(axis), before.count(axis)
    after = before.with_axes([*before.axes[:axis], *((size,) for size in index.shape), *before.axes[axis + 1 :]])

    def pull(reading: Reading) -> Reading:
        shape = reading.weights.shape[:3] + before.features[: at - 3]
        weights = reading.weights.reshape(*shape, index.size, -1)
        weights = np.moveaxis(scattered(np.moveaxis(weights, at, 0), index.ravel(), count), 0, at)
        return reading.with_features(weights, before.features)

    return after, pull


def _of_places(before: Layout, axis: int, index: Index, along: int, step: int) -> tuple[Layout, Pull]:
    """Read a Gather of places. The last axis of `index` is that of the places, which is axis `along` of the result."""
    at = 3 + before.position(axis)
    number: Literal[1, 2] = 1 if before.axes[axis] == (HEIGHT,) else 2
    axes: list[tuple[str | int, ...]] = [(size,) for size in index.shape[:-1]]
    axes.insert(along, before.axes[axis])
    after = before.with_axes([*before.axes[:axis], *axes, *before.axes[axis + 1 :]])
    after = replace(after, **{"height" if number == 1 else "width": index.shape[-1]})

    def pull(reading: Reading) -> Reading | None:
        if reading.padded:
            return None  # what is read as 0 outside the result may not be 0 before
        starts = index[..., 0].ravel()
        window, positions = reading.window(number).through(step, starts)
        weights = reading.weights.reshape(*reading.weights.shape[:3], *before.features[: at - 3], starts.size, -1)
        weights = np.moveaxis(weights, (number, at), (0, 1)).reshape(
            len(positions), *np.delete(weights.shape, (number, at))
        )
        weights = np.moveaxis(scattered(weights, positions, len(window.offsets)), 0, number)
        return reading.with_window(number, window, weights).with_features(weights, before.features)

    return after, pull


def _composed(source: ir.Value, before: Layout, parts: Sequence[tuple[int, Index]]) -> Step | None:
    """Read Gathers along several axes, each with a one-dimensional index."""
    pulls: list[Pull] = []
    for axis, index in parts:
        found = _indexed(before, axis, index)
        if found is None:
            return None
        before = found[0]
        pulls.insert(0, found[1])

    def pull(reading: Reading) -> Reading | None:
        result: Reading | None = reading
        for each in pulls:
            result = None if result is None else each(result)
        return result

    return Step(before, ((source, pull),))


def _gather(tracer: Tracer, node: ir.Node, value: ir.Value) -> Step | None:
    found, index = _first(tracer, node), tracer.view.constant(node.inputs[1])
    if found is None or index is None:
        return None
    source, before = found
    return _composed(source, before, [(node.attributes.get_int("axis", 0) % len(before.axes), index.astype(np.int64))])


def _slice(tracer: Tracer, node: ir.Node, value: ir.Value) -> Step | None:
    found = _first(tracer, node)
    given = [tracer.view.known_integers(each) for each in node.inputs[1:]]
    if found is None or len(given) < 2 or None in given:
        return None
    source, before = found
    starts, stops, *rest = [each or () for each in given]
    axes = rest[0] if rest else tuple(range(len(starts)))
    steps = rest[1] if len(rest) > 1 else (1,) * len(starts)
    parts = []
    for number, start, stop, step in zip(axes, starts, stops, steps, strict=True):
        axis = number % len(before.axes)
        if not before.is_features(axis) and before.axes[axis] not in PLACES:
            return None
        size = before.count(axis)
        parts.append((axis, np.arange(size)[start : None if step < 0 and stop < -size else stop : step]))
    return _composed(source, before, parts) if all(index.size for _, index in parts) else None


def _split(tracer: Tracer, node: ir.Node, value: ir.Value) -> Step | None:
    found = _first(tracer, node)
    shapes = [tracer.view.shape(output) for output in node.outputs]
    if found is None or None in shapes:
        return None
    source, before = found
    axis = node.attributes.get_int("axis", 0) % len(before.axes)
    sizes = [size for shape in shapes if shape is not None and isinstance(size := shape[axis], int)]
    if not before.is_features(axis) or len(sizes) < len(shapes):
        return None
    ends = np.cumsum(sizes, dtype=np.int64)
    number = node.outputs.index(value)
    return _composed(
        source, before, [(axis, np.arange(before.count(axis))[ends[number] - sizes[number] : ends[number]])]
    )


def _pad(tracer: Tracer, node: ir.Node, value: ir.Value) -> Step | None:
    view, found = tracer.view, _first(tracer, node)
    fill = node.inputs[2] if len(node.inputs) > 2 else None
    pads = view.known_integers(node.inputs[1]) if len(node.inputs) > 1 else None
    zeros = node.attributes.get_string("mode", "constant") == "constant" and (fill is None or view.uniform(fill) == 0)
    if found is None or pads is None or not zeros:
        return None
    source, before = found
    given = node.inputs[3] if len(node.inputs) > 3 else None
    axes = tuple(range(len(before.axes))) if given is None else view.known_integers(given) or ()
    amounts = {axis % len(before.axes): (pads[at], pads[at + len(axes)]) for at, axis in enumerate(axes)}
    amounts = {axis: amount for axis, amount in amounts.items() if amount != (0, 0)}
    if any(before.axes[axis] not in PLACES or min(amount) < 0 for axis, amount in amounts.items()):
        return None
    by_place = {before.axes[axis][0]: amount for axis, amount in amounts.items()}
    (top, bottom), (left, right) = (by_place.get(place, (0, 0)) for (place,) in PLACES)
    after = replace(before, height=before.height + top + bottom, width=before.width + left + right)

    def pull(reading: Reading) -> Reading:
        rows = replace(reading.rows, offsets=tuple(offset - top for offset in reading.rows.offsets))
        columns = replace(reading.columns, offsets=tuple(offset - left for offset in reading.columns.offsets))
        return replace(reading, rows=rows, columns=columns, padded=True)

    return Step(after, ((source, pull),))


def _concat(tracer: Tracer, node: ir.Node, value: ir.Value) -> Step | None:
    layouts = [tracer.layout(part) for part in node.inputs]
    first = layouts[0]
    if first is None:
        return None
    axis = node.attributes.get_int("axis", 0) % len(first.axes)
    parts: list[tuple[ir.Value, Layout]] = []
    for part, layout in zip(node.inputs, layouts, strict=True):
        if part is None or layout is None or len(layout.axes) != len(first.axes) or not layout.is_features(axis):
            return None
        if layout.with_axes([*layout.axes[:axis], first.axes[axis], *layout.axes[axis + 1 :]]) != first:
            return None
        parts.append((part, layout))
    ends = np.cumsum([layout.count(axis) for _, layout in parts])
    after = first.with_axes([*first.axes[:axis], (int(ends[-1]),), *first.axes[axis + 1 :]])
    before = first.features[: first.position(axis)]

    def pull_of(layout: Layout, end: int) -> Pull:
        def pull(reading: Reading) -> Reading:
            weights = reading.weights.reshape(*reading.weights.shape[:3], *before, int(ends[-1]), -1)
            chosen = np.take(weights, range(end - layout.count(axis), end), axis=3 + len(before))
            return reading.with_features(chosen, layout.features)

        return pull

    return Step(
        after, tuple((part, pull_of(layout, int(end))) for (part, layout), end in zip(parts, ends, strict=True))
    )


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
    found, axes = _first(tracer, node), tracer.view.reduced_axes(node)
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
    found, shape = _first(tracer, node), tracer.view.shape(value)
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
    layout, gather = _of_features(before, 2, windows)

    def pull(reading: Reading) -> Reading | None:
        weights = np.repeat(reading.weights[..., None], kernel[0], -1) / kernel[0]
        return gather(reading.with_features(weights, layout.features))

    return Step(layout.with_axes(layout.axes[:-1]), ((source, pull),))


def _resize(tracer: Tracer, node: ir.Node, value: ir.Value) -> Step | None:
    return None if fixed_scales(tracer.view, node) is None else _on_places(tracer, node, value)


def _on_places(tracer: Tracer, node: ir.Node, value: ir.Value) -> Step | None:
    """Read an operator that acts on each channel alike, and so may come after the weights."""
    found, sizes = _first(tracer, node), tracer.view.sizes(value)
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
    "Concat": _concat,
    "Div": _scaled,
    "Flatten": _moved,
    "Gather": _gather,
    "Gemm": _product,
    "Identity": _moved,
    "MatMul": _product,
    "Mul": _scaled,
    "Pad": _pad,
    "ReduceMean": _reduce,
    "ReduceSum": _reduce,
    "Reshape": _moved,
    "Resize": _resize,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _moved,
    "Sum": _sum,
    "Transpose": _transpose,
    "Unsqueeze": _moved,
}
