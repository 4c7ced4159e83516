"""A step written as an onnxscript function, whose eager mode is the reference."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.extras import require_extra
from pp_graph.steps import Array, GraphStep

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    import onnx

    from pp_graph.values import ValueType

_DOMAIN = "pp_graph.step"


@dataclass(frozen=True)
class OnnxScriptStep(GraphStep):
    """A step written as an onnxscript function (https://github.com/microsoft/onnxscript).

    The fused model contains its operators. The reference is its eager mode, which runs the same Python line by line.
    `GraphStep` lists the shapes it may return. Runtimes disagree on NaN in Greater, Max, Min, Clip and MaxPool: if NaN
    can occur, compare with Less, which is false for NaN everywhere.

    Attributes:
        source: Name of the value to read, float32 or bool: the function's first input.
        target: Name of the value to write, float32 or bool.
        function: The function, decorated with `@onnxscript.script()`.
        attributes: Its attributes by name, such as `{"knee": 1.5}` for `def f(x, knee: float)`.
        others: Names of the values for its other inputs.

    Raises:
        ExtraError: onnxscript is not installed.
        PostProcessorError: `function` is not an onnxscript function, or has other inputs or attributes.
    """

    function: Any
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the function, its inputs and its attributes."""
        super().__post_init__()
        library = require_extra("onnxscript", "onnxscript", "a step written in onnxscript")
        if not isinstance(self.function, library.OnnxFunction):
            raise PostProcessorError(
                f"function of '{self.target}' is {self.function!r}, expected an onnxscript function. Decorate it with "
                "@onnxscript.script()."
            )
        declared = self.function.to_function_proto()
        if len(declared.input) != len(self.reads):
            raise PostProcessorError(
                f"function of '{self.target}' takes {len(declared.input)} inputs ({', '.join(declared.input)}), "
                f"expected {len(self.reads)}, one for each value that the step reads ({', '.join(self.reads)}). Name "
                "the values with source and others=(...)."
            )
        known = [*declared.attribute, *(attribute.name for attribute in declared.attribute_proto)]
        for name in self.attributes:
            if name not in known:
                raise PostProcessorError(
                    f"attributes of '{self.target}' contain '{name}', expected some of: {', '.join(known) or 'none'}."
                )
        missing = [name for name in declared.attribute if name not in self.attributes]
        if missing:
            raise PostProcessorError(
                f"attributes of '{self.target}' lack '{missing[0]}', which the function needs. Add it: "
                f"attributes={{'{missing[0]}': ...}}."
            )

    def __hash__(self) -> int:
        """Hash the names and the function; attributes are not hashable."""
        return hash((self.source, self.target, self.others, id(self.function)))

    def content(self) -> Hashable:
        """Return the function and its attributes."""
        return self.function, repr(sorted(self.attributes.items()))

    def reference(self, *arrays: Array) -> Array:
        """Run the function eagerly."""
        inputs = [np.asarray(array, bool if array.dtype == bool else np.float32) for array in arrays]
        result: Any = self.function(*inputs, **self.attributes)
        if isinstance(result, tuple | list):
            raise PostProcessorError(
                f"function '{self.function.name}' returns {len(result)} values, expected one. Write one step each."
            )
        return np.asarray(result)

    def model(self, types: Sequence[ValueType], example: tuple[Array, ...]) -> onnx.ModelProto:
        """Return a model that calls the function with `attributes`."""
        from onnx import TensorProto, helper

        del types, example
        # At any depth.
        called = [callee.to_function_proto() for callee in self.function.function_ir.get_called_functions().values()]
        function = self.function.to_function_proto()
        function.domain = _DOMAIN
        own_opset, *called_opsets = (
            [entry.version for entry in proto.opset_import if entry.domain == ""] for proto in (function, *called)
        )
        opset = own_opset[0] if own_opset else max(itertools.chain(*called_opsets), default=18)
        inputs = [f"{name}_given" for name in function.input]
        outputs = [f"{name}_result" for name in function.output]
        call = helper.make_node(function.name, inputs, outputs, domain=_DOMAIN, **self.attributes)
        graph = helper.make_graph(
            [call],
            "step",
            [helper.make_empty_tensor_value_info(name) for name in inputs],
            [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in outputs],
        )
        domains = sorted({callee.domain for callee in called} | {_DOMAIN})
        imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
        return helper.make_model(graph, functions=[function, *called], opset_imports=imports, ir_version=10)
