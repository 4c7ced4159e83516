"""Collapse what is linear in the channels of feature maps into convolutions.

Models unfold feature maps into patches, upsample the patches, pool or select their numbers, and project them to a few
channels. All of this is linear, and does the same at every place. So it is a sum of convolutions, one of each map:

    projected = sum_i resize_i(conv(map_i, weights_i))

Resizing and pooling of places treat all channels alike, so they come after the convolution, which has fewer channels.
The weights come from pushing the identity backwards through the operators in float64. If the weights of each channel
have rank one, a convolution of each channel and one of 1×1 take fewer products. Source: linear algebra; bilinear
interpolation acts on places, and a matrix product on channels.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from pp_graph.fusion.tail import cost
from pp_graph.fusion.tail.linear_operators import RANK_ONE_TOLERANCE, fixed_scales
from pp_graph.fusion.tail.map_layout import BATCH, HEIGHT, WIDTH, Layout, Reading, Weights, Window
from pp_graph.fusion.tail.map_operators import MIXES, MOVES, Tracer
from pp_graph.fusion.tail.rule import Match, Miss, Rule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import onnx_ir as ir

    from pp_graph.fusion.tail.view import GraphView
    from pp_graph.steps import Emitter

PROJECTION: Final = "projection"
"""Name of the weights of convolutions that mix channels."""
_MOST_WEIGHTS: Final = 1 << 22
"""Maximum number of weights of all convolutions. The file grows by them."""
_MOST_NUMBERS: Final = 1 << 24
"""Maximum number of weights of an operator on the way, in float64: 128 MiB."""
_MOST_PATHS: Final = 256
"""Maximum number of ways from a result to its maps."""
_MOST_TANGLES: Final = 16
"""Results with more ways than that after which no other is tried: where sums follow sums, each has as many."""
_TANGLED: Final = f"there are more than {_MOST_PATHS} ways from it to feature maps"
_EXPLAINED: Final = frozenset({"AveragePool", "Gather", "Pad", "Resize", "Slice"})
"""Operators that make a chain worth an explanation if it stays."""


class ConvolutionCollapse(Rule):
    """Rule that collapses linear operators on feature maps into convolutions; see the module."""

    name: ClassVar[str] = "convolution collapse"
    spreads_nan = True

    def find(self, view: GraphView) -> Iterator[Match | Miss]:
        """Propose to collapse each chain, from its last operator that mixes features."""
        tracer = Tracer(view)
        covered: set[ir.Node] = set()
        tangles = 0
        for node in reversed(view.nodes()):
            if tangles == _MOST_TANGLES:
                return
            if node.op_type not in MIXES or node in covered or not view.is_live(node) or view.is_rewritten(node):
                continue
            target = _behind_moves(tracer, node.outputs[0])
            step = tracer.step(target)
            if step is None or not step.sources:
                continue
            found = [_propose(tracer, target, step.layout, nearest=nearest) for nearest in (False, True)]
            tangles += any(why == _TANGLED for why in found)
            matches = sorted((match for match in found if isinstance(match, Match)), key=lambda match: match.after)
            if matches and matches[0].saves > 0:
                covered.update(view.between(matches[0].reads, target))
                yield matches[0]
            elif tracer.passes(target, _EXPLAINED):
                why = [reason for reason in found if isinstance(reason, str)]
                why += [f"it would take an estimated {match.after:,.0f} µs instead of {match.before:,.0f} µs"
                        for match in matches]  # fmt: skip
                yield Miss(target, f"{node.op_type} over features of maps", why[0])


def _behind_moves(tracer: Tracer, value: ir.Value) -> ir.Value:
    """Follow a value through operators that only move its numbers, as long as nothing else reads it."""
    while len(users := value.consumers()) == 1 and not value.is_graph_output():
        user = users[0]
        if user.op_type not in MOVES or tracer.step(user.outputs[0]) is None or user.inputs[0] is not value:
            break
        value = user.outputs[0]
    return value


@dataclass(frozen=True)
class _Part:
    """A convolution of a map, and what comes after it.

    Attributes:
        source: The map.
        reading: How the target reads it.
        rows: How the convolution moves along the height.
        columns: How it moves along the width.
        price: Estimated microseconds per image.
        split: True if a convolution of each channel and one of 1×1 would take less time.
    """

    source: ir.Value
    reading: Reading
    rows: _Axis
    columns: _Axis
    price: float
    split: bool


@dataclass(frozen=True)
class _Axis:
    """How a convolution moves along an axis.

    Attributes:
        taps: Position in the kernel of each offset that is read.
        size: Size of the kernel.
        outputs: Number of results; more may come out of the convolution.
        exact: True if no more come out.
    """

    taps: tuple[int, ...]
    size: int
    stride: int
    dilation: int
    before: int
    after: int
    outputs: int
    exact: bool

    @classmethod
    def of(cls, window: Window, inputs: int, outputs: int) -> _Axis:
        """Return the convolution that reads a window."""
        first, last = min(0, *window.offsets), max(window.offsets)
        dilation = math.gcd(*(offset - first for offset in window.offsets)) or 1
        after = window.stride * (outputs - 1) + last + 1 - inputs
        size = (last - first) // dilation + 1
        found = (inputs - first + max(after, 0) - (last - first) - 1) // window.stride + 1
        taps = tuple((offset - first) // dilation for offset in window.offsets)
        return cls(taps, size, window.stride, dilation, -first, max(after, 0), outputs, found == outputs)


def _propose(tracer: Tracer, target: ir.Value, layout: Layout, *, nearest: bool) -> Match | str:
    """Return a rewrite; or why there is none. `nearest` reads the maps nearest to the target."""
    view = tracer.view
    outputs = math.prod(layout.features)
    # The weights of one output tell which convolutions there are.
    found = _read(tracer, target, np.ones((1, 1, 1, *layout.features)), outputs, nearest=nearest)
    if isinstance(found, str):
        return found
    parts = [_part(tracer, source, reading, layout, outputs) for source, reading in found]
    count = sum(outputs * part.rows.size * part.columns.size * _channels(part) for part in parts)
    if count > _MOST_WEIGHTS:
        return f"the convolutions would have {count:,} weights, expected at most {_MOST_WEIGHTS:,}"
    if any(part.split for part in parts):
        exact = _exact(tracer, target, layout, outputs, nearest=nearest)
        parts = [_part(tracer, source, reading, layout, outputs) for source, reading in exact]
    results = layout.elements
    after = sum(part.price for part in parts) + (len(parts) - 1) * cost.moved(3 * results)
    after += 0.0 if layout.is_map() else cost.moved(2 * results)
    reads = tuple(dict.fromkeys(part.source for part in parts))

    @functools.cache
    def kernels_of() -> list[list[Weights]]:
        readings = _exact(tracer, target, layout, outputs, nearest=nearest)
        return [_kernels(part, reading) for part, (_, reading) in zip(parts, readings, strict=True)]

    def emit(op: Emitter, at: Callable[[ir.Value], ir.Value]) -> ir.Value:
        kernels = kernels_of()
        values = [_emit(tracer, part, kernel, op, at) for part, kernel in zip(parts, kernels, strict=True)]
        total = values[0]
        for value in values[1:]:
            total = op.add(total, value)
        return _arranged(op, total, layout)

    shapes = " + ".join(f"{part.rows.size}×{part.columns.size}" for part in parts)
    return Match(
        target=target,
        what=f"what is linear in the channels becomes a convolution ({shapes}) to {outputs} channels",
        reads=reads,
        before=sum(_cost(tracer, node) for node in view.only_for([target], reads)),
        after=after,
        emit=emit,
        exact=False,
    )


def _exact(
    tracer: Tracer, target: ir.Value, layout: Layout, outputs: int, *, nearest: bool
) -> list[tuple[ir.Value, Reading]]:
    """Push the identity backwards, and return how the target reads the maps."""
    identity = np.eye(outputs).reshape(outputs, 1, 1, *layout.features)
    found = _read(tracer, target, identity, outputs, nearest=nearest)
    assert not isinstance(found, str)
    return found


def _read(
    tracer: Tracer, target: ir.Value, weights: Weights, outputs: int, *, nearest: bool
) -> list[tuple[ir.Value, Reading]] | str:
    """Return how a target reads feature maps; or why it cannot be told."""
    found: dict[tuple[object, ...], tuple[ir.Value, Reading]] = {}
    pending = [(target, Reading(weights))]
    for _ in range(_MOST_PATHS):
        if not pending:
            return list(found.values())
        value, reading = pending.pop()
        if reading.weights.size // len(weights) * outputs > _MOST_NUMBERS:
            return f"the weights of '{value.name}' take too much memory: {outputs} outputs read each of its features"
        step = tracer.step(value)
        assert step is not None
        sources = [(source, pull(reading)) for source, pull in step.sources]
        ends = any(inner is None for _, inner in sources) or (nearest and value is not target and step.layout.is_map())
        if sources and not ends:
            pending += [(source, inner) for source, inner in sources if inner is not None]
            continue
        if not step.layout.is_map():
            return f"'{value.name}' is not (N,C,H,W), and what is before it cannot come first"
        key = (value, reading.behind, reading.rows.stride, reading.columns.stride)
        found[key] = (value, reading if key not in found else _sum(found[key][1], reading))
    return _TANGLED


def _sum(first: Reading, second: Reading) -> Reading:
    """Add two readings of a map that differ in offsets and weights."""
    rows, columns = (
        Window(a.stride, tuple(sorted({*a.offsets, *b.offsets})))
        for a, b in ((first.rows, second.rows), (first.columns, second.columns))
    )
    total = np.zeros((len(first.weights), len(rows.offsets), len(columns.offsets), *first.weights.shape[3:]))
    for part in (first, second):
        at_rows = [rows.offsets.index(offset) for offset in part.rows.offsets]
        at_columns = [columns.offsets.index(offset) for offset in part.columns.offsets]
        total[:, np.array(at_rows)[:, None], at_columns] += part.weights
    return Reading(total, rows, columns, first.behind, first.padded or second.padded)


def _part(tracer: Tracer, source: ir.Value, reading: Reading, layout: Layout, outputs: int) -> _Part:
    before = tracer.layout(source)
    assert before is not None
    # Operators after the convolution may change the size.
    inner = tracer.layout(reading.behind[0].inputs[0]) if reading.behind else layout
    assert inner is not None
    rows = _Axis.of(reading.rows, before.height, inner.height)
    columns = _Axis.of(reading.columns, before.width, inner.width)
    batch = before.batch if isinstance(before.batch, int) else 1
    places, taps = batch * inner.height * inner.width, rows.size * columns.size
    channels = math.prod(before.features)
    # A convolution to few channels takes the time to read the map.
    moved = cost.moved(before.elements + places * outputs)
    whole = max(moved, cost.dense_convolution(places * outputs, channels * taps))
    projected = max(cost.moved(places * (channels + outputs)), cost.dense_convolution(places * outputs, channels))
    alone = cost.narrow_convolution(places * channels, taps) + projected
    # A reading of one output has rank one, so `split` is decided when all are known.
    split = alone < whole and _rank_one(reading.weights) is not None
    price = alone if split else whole
    for node in reading.behind:
        results = tracer.layout(node.outputs[0])
        assert results is not None
        price += _cost_on_places(node, batch * results.height * results.width * outputs)
    return _Part(source, reading, rows, columns, price, split)


def _channels(part: _Part) -> int:
    return math.prod(part.reading.weights.shape[3:])


def _rank_one(weights: Weights) -> tuple[Weights, Weights] | None:
    """Factor weights (outputs, rows, columns, channels) into (outputs, channels) and (channels, rows, columns)."""
    count, rows, columns = weights.shape[:3]
    channels = weights.reshape(count, rows * columns, -1).transpose(2, 0, 1)
    left, singular, right = np.linalg.svd(channels, full_matrices=False)
    mixed, alone = left[:, :, 0] * singular[:, :1], right[:, 0]
    error = np.abs(channels - mixed[:, :, None] * alone[:, None]).max(axis=(1, 2))
    if (error > RANK_ONE_TOLERANCE * np.abs(channels).max(axis=(1, 2))).any():
        return None
    return mixed.T, alone.reshape(-1, rows, columns)


def _kernels(part: _Part, reading: Reading) -> list[Weights]:
    """Return the kernels of the convolutions, (outputs, channels per group, height, width)."""
    weights = reading.weights.reshape(*reading.weights.shape[:3], -1)
    factors = _rank_one(weights) if part.split else None
    if factors is not None:
        return [_placed(part, factors[1][:, None]), factors[0][:, :, None, None]]
    return [_placed(part, weights.transpose(0, 3, 1, 2))]


def _placed(part: _Part, weights: Weights) -> Weights:
    """Put weights (..., rows, columns) at their places in the kernel."""
    kernel = np.zeros((*weights.shape[:-2], part.rows.size, part.columns.size))
    kernel[..., np.array(part.rows.taps)[:, None], list(part.columns.taps)] = weights
    return kernel


def _emit(
    tracer: Tracer, part: _Part, kernels: list[Weights], op: Emitter, at: Callable[[ir.Value], ir.Value]
) -> ir.Value:
    rows, columns = part.rows, part.columns
    value = op.convolution(
        at(part.source),
        op.array(kernels[0], "average" if part.split else PROJECTION),
        group=len(kernels[0]) if part.split else 1,
        strides=[rows.stride, columns.stride],
        dilations=[rows.dilation, columns.dilation],
        pads=[rows.before, columns.before, rows.after, columns.after],
    )
    if not (rows.exact and columns.exact):
        value = op.slice(value, (0, 0), (rows.outputs, columns.outputs), (2, 3))
    for kernel in kernels[1:]:
        value = op.convolution(value, op.array(kernel, PROJECTION))
    for node in part.reading.behind:
        if node.op_type == "Resize":
            scales = np.array([1, 1, *(fixed_scales(tracer.view, node) or ())], np.float32)
            region = None if node.inputs[1] is None else at(node.inputs[1])
            value = op.rewired(node, [value, region, op.array(scales, "scales")])
        else:
            value = op.rewired(node, [value])
    return value


def _arranged(op: Emitter, value: ir.Value, layout: Layout) -> ir.Value:
    """Arrange a map (N,C,H,W) as the axes of a layout."""
    if layout.is_map():
        return value
    factors = [factor for axis in layout.axes for factor in axis]
    if BATCH not in factors:
        factors.insert(0, BATCH)
    ranks = [1 if isinstance(factor, int) else {BATCH: 0, HEIGHT: 2, WIDTH: 3}[factor] for factor in factors]
    order = sorted(range(len(factors)), key=ranks.__getitem__)
    if len(layout.features) != 1:
        value = op.reshape(value, (-1, *layout.features, layout.height, layout.width))
    if order != sorted(order):
        value = op.transpose(value, np.argsort(order).tolist())
    sizes = [-1 if BATCH in axis else layout.count(number) for number, axis in enumerate(layout.axes)]
    return op.reshape(value, sizes)


def _cost(tracer: Tracer, node: ir.Node) -> float:
    """Estimate the cost of an operator. Shape inference may not know how its result depends on the batch."""
    view = tracer.view
    before, after = tracer.layout(node.inputs[0] if node.inputs else None), tracer.layout(node.outputs[0])
    if before is None or after is None or (node.op_type in MOVES and node.op_type != "Transpose"):
        return cost.of_nodes(view, [node])
    if node.op_type in ("MatMul", "Gemm"):
        weights = min(cost.elements(view, value) for value in node.inputs[:2] if value is not None)
        rows = max(1, round(math.sqrt(before.elements * after.elements / weights)))
        return cost.matmul(rows, before.elements // rows, after.elements // rows)
    if node.op_type in ("AveragePool", "Resize") and len(after.axes) == 4:
        return _cost_on_places(node, after.elements)
    return cost.moved(before.elements + after.elements)


def _cost_on_places(node: ir.Node, results: int) -> float:
    if node.op_type == "Resize":
        return cost.resized(results, node.attributes.get_string("mode", "nearest"))
    return cost.pooled(results, math.prod(node.attributes.get_ints("kernel_shape", (1,))))
