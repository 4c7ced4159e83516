"""Bring masks and maps to the size of the frame, inside the model: each pixel gets the number of the map's pixel there.

Nothing is computed with the numbers, so a mask stays the comparison of its map. As for boxes, the operators follow the
outputs of the post-processing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from pp_graph.errors import TargetError
from pp_graph.openvino.core import port_name
from pp_graph.openvino.island.float32 import mark_float32
from pp_graph.openvino.island.graph import find_tensor
from pp_graph.openvino.preprocessing import frame_size, placed_size
from pp_graph.preprocessing import LETTERBOX
from pp_graph.preprocessing.placement import FRAME

if TYPE_CHECKING:
    import openvino as ov

    from pp_graph.fusion import Provenance
    from pp_graph.preprocessing import Preprocessing

_SCOPE: Final = "frame_maps"


def enlarge_maps(model: ov.Model, provenance: Provenance) -> None:
    """Return masks and maps in the size of the frame, if the preprocessing says so. Changes the model in place.

    Args:
        model: The converted model, with its preprocessing.
        provenance: Its provenance.

    Raises:
        TargetError: The model returns no masks or maps.
    """
    import openvino as ov
    from openvino import opset13 as ops

    preprocessing = provenance.preprocessing
    if preprocessing is None or preprocessing.map_size != FRAME:
        return
    outputs = _checked_outputs(provenance)
    (frames,) = (each for each in model.get_parameters() if port_name(each.output(0)) == preprocessing.input)
    sources = [find_tensor(model, name) for name in outputs]
    inner = [ops.parameter([2], ov.Type.i64, name="size")]
    inner += [
        ops.parameter(source.get_partial_shape(), source.get_element_type(), name=f"map_{place}")
        for place, source in enumerate(sources)
    ]
    ends = [
        ops.result(_enlarged(given, outputs[name], inner[0], preprocessing))
        for name, given in zip(outputs, inner[1:], strict=True)
    ]
    small = mark_float32(ov.Model(ends, inner, _SCOPE))
    for node in small.get_ordered_ops():
        if node.get_type_name() not in ("Parameter", "Result"):
            node.set_friendly_name(f"{provenance.prefix}/{_SCOPE}/{node.get_friendly_name()}")
    results = [_result(model, name) for name in outputs]
    size = frame_size(frames, preprocessing).output(0)
    for parameter, source in zip(small.get_parameters(), [size, *sources], strict=True):
        for target in list(parameter.output(0).get_target_inputs()):
            target.replace_source_output(source)
    for name, source, result, end in zip(outputs, sources, results, small.get_results(), strict=True):
        value = end.input_value(0)
        source.get_tensor().set_names((source.get_names() - {name}) | {_tensor(provenance, name)})
        value.get_tensor().set_names({name})
        result.input(0).replace_source_output(value)
    model.validate_nodes_and_infer_types()


def restore_maps(model: ov.Model, provenance: Provenance) -> None:
    """Return masks and maps in their own size again. Changes the model in place."""
    preprocessing = provenance.preprocessing
    if preprocessing is None or preprocessing.map_size != FRAME:
        return
    for name in _outputs(provenance):
        source, result = find_tensor(model, _tensor(provenance, name)), _result(model, name)
        result.input_value(0).get_tensor().set_names(set())
        source.get_tensor().set_names((source.get_names() - {_tensor(provenance, name)}) | {name})
        result.input(0).replace_source_output(source)
    model.validate_nodes_and_infer_types()


def _checked_outputs(provenance: Provenance) -> dict[str, str]:
    outputs = _outputs(provenance)
    if not outputs:
        raise TargetError(
            f"Masks and maps in the size of the frame were asked for, and the outputs are "
            f"{', '.join(provenance.predicted)}, expected a mask or a map of the image. Return one too (--outputs), or "
            "leave map_size='frame' out (--map-size frame)."
        )
    return outputs


def _outputs(provenance: Provenance) -> dict[str, str]:
    """Return the axes of the masks and maps. Masks of detections have a candidate axis, and keep their size."""
    return {
        each.name: each.axes for each in provenance.outputs if each.axes and each.per_pixel and "K" not in each.axes
    }


def _tensor(provenance: Provenance, name: str) -> str:
    return f"{provenance.prefix}/{_SCOPE}/{name}"


def _result(model: ov.Model, name: str) -> ov.op.Result:
    return next(each for each in model.get_results() if name in each.output(0).get_names())


def _enlarged(given: ov.Node, axes: str, size: ov.Node, preprocessing: Preprocessing) -> ov.Node:
    """Take the pixels of a map that lie below those of the frame, as `pp_graph.preprocessing.placement.map_places`."""
    from openvino import opset13 as ops

    model_size = [int(length or 0) for length in preprocessing.model_size or ()]
    whole = ops.constant(np.array(model_size))
    placed = placed_size(size, model_size) if preprocessing.resize == LETTERBOX else whole
    before = ops.divide(ops.subtract(whole, placed), ops.constant(np.array([2])))
    shape = ops.shape_of(given)
    value = given
    for place, axis in enumerate("HW"):
        at = ops.constant(axes.index(axis))

        def pick(node: ov.Node, index: int = place) -> ov.Node:
            return ops.gather(node, ops.constant(index), ops.constant(0))

        length, zero, one, two = pick(size), ops.constant(0), ops.constant(1), ops.constant(2)
        pixels = ops.range(zero, length, one, "i64")
        inside = ops.add(
            ops.multiply(ops.add(ops.multiply(pixels, two), one), pick(placed)),
            ops.multiply(ops.multiply(length, two), pick(before)),
        )
        count = ops.gather(shape, at, ops.constant(0))
        most = ops.multiply(ops.multiply(length, two), pick(whole))
        value = ops.gather(value, ops.divide(ops.multiply(inside, count), most), at)
    return value
