"""The f32 island: the part of a converted model that holds the post-processing and stays in float32.

OpenVINO freezes an ONNX input that has an initializer: such a value becomes a constant as the model is read. Here it
becomes what `ReadValue` gives and `Assign` keeps: `request.query_state()` changes it, `reset()` restores the default.
Checked with OpenVINO 2026.4.

OpenVINO compresses constants to f16 when saving, and runs in bf16 or f16 where a device prefers it. A
cutoff of 13.60217 becomes 13.6015625, and masks flip. A mark prevents both (see `marks`), but it can
only be read from a file: so the post-processing is cut out of the model, written, marked, read back and put
in its place again. It is small; the network itself is never copied.

The mark is lost where a transformation replaces its node, so `precision.island_precisions` reads what
the compiled model really runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pp_graph.errors import TargetError
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


def isolate_island(model: ov.Model, provenance: Provenance, *, tail: bool = True) -> None:
    """Mark everything between some tensors and the post-processed outputs to stay float32. Changes the model in place.

    Args:
        model: The model.
        provenance: What is fused into it.
        tail: Whether rewritten parts of the network stay float32 as well, with all that follows from them.

    Raises:
        TargetError: A tensor is not in the model.
    """
    import openvino as ov
    from openvino import opset13 as ops

    results = list(model.get_results())
    sources, ends = island_border(model, provenance, tail=tail)
    # In a quantised network the CPU plugin may fold the dequantising scale into one consumer of a tensor and forget
    # the others (a convolution without bias, OpenVINO 2026.4). Behind a fence it has one consumer.
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
    """Where the part of a model begins and ends that stays float32; arguments are those of `isolate_island`.

    Returns:
        The tensors that lead into it, and the outputs that come out of it.

    Raises:
        TargetError: A tensor is not in the model.
    """
    inside = _downstream(model, provenance) if tail else set()
    written = provenance.output_names
    ends = [each for each in model.get_results() if _names(each) & written or each.get_instance_id() in inside]
    raw = [find_tensor(model, record.tensor) for record in provenance.raw.read.values()]
    return _beginnings(ends, raw, inside), ends


def add_probes(model: ov.Model, tensors: Sequence[str]) -> None:
    """Append outputs that show, in float32, what inner tensors hold. Changes the model in place.

    An output attached to the tensor itself would make the plugin round it to the network's precision,
    which the post-processing does not see. A marked operator in between leaves the execution as it is.

    Args:
        model: The model.
        tensors: Names of the tensors; one output each, in this order, behind the existing ones.

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


def extract_island(model: ov.Model, provenance: Provenance, shapes: Sequence[Sequence[int]]) -> ov.Model:
    """Cut the post-processing out of a converted model, to run it on raw values of one's own.

    Args:
        model: The model; it is not changed.
        provenance: What is fused into it.
        shapes: Shape to feed for each of `Provenance.tensors`.

    Returns:
        A model with one input a tensor, in this order, and the post-processed outputs.

    Raises:
        TargetError: A tensor is not in the model.
    """
    import openvino as ov

    copy = model.clone()
    sources = [find_tensor(copy, name) for name in provenance.tensors.values()]
    fed = {node.get_instance_id() for node in copy.get_parameters()}
    # A raw output that was kept may have the name of a post-processed one that was not asked for.
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
    """What lies in a model's island, constants included, inputs and results not; see `isolate_island`.

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
    """Exchange the post-processing of a converted model for another. Changes both models in place.

    Args:
        model: The model.
        island: The new post-processing, with one input for each raw value, in this order, and outputs of the same
            names.
        provenance: What it is.

    Raises:
        TargetError: A tensor is not in the model.
    """
    sources = [find_tensor(model, record.tensor) for record in provenance.raw.read.values()]
    for parameter, source in zip(island.get_parameters(), sources, strict=True):
        for target in list(parameter.output(0).get_target_inputs()):
            target.replace_source_output(source)
    written = {name: result for result in island.get_results() for name in result.output(0).get_names()}
    results = list(model.get_results())
    # A raw output that was kept keeps its name, too.
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
    """Rewritten parts of the network that stay float32, and everything that is computed from them."""
    inside: set[int] = set()
    for record in provenance.tail:
        if record.float32:
            sources = [find_tensor(model, name) for name in record.reads]
            inside |= nodes_between(sources, [find_tensor(model, record.target).get_node()])
    for node in model.get_ordered_ops() if inside else ():
        if any(value.get_node().get_instance_id() in inside for value in node.input_values()):
            inside.add(node.get_instance_id())
    return inside


def _beginnings(ends: Iterable[ov.op.Result], raw: Sequence[ov.Output], inside: set[int]) -> list[ov.Output]:
    """The tensors that lead from the rest of the network into the island."""
    raw_keys = {tensor_key(value) for value in raw}
    found: dict[tuple[int, int], ov.Output] = {}
    # A raw value that nothing reads, as where only labels of a score come out, still begins the island.
    if not inside:
        found = {tensor_key(value): value for value in raw}
    pending, seen = list(ends), set()
    while pending:
        node = pending.pop()
        if node.get_instance_id() in seen:
            continue
        seen.add(node.get_instance_id())
        for value in node.input_values():
            source = value.get_node()
            # A state is a constant that can be changed, and belongs to what reads it.
            state = source.get_type_name() == "ReadValue"
            if source.get_instance_id() in inside or state or is_constant(source):
                pending.append(source)
            elif tensor_key(value) in raw_keys or node.get_instance_id() in inside:
                found.setdefault(tensor_key(value), value)
            else:
                pending.append(source)
    return list(found.values())


def _connect(island: ov.Model, sources: Sequence[ov.Output]) -> None:
    """Feed an island from the tensors that its parameters stand for."""
    by_name = {parameter.get_friendly_name(): parameter for parameter in island.get_parameters()}
    for index, source in enumerate(sources):
        for target in list(by_name[f"island_{index}"].output(0).get_target_inputs()):
            target.replace_source_output(source)
