"""Bring masks and maps to the size of the frame, inside the model: each pixel gets the number of the map's pixel there.

Nothing is computed with the numbers, so a mask stays the comparison of its map. As for boxes, the operators follow the
outputs of the post-processing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from pp_graph.errors import TargetError
from pp_graph.openvino.core import port_name
from pp_graph.openvino.island.graph import find_tensor
from pp_graph.openvino.preprocessing import frame_size, placed_size
from pp_graph.openvino.replaced_outputs import replace_outputs, restore_outputs
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
    fed = [frame_size(frames, preprocessing).output(0), *sources]
    replace_outputs(model, _prefix(provenance), outputs, ends, inner, fed)


def restore_maps(model: ov.Model, provenance: Provenance) -> None:
    """Return masks and maps in their own size again. Changes the model in place."""
    preprocessing = provenance.preprocessing
    if preprocessing is None or preprocessing.map_size != FRAME:
        return
    restore_outputs(model, _prefix(provenance), _outputs(provenance))


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


def _prefix(provenance: Provenance) -> str:
    return f"{provenance.prefix}/{_SCOPE}"


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
