"""Cutoffs that can be changed while a model runs: in OpenVINO they are states with defaults.

OpenVINO freezes an ONNX input that has an initializer: such a value becomes a constant as the model is read. Here it
becomes what `ReadValue` gives and `Assign` keeps: `request.query_state()` changes it, `reset()` restores the default.
Checked with OpenVINO 2026.4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pp_graph.errors import TargetError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import openvino as ov


def add_states(model: ov.Model, names: Sequence[str]) -> None:
    """Turn constants into states of the same names, with their values as defaults. Changes the model in place.

    Args:
        model: The model.
        names: Names of the constants; float32 scalars.

    Raises:
        TargetError: A constant is not in the model.
    """
    from openvino import opset13 as ops
    from openvino.op.util import Variable, VariableInfo

    constants = {
        node.get_friendly_name(): node for node in model.get_ordered_ops() if node.get_type_name() == "Constant"
    }
    for name in names:
        if name not in constants:
            raise TargetError(
                f"Cutoff '{name}' is not in the converted model, expected the default of an adjustable threshold. "
                "The model was changed after it was fused: fuse the raw model again."
            )
        constant = constants[name]
        consumers = list(constant.output(0).get_target_inputs())
        info = VariableInfo()
        info.data_shape = constant.get_output_partial_shape(0)
        info.data_type = constant.get_output_element_type(0)
        info.variable_id = name
        variable = Variable(info)
        value = ops.read_value(constant, variable)
        value.set_friendly_name(f"{name}/state")
        for consumer in consumers:
            consumer.replace_source_output(value.output(0))
        kept = ops.assign(value, variable)
        kept.set_friendly_name(f"{name}/keep")
        model.add_variables([variable])
        model.add_sinks([kept])


def remove_states(model: ov.Model) -> None:
    """Take all states out of a model; what they gave must not be read any more. Changes the model in place."""
    for sink in list(model.get_sinks()):
        model.remove_sink(sink)
    for variable in list(model.get_variables()):
        model.remove_variable(variable)
