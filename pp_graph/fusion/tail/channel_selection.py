"""Select channels before computing them.

PaDiM uses a random subset of its channels. Exporters write a Gather that selects them after upsampling and
concatenating all channels. Selection commutes with operators that treat channels independently, and selects rows of a
convolution's kernel:

    resize(x)[:, i] = resize(x[:, i])          concat(x, y)[:, i] = concat(x[:, i1], y[:, i2])[:, order]
    conv(x, W, b)[:, i] = conv(x, W[i], b[i])  (f(x) + g(x))[:, i] = f(x)[:, i] + g(x)[:, i]

The Gather therefore moves towards the input until another operator needs the dropped channels. There it becomes a 1×1
convolution with a single 1 per row if that is cheaper, because a Gather needs a different memory layout than the
convolutions around it. The results are equal unless a dropped channel is infinite: the convolution turns it into NaN,
which counts as anomalous.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np
import numpy.typing as npt

from pp_graph.fusion.tail import cost
from pp_graph.fusion.tail.linear_operators import fixed_scales
from pp_graph.fusion.tail.rule import Match, Miss, Rule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import onnx_ir as ir

    from pp_graph.fusion.tail.view import GraphView
    from pp_graph.steps import Emitter

    Emit = Callable[[Emitter, Callable[[ir.Value], ir.Value]], ir.Value]

_COPIED_AT_MOST: Final = 1 << 18
"""Largest weight, in numbers, whose selected rows are written as a constant."""
Index = npt.NDArray[np.int64]

_UNARY: Final = frozenset(
    {"Relu", "LeakyRelu", "Sigmoid", "HardSwish", "HardSigmoid", "Elu", "Clip", "Identity", "Tanh"}
)
_POOLING: Final = frozenset({"AveragePool", "MaxPool"})
_BINARY: Final = frozenset({"Add", "Sub", "Mul", "Div"})


@dataclass(frozen=True)
class _Selected:
    """Some channels of a value.

    Attributes:
        emit: Writes the operators.
        cost: Estimated microseconds per image to compute the channels from `reads`.
        reads: Values they are computed from.
        moved: True if the selection moved before an operator.
        exact: True if the results are bit-identical.
    """

    emit: Emit
    cost: float
    reads: tuple[ir.Value, ...]
    moved: bool
    exact: bool


class ChannelSelection(Rule):
    """Rule that moves selections of channels towards the input; see the module."""

    name: ClassVar[str] = "channel selection"

    def find(self, view: GraphView) -> Iterator[Match | Miss]:
        """Propose to move each Gather of constant channels as far towards the input as possible."""
        for node in reversed(view.nodes()):
            if node.op_type != "Gather" or node.attributes.get_int("axis", 0) != 1:
                continue
            source, indices = node.inputs[:2]
            index = view.constant(indices)
            channels = None if source is None else view.channels(source)
            if source is None or index is None or index.ndim != 1 or channels is None or not index.size:
                continue
            target = node.outputs[0]
            selected = _select(view, source, index.astype(np.int64) % channels, {node})
            if not selected.moved:
                continue
            reads = tuple(dict.fromkeys(selected.reads))
            yield Match(
                target=target,
                what=f"{index.size} of {channels} channels are selected before they are computed and joined",
                reads=reads,
                before=cost.of_nodes(view, view.only_for([target], reads)),
                after=selected.cost,
                emit=selected.emit,
                exact=selected.exact,
            )


def _select(view: GraphView, value: ir.Value, index: Index, users: set[ir.Node]) -> _Selected:
    """Select channels of a value. `users` are the operators that the rewrite makes redundant."""
    node = view.producer(value)
    if node is not None and not value.is_graph_output() and set(value.consumers()) <= users:
        through = _through(view, node, index)
        if through is not None:
            return through
    channels = view.channels(value) or 1
    pixels = cost.elements(view, value) / channels
    write, price = _pick(index, channels, pixels)

    def emit(op: Emitter, at: Callable[[ir.Value], ir.Value]) -> ir.Value:
        return write(op, at(value))

    return _Selected(emit, price, (value,), moved=False, exact=True)


def _pick(index: Index, channels: int, pixels: float) -> tuple[Callable[[Emitter, ir.Value], ir.Value], float]:
    """Return the cheapest operator that selects channels, with its cost."""
    picked = cost.dense_convolution(pixels * index.size, channels)
    gathered = cost.moved(2 * pixels * channels) + cost.moved(2 * pixels * index.size)
    if picked < gathered:
        kernel = np.eye(channels)[index][:, :, None, None]
        return lambda op, value: op.convolution(value, op.array(kernel, "channels")), picked
    return lambda op, value: op.gather(value, op.constant(tuple(index.tolist()), "channels"), 1), gathered


def _through(view: GraphView, node: ir.Node, index: Index) -> _Selected | None:
    """Move a selection before an operator, if the two commute."""
    source = node.inputs[0] if node.inputs else None
    if source is None or len(node.outputs) != 1 or view.channels(node.outputs[0]) is None:
        return None
    if node.op_type == "Concat":
        return _through_concat(view, node, index)
    if node.op_type in ("Resize", "Upsample"):
        return _through_resize(view, node, source, index)
    if node.op_type == "Conv":
        return _through_convolution(view, node, source, index)
    if node.op_type in _BINARY:
        return _through_binary(view, node, index)
    if node.op_type in _UNARY | _POOLING and all(value is None or (view.constant(value) is not None and
                                                 view.constant(value).ndim == 0) for value in node.inputs[1:]):  # type: ignore[union-attr]  # fmt: skip
        inner = _select(view, source, index, {node})
        return _rewired(view, node, index, [inner])
    return None


def _share(view: GraphView, node: ir.Node, index: Index) -> float:
    """Estimate the cost of an operator for some of its channels."""
    share = index.size / (view.channels(node.outputs[0]) or 1)
    return max(cost.of_nodes(view, [node]) * share, cost.LAUNCH_US)


def _rewired(view: GraphView, node: ir.Node, index: Index, inner: list[_Selected]) -> _Selected:
    """Copy an operator for selected inputs. Its further inputs stay."""

    def emit(op: Emitter, at: Callable[[ir.Value], ir.Value]) -> ir.Value:
        chosen = [part.emit(op, at) for part in inner]
        rest = [None if value is None else at(value) for value in node.inputs[len(inner) :]]
        return op.rewired(node, [*chosen, *rest])

    return _combined(emit, inner, _share(view, node, index))


def _combined(emit: Emit, parts: list[_Selected], price: float) -> _Selected:
    """Return a selection computed from others by operators of some cost."""
    return _Selected(
        emit,
        sum(part.cost for part in parts) + price,
        tuple(value for part in parts for value in part.reads),
        moved=True,
        exact=all(part.exact for part in parts),
    )


def _parts(view: GraphView, node: ir.Node) -> list[tuple[ir.Value, ir.Node]] | None:
    """Return the parts of a Concat of channels, each with the Concat that reads it; nested Concats are flattened."""
    if node.attributes.get_int("axis", 0) not in (1, -3):
        return None
    parts: list[tuple[ir.Value, ir.Node]] = []
    for value in node.inputs:
        if value is None or view.channels(value) is None:
            return None
        inner = view.producer(value, "Concat")
        nested = None
        if inner is not None and not value.is_graph_output() and set(value.consumers()) == {node}:
            nested = _parts(view, inner)
        parts += nested or [(value, node)]
    return parts


def _through_concat(view: GraphView, node: ir.Node, index: Index) -> _Selected | None:
    parts = _parts(view, node)
    if parts is None:
        return None
    inner, taken = [], []
    start = 0
    for value, user in parts:
        size = view.channels(value) or 0
        places = np.flatnonzero((index >= start) & (index < start + size))
        if places.size:
            inner.append(_select(view, value, index[places] - start, {user}))
            taken.append(places)
        start += size
    order = np.argsort(np.concatenate(taken), kind="stable")
    unordered = bool((order != np.arange(index.size)).any())

    def emit(op: Emitter, at: Callable[[ir.Value], ir.Value]) -> ir.Value:
        chosen = [part.emit(op, at) for part in inner]
        joined = chosen[0] if len(chosen) == 1 else op.concat(chosen, axis=1)
        return write(op, joined) if unordered else joined

    pixels = cost.elements(view, node.outputs[0]) / start
    write, price = _pick(order.astype(np.int64), index.size, pixels)
    return _combined(emit, inner, cost.moved(2 * pixels * index.size) + (price if unordered else 0.0))


def _through_resize(view: GraphView, node: ir.Node, source: ir.Value, index: Index) -> _Selected | None:
    found = fixed_scales(view, node)
    if found is None:
        return None
    scales = np.array([1, 1, *found], np.float32)
    inner = _select(view, source, index, {node, *_shape_readers(view, source, node)})

    def emit(op: Emitter, at: Callable[[ir.Value], ir.Value]) -> ir.Value:
        region = node.inputs[1]
        return op.rewired(
            node, [inner.emit(op, at), None if region is None else at(region), op.array(scales, "scales")]
        )

    return _combined(emit, [inner], _share(view, node, index))


def _shape_readers(view: GraphView, source: ir.Value, node: ir.Node) -> list[ir.Node]:
    """Return the Shape operators that read `source` only to compute the size of a Resize."""
    return [other for other in view.only_for(node.outputs) if other.op_type == "Shape" and other.inputs[0] is source]


def _through_convolution(view: GraphView, node: ir.Node, source: ir.Value, index: Index) -> _Selected | None:
    if node.attributes.get_int("group", 1) != 1 or node.inputs[1] is None or not node.inputs[1].is_initializer():
        return None
    weights = [value for value in node.inputs[1:] if value is not None]

    arrays = [view.constant(weight) for weight in weights]
    # Quantisers and simplifiers expect constants as weights. Selected copies of large ones would double the file.
    small = all(array is not None and array.dtype == np.float32 and array.size <= _COPIED_AT_MOST for array in arrays)

    def emit(op: Emitter, at: Callable[[ir.Value], ir.Value]) -> ir.Value:
        if small:
            selected = [op.array(array[index], "weight") for array in arrays if array is not None]
            return op.rewired(node, [at(source), *selected])
        rows = op.constant(tuple(index.tolist()), "channels")
        return op.rewired(node, [at(source), *(op.gather(at(weight), rows, 0) for weight in weights)])

    return _Selected(emit, _share(view, node, index), (source,), moved=True, exact=False)


def _through_binary(view: GraphView, node: ir.Node, index: Index) -> _Selected | None:
    first, second = node.inputs
    shape = view.shape(node.outputs[0])
    if first is None or second is None or shape is None:
        return None
    if any((view.shape(value) or ())[1:] != shape[1:] for value in (first, second)):
        return None
    return _rewired(view, node, index, [_select(view, value, index, {node}) for value in (first, second)])
