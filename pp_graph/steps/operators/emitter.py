"""The operators that steps emit, at any opset of the graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pp_graph.steps.operators.elementwise import Elementwise, Reductions
from pp_graph.steps.operators.inlining import Inlining
from pp_graph.steps.operators.integers import Integers, Loops
from pp_graph.steps.operators.spatial import Spatial
from pp_graph.steps.operators.writer import MINIMUM_OPSET

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

__all__ = ["MINIMUM_OPSET", "Emitter"]


class Emitter(Elementwise, Reductions, Spatial, Integers, Loops, Inlining):
    """Writes operators at the end of a graph, or before a node; see `Writer` for its arguments."""

    def rewired(self, node: ir.Node, inputs: Sequence[ir.Value | None], **attributes: int) -> ir.Value:
        """The first output of an operator like another one on other inputs, with its attributes or some replaced."""
        import onnx_ir as ir

        outputs = [ir.Value(name=self._fresh(f"{node.op_type}_output"), type=output.type) for output in node.outputs]
        kept = [attribute for name, attribute in node.attributes.items() if name not in attributes]
        kept += [ir.AttrInt64(name, number) for name, number in attributes.items()]
        copy = ir.Node(node.domain, node.op_type, inputs, kept, outputs=outputs, name=self._fresh(node.op_type))
        self._write(copy)
        return outputs[0]
