"""The f32 island: keep the post-processing in float32 whatever happens to the network around it.

OpenVINO compresses constants to f16 when saving, and runs in bf16 or f16 where a device prefers it. A
cutoff of 13.60217 becomes 13.6015625, and masks flip. The runtime attribute `DisablePrecisionConversion`
with the value `dynamic:bf16,f16` keeps a node out of both. It can only be read from an IR's XML (setting it
from Python has no effect), so the post-processing is cut out of the model, written, marked, read back and
put in its place again. It is small; the network itself is never copied.

Checked against OpenVINO 2026.4. The mark is lost where a transformation replaces its node, so
`island_precision.island_precisions` reads what the compiled model really runs.
"""

from __future__ import annotations

import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from pp_graph.errors import TargetError
from pp_graph.postprocessors import POSTPROCESSED_NAMES
from pp_graph.targets.devices import openvino_core
from pp_graph.targets.states import add_states, remove_states

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import openvino as ov

_MARK: Final = {"name": "DisablePrecisionConversion", "version": "0", "value": "dynamic:bf16,f16"}
_FLOATING_PRECISIONS: Final = frozenset({"FP32", "FP16", "BF16", "FP64"})


def isolate_island(model: ov.Model, raw_tensors: Sequence[str], tail: Sequence[tuple[Sequence[str], str]] = ()) -> None:
    """Mark everything between some tensors and the post-processed outputs to stay float32. Changes the model in place.

    Args:
        model: The model.
        raw_tensors: Names of the tensors where the post-processing begins.
        tail: Rewritten parts of the network that stay float32 as well, with all that follows from them: names of the
            tensors that each reads, and of the one that it computes.

    Raises:
        TargetError: A tensor is not in the model.
    """
    import openvino as ov

    results = list(model.get_results())
    # In a quantised network the CPU plugin may fold the dequantising scale into one consumer of a tensor and forget
    # the others (a convolution without bias, OpenVINO 2026.4). Behind a fence it has one consumer.
    fenced = any(node.get_type_name() == "FakeQuantize" for node in model.get_ops())
    sources, ends = island_border(model, raw_tensors, tail)
    parameters = detach(sources, ends)
    for parameter in parameters if fenced else ():
        if parameter.get_element_type() == ov.Type.f32:
            consumers = list(parameter.output(0).get_target_inputs())
            fence = unchanged(parameter)
            for consumer in consumers:
                consumer.replace_source_output(fence.output(0))
    states = model.get_variables()
    own = ov.Model(ends, model.get_sinks(), parameters, states, "island")
    for parameter in parameters:
        _drop_channel_axis(own, parameter)
    _use_older_interpolation(own)
    island = mark_float32(own)
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
    model: ov.Model, raw_tensors: Sequence[str], tail: Sequence[tuple[Sequence[str], str]] = ()
) -> tuple[list[ov.Output], list[ov.op.Result]]:
    """Where the part of a model begins and ends that stays float32; arguments are those of `isolate_island`.

    Returns:
        The tensors that lead into it, and the outputs that come out of it.

    Raises:
        TargetError: A tensor is not in the model.
    """
    inside = _downstream(model, tail)
    ends = [result for result in model.get_results() if _is_postprocessed(result) or result.get_instance_id() in inside]
    return _beginnings(ends, [find_tensor(model, name) for name in raw_tensors], inside), ends


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


def extract_island(model: ov.Model, tensors: Sequence[str], shapes: Sequence[Sequence[int]]) -> ov.Model:
    """Cut the post-processing out of a converted model, to run it on raw values of one's own.

    Args:
        model: The model; it is not changed.
        tensors: Names of the tensors where the post-processing begins.
        shapes: Shape to feed for each.

    Returns:
        A model with one input a tensor, in this order, and the post-processed outputs.

    Raises:
        TargetError: A tensor is not in the model.
    """
    import openvino as ov

    copy = model.clone()
    sources = [find_tensor(copy, name) for name in tensors]
    fed = {node.get_instance_id() for node in copy.get_parameters()}
    # A raw output that was kept may have the name of a post-processed one that was not asked for.
    ends = [
        result
        for result in copy.get_results()
        if _is_postprocessed(result) and not fed & nodes_between(sources, [result])
    ]
    parameters = detach(sources, ends, shapes)
    island = ov.Model(ends, copy.get_sinks(), parameters, copy.get_variables(), "island")
    island.validate_nodes_and_infer_types()
    return island


def island_nodes(
    model: ov.Model, raw_tensors: Sequence[str], tail: Sequence[tuple[Sequence[str], str]] = ()
) -> list[ov.Node]:
    """What lies in a model's island, constants included, inputs and results not; see `isolate_island`.

    Raises:
        TargetError: A tensor is not in the model.
    """
    inside = _downstream(model, tail)
    ends = [each for each in model.get_results() if _is_postprocessed(each) or each.get_instance_id() in inside]
    sources = _beginnings(ends, [find_tensor(model, name) for name in raw_tensors], inside)
    nodes = nodes_between(sources, ends)
    return [
        node
        for node in model.get_ordered_ops()
        if node.get_instance_id() in nodes and node.get_type_name() not in ("Parameter", "Result")
    ]


def is_marked(node: ov.Node) -> bool:
    """Whether a node is marked to stay float32. Python sees that a mark is there, but not what it says."""
    return any(str(key).startswith(_MARK["name"]) for key in node.get_rt_info())


def replace_island(model: ov.Model, island: ov.Model, tensors: Sequence[str], adjustable: Sequence[str] = ()) -> None:
    """Exchange the post-processing of a converted model for another. Changes both models in place.

    Args:
        model: The model.
        island: The new post-processing, with one input a tensor, in this order, and outputs of the same names.
        tensors: Names of the tensors that it reads.
        adjustable: Names of its constants that are to be states.

    Raises:
        TargetError: A tensor is not in the model.
    """
    sources = [find_tensor(model, name) for name in tensors]
    for parameter, source in zip(island.get_parameters(), sources, strict=True):
        for target in list(parameter.output(0).get_target_inputs()):
            target.replace_source_output(source)
    written = {name: result for result in island.get_results() for name in result.output(0).get_names()}
    results = list(model.get_results())
    # A raw output that was kept keeps its name, too.
    renewed = [written.get(_postprocessed_name(result) or "", result) for result in results]
    for result in results:
        model.remove_result(result)
    remove_states(model)
    model.add_results(renewed)
    model.validate_nodes_and_infer_types()
    add_states(model, adjustable)
    isolate_island(model, tensors)


def _postprocessed_name(result: ov.op.Result) -> str | None:
    """The name that a post-processed output has; None for another output."""
    return next(iter(result.output(0).get_names() & set(POSTPROCESSED_NAMES)), None)


def _is_postprocessed(result: ov.op.Result) -> bool:
    return _postprocessed_name(result) is not None


def _downstream(model: ov.Model, tail: Sequence[tuple[Sequence[str], str]]) -> set[int]:
    """Rewritten parts of the network, and everything that is computed from them."""
    inside: set[int] = set()
    for reads, target in tail:
        sources = [find_tensor(model, name) for name in reads]
        inside |= nodes_between(sources, [find_tensor(model, target).get_node()])
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


def tensor_key(value: ov.Output) -> tuple[int, int]:
    """What tells a tensor from all others of its model."""
    return value.get_node().get_instance_id(), value.get_index()


def is_constant(node: ov.Node) -> bool:
    """Whether nothing that is fed decides what a node computes."""
    pending, seen = [node], set()
    while pending:
        each = pending.pop()
        if each.get_type_name() in ("Parameter", "ReadValue"):
            return False
        if each.get_instance_id() not in seen:
            seen.add(each.get_instance_id())
            pending += [value.get_node() for value in each.input_values()]
    return True


def detach(
    sources: Sequence[ov.Output], ends: Sequence[ov.op.Result], shapes: Sequence[Sequence[int]] | None = None
) -> list[ov.op.Parameter]:
    """Feed what lies between some tensors and some results from parameters instead. Changes the model in place.

    Returns:
        A parameter for each tensor.
    """
    from openvino import opset13 as ops

    nodes = nodes_between(sources, ends)
    parameters = []
    for index, source in enumerate(sources):
        shape = source.get_partial_shape() if shapes is None else list(shapes[index])
        parameter = ops.parameter(shape, source.get_element_type(), name=f"island_{index}")
        # An output that is the raw value itself has its name on this tensor.
        parameter.output(0).get_tensor().set_names(source.get_names())
        parameters.append(parameter)
        for target in list(source.get_target_inputs()):
            if target.get_node().get_instance_id() in nodes:
                target.replace_source_output(parameter.output(0))
    return parameters


_ELEMENTWISE: Final = frozenset({
    "Add", "Clamp", "Convert", "Divide", "IsNaN", "Less", "LogicalAnd", "LogicalNot", "LogicalOr", "Maximum", "Minimum",
    "Multiply", "Select", "Subtract",
})  # fmt: skip


def _drop_channel_axis(island: ov.Model, parameter: ov.op.Parameter) -> None:
    """Compute elementwise operators on (N,H,W) instead of (N,1,H,W) or (N,H,W,1). Changes the island in place.

    A convolution leaves its map with channels last, and where the batch is dynamic the CPU plugin (OpenVINO 2026.4)
    walks over the single channel pixel by pixel: 1.3 ms for 256 x 256 pixels, instead of 0.1.
    """
    import openvino as ov
    from openvino import opset13 as ops

    shape = parameter.get_partial_shape()
    axis = next((axis for axis in (1, 3) if shape.rank.get_length() == 4 and shape[axis] == 1), None)
    if axis is None or parameter.get_element_type() != ov.Type.f32:
        return
    region: dict[int, ov.Node] = {}
    for node in island.get_ordered_ops():
        others = [
            source
            for source in (value.get_node() for value in node.input_values())
            if source.get_instance_id() not in {parameter.get_instance_id(), *region}
        ]
        scalars = all(source.get_type_name() == "Constant" and not source.get_shape() for source in others)
        if node.get_type_name() in _ELEMENTWISE and scalars and len(others) < len(node.input_values()):
            region[node.get_instance_id()] = node
    if not region:
        return
    squeezed = ops.squeeze(parameter, ops.constant(np.array([axis])))
    for target in list(parameter.output(0).get_target_inputs()):
        if target.get_node().get_instance_id() in region:
            target.replace_source_output(squeezed.output(0))
    for node in region.values():
        outside = [
            each for each in node.output(0).get_target_inputs() if each.get_node().get_instance_id() not in region
        ]
        if outside:
            whole = ops.unsqueeze(node, ops.constant(np.array([axis])))
            whole.set_friendly_name(f"{node.get_friendly_name()}/whole")
            names = node.output(0).get_names()
            node.output(0).get_tensor().set_names(set())
            whole.output(0).get_tensor().set_names(names)
            for target in outside:
                target.replace_source_output(whole.output(0))


def _use_older_interpolation(island: ov.Model) -> None:
    """Replace Interpolate of opset 11 to given sizes by that of opset 4. Changes the island in place.

    The CPU plugin (OpenVINO 2026.4) does the same when it compiles, and the mark does not survive it.
    """
    from openvino import opset10 as ops

    for node in island.get_ordered_ops():
        if node.get_type_name() != "Interpolate" or node.get_type_info().version_id != "opset11":
            continue
        settings = node.get_attributes()
        if settings["shape_calculation_mode"] != "sizes":
            continue
        data, sizes = node.input_value(0), node.input_value(1)
        count = sizes.get_shape()[0]
        older = ops.interpolate(
            data,
            sizes,
            ops.constant(np.ones(count, np.float32)),
            settings["mode"],
            "sizes",
            axes=ops.constant(np.arange(count)),
            coordinate_transformation_mode=settings["coordinate_transformation_mode"],
            nearest_mode=settings["nearest_mode"],
        )
        older.set_friendly_name(node.get_friendly_name())
        older.output(0).get_tensor().set_names(node.output(0).get_names())
        for target in list(node.output(0).get_target_inputs()):
            target.replace_source_output(older.output(0))


def unchanged(value: ov.Node) -> ov.Node:
    """An operator that changes nothing, not even NaN, and is not optimised away: both branches are the value."""
    import openvino as ov
    from openvino import opset13 as ops

    return ops.select(ops.less(value, ops.constant(0.0, ov.Type.f32)), value, value)


def _connect(island: ov.Model, sources: Sequence[ov.Output]) -> None:
    """Feed an island from the tensors that its parameters stand for."""
    by_name = {parameter.get_friendly_name(): parameter for parameter in island.get_parameters()}
    for index, source in enumerate(sources):
        for target in list(by_name[f"island_{index}"].output(0).get_target_inputs()):
            target.replace_source_output(source)


def find_tensor(model: ov.Model, name: str) -> ov.Output:
    """The output of a node that has a name, not one of the model's own results.

    Raises:
        TargetError: There is none.
    """
    for node in model.get_ordered_ops():
        for output in node.outputs():
            if name in output.get_names() and node.get_type_name() != "Result":
                return output
    raise TargetError(
        f"Tensor '{name}' is not in the converted model, expected the raw value that post-processing reads. "
        "The model was changed after it was fused: convert the fused model again."
    )


def nodes_between(sources: Iterable[ov.Output], ends: Iterable[ov.Node]) -> set[int]:
    """Ids of the nodes behind some tensors that lead to some ends, the ends included."""
    starts = {tensor_key(source) for source in sources}
    pending = list(ends)
    seen: set[int] = set()
    while pending:
        node = pending.pop()
        if node.get_instance_id() in seen:
            continue
        seen.add(node.get_instance_id())
        pending += [value.get_node() for value in node.input_values() if tensor_key(value) not in starts]
    return seen


def mark_float32(island: ov.Model) -> ov.Model:
    """A copy of a small model, each of whose operators stays float32."""
    import openvino as ov

    with tempfile.TemporaryDirectory(prefix="pp_graph_") as folder:
        xml, weights = Path(folder) / "island.xml", Path(folder) / "island.bin"
        ov.serialize(island, str(xml), str(weights))
        tree = ET.parse(xml)  # noqa: S314 - written by OpenVINO a moment ago
        for layer in tree.iter("layer"):
            if layer.get("type") in ("Parameter", "Result"):
                continue
            # The mark breaks compilation on nodes without floating-point numbers, such as integer axes.
            if not _FLOATING_PRECISIONS & {port.get("precision") for port in layer.iter("port")}:
                continue
            info = layer.find("rt_info")
            if info is not None and any(entry.get("name") == _MARK["name"] for entry in info):
                continue
            if info is None:
                info = ET.Element("rt_info")
                layer.insert(0, info)
            ET.SubElement(info, "attribute", _MARK)
        return openvino_core().read_model(ET.tostring(tree.getroot()), weights.read_bytes())
