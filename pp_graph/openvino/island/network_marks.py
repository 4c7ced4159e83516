"""Rewrite operators of the network in a form that keeps their float32 marks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pp_graph.openvino.island.graph import is_constant
from pp_graph.openvino.island.rewrites import move_names_and_consumers

if TYPE_CHECKING:
    from collections.abc import Collection

    import openvino as ov


def keep_network_marked(model: ov.Model, names: Collection[str]) -> None:
    """Rewrite operators of the network in a form that keeps their marks. Changes the model in place.

    The CPU plugin (OpenVINO 2026.4) replaces a subtracted constant by its negative added, a divisor by its reciprocal,
    a factor after a sum or a matrix product by one before it, and Interpolate of opset 11 by that of opset 4; and it
    merges a bias into a matrix product. The new operators have no mark. They are written here as the plugin would write
    them, or so that it leaves them alone. The numbers stay the same.

    Args:
        model: The model.
        names: Names of the operators.
    """
    rewrites = {
        "Add": _kept_bias,
        "Subtract": _added,
        "Divide": _multiplied,
        "Multiply": _multiplied,
        "Interpolate": _interpolated,
    }
    for node in model.get_ordered_ops():
        rewrite = rewrites.get(node.get_type_name()) if node.get_friendly_name() in names else None
        new = None if rewrite is None else rewrite(node)
        if new is not None:
            new.set_friendly_name(node.get_friendly_name())
            move_names_and_consumers(node.output(0), new.output(0), list(node.output(0).get_target_inputs()))
    model.validate_nodes_and_infer_types()


def _computes_with_constant(node: ov.Node) -> bool:
    """Return True if the second input is a float32 constant, or is computed from constants, and the first is not."""
    first, second = node.input_values()
    float32 = second.get_element_type().get_type_name() == "f32"
    return float32 and is_constant(second.get_node()) and not is_constant(first.get_node())


def _added(node: ov.Node) -> ov.Node | None:
    from openvino import opset13 as ops

    if not _computes_with_constant(node):
        return None
    value, constant = node.input_values()
    negative = ops.negative(constant).output(0)
    biased = _biased(node, value, negative)
    return ops.add(value, negative) if biased is None else biased


def _kept_bias(node: ov.Node) -> ov.Node | None:
    value, constant = node.input_values()
    if is_constant(value.get_node()):
        value, constant = constant, value
    return _biased(node, value, constant)


def _biased(node: ov.Node, value: ov.Output, constant: ov.Output) -> ov.Node | None:
    """Return a matrix product plus a bias of one number for each row and column; None for another sum.

    A bias of one number for each column would be merged into the product, which then has no mark.
    """
    from openvino import opset13 as ops

    shape, channels = node.get_output_partial_shape(0), constant.get_partial_shape()
    if (
        value.get_node().get_type_name() != "MatMul"
        or not is_constant(constant.get_node())
        or shape.rank.is_dynamic
        or channels.is_dynamic
        or shape.rank.get_length() < 3
    ):
        return None
    rows, columns = shape[-2], shape[-1]
    sizes = list(constant.get_shape())
    if rows.is_dynamic or columns.is_dynamic or rows.get_length() == 1 or not sizes:
        return None
    if sizes[-1] != columns.get_length() or sizes[-1] != int(np.prod(sizes)):
        return None
    each_row = ops.constant(np.array([rows.get_length(), columns.get_length()]))
    flat = ops.reshape(constant, ops.constant(np.array([1, -1])), special_zero=False)
    return ops.add(value, ops.broadcast(flat, each_row))


def _multiplied(node: ov.Node) -> ov.Node | None:
    """Return `x * factor`; after a sum or a matrix product that nothing else reads, multiply its terms instead."""
    from openvino import opset13 as ops

    if not _computes_with_constant(node):
        return None
    value, factor = node.input_values()
    if node.get_type_name() == "Divide":
        factor = ops.divide(ops.constant(np.float32(1)), factor).output(0)
    before = value.get_node()
    alone = len(value.get_target_inputs()) == 1
    if alone and before.get_type_name() == "Add" and _computes_with_constant(before):
        product = ops.multiply(before.input_value(0), factor)
        product.set_friendly_name(before.get_friendly_name())
        return ops.add(product, ops.multiply(before.input_value(1), factor))
    scalar = factor.get_partial_shape().is_static and not any(size != 1 for size in factor.get_shape())
    if alone and before.get_type_name() == "MatMul" and scalar and node.get_type_name() == "Multiply":
        product = ops.multiply(before.input_value(1), factor)
        product.set_friendly_name(before.get_friendly_name())
        settings = before.get_attributes()
        return ops.matmul(before.input_value(0), product, settings["transpose_a"], settings["transpose_b"])
    return ops.multiply(value, factor) if node.get_type_name() == "Divide" else None


def _interpolated(node: ov.Node) -> ov.Node | None:
    """Return an Interpolate of opset 4, if the resized axes have constant sizes or scales."""
    from openvino import opset10, opset13

    settings, before, after = node.get_attributes(), node.get_input_partial_shape(0), node.get_output_partial_shape(0)
    data, given, *rest = node.input_values()
    if (
        node.get_type_info().version_id != "opset11"
        or settings["mode"] not in ("nearest", "linear", "linear_onnx", "cubic")
        or after.rank.is_dynamic
        or any(each.get_node().get_type_name() != "Constant" for each in (given, *rest))
    ):
        return None
    numbers, mode = given.get_node().data, settings["shape_calculation_mode"]
    axes = rest[0].get_node().data if rest else np.arange(after.rank.get_length())
    # Other axes may be open.
    resized = numbers != 1 if mode == "scales" else np.array([before[int(axis)] != after[int(axis)] for axis in axes])
    kept = np.flatnonzero(resized)
    if any(after[int(axes[index])].is_dynamic for index in kept):
        return None
    same = ("pads_begin", "pads_end", "coordinate_transformation_mode", "nearest_mode", "antialias", "cube_coeff")
    return opset10.interpolate(
        data,
        opset13.constant(np.array([after[int(axes[index])].get_length() for index in kept])),
        opset13.constant(numbers[kept] if mode == "scales" else np.ones(len(kept), np.float32)),
        settings["mode"],
        mode,
        axes=opset13.constant(axes[kept]),
        **{name: settings[name] for name in same},
    )
