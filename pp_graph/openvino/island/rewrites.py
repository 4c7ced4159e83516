"""Rewrite a post-processing into operators that OpenVINO runs fast, and whose marks it does not lose."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection

    import openvino as ov

_FENCE: Final = "/fence"
_ELEMENTWISE: Final = frozenset({
    "Abs", "Add", "Clamp", "Convert", "Divide", "Exp", "IsNaN", "Less", "LessEqual", "LogicalAnd", "LogicalNot",
    "LogicalOr", "Maximum", "Minimum", "Multiply", "Select", "Subtract",
})  # fmt: skip


def drop_channel_axis(island: ov.Model, start: ov.Node, shown: Collection[str] = ()) -> None:
    """Compute elementwise operators on (N,H,W) instead of (N,1,H,W) or (N,H,W,1). Changes the island in place.

    A convolution leaves its map with channels last, and where the batch is dynamic the CPU plugin (OpenVINO 2026.4)
    walks over the single channel pixel by pixel: 1.3 ms for 256 x 256 pixels, instead of 0.1.

    Args:
        island: The island.
        start: What the operators read.
        shown: Names of tensors that keep their shape, as they can be read and fed.
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
    wholes = []
    for node in region.values():
        shows = bool(node.output(0).get_names() & set(shown))
        outside = [
            each
            for each in node.output(0).get_target_inputs()
            if shows or each.get_node().get_instance_id() not in region
        ]
        if outside:
            whole = ops.unsqueeze(node, ops.constant(np.array([axis])))
            whole.set_friendly_name(f"{node.get_friendly_name()}/whole")
            names = node.output(0).get_names()
            node.output(0).get_tensor().set_names(set())
            whole.output(0).get_tensor().set_names(names)
            for target in outside:
                target.replace_source_output(whole.output(0))
            if shows:
                wholes.append(whole)
    # What is rewritten next looks at ranks.
    island.validate_nodes_and_infer_types()
    for whole in wholes:
        drop_channel_axis(island, whole, shown)


def channel_axis(value: ov.Output) -> int | None:
    """Where the one channel of a map is; None where a tensor is no map of rank 4."""
    shape = value.get_partial_shape()
    if shape.rank.is_dynamic or shape.rank.get_length() != 4:
        return None
    return next((axis for axis in (1, 3) if shape[axis] == 1), None)


def keep_resizing_marked(island: ov.Model) -> None:
    """Resize maps with constant sizes, in a form whose mark survives. Changes the island in place.

    The mark is lost where the CPU plugin (OpenVINO 2026.4) replaces an operator: Interpolate of opset 11 by that of
    opset 4, and Transpose, Squeeze and Unsqueeze of an axis of size 1 by Reshape. What stands before an Interpolate
    then runs in the network's precision. A ShapeOf beside it makes the network round the raw map itself.
    """
    from openvino import opset10, opset13

    for node in island.get_ordered_ops():
        if not _resizes_a_map(node):
            continue
        shape, settings = node.get_output_partial_shape(0), node.get_attributes()
        layout, data, resized = _around(node)
        if layout == "NHWC":
            # A 0 keeps the size that is there.
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
        whole = marked
        if layout == "NHWC":
            whole = opset13.unsqueeze(marked, opset13.constant(np.array([3])))
            whole.set_friendly_name(f"{node.get_friendly_name()}/whole")
        names, consumers = resized.get_names(), list(resized.get_target_inputs())
        resized.get_tensor().set_names(set())
        whole.output(0).get_tensor().set_names(names)
        for target in consumers:
            target.replace_source_output(whole.output(0))


def keep_padding_marked(island: ov.Model) -> None:
    """Pad in a form whose mark survives. Changes the island in place.

    The mark is lost where the CPU plugin (OpenVINO 2026.4) replaces Pad of opset 12 by that of opset 1; before a
    resized map, the Pad would then round to the network's precision. The two differ in negative pads only.
    """
    from openvino import opset1

    for node in island.get_ordered_ops():
        if node.get_type_name() != "Pad" or node.get_type_info().version_id == "opset1":
            continue
        data, before, behind, *value = node.input_values()
        marked = opset1.pad(data, before, behind, node.get_attributes()["pad_mode"], *value)
        marked.set_friendly_name(node.get_friendly_name())
        marked.output(0).get_tensor().set_names(node.output(0).get_names())
        for target in list(node.output(0).get_target_inputs()):
            target.replace_source_output(marked.output(0))


def _resizes_a_map(node: ov.Node) -> bool:
    """Whether a node resizes (N,1,H,W) as post-processing does, to sizes that are known."""
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
    """The layout of a map that is resized, and the map before and behind what brings it into that of the operator."""
    before, behind = node.input_value(0).get_node(), node.output(0).get_target_inputs()
    after = next(iter(behind)).get_node() if len(behind) == 1 else None
    for layout, moves, moves_back in (("NHWC", "Transpose", "Transpose"), ("NHW", "Unsqueeze", "Squeeze")):
        if before.get_type_name() == moves and after is not None and after.get_type_name() == moves_back:
            return layout, before.input_value(0), after.output(0)
    return "NCHW", node.input_value(0), node.output(0)


def _elementwise_behind(island: ov.Model, start: ov.Node, shown: Collection[str]) -> dict[int, ov.Node]:
    """Elementwise operators on nothing but what a node gives, and scalars, up to tensors that are shown.

    What looks up each number in a table counts as one.
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
    """Whether a node gives for each index what a constant of one axis holds there."""
    if node.get_type_name() != "Gather":
        return False
    return bool(
        node.input_value(0).get_node().get_type_name() == "Constant" and node.get_input_partial_shape(0).rank == 1
    )


def fence(source: ov.Output) -> ov.Node | None:
    """Put an operator that changes nothing between a tensor and all that reads it; None where there is one already.

    The tensor's names go over to what is behind the fence.
    """
    import openvino as ov
    from openvino import opset13 as ops

    node, axis = source.get_node(), channel_axis(source)
    if source.get_element_type() != ov.Type.f32 or node.get_friendly_name().endswith(_FENCE):
        return None
    consumers, names = list(source.get_target_inputs()), source.get_names()
    place = ops.constant(np.array([axis])) if axis is not None else None
    behind = unchanged(source if place is None else ops.squeeze(source, place))
    if place is not None:
        behind = ops.unsqueeze(behind, place)
    behind.set_friendly_name(f"{node.get_friendly_name()}{_FENCE}")
    for consumer in consumers:
        consumer.replace_source_output(behind.output(0))
    source.get_tensor().set_names(set())
    behind.output(0).get_tensor().set_names(names)
    return behind


def unchanged(value: ov.Node | ov.Output) -> ov.Node:
    """An operator that changes nothing, not even NaN, and is not optimised away: both branches are the value."""
    import openvino as ov
    from openvino import opset13 as ops

    return ops.select(ops.less(value, ops.constant(0.0, ov.Type.f32)), value, value)
