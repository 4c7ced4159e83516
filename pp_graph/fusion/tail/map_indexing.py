"""Read operators that select and join features, or places at a constant distance; see `map_operators`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from pp_graph.fusion.tail.map_layout import HEIGHT, PLACES, Index, Layout, Pull, Reading, Step, scattered

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from pp_graph.fusion.tail.map_operators import Tracer


def _indexed(before: Layout, axis: int, index: Index) -> tuple[Layout, Pull] | None:
    """Read a Gather: of features, or of places whose distance is constant."""
    index = np.where(index < 0, index + before.count(axis), index)
    if before.is_features(axis):
        return of_features(before, axis, index)
    if before.axes[axis] not in PLACES or not index.ndim:
        return None
    for along in (index.ndim - 1, 0):
        moved = np.moveaxis(index, along, -1)
        steps = np.diff(moved, axis=-1)
        if moved.shape[-1] > 1 and (steps == steps.flat[0]).all() and steps.flat[0] > 0:
            return _of_places(before, axis, moved, along, int(steps.flat[0]))
    return None


def of_features(before: Layout, axis: int, index: Index) -> tuple[Layout, Pull]:
    """Read a Gather of features, with an index of any shape."""
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


def gather(tracer: Tracer, node: ir.Node, value: ir.Value) -> Step | None:
    """Read Gather with a constant index."""
    found, index = tracer.first(node), tracer.view.constant(node.inputs[1])
    if found is None or index is None:
        return None
    source, before = found
    return _composed(source, before, [(node.attributes.get_int("axis", 0) % len(before.axes), index.astype(np.int64))])


def cut(tracer: Tracer, node: ir.Node, value: ir.Value) -> Step | None:
    """Read Slice with constant bounds."""
    found = tracer.first(node)
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


def split(tracer: Tracer, node: ir.Node, value: ir.Value) -> Step | None:
    """Read Split of features."""
    found = tracer.first(node)
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


def pad(tracer: Tracer, node: ir.Node, value: ir.Value) -> Step | None:
    """Read Pad of places with zeros."""
    view, found = tracer.view, tracer.first(node)
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


def concat(tracer: Tracer, node: ir.Node, value: ir.Value) -> Step | None:
    """Read Concat of features."""
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
