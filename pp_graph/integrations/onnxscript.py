"""A step written as an onnxscript function, whose eager mode is the reference."""

from __future__ import annotations

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

    Its operators are written into the fused model; its eager mode, which runs the same Python line by line, is the
    reference. Shapes are those that the function gives; see `GraphStep` for what it may return. Runtimes disagree on
    NaN in Greater, Max, Min, Clip and MaxPool: where NaN may occur, compare with Less, which is false
    for it everywhere.

    Attributes:
        source: Name of the value read, float32 or bool: the function's first input.
        target: Name of the value written, float32 or bool.
        function: The function, decorated with `@onnxscript.script()`.
        attributes: Its attributes by name, such as `{"knee": 1.5}` for `def f(x, knee: float)`.
        others: Names of the values for its further inputs.

    Raises:
        ExtraError: onnxscript is not installed.
        PostProcessorError: `function` is no onnxscript function, or has other inputs or attributes.
    """

    function: Any
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the function and its inputs and attributes."""
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
                f"function of '{self.target}' takes {len(declared.input)} inputs ({', '.join(declared.input)}), and "
                f"the step reads {len(self.reads)} values ({', '.join(self.reads)}). Name one a value: source, and "
                "others=(...)."
            )
        defaults = [each.name for each in declared.attribute_proto]
        known = [*declared.attribute, *defaults]
        for name in self.attributes:
            if name not in known:
                raise PostProcessorError(
                    f"attributes of '{self.target}' hold '{name}', expected some of: {', '.join(known) or 'none'}."
                )
        missing = [name for name in declared.attribute if name not in self.attributes]
        if missing:
            raise PostProcessorError(
                f"attributes of '{self.target}' lack '{missing[0]}', which the function takes. Give it a number: "
                f"attributes={{'{missing[0]}': ...}}."
            )

    def __hash__(self) -> int:
        """Equal steps have the same function and names."""
        return hash((self.source, self.target, self.others, id(self.function)))

    def content(self) -> Hashable:
        """The function itself, and its attributes."""
        return self.function, repr(sorted(self.attributes.items()))

    def reference(self, *arrays: Array) -> Array:
        """Run the function eagerly."""
        given = [np.asarray(array, bool if array.dtype == bool else np.float32) for array in arrays]
        result: Any = self.function(*given, **self.attributes)
        if isinstance(result, tuple | list):
            raise PostProcessorError(
                f"function '{self.function.name}' returns {len(result)} values, expected one. Write a step for each."
            )
        return np.asarray(result)

    def model(self, types: Sequence[ValueType], example: tuple[Array, ...]) -> onnx.ModelProto:
        """The function, called by a model with the attributes that were given."""
        from onnx import TensorProto, helper

        del types, example
        called = [each.to_function_proto() for each in _called(self.function)]
        function = self.function.to_function_proto()
        function.domain = _DOMAIN
        opset = next((each.version for each in function.opset_import if each.domain == ""), None)
        if opset is None:
            opset = max((each.version for one in called for each in one.opset_import if each.domain == ""), default=18)
        inputs = [f"{name}_given" for name in function.input]
        outputs = [f"{name}_result" for name in function.output]
        call = helper.make_node(function.name, inputs, outputs, domain=_DOMAIN, **self.attributes)
        graph = helper.make_graph(
            [call],
            "step",
            [helper.make_empty_tensor_value_info(name) for name in inputs],
            [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in outputs],
        )
        domains = {each.domain for each in called} | {_DOMAIN}
        imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(each, 1) for each in sorted(domains))]
        return helper.make_model(graph, functions=[function, *called], opset_imports=imports, ir_version=10)


def _called(function: Any) -> list[Any]:
    """Other functions that a function calls, at any depth."""
    return list(function.function_ir.get_called_functions().values())
