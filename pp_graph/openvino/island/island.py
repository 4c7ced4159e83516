"""The f32 island: the part of a converted model that contains the post-processing and stays in float32.

OpenVINO compresses constants to f16 when saving, and runs in bf16 or f16 if the device prefers it. A cutoff of 13.60217
becomes 13.6015625, and masks flip. A mark prevents both (see `float32`), but OpenVINO reads it only from a file. So the
post-processing is cut out of the model, written, marked, read and put back. It is small; the network is never copied.

A transformation that replaces a node drops its mark. `float32.island_precisions` therefore reads the precisions that
the compiled model really runs in.

Adjustable cutoffs become states. OpenVINO makes a constant of an ONNX input that has an initializer; `add_states` puts
a `ReadValue` and an `Assign` after it, so that `request.query_state()` changes it and `reset()` restores the default.
Checked with OpenVINO 2026.4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pp_graph.errors import TargetError
from pp_graph.openvino.frame_boxes import leave_frame
from pp_graph.openvino.island.float32 import mark_float32
from pp_graph.openvino.island.graph import detach, find_tensor, is_constant, nodes_between, tensor_key
from pp_graph.openvino.island.rewrites import (
    drop_channel_axis,
    fence,
    keep_padding_marked,
    keep_resizing_marked,
    unchanged,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import openvino as ov

    from pp_graph.fusion import Provenance


def add_states(model: ov.Model, names: Sequence[str]) -> None:
    """Turn constants into states of the same names, with their values as defaults. Changes the model in place.

    Args:
        model: The model.
        names: Names of the constants, which are float32 scalars.

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
    """Remove all states from a model in which nothing reads them any more. Changes the model in place."""
    for sink in list(model.get_sinks()):
        model.remove_sink(sink)
    for variable in list(model.get_variables()):
        model.remove_variable(variable)


def isolate_island(model: ov.Model, provenance: Provenance, *, tail: bool = True) -> None:
    """Mark all operators of the post-processing to stay in float32. Changes the model in place.

    Args:
        model: The model.
        provenance: The model's provenance.
        tail: Also mark rewritten parts of the network that need float32, and all operators that depend on them.

    Raises:
        TargetError: A tensor is not in the model.
    """
    import openvino as ov
    from openvino import opset13 as ops

    results = list(model.get_results())
    sources, ends = island_border(model, provenance, tail=tail)
    # In a quantised network, the CPU plugin may fold the dequantisation scale of a convolution without bias into one
    # consumer of its output and lose it for the others (OpenVINO 2026.4). A fence is the only consumer.
    quantised = any(node.get_type_name() == "FakeQuantize" for node in model.get_ops())
    fences = [fence(source) if quantised else None for source in sources]
    fenced = [ops.result(each) for each in fences if each is not None]
    inside = nodes_between(sources, [*ends, *fenced])
    outside = [
        [target for target in each.output(0).get_target_inputs() if target.get_node().get_instance_id() not in inside]
        for each in fences
        if each is not None
    ]
    parameters = detach(sources, [*ends, *fenced])
    own = ov.Model([*ends, *fenced], model.get_sinks(), parameters, model.get_variables(), "island")
    for parameter, behind in zip(parameters, fences, strict=True):
        drop_channel_axis(own, parameter if behind is None else behind, list(provenance.intermediates.values()))
    keep_padding_marked(own)
    keep_resizing_marked(own)
    island = mark_float32(own)
    for result, consumers in zip(island.get_results()[len(ends) :], outside, strict=True):
        for consumer in consumers:
            consumer.replace_source_output(result.input_value(0))
    for result in island.get_results()[len(ends) :]:
        island.remove_result(result)
    _connect(island, sources)
    marked = dict(zip((id(end) for end in ends), island.get_results(), strict=True))
    for result in results:
        model.remove_result(result)
    remove_states(model)
    model.add_results([marked.get(id(result), result) for result in results])
    model.add_variables(island.get_variables())
    model.add_sinks(island.get_sinks())
    model.validate_nodes_and_infer_types()


def island_border(
    model: ov.Model, provenance: Provenance, *, tail: bool = True
) -> tuple[list[ov.Output], list[ov.op.Result]]:
    """Return the inputs and outputs of the island; for the arguments, see `isolate_island`.

    Returns:
        The tensors that lead from the network into the island, and the results that it computes.

    Raises:
        TargetError: A tensor is not in the model.
    """
    inside = _downstream(model, provenance) if tail else set()
    written = provenance.output_names
    ends = [each for each in model.get_results() if _names(each) & written or each.get_instance_id() in inside]
    raw = [find_tensor(model, record.tensor) for record in provenance.raw.read.values()]
    return _border_tensors(ends, raw, inside), ends


def add_probes(model: ov.Model, tensors: Sequence[str]) -> None:
    """Append float32 outputs with the values of inner tensors. Changes the model in place.

    An output attached to the tensor itself would make the plugin round it to the network's precision, unlike the value
    that the post-processing reads. A marked operator in between does not change the execution.

    Args:
        model: The model.
        tensors: Names of the tensors, in the order of the new outputs, which follow the existing ones.

    Raises:
        TargetError: A tensor is not in the model.
    """
    import openvino as ov
    from openvino import opset13 as ops

    sources = [find_tensor(model, name) for name in tensors]
    parameters, results = [], []
    for index, source in enumerate(sources):
        parameter = ops.parameter(source.get_partial_shape(), source.get_element_type(), name=f"island_{index}")
        parameters.append(parameter)
        value = parameter if source.get_element_type() == ov.Type.f32 else ops.convert(parameter, "f32")
        results.append(ops.result(unchanged(value)))
    island = mark_float32(ov.Model(results, parameters, "probes"))
    _connect(island, sources)
    model.add_results(island.get_results())
    model.validate_nodes_and_infer_types()


def extract_island(
    model: ov.Model, provenance: Provenance, shapes: Sequence[Sequence[int]], tensors: Sequence[str] | None = None
) -> ov.Model:
    """Cut the post-processing out of a converted model, to run it alone on raw values.

    Args:
        model: The model; it is not changed.
        provenance: The model's provenance.
        shapes: Shape of each tensor.
        tensors: Names of the tensors to cut at; None for those of `Provenance.tensors`.

    Returns:
        A model with an input for each tensor, in this order, and the post-processed outputs.

    Raises:
        TargetError: A tensor is not in the model.
    """
    import openvino as ov

    copy = model.clone()
    leave_frame(copy, provenance)
    sources = [find_tensor(copy, name) for name in tensors or provenance.tensors.values()]
    fed = {node.get_instance_id() for node in copy.get_parameters()}
    # A kept raw output may have the name of a post-processed output that the program does not write.
    ends = [
        result
        for result in copy.get_results()
        if _names(result) & provenance.output_names and not fed & nodes_between(sources, [result])
    ]
    parameters = detach(sources, ends, shapes)
    island = ov.Model(ends, copy.get_sinks(), parameters, copy.get_variables(), "island")
    island.validate_nodes_and_infer_types()
    return island


def island_nodes(model: ov.Model, provenance: Provenance) -> list[ov.Node]:
    """Return the nodes of a model's island, with constants but without parameters and results.

    Raises:
        TargetError: A tensor is not in the model.
    """
    nodes = nodes_between(*island_border(model, provenance))
    return [
        node
        for node in model.get_ordered_ops()
        if node.get_instance_id() in nodes and node.get_type_name() not in ("Parameter", "Result")
    ]


def replace_island(model: ov.Model, island: ov.Model, provenance: Provenance) -> None:
    """Replace the post-processing of a converted model. Changes both models in place.

    Args:
        model: The converted model.
        island: The new post-processing. It has an input for each raw value, in the order of the provenance, and outputs
            with the same names as the old one.
        provenance: The new provenance.

    Raises:
        TargetError: A tensor is not in the model.
    """
    sources = [find_tensor(model, record.tensor) for record in provenance.raw.read.values()]
    for parameter, source in zip(island.get_parameters(), sources, strict=True):
        for target in list(parameter.output(0).get_target_inputs()):
            target.replace_source_output(source)
    written = {name: result for result in island.get_results() for name in result.output(0).get_names()}
    results = list(model.get_results())
    # A result may also have the name of a kept raw output.
    ours = provenance.output_names
    renewed = [written.get(next(iter(_names(result) & ours), ""), result) for result in results]
    for result in results:
        model.remove_result(result)
    remove_states(model)
    model.add_results(renewed)
    model.validate_nodes_and_infer_types()
    add_states(model, provenance.adjustable)
    isolate_island(model, provenance, tail=False)


def _names(result: ov.op.Result) -> set[str]:
    names: set[str] = result.output(0).get_names()
    return names


def _downstream(model: ov.Model, provenance: Provenance) -> set[int]:
    """Return the ids of rewritten parts of the network that need float32, and of all nodes that depend on them."""
    inside: set[int] = set()
    for record in provenance.tail:
        if record.float32:
            sources = [find_tensor(model, name) for name in record.reads]
            inside |= nodes_between(sources, [find_tensor(model, record.target).get_node()])
    for node in model.get_ordered_ops() if inside else ():
        if any(value.get_node().get_instance_id() in inside for value in node.input_values()):
            inside.add(node.get_instance_id())
    return inside


def _border_tensors(ends: Iterable[ov.op.Result], raw: Sequence[ov.Output], inside: set[int]) -> list[ov.Output]:
    """Return the tensors that lead from the network into the island."""
    raw_keys = {tensor_key(value) for value in raw}
    sources: dict[tuple[int, int], ov.Output] = {}
    # Raw values belong to the border even if no output needs them.
    if not inside:
        sources = {tensor_key(value): value for value in raw}
    pending, seen = list(ends), set()
    while pending:
        node = pending.pop()
        if node.get_instance_id() in seen:
            continue
        seen.add(node.get_instance_id())
        for value in node.input_values():
            source = value.get_node()
            # A state belongs to the island, like a constant.
            state = source.get_type_name() == "ReadValue"
            if source.get_instance_id() in inside or state or is_constant(source):
                pending.append(source)
            elif tensor_key(value) in raw_keys or node.get_instance_id() in inside:
                sources.setdefault(tensor_key(value), value)
            else:
                pending.append(source)
    return list(sources.values())


def _connect(island: ov.Model, sources: Sequence[ov.Output]) -> None:
    """Replace the parameters of an island by the tensors of the model."""
    by_name = {parameter.get_friendly_name(): parameter for parameter in island.get_parameters()}
    for index, source in enumerate(sources):
        for target in list(by_name[f"island_{index}"].output(0).get_target_inputs()):
            target.replace_source_output(source)
