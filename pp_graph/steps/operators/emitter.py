"""`Emitter`: writes operators at any opset of the graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.model.graphs import bodies_of
from pp_graph.steps.operators.elementwise import Elementwise, Reductions
from pp_graph.steps.operators.integers import Integers, Loops
from pp_graph.steps.operators.spatial import Spatial
from pp_graph.steps.operators.writer import MINIMUM_OPSET

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx
    import onnx_ir as ir

    from pp_graph.model import Shape

__all__ = ["MINIMUM_OPSET", "Emitter"]


class Emitter(Elementwise, Reductions, Spatial, Integers, Loops):
    """Writes operators at the end of a graph, or before a node; see `Writer` for its arguments."""

    def rewired(self, node: ir.Node, inputs: Sequence[ir.Value | None], **attributes: int) -> ir.Value:
        """Copy an operator with other inputs, and some attributes replaced; return its first output."""
        import onnx_ir as ir

        outputs = [ir.Value(name=self._fresh(f"{node.op_type}_output"), type=output.type) for output in node.outputs]
        kept = [attribute for name, attribute in node.attributes.items() if name not in attributes]
        kept += [ir.AttrInt64(name, number) for name, number in attributes.items()]
        copy = ir.Node(node.domain, node.op_type, inputs, kept, outputs=outputs, name=self._fresh(node.op_type))
        self._write(copy)
        return outputs[0]

    def inline(self, model: onnx.ModelProto, values: Sequence[ir.Value], shape: Shape | None = None) -> ir.Value:
        """Write the operators of a model, under fresh names.

        Constants of the model become constants of the graph and keep their names. Constants in the bodies of If, Loop
        and Scan stay there, as OpenVINO needs their values. Declared shapes are dropped, because their symbolic sizes
        may clash with those of the graph.

        Args:
            model: A model at the graph's opset, without local functions, that imports only the default domain.
            values: Its inputs, in order.
            shape: Shape of its output; None if unknown.

        Returns:
            Its output.

        Raises:
            PostProcessorError: The model takes a different number of inputs, or does not have one output.
        """
        import onnx_ir as ir

        inlined = ir.from_proto(model).graph
        if len(inlined.inputs) != len(values) or len(inlined.outputs) != 1:
            raise PostProcessorError(
                f"The model has {len(inlined.inputs)} inputs and {len(inlined.outputs)} outputs, expected "
                f"{len(values)} and 1. Export the model accordingly."
            )
        self._move_constants(inlined)
        result = inlined.outputs[0]
        dtype = np.dtype(np.float32) if result.dtype is None else result.dtype.numpy()
        inlined.outputs.clear()
        for given, value in zip(list(inlined.inputs), values, strict=True):
            if result is given:
                result = value
            ir.convenience.replace_all_uses_with(given, value)
        nodes = list(inlined)
        inlined.remove(nodes)
        for node in nodes:
            self._rename(node)
            self._write(node)
        if result.producer() is None or result in values:
            # An input that is returned unchanged needs a new name.
            result = self.node("Identity", [result], {}, dtype, None)
        result.shape = None if shape is None else ir.Shape(shape)
        result.type = ir.TensorType(ir.DataType.from_numpy(dtype))
        return result

    def _move_constants(self, inlined: ir.Graph) -> None:
        """Move the constants of a graph into this one. Initializers of its subgraphs become Constant nodes there."""
        import onnx_ir as ir

        constants = {name: value for name, value in inlined.initializers.items() if value.const_value is not None}
        for node in [node for node in inlined if node.op_type == "Constant" and node.domain == ""]:
            tensor = ir.convenience.get_const_tensor(node.outputs[0])
            if tensor is not None:
                constants[node.outputs[0].name or "constant"] = node.outputs[0]
        for name, value in constants.items():
            tensor = ir.convenience.get_const_tensor(value)
            assert tensor is not None
            constant = self._constant(np.asarray(tensor.numpy()), name)
            for index, output in enumerate(inlined.outputs):
                if output is value:
                    inlined.outputs[index] = constant
            producer = value.producer()
            ir.convenience.replace_all_uses_with(value, constant)
            if producer is not None:
                inlined.remove(producer)
        for body in inlined.subgraphs():
            for name, value in list(body.initializers.items()):
                assert value.const_value is not None
                node = ir.node("Constant", [], {"value": value.const_value})
                node.outputs[0].name, node.outputs[0].type = name, value.type
                for index, output in enumerate(body.outputs):
                    if output is value:
                        body.outputs[index] = node.outputs[0]
                ir.convenience.replace_all_uses_with(value, node.outputs[0])
                del body.initializers[name]
                first = next(iter(body), None)
                if first is None:
                    body.append(node)
                else:
                    body.insert_before(first, node)

    def _rename(self, node: ir.Node) -> None:
        node.name = self._fresh(node.op_type)
        node.doc_string = None
        node.metadata_props.clear()
        for output in node.outputs:
            if output.name:
                output.name = self._fresh(f"{node.op_type}_output")
            output.shape = None
        for body in bodies_of(node):
            for value in body.inputs:
                value.name = self._fresh(f"{node.op_type}_input")
                value.shape = None
            for inner in body:
                self._rename(inner)
