"""Repeating operators until nothing is left to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pp_graph.steps.vocabulary.writer import NODES_FOR_CONSTANTS_BELOW, Writer

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx_ir as ir


class Loops(Writer):
    """Loops whose number of rounds depends on what is fed, with a bound."""

    def loop(
        self,
        trips: int | ir.Value,
        start: ir.Value,
        body: Callable[[ir.Value], tuple[ir.Value, ir.Value]],
    ) -> ir.Value:
        """What becomes of a value when a body is applied to it again and again.

        The body's operators go into a graph of their own, its constants into the main graph, and every name is fresh
        in both. It may read values of the graph around it.

        Args:
            trips: How often at most; an int64 scalar, or a number.
            start: The value to begin with, of a known element type.
            body: Writes one round: reads the value, and returns whether another round is needed, a bool scalar, and
                the new value, of the same element type and rank. Both must be written by the body.

        Returns:
            The value after the last round, of the shape of `start`.
        """
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
            go_on, state = body(inputs[2])
            go_on.type, go_on.shape = truth, scalar
            state.type, state.shape = kind, shape
            graph = ir.Graph(inputs, [go_on, state], nodes=self._body, name=self._fresh("round"))
        finally:
            self._body = around
            if self._ir_version < NODES_FOR_CONSTANTS_BELOW:
                # A constant that is an operator of the body is not there outside of it.
                self._constants = known
        result = value("Loop_output", kind, shape)
        self._write(ir.node("Loop", [limit, begin, start], {"body": graph}, outputs=[result], name=self._fresh("Loop")))
        return result
