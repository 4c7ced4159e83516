"""Read only about half of the matrix in a quadratic form.

A Mahalanobis distance is `x.T @ C @ x` with a large matrix C per position, and reading C dominates its run time. The
form depends on C only through `C + C.T`, so the lower triangle can be added to the upper one. With x in blocks:

    x.T @ C @ x = sum_i x_i.T @ [C_ii | C_i,j>i + C_j>i,i.T] @ [x_i; x_j>i]

k blocks read (k + 1) / 2k of C. Operators on constants slice and add the blocks; runtimes fold them when they load the
model, so the file stores C unchanged.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, ClassVar, Final

from pp_graph.fusion.tail import cost
from pp_graph.fusion.tail.rule import Match, Miss, Rule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import onnx_ir as ir

    from pp_graph.fusion.tail.view import GraphView
    from pp_graph.steps import Emitter

_BLOCKS: Final = (2, 4)


class QuadraticForm(Rule):
    """Rule that splits quadratic forms into blocks; see the module."""

    name: ClassVar[str] = "quadratic form"

    def find(self, view: GraphView) -> Iterator[Match | Miss]:
        """Propose to split every `sum((x @ C) * x)` with a constant batch of square matrices C into blocks."""
        for node in reversed(view.nodes()):
            if node.op_type == "ReduceSum" and (match := _match(view, node)) is not None:
                yield match


def _match(view: GraphView, node: ir.Node) -> Match | None:
    product = view.producer(node.inputs[0], "Mul")
    if product is None or view.reduced_axes(node) not in ((2,), (-1,)) or node.attributes.get_int("keepdims", 1) != 0:
        return None
    for first, second in (product.inputs, reversed(product.inputs)):
        matmul = view.producer(first, "MatMul")
        if matmul is None or second is None or matmul.inputs[0] is not second or matmul.inputs[1] is None:
            continue
        weight = matmul.inputs[1]
        shape, vector = view.shape(weight), view.shape(second)
        if not weight.is_initializer() or shape is None or vector is None or len(shape) != 3 or len(vector) != 3:
            continue
        positions, rows, columns = shape
        if isinstance(positions, int) and isinstance(rows, int) and rows == columns and vector[2] == rows:
            return _propose(view, node, second, weight, positions, rows)
    return None


def _propose(
    view: GraphView, node: ir.Node, vector: ir.Value, weight: ir.Value, positions: int, features: int
) -> Match | None:
    reads = (vector, weight)
    before = cost.of_nodes(view, view.only_for([node.outputs[0]], reads))
    plans = {count: _cost(positions, features, count) for count in _BLOCKS if features >= 8 * count}
    if not plans:
        return None
    blocks = min(plans, key=plans.__getitem__)
    cuts = [features * index // blocks for index in range(blocks + 1)]

    def emit(op: Emitter, at: Callable[[ir.Value], ir.Value]) -> ir.Value:
        total: ir.Value | None = None
        for start, stop in itertools.pairwise(cuts):
            row = op.slice(at(weight), (start, start), (stop, features), (1, 2))
            if stop < features:
                below = op.transpose(op.slice(at(weight), (stop, start), (features, stop), (1, 2)), (0, 2, 1))
                right = op.add(op.slice(at(weight), (start, stop), (stop, features), (1, 2)), below)
                row = op.concat([op.slice(at(weight), (start, start), (stop, stop), (1, 2)), right], axis=2)
            left = op.slice(at(vector), (start,), (stop,), (2,))
            rest = at(vector) if start == 0 else op.slice(at(vector), (start,), (features,), (2,))
            part = op.reduce("ReduceSum", op.mul(op.matmul(left, row), rest), (2,))
            total = part if total is None else op.add(total, part)
        assert total is not None
        return total

    return Match(
        target=node.outputs[0],
        what=f"{positions} matrices of {features}×{features} are read by {(blocks + 1) / (2 * blocks):.0%}, "
        f"in {blocks} blocks",
        reads=reads,
        before=before,
        after=plans[blocks],
        emit=emit,
        exact=False,
    )


def _cost(positions: int, features: int, blocks: int) -> float:
    """Estimate the cost of reading the matrices, and of slicing, multiplying and adding vectors for each block."""
    parts = [(features // blocks, features - features * index // blocks) for index in range(blocks)]
    products = sum(cost.matmul(1, rows, columns, count=positions) for rows, columns in parts)
    return products + blocks * cost.moved(positions * features)
