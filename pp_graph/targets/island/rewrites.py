"""Rewrite a post-processing into operators that OpenVINO runs fast, and whose marks it does not lose."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    import openvino as ov

_ELEMENTWISE: Final = frozenset({
    "Add", "Clamp", "Convert", "Divide", "IsNaN", "Less", "LogicalAnd", "LogicalNot", "LogicalOr", "Maximum", "Minimum",
    "Multiply", "Select", "Subtract",
})  # fmt: skip


def drop_channel_axis(island: ov.Model, parameter: ov.op.Parameter) -> None:
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


def use_older_interpolation(island: ov.Model) -> None:
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
