"""Rewrite post-processing into operators that OpenVINO runs fast, and whose float32 marks it keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    import openvino as ov

_FENCE: Final = "/fence"
_ELEMENTWISE: Final = frozenset({
    "Abs", "Add", "Clamp", "Convert", "Divide", "Exp", "IsNaN", "Less", "LessEqual", "LogicalAnd", "LogicalNot",
    "LogicalOr", "Maximum", "Minimum", "Multiply", "Select", "Subtract",
})  # fmt: skip


def drop_channel_axis(island: ov.Model, start: ov.Node, shown: Collection[str] = ()) -> None:
    """Compute elementwise operators on (N,H,W) instead of (N,1,H,W) or (N,H,W,1). Changes the island in place.

    A convolution writes its map with channels last. With a dynamic batch, the CPU plugin (OpenVINO 2026.4) then
    processes the single channel pixel by pixel: 1.3 ms instead of 0.1 ms for 256 x 256 pixels.

    Args:
        island: The island.
        start: The node whose output the operators read.
        shown: Names of tensors that keep their shape, because `verify` reads and feeds them.
    """
    import openvino as ov
    from openvino import opset13 as ops

    axis = channel_axis(start.output(0))
    if axis is None or start.get_output_element_type(0) != ov.Type.f32:
        return
    region = _elementwise_behind(island, start, shown)
    if not region:
        return
    squeezed = ops.squeeze(start, ops.constant(np.array([axis])))
    for target in list(start.output(0).get_target_inputs()):
        if target.get_node().get_instance_id() in region:
            target.replace_source_output(squeezed.output(0))
    shown_nodes = []
    for node in region.values():
        is_shown = bool(node.output(0).get_names() & set(shown))
        outside = [
            target
            for target in node.output(0).get_target_inputs()
            if is_shown or target.get_node().get_instance_id() not in region
        ]
        if outside:
            unsqueezed = ops.unsqueeze(node, ops.constant(np.array([axis])))
            unsqueezed.set_friendly_name(f"{node.get_friendly_name()}/whole")
            move_names_and_consumers(node.output(0), unsqueezed.output(0), outside)
            if is_shown:
                shown_nodes.append(unsqueezed)
    # The next rewrites need the new ranks.
    island.validate_nodes_and_infer_types()
    for node in shown_nodes:
        drop_channel_axis(island, node, shown)


def move_names_and_consumers(old: ov.Output, new: ov.Output, consumers: Iterable[ov.Input]) -> None:
    """Give an output's names, and some of its consumers, to another output."""
    names = old.get_names()
    old.get_tensor().set_names(set())
    new.get_tensor().set_names(names)
    for consumer in consumers:
        consumer.replace_source_output(new)


def channel_axis(value: ov.Output) -> int | None:
    """Return the position of the channel axis of a map with one channel; None for other tensors."""
    shape = value.get_partial_shape()
    if shape.rank.is_dynamic or shape.rank.get_length() != 4:
        return None
    return next((axis for axis in (1, 3) if shape[axis] == 1), None)


def keep_resizing_marked(island: ov.Model) -> None:
    """Rewrite the resizing of maps to constant sizes in a form that keeps its mark. Changes the island in place.

    The CPU plugin (OpenVINO 2026.4) replaces Interpolate of opset 11 by that of opset 4, and Transpose, Squeeze and
    Unsqueeze of an axis of size 1 by Reshape. The new operators have no mark, so operators before an Interpolate run in
    the network's precision. A ShapeOf beside it makes the network round the raw map.
    """
    from openvino import opset10, opset13

    for node in island.get_ordered_ops():
        if not _resizes_a_map(node):
            continue
        shape, settings = node.get_output_partial_shape(0), node.get_attributes()
        layout, data, resized = _around(node)
        if layout == "NHWC":
            # With special_zero, a 0 keeps the size of that axis.
            data = opset13.reshape(data, opset13.constant(np.array([0, 0, 0])), special_zero=True).output(0)
        marked = opset10.interpolate(
            data,
            opset13.constant(np.array([shape[axis].get_length() for axis in (2, 3)])),
            opset13.constant(np.ones(2, np.float32)),
            settings["mode"],
            "sizes",
            axes=opset13.constant(np.array([2, 3] if layout == "NCHW" else [1, 2])),
            coordinate_transformation_mode=settings["coordinate_transformation_mode"],
        )
        marked.set_friendly_name(node.get_friendly_name())
        output = marked
        if layout == "NHWC":
            output = opset13.unsqueeze(marked, opset13.constant(np.array([3])))
            output.set_friendly_name(f"{node.get_friendly_name()}/whole")
        move_names_and_consumers(resized, output.output(0), list(resized.get_target_inputs()))


def keep_padding_marked(island: ov.Model) -> None:
    """Rewrite Pad in a form that keeps its mark. Changes the island in place.

    The CPU plugin (OpenVINO 2026.4) replaces Pad of opset 12 by that of opset 1, which then has no mark: before a
    resized map, it would round to the network's precision. The two versions differ only for negative pads.
    """
    from openvino import opset1

    for node in island.get_ordered_ops():
        if node.get_type_name() != "Pad" or node.get_type_info().version_id == "opset1":
            continue
        data, before, after, *value = node.input_values()
        marked = opset1.pad(data, before, after, node.get_attributes()["pad_mode"], *value)
        marked.set_friendly_name(node.get_friendly_name())
        marked.output(0).get_tensor().set_names(node.output(0).get_names())
        for target in list(node.output(0).get_target_inputs()):
            target.replace_source_output(marked.output(0))


def _resizes_a_map(node: ov.Node) -> bool:
    """Return True if a node resizes a map (N,1,H,W) to constant sizes, as post-processing does."""
    if node.get_type_name() != "Interpolate":
        return False
    settings, shape = node.get_attributes(), node.get_output_partial_shape(0)
    return (
        (settings["mode"], settings["shape_calculation_mode"]) == ("linear_onnx", "sizes")
        and shape.rank.is_static
        and shape.rank.get_length() == 4
        and shape[1] == 1
        and shape[2].is_static
        and shape[3].is_static
        and not any(settings["pads_begin"])
        and not any(settings["pads_end"])
    )


def _around(node: ov.Node) -> tuple[str, ov.Output, ov.Output]:
    """Return the layout of a resized map, and the map before and after it is in the layout of Interpolate."""
    before, consumers = node.input_value(0).get_node(), node.output(0).get_target_inputs()
    after = next(iter(consumers)).get_node() if len(consumers) == 1 else None
    for layout, moves, moves_back in (("NHWC", "Transpose", "Transpose"), ("NHW", "Unsqueeze", "Squeeze")):
        if before.get_type_name() == moves and after is not None and after.get_type_name() == moves_back:
            return layout, before.input_value(0), after.output(0)
    return "NCHW", node.input_value(0), node.output(0)


def _elementwise_behind(island: ov.Model, start: ov.Node, shown: Collection[str]) -> dict[int, ov.Node]:
    """Return the elementwise operators that depend only on a node and scalars, up to shown tensors, by id.

    Table lookups count as elementwise.
    """
    region: dict[int, ov.Node] = {}
    inside = {start.get_instance_id()}
    for node in island.get_ordered_ops():
        others = [
            source
            for source in (value.get_node() for value in node.input_values())
            if source.get_instance_id() not in inside
        ]
        scalars = all(_is_scalar(source) for source in others)
        elementwise = node.get_type_name() in _ELEMENTWISE and scalars and len(others) < len(node.input_values())
        if elementwise or (_looks_up(node) and node.input_value(1).get_node().get_instance_id() in inside):
            region[node.get_instance_id()] = node
            if not node.output(0).get_names() & set(shown):
                inside.add(node.get_instance_id())
    return region


def _is_scalar(node: ov.Node) -> bool:
    return node.get_type_name() in ("Constant", "ReadValue") and node.get_output_partial_shape(0).rank == 0


def _looks_up(node: ov.Node) -> bool:
    """Return True if a node looks up each value in a constant table, (entries,)."""
    if node.get_type_name() != "Gather":
        return False
    return bool(
        node.input_value(0).get_node().get_type_name() == "Constant" and node.get_input_partial_shape(0).rank == 1
    )


def fence(source: ov.Output) -> ov.Node | None:
    """Put an operator without effect between a tensor and its consumers; the tensor's names move to its output.

    Returns:
        The last node of the fence; None if there is a fence already, or the tensor is not float32.
    """
    import openvino as ov
    from openvino import opset13 as ops

    node, axis = source.get_node(), channel_axis(source)
    if source.get_element_type() != ov.Type.f32 or node.get_friendly_name().endswith(_FENCE):
        return None
    consumers = list(source.get_target_inputs())
    channel = None if axis is None else ops.constant(np.array([axis]))
    fenced = unchanged(source if channel is None else ops.squeeze(source, channel))
    if channel is not None:
        fenced = ops.unsqueeze(fenced, channel)
    fenced.set_friendly_name(f"{node.get_friendly_name()}{_FENCE}")
    move_names_and_consumers(source, fenced.output(0), consumers)
    return fenced


def unchanged(value: ov.Node | ov.Output) -> ov.Node:
    """Return a Select whose branches are both the value: it keeps even NaN, and OpenVINO does not remove it."""
    import openvino as ov
    from openvino import opset13 as ops

    return ops.select(ops.less(value, ops.constant(0.0, ov.Type.f32)), value, value)
