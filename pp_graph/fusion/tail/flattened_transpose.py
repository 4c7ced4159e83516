"""Move channels last before positions are flattened.

PaDiM flattens height and width, subtracts a mean, and moves positions to the front:

    transpose(reshape(x, (N,C,P)) - m, (2,0,1)) = transpose(reshape(transpose(x, (0,2,3,1)), (N,P,C)) - m.T, (1,0,2))

Convolutions store channels last in memory, so the first transpose on the right is free, and the last one only moves the
batch axis. The left side moves all elements twice. The results are identical.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pp_graph.fusion.tail import cost
from pp_graph.fusion.tail.rule import Match, Miss, Rule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import onnx_ir as ir

    from pp_graph.fusion.tail.view import GraphView
    from pp_graph.steps import Emitter


_SHIFTS = ("Sub", "Add", "Mul", "Div")


class FlattenedTranspose(Rule):
    """Rule that moves channels last before positions are flattened; see the module."""

    name: ClassVar[str] = "flattened transpose"

    def find(self, view: GraphView) -> Iterator[Match | Miss]:
        """Propose to move each Transpose of flattened positions before the Reshape that flattens them."""
        for node in reversed(view.nodes()):
            if node.op_type != "Transpose" or tuple(node.attributes.get_ints("perm", ())) != (2, 0, 1):
                continue
            shift = view.producer(node.inputs[0], *_SHIFTS)
            flat = view.producer(node.inputs[0] if shift is None else shift.inputs[0], "Reshape")
            if flat is not None and (match := _transpose_match(view, node, shift, flat)) is not None:
                yield match


def _transpose_match(view: GraphView, node: ir.Node, shift: ir.Node | None, flat: ir.Node) -> Match | None:
    source = flat.inputs[0]
    sizes = None if source is None else view.sizes(source)
    channels = None if source is None else view.channels(source)
    shape = view.shape(flat.outputs[0])
    if source is None or sizes is None or channels is None or shape is None:
        return None
    positions = sizes[0] * sizes[1]
    if shape[1:] != (channels, positions) or channels == 1:
        return None
    mean = None if shift is None else shift.inputs[1]
    if shift is not None and (mean is None or not mean.is_initializer() or view.shape(mean) != (channels, positions)):
        return None

    def emit(op: Emitter, at: Callable[[ir.Value], ir.Value]) -> ir.Value:
        value = op.rewired(
            flat, [op.transpose(at(source), (0, 2, 3, 1)), op.constant((-1, positions, channels), "flat")]
        )
        if shift is not None and mean is not None:
            value = op.rewired(shift, [value, op.transpose(at(mean), (1, 0))])
        return op.transpose(value, (1, 0, 2))

    reads = (source,) if mean is None else (source, mean)
    elements = float(channels * positions)
    return Match(
        target=node.outputs[0],
        what=f"{channels} channels are last before {positions} positions are flattened",
        reads=reads,
        # The original moves all elements twice: planes to channels, then channels to rows.
        before=cost.of_nodes(view, view.only_for([node.outputs[0]], reads)) + cost.moved(2 * elements),
        after=cost.moved(2 * elements) * (1 if shift is None else 2),
        emit=emit,
        exact=True,
    )
