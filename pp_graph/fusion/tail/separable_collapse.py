"""Collapse chains of separable linear operators into matrix products.

Resizing, padding, cropping, averaging and convolving with a rank-one kernel act along the height and along the width
independently. Each is `Y = A @ X @ B.T` with constant matrices, and a chain of them is one such product:

    (A2 @ (A1 @ X @ B1.T) @ B2.T) = (A2 @ A1) @ X @ (B2 @ B1).T

Every linear operator distributes over sums, so chains that are added before a common one become

    sum_i A_i @ X_i @ B_i.T  =  [A_1 @ X_1 | A_2 @ X_2 | ...] @ [B_1.T; B_2.T; ...]

one matrix product for each input, and one for all. A bias or constant is included only if it is added last: moving it
past the products would change its rounding. Source: linear algebra; a Gaussian kernel is separable.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from pp_graph.fusion.tail import cost
from pp_graph.fusion.tail.axis_matrices import Matrix, RefusalError, product
from pp_graph.fusion.tail.linear_operators import LinearOperator, read_operator
from pp_graph.fusion.tail.rule import Match, Miss, Rule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import onnx_ir as ir

    from pp_graph.fusion.tail.view import GraphView
    from pp_graph.model import Shape
    from pp_graph.steps import Emitter

_MOST_CHANNELS: Final = 4
"""Maximum number of channels of a map. Feature maps have more, in a different memory layout."""

_DEEPEST: Final = 12
"""Maximum length of a chain. Real tails have up to six operators."""
_MOST_TERMS: Final = 64
"""Maximum number of summands: where a value is added to itself, and the result to itself, they double each time."""

_SUMS: Final = frozenset({"Add", "Sub", "Sum", "Mean", "ReduceMean", "ReduceSum"})

_SHAPING: Final = frozenset({"Resize", "Upsample", "Pad", "Conv", "AveragePool", "Slice"})
"""Operators that make a chain worth collapsing. The other linear ones are cheap."""


@dataclass(frozen=True)
class _Term:
    """A source, and the matrices that are applied to it in turn. They are multiplied only when they are written."""

    source: ir.Value
    heights: tuple[Matrix, ...] = ()
    widths: tuple[Matrix, ...] = ()

    @cached_property
    def height(self) -> Matrix | None:
        return product(self.heights)

    @cached_property
    def width(self) -> Matrix | None:
        return product(self.widths)


@dataclass(frozen=True)
class _Expression:
    """`sum_i height_i @ source_i @ width_i.T + constant`, and the operators that compute it."""

    terms: tuple[_Term, ...]
    constant: Matrix | float = 0.0
    operators: tuple[ir.Node, ...] = ()


class SeparableCollapse(Rule):
    """Rule that collapses chains of linear operators; see the module."""

    name: ClassVar[str] = "separable linear collapse"
    spreads_nan = True

    def find(self, view: GraphView) -> Iterator[Match | Miss]:
        """Propose to collapse every chain that ends in a map, from the depth that saves most."""
        covered: set[ir.Node] = set()
        reader = _Reader(view)
        for node in reversed(view.nodes()):
            target = node.outputs[0] if node.outputs else None
            if target is None or node in covered or not _is_map(view, target) or view.feeds_network(target):
                continue
            best: Match | None = None
            worst: Match | None = None
            reader.refusals.clear()
            before: tuple[ir.Node, ...] = ()
            for depth in range(1, _DEEPEST + 1) if reader.can_read(target) else ():
                expression = reader.read(target, depth)
                if expression.operators == before:
                    break  # nothing linear is left to read
                before = expression.operators
                if any(operator.op_type in _SHAPING for operator in expression.operators):
                    match = _propose(view, target, expression)
                    best = match if best is None or match.saves > best.saves else best
                    worst = worst or match
                    if match.saves > 0 and match is best:
                        chosen = expression
            for refused, why in reader.refusals.items():
                if refused not in covered:
                    covered.add(refused)
                    yield Miss(refused.outputs[0], _describe(view, refused), why)
            if best is not None and best.saves > 0:
                covered.update(chosen.operators)
                yield best
            elif worst is not None:
                covered.add(node)
                yield Miss(
                    target,
                    _describe(view, node),
                    f"as matrices it would take an estimated {worst.after:,.0f} µs instead of {worst.before:,.0f} µs",
                )


def _is_map(view: GraphView, value: ir.Value) -> bool:
    channels = view.channels(value)
    if channels is not None and channels > 1 and not isinstance((view.shape(value) or (None,))[0], int):
        # OpenVINO 2026.4 adds a per-channel constant along the width if it follows a product with an open batch.
        return False
    return channels is not None and channels <= _MOST_CHANNELS and view.dtype(value) in (None, "FLOAT")


class _Reader:
    """Reads values as expressions, and each value and operator only once.

    Attributes:
        refusals: Why operators could not be read.
    """

    def __init__(self, view: GraphView) -> None:
        self._view = view
        self._operators: dict[ir.Node, LinearOperator | None] = {}
        self._expressions: dict[tuple[ir.Value, int], _Expression] = {}
        self.refusals: dict[ir.Node, str] = {}

    def can_read(self, value: ir.Value) -> bool:
        """True if a linear operator computes a value, or one that may be a sum of maps."""
        node = self._view.producer(self._view.see_through(value))
        return node is not None and (node.op_type in _SUMS or self._operator(node) is not None)

    def read(self, value: ir.Value, depth: int) -> _Expression:
        """Express a value by values at most `depth` operators before it."""
        if (value, depth) not in self._expressions:
            self._expressions[value, depth] = self._read(value, depth)
        return self._expressions[value, depth]

    def _read(self, value: ir.Value, depth: int) -> _Expression:
        view = self._view
        value = view.see_through(value)
        leaf = _Expression((_Term(value),))
        node = view.producer(value)
        if depth == 0 or node is None or not _is_map(view, value):
            return leaf
        joined = self._read_sum(node, depth)
        if joined is not None:
            return joined
        operator = self._operator(node)
        if operator is None or not _is_map(view, operator.source):
            return leaf
        inner = self.read(operator.source, depth - 1)
        if np.any(inner.constant):
            # Moving an addition changes its rounding, which matters where summands nearly cancel.
            inner = _Expression((_Term(view.see_through(operator.source)),))
        terms = tuple(
            _Term(
                term.source,
                term.heights if operator.height is None else (*term.heights, operator.height),
                term.widths if operator.width is None else (*term.widths, operator.width),
            )
            for term in inner.terms
        )
        return _Expression(terms, 0.0 if operator.offset is None else operator.offset, (*inner.operators, node))

    def _operator(self, node: ir.Node) -> LinearOperator | None:
        if node not in self._operators:
            try:
                self._operators[node] = read_operator(self._view, node)
            except RefusalError as refusal:
                self.refusals[node] = str(refusal)
                self._operators[node] = None
        return self._operators[node]

    def _read_sum(self, node: ir.Node, depth: int) -> _Expression | None:
        """Read Add, Sub, Sum and Mean of maps, and the mean or sum over concatenated maps."""
        view = self._view
        found, result = _summands(view, node), view.shape(node.outputs[0])
        if found is None or result is None:
            return None
        summands, nodes = found
        terms: list[_Term] = []
        constant: Matrix | float = 0.0
        operators: list[ir.Node] = []
        constant_shapes: list[Shape] = []
        for part, weight in summands:
            number = view.uniform(part)
            shape = view.shape(part)
            if shape is None or (number is None and shape[1:] != result[1:]):
                return None  # the operator broadcasts a map
            if number is not None:
                constant = constant + weight * number
                constant_shapes.append(shape)
                continue
            if weight < 0:
                return None  # moving a subtraction changes its rounding, which matters where the two nearly cancel
            inner = self.read(part, depth - 1)
            if np.any(inner.constant):
                inner = _Expression((_Term(view.see_through(part)),))
            for term in inner.terms:
                sizes = view.sizes(term.source)
                if sizes is None:
                    return None
                height = np.eye(sizes[0]) if term.height is None else term.height
                terms.append(term if weight == 1 else _Term(term.source, (weight * height,), term.widths))
            operators += [operator for operator in inner.operators if operator not in operators]
            if len(terms) > _MOST_TERMS:
                return None
        # Shape inference loses the batch after a Resize, but every operator here keeps the batch of its source.
        batches = {(view.shape(term.source) or (None,))[0] for term in terms}
        if len(batches) != 1 or None in batches:
            return None
        (batch,) = batches
        # A constant must not broadcast the map that it is added to.
        map_shape = (batch, *result[1:])
        for shape in constant_shapes:
            if (
                any(dim not in (1, size) for dim, size in zip(shape[::-1], map_shape[::-1], strict=False))
                or len(shape) > 4
            ):
                return None
        return _Expression(tuple(terms), constant, (*operators, *nodes))


def _summands(view: GraphView, node: ir.Node) -> tuple[list[tuple[ir.Value, float]], tuple[ir.Node, ...]] | None:
    """Return the maps that an operator adds, each with its weight, and the operators that add them."""
    parts = [value for value in node.inputs if value is not None]
    if node.op_type not in _SUMS:
        return None
    if node.op_type not in ("ReduceMean", "ReduceSum"):
        weights = [1 / len(parts) if node.op_type == "Mean" else 1.0] * len(parts)
        if node.op_type == "Sub":
            weights[1] = -1.0
        return list(zip(parts, weights, strict=True)), (node,)
    joined = view.producer(parts[0], "Concat")
    axes = view.reduced_axes(node)
    if joined is None or axes is None or len(axes) != 1:
        return None
    read = _joined_maps(view, joined, axes[0], keepdims=bool(node.attributes.get_int("keepdims", 1)))
    if read is None:
        return None
    maps, copies = read
    weight = 1 / len(maps) if node.op_type == "ReduceMean" else 1.0
    return [(value, weight) for value in maps], (*copies, joined, node)


def _joined_maps(
    view: GraphView, joined: ir.Node, axis: int, *, keepdims: bool
) -> tuple[list[ir.Value], list[ir.Node]] | None:
    """Return single-channel maps that a Concat joins along the reduced axis, and the Unsqueeze operators before it."""
    shape = view.shape(joined.outputs[0])
    if shape is None or axis % len(shape) != joined.attributes.get_int("axis", 0) % len(shape):
        return None
    axis %= len(shape)
    values = [value for value in joined.inputs if value is not None]
    if len(shape) == 4 and axis == 1 and keepdims:
        return (values, []) if all(view.channels(value) == 1 for value in values) else None
    if len(shape) == 5 and not keepdims:
        stacked = [view.producer(value, "Unsqueeze") for value in values]
        sources = [None if node is None else node.inputs[0] for node in stacked]
        shapes = [view.shape(value) for value in values]
        if any(source is None for source in sources) or any(size is None or size[axis] != 1 for size in shapes):
            return None
        # Reducing removes the axis that Unsqueeze inserted, at any position, so the original maps can be read.
        copies = [node for node in stacked if node is not None]
        flat = shape[:axis] + shape[axis + 1 :]
        if axis and all((view.shape(source) or ())[1:] == flat[1:] for source in sources if source is not None):
            return [source for source in sources if source is not None], copies
    return None


def _propose(view: GraphView, target: ir.Value, expression: _Expression) -> Match:
    sources = tuple(dict.fromkeys(term.source for term in expression.terms))
    sizes = view.sizes(target)
    channels = view.channels(target) or 1
    assert sizes is not None
    plan = [_plan(view, term, sizes, channels, joined=len(expression.terms) > 1) for term in expression.terms]
    after = sum(term_cost for term_cost, _ in plan)
    if len(plan) > 1:
        inner = sum(_width(view, term) for term in expression.terms)
        after += cost.moved(2 * channels * sizes[0] * inner)
        after += cost.matmul(sizes[0], inner, sizes[1], count=channels)
    constant = _as_constant(expression.constant)
    if constant is not None:
        after += cost.moved(2 * channels * sizes[0] * sizes[1])

    def emit(op: Emitter, at: Callable[[ir.Value], ir.Value]) -> ir.Value:
        if len(plan) == 1:
            result = _emit_term(op, expression.terms[0], at(sources[0]), height_first=plan[0][1])
        else:
            parts = [
                at(term.source) if term.height is None else op.matmul(op.array(term.height, "height"), at(term.source))
                for term in expression.terms
            ]
            widths = [np.eye(_width(view, term)) if term.width is None else term.width for term in expression.terms]
            rank = max(width.ndim for width in widths)
            if rank == 3:
                widths = [np.broadcast_to(width, (channels, *width.shape[-2:])) for width in widths]
            joined_widths = np.concatenate([np.swapaxes(width, -1, -2) for width in widths], axis=-2)
            result = op.matmul(op.concat(parts, axis=-1), op.array(joined_widths, "width"))
        return result if constant is None else op.add(result, op.array(constant, "constant"))

    dead = view.only_for([target], sources)
    what = " → ".join(_describe(view, node) for node in expression.operators)
    products = sum(bool(term.heights) for term in expression.terms) + (
        1 if len(plan) > 1 else int(bool(expression.terms[0].widths))
    )
    return Match(
        target=target,
        what=f"{what} becomes {products} matrix product{'s' if products > 1 else ''}",
        reads=sources,
        before=cost.of_nodes(view, dead),
        after=after,
        emit=emit,
        exact=False,
        float32=True,
    )


def _width(view: GraphView, term: _Term) -> int:
    sizes = view.sizes(term.source)
    assert sizes is not None
    return sizes[1]


def _plan(view: GraphView, term: _Term, sizes: tuple[int, int], channels: int, *, joined: bool) -> tuple[float, bool]:
    """Return the cost of a term, and True if its height is applied first. Joined terms share the width's product."""
    inner = view.sizes(term.source)
    assert inner is not None
    (height, width), (h, w) = sizes, inner
    by_height = cost.matmul(height, h, w, count=channels) if term.heights else 0.0
    if joined:
        return by_height, True
    by_width = cost.matmul(height, w, width, count=channels) if term.widths else 0.0
    height_first = by_height + by_width
    by_height = cost.matmul(height, h, width, count=channels) if term.heights else 0.0
    by_width = cost.matmul(h, w, width, count=channels) if term.widths else 0.0
    width_first = by_height + by_width
    if width_first < height_first:
        return width_first, False
    return height_first, True


def _emit_term(op: Emitter, term: _Term, value: ir.Value, *, height_first: bool) -> ir.Value:
    steps = [
        (term.height, lambda value, matrix: op.matmul(op.array(matrix, "height"), value)),
        (term.width, lambda value, matrix: op.matmul(value, op.array(np.swapaxes(matrix, -1, -2), "width"))),
    ]
    for matrix, apply in steps if height_first else reversed(steps):
        if matrix is not None:
            value = apply(value, matrix)
    return value


def _as_constant(constant: Matrix | float) -> Matrix | None:
    if not np.any(constant):
        return None
    array = np.asarray(constant, np.float64)
    # A constant that is uniform up to rounding becomes a scalar.
    return array if np.ptp(array) > np.abs(array).max() * 1e-7 else np.asarray(array.ravel()[:1].reshape(()))


def _describe(view: GraphView, node: ir.Node) -> str:
    """Describe an operator and its size."""
    sizes = view.sizes(node.outputs[0])
    text = node.op_type
    if node.op_type == "Conv" and node.inputs[1] is not None:
        shape = view.shape(node.inputs[1]) or ()
        text += " " + "×".join(str(dim) for dim in shape[2:])
    return text if sizes is None else f"{text} to {sizes[0]}×{sizes[1]}"
