"""Integers, conditions and loops.

All numbers are int32 below 2**30. OpenVINO's CPU plugin (2026.4) compares integers as float32, and converts padding
values to float32. Therefore numbers are compared by the sign of their difference, which is exact, and the padding value
is a power of two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from pp_graph.steps.operators.spatial import LAST, Shaping
from pp_graph.steps.operators.writer import NODES_FOR_CONSTANTS_BELOW, Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import onnx_ir as ir

    from pp_graph.model import Shape


BEYOND: Final = 2**30
"""Above all numbers, and exact in float32."""

_INT32, _INT64, _BOOL = np.dtype(np.int32), np.dtype(np.int64), np.dtype(np.bool_)
_SCATTER_ADDS, _SCATTER_TAKES_MINIMA = 16, 18


class Integers(Shaping):
    """Flat lists of integers, and of indices into other lists."""

    @property
    def scatters_sums(self) -> bool:
        """True if the opset can add numbers by index."""
        return self.opset >= _SCATTER_ADDS

    @property
    def scatters_least(self) -> bool:
        """True if the opset can find minima by index."""
        return self.opset >= _SCATTER_TAKES_MINIMA

    def integer(self, number: int, name: str) -> ir.Value:
        """A named constant, int32."""
        return self.constant(np.int32(number), name)

    def integers(self, numbers: Sequence[int], name: str) -> ir.Value:
        """A named list, int32."""
        return self._constant(np.asarray(numbers, np.int32), name)

    def filled(self, sizes: ir.Value, number: np.generic) -> ir.Value:
        """A list of equal numbers.

        Args:
            sizes: Its length, int64 of shape (1,).
            number: The number, of the list's element type.
        """
        import onnx_ir as ir

        attributes = {"value": ir.tensor(np.array([number]))}
        return self.node("ConstantOfShape", [sizes], attributes, number.dtype, (None,))

    def number(self, a: ir.Value) -> ir.Value:
        """Cast to float32."""
        import onnx_ir as ir

        return self.node("Cast", [a], {"to": ir.DataType.FLOAT.value}, np.dtype(np.float32), self.shape_of(a))

    def sizes_of(self, a: ir.Value) -> ir.Value:
        """Sizes of the axes, int64."""
        before = self.shape_of(a)
        return self.node("Shape", [a], {}, _INT64, None if before is None else (len(before),))

    def count_of(self, a: ir.Value) -> ir.Value:
        """Number of elements, an int64 scalar."""
        return self.node("Size", [a], {}, _INT64, ())

    def listed(self, a: ir.Value) -> ir.Value:
        """Flatten to one axis."""
        return self.node("Reshape", [a, self.constant((-1,), "one_axis")], {}, self.dtype_of(a), (None,))

    def arranged(self, a: ir.Value, sizes: ir.Value, shape: Shape | None) -> ir.Value:
        """Reshape to `sizes`, int64; `shape` holds the known ones."""
        return self.node("Reshape", [a, sizes], {}, self.dtype_of(a), shape)

    def numbered(self, a: ir.Value) -> ir.Value:
        """Index of each element in the flattened value; int32."""
        bounds = [self.constant(np.int64(0), "zero"), self.count_of(a), self.constant(np.int64(1), "one")]
        return self.counted(self.node("Range", bounds, {}, _INT64, (None,)))

    def counted(self, a: ir.Value) -> ir.Value:
        """Cast to int32."""
        import onnx_ir as ir

        return self.node("Cast", [a], {"to": ir.DataType.INT32.value}, _INT32, self.shape_of(a))

    def least(self, *values: ir.Value) -> ir.Value:
        """Elementwise minimum of values of one shape."""
        return self.node("Min", values, {}, _INT32, self.shape_of(values[0]))

    def difference(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """`a - b`; `b` broadcasts to `a`."""
        return self.node("Sub", [a, b], {}, self.dtype_of(a), self.shape_of(a))

    def below(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """`a < b`; `b` broadcasts to `a`."""
        zero = self.integer(0, "none")
        return self.node("Less", [self.difference(a, b), zero], {}, _BOOL, self.shape_of(a))

    def any_below(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """True if any number of `a` is below that of `b` at the same place; a bool scalar. `a` must not be empty."""
        least = self.node("ReduceMin", [self.difference(a, b)], {"keepdims": 0}, _INT32, ())
        return self.node("Less", [least, self.integer(0, "none")], {}, _BOOL, ())

    def surrounded(self, mask: ir.Value) -> ir.Value:
        """Put background around a mask (N,H,W): a row above each image, and a column on both sides."""
        pads = [self.constant((0, 1, 1, 0, 0, 1), "pads"), self.integer(0, "none")]
        padded = self.node("Pad", [self.counted(mask), *pads], {}, _INT32, (None,) * 3)
        return self.node("Less", [self.integer(0, "none"), padded], {}, _BOOL, (None,) * 3)

    def running_count(self, truths: ir.Value) -> ir.Value:
        """Number of true elements up to each one, itself included, in the order of memory; int32, same shape."""
        ones = self.counted(self.listed(truths))
        count = self.node("CumSum", [ones, self.constant(np.int64(0), "axis")], {}, _INT32, (None,))
        return self.arranged(count, self.sizes_of(truths), self.shape_of(truths))

    def _cut(self, a: ir.Value, start: int, stop: int, axis: int, shape: Shape | None) -> ir.Value:
        bounds = [self.constant((number,), "bound") for number in (start, stop, axis)]
        return self.node("Slice", [a, *bounds], {}, self.dtype_of(a), shape)

    def looked_up(self, table: ir.Value, places: ir.Value) -> ir.Value:
        """Elements of a list at each index, in the shape of `places`."""
        return self.node("GatherElements", [table, places], {"axis": 0}, self.dtype_of(table), self.shape_of(places))

    def put(
        self,
        a: ir.Value,
        places: ir.Value,
        numbers: ir.Value,
        reduction: Literal["min", "max", "add"] | None = None,
    ) -> ir.Value:
        """Replace elements of a list at distinct indices, or reduce them with the new numbers at any indices.

        `min` and `max` need `scatters_least`, `add` needs `scatters_sums`.
        """
        attributes: dict[str, int | str] = {"axis": 0, **({"reduction": reduction} if reduction else {})}
        return self.node("ScatterElements", [a, places, numbers], attributes, self.dtype_of(a), self.shape_of(a))

    def places_of(self, truths: ir.Value) -> ir.Value:
        """Indices at which a list is true, ascending; int64."""
        return self.listed(self.node("NonZero", [truths], {}, _INT64, (1, None)))

    def coordinates_of(self, truths: ir.Value, rank: int) -> list[ir.Value]:
        """Indices along each axis at which a value of this rank is true, in its order; int64 lists."""
        found = self.node("NonZero", [truths], {}, _INT64, (rank, None))
        return [
            self.node("Gather", [found, self.constant(np.int64(axis), "axis")], {"axis": 0}, _INT64, (None,))
            for axis in range(rank)
        ]

    def chosen(self, a: ir.Value, places: ir.Value) -> ir.Value:
        """Elements of a list at some indices, int64."""
        return self.node("Gather", [a, places], {"axis": 0}, self.dtype_of(a), (None,))

    def joined(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """Concatenate two lists."""
        return self.node("Concat", [a, b], {"axis": 0}, self.dtype_of(b), (None,))

    def without_first(self, a: ir.Value) -> ir.Value:
        """A list without its first element."""
        return self._cut(a, 1, LAST, 0, (None,))

    def without_last(self, a: ir.Value) -> ir.Value:
        """A list without its last element."""
        return self._cut(a, 0, -1, 0, (None,))

    def in_order(self, a: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Sort a list in ascending order; also return the original index of each number, int64."""
        import onnx_ir as ir

        outputs = [
            ir.Value(name=self._fresh(f"TopK_{name}"), type=ir.TensorType(kind), shape=ir.Shape((None,)))
            for name, kind in (("output", ir.DataType.INT32), ("places", ir.DataType.INT64))
        ]
        attributes = {"axis": 0, "largest": 0, "sorted": 1}
        self._write(ir.node("TopK", [a, self.sizes_of(a)], attributes, outputs=outputs, name=self._fresh("TopK")))
        return outputs[0], outputs[1]

    def beginnings(self, ordered: ir.Value) -> ir.Value:
        """Indices at which a sorted list starts or its number changes; int64."""
        steps = self.difference(self.without_last(ordered), self.without_first(ordered))
        rising = self.node("Less", [steps, self.integer(0, "none")], {}, _BOOL, (None,))
        one = self.constant((1,), "behind")
        behind = self.node("Add", [self.places_of(rising), one], {}, _INT64, (None,))
        return self.joined(self.constant((0,), "first"), behind)


class Loops(Writer):
    """Loops whose number of rounds depends on the data and is bounded."""

    def loop(
        self,
        trips: int | ir.Value,
        start: ir.Value,
        body: Callable[[ir.Value], tuple[ir.Value, ir.Value]],
    ) -> ir.Value:
        """Apply a body to a value repeatedly.

        The operators of the body go into a subgraph, its constants into the main graph. All names are fresh in both.
        The body may read values of the main graph.

        Args:
            trips: Largest number of rounds; a number or an int64 scalar.
            start: The initial value, of a known element type.
            body: Writes one round. Takes the value; returns a bool scalar that is true if another round is needed, and
                the new value, of the same element type and rank. It must write both itself.

        Returns:
            The value after the last round, in the shape of `start`.
        """
        return self._loop(trips, start, lambda state, _: body(state))

    def repeat(
        self, trips: int | ir.Value, start: ir.Value, body: Callable[[ir.Value, ir.Value], ir.Value]
    ) -> ir.Value:
        """Apply a body to a value a number of times; see `loop`.

        Args:
            trips: Number of rounds; a number or an int64 scalar.
            start: The initial value, of a known element type.
            body: Writes one round. Takes the value and the number of the round, an int64 scalar from 0 on; returns the
                new value.

        Returns:
            The value after the last round, in the shape of `start`.
        """
        begin = self.constant(np.bool_(True), "begin")

        def numbered(state: ir.Value, turn: ir.Value) -> tuple[ir.Value, ir.Value]:
            new = body(state, turn)
            return self.node("Identity", [begin], {}, _BOOL, ()), new

        return self._loop(trips, start, numbered)

    def _loop(
        self,
        trips: int | ir.Value,
        start: ir.Value,
        body: Callable[[ir.Value, ir.Value], tuple[ir.Value, ir.Value]],
    ) -> ir.Value:
        import onnx_ir as ir

        limit = self.constant(np.int64(trips), "most_rounds") if isinstance(trips, int) else trips
        begin = self.constant(np.bool_(True), "begin")
        kind, shape = start.type, start.shape

        def value(name: str, type_: ir.TypeProtocol | None, shape: ir.Shape | None) -> ir.Value:
            return ir.Value(name=self._fresh(name), type=type_, shape=shape)

        scalar, truth = ir.Shape(()), ir.TensorType(ir.DataType.BOOL)
        inputs = [
            value("round", ir.TensorType(ir.DataType.INT64), scalar),
            value("go_on", truth, scalar),
            value("state", kind, shape),
        ]
        around, known = self._body, dict(self._constants)
        self._body = []
        try:
            go_on, state = body(inputs[2], inputs[0])
            go_on.type, go_on.shape = truth, scalar
            state.type, state.shape = kind, shape
            graph = ir.Graph(inputs, [go_on, state], nodes=self._body, name=self._fresh("round"))
        finally:
            self._body = around
            if self._ir_version < NODES_FOR_CONSTANTS_BELOW:
                # Constant nodes in the body cannot be read outside it.
                self._constants = known
        result = value("Loop_output", kind, shape)
        self._write(ir.node("Loop", [limit, begin, start], {"body": graph}, outputs=[result], name=self._fresh("Loop")))
        return result
