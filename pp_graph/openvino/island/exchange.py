"""Replace the program in a converted model without changing the network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from pp_graph.errors import ProvenanceError
from pp_graph.fusion.emission import Numbers, emission_record, emit_alone
from pp_graph.openvino.core import all_operators
from pp_graph.openvino.frame_boxes import leave_frame, move_to_frame
from pp_graph.openvino.ir_files import read_model
from pp_graph.openvino.island.float32 import mark_float32
from pp_graph.openvino.island.graph import find_tensor
from pp_graph.openvino.island.island import replace_island
from pp_graph.openvino.made_up_names import renumber

if TYPE_CHECKING:
    from collections.abc import Mapping

    import openvino as ov

    from pp_graph.fusion import Provenance
    from pp_graph.program import Program

# For provenance of earlier versions, which does not record the opset. At this opset, the bounds of Clip are constants.
OPSET: Final = 18
IR_VERSION: Final = 8


def with_other_program(network: ov.Model, provenance: Provenance, program: Program) -> tuple[ov.Model, Provenance]:
    """Return a copy of a converted model with another program of the same post-processor.

    Args:
        network: The model; it is not changed.
        provenance: The model's provenance.
        program: The new program.

    Returns:
        The model and its new provenance.

    Raises:
        ProvenanceError: A constant in the model contradicts its provenance, or NNCF quantised the converted model.
        TargetError: A raw value is not in the model.
    """
    if network.has_rt_info(["nncf"]):
        raise ProvenanceError(
            "The model was quantised by NNCF after it was converted, post-processing included, expected one that only "
            "pp_graph quantised. Quantise when converting: pp-graph convert --precision int8 --data IMAGES."
        )
    numbers = Numbers.of(provenance, program, opset=OPSET, ir_version=IR_VERSION)
    model = network.clone()
    constants = {node.get_friendly_name(): node for node in model.get_ops() if node.get_type_name() == "Constant"}
    for name in numbers.old.constants:
        if name in constants and constants[name].get_element_type().get_type_name() == "f32":
            numbers.check(name, np.asarray(constants[name].data, "<f4").tobytes(), "the model")
    shared = [
        name
        for name in numbers.changed
        # If other operators read the constant too, OpenVINO merged it with an equal one.
        if name not in constants or len(constants[name].output(0).get_target_inputs()) != numbers.new.readers[name]
    ]
    if numbers.only_numbers and not shared:
        _exchange_constants({constants[name]: content for name, content in numbers.changed.items()})
        model.validate_nodes_and_infer_types()
        return model, numbers.provenance
    names = {node.get_friendly_name() for node in all_operators(model)}
    changed = _exchange_island(model, provenance, program, numbers)
    renumber(model, names)
    return model, changed


def _exchange_constants(changed: Mapping[ov.Node, bytes]) -> None:
    """Replace constants by new ones that are marked to stay in float32. Changes their model in place."""
    import openvino as ov
    from openvino import opset13 as ops

    if not changed:
        return
    old = list(changed)
    results = [
        ops.result(ops.constant(np.frombuffer(changed[node], "<f4").reshape(node.get_output_shape(0)))) for node in old
    ]
    marked = mark_float32(ov.Model(results, [], "constants"))
    for node, result in zip(old, marked.get_results(), strict=True):
        new = result.input_value(0)
        new.get_node().set_friendly_name(node.get_friendly_name())
        new.get_tensor().set_names(node.output(0).get_names())
        for target in list(node.output(0).get_target_inputs()):
            target.replace_source_output(new)
        marked.remove_result(result)


def _exchange_island(model: ov.Model, provenance: Provenance, program: Program, numbers: Numbers) -> Provenance:
    """Replace all operators of the island. Changes the model in place."""
    import onnx_ir as ir

    leave_frame(model, provenance)
    tensors = {role: record.tensor for role, record in provenance.raw.read.items()}
    dtypes = {
        role: ir.DataType.from_numpy(np.dtype(find_tensor(model, tensor).get_element_type().to_dtype()))
        for role, tensor in tensors.items()
    }
    emission, graph = emit_alone(program, tensors, provenance.prefix, opset=OPSET, ir_version=IR_VERSION, dtypes=dtypes)
    record = numbers.provenance.revised(
        intermediates={name: emission.tensors[name] for name in program.intermediates},
        emission=emission_record(program, tensors, provenance.prefix, opset=OPSET, ir_version=IR_VERSION),
    )
    proto = ir.to_proto(ir.Model(graph, ir_version=IR_VERSION))
    island = read_model(proto.SerializeToString())
    replace_island(model, island, record)
    move_to_frame(model, record)
    return record
