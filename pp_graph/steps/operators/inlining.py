"""Inline a whole model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.model.graphs import bodies_of
from pp_graph.steps.operators.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx
    import onnx_ir as ir

    from pp_graph.model import Shape


class Inlining(Writer):
    """Writes the operators of a model that reads some values and computes one."""

    def inline(self, model: onnx.ModelProto, values: Sequence[ir.Value], shape: Shape | None = None) -> ir.Value:
        """Write a model's operators on some values, under fresh names.

        Constants of the model become constants of the graph under their own names; those inside the bodies of If, Loop
        and Scan stay there, where OpenVINO can see what they hold. Declared shapes are left behind: the names of their
        sizes mean something else here.

        Args:
            model: The model, at the graph's opset, of the default domain alone and without local functions.
            values: What to feed, in the order of its inputs.
            shape: Shape of what it computes; None where it is not known.

        Returns:
            What it computes, its one output.

        Raises:
            PostProcessorError: It has another number of inputs, or another number of outputs than one.
        """
        import onnx_ir as ir

        inlined = ir.from_proto(model).graph
        if len(inlined.inputs) != len(values) or len(inlined.outputs) != 1:
            raise PostProcessorError(
                f"The model has {len(inlined.inputs)} inputs and {len(inlined.outputs)} outputs, expected "
                f"{len(values)} and 1. Give a model of that form."
            )
        self._hold_constants(inlined)
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
            # What is passed on needs a name of its own.
            result = self.node("Identity", [result], {}, dtype, None)
        result.shape = None if shape is None else ir.Shape(shape)
        result.type = ir.TensorType(ir.DataType.from_numpy(dtype))
        return result

    def _hold_constants(self, inlined: ir.Graph) -> None:
        """Make the constants of a graph those of this one, and those of its bodies operators there."""
        import onnx_ir as ir

        held = {name: value for name, value in inlined.initializers.items() if value.const_value is not None}
        for node in [node for node in inlined if node.op_type == "Constant" and node.domain == ""]:
            tensor = ir.convenience.get_const_tensor(node.outputs[0])
            if tensor is not None:
                held[node.outputs[0].name or "constant"] = node.outputs[0]
        for name, value in held.items():
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
