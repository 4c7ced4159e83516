"""Bring boxes, key points and centroids to the coordinates of the frame, inside the model.

The operators follow the outputs of the post-processing, so that whatever checks or exchanges the post-processing finds
it unchanged before them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from pp_graph.errors import TargetError
from pp_graph.openvino.core import port_name
from pp_graph.openvino.frame_maps import enlarge_maps, restore_maps
from pp_graph.openvino.island.graph import find_tensor
from pp_graph.openvino.preprocessing import frame_size, placed_size
from pp_graph.openvino.replaced_outputs import replace_outputs, restore_outputs
from pp_graph.preprocessing import LETTERBOX
from pp_graph.preprocessing.placement import (
    CENTROIDS,
    COLUMNS,
    FRAME,
    MOST,
    ORIENTED,
    STAYS,
    ZEROS,
    columns_of,
    map_pixels,
)
from pp_graph.program import region_map_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    import openvino as ov

    from pp_graph.fusion import Provenance
    from pp_graph.preprocessing import Preprocessing

_BOXES: Final = {"boxes", "detections", "det_boxes", "region_boxes"}
_SCOPE: Final = "frame"


def move_to_frame(model: ov.Model, provenance: Provenance) -> None:
    """Return coordinates in pixels of the frame, and maps in its size, if the preprocessing says so.

    Changes the model in place; for the arguments and errors, see `enlarge_maps`.
    """
    _move_boxes(model, provenance)
    enlarge_maps(model, provenance)


def leave_frame(model: ov.Model, provenance: Provenance) -> None:
    """Return coordinates in pixels of the raw model's input, and maps in their own size again."""
    _leave_boxes(model, provenance)
    restore_maps(model, provenance)


def _move_boxes(model: ov.Model, provenance: Provenance) -> None:
    """Return coordinates in pixels of the frame. Changes the model in place.

    Args:
        model: The converted model, with its preprocessing.
        provenance: Its provenance.

    Raises:
        TargetError: The model returns no boxes, or in a form that cannot be moved.
    """
    import openvino as ov
    from openvino import opset13 as ops

    preprocessing = provenance.preprocessing
    if preprocessing is None or preprocessing.box_coordinates != FRAME:
        return
    outputs = _checked_outputs(provenance, preprocessing)
    (frames,) = (each for each in model.get_parameters() if port_name(each.output(0)) == preprocessing.input)
    size = frame_size(frames, preprocessing)
    sources = [find_tensor(model, name) for name in outputs]
    inner = [ops.parameter([2], ov.Type.i64, name="size")]
    inner += [
        ops.parameter(source.get_partial_shape(), source.get_element_type(), name=f"rows_{place}")
        for place, source in enumerate(sources)
    ]
    map_size = None
    if "region_boxes" in outputs:
        read = provenance.raw.read.items()
        tensors = {role: find_tensor(model, record.tensor).get_partial_shape() for role, record in read}
        map_size = region_map_size(provenance.bind(), tensors)
    given = dict(zip(outputs, inner[1:], strict=True))
    offset, scale, edges = _placement(inner[0], preprocessing)
    moved = []
    for name, rows in given.items():
        per_pixel = map_pixels(preprocessing, map_size) if name.startswith("region") else np.ones(2, np.float32)
        start = ops.divide(offset, ops.constant(per_pixel))
        factor = ops.multiply(scale, ops.constant(per_pixel))
        if name == CENTROIDS:
            half = ops.constant(np.float32(0.5))
            start = ops.add(ops.subtract(start, half), ops.divide(half, factor))
        told_by = given["region_boxes"] if name == CENTROIDS else rows
        moved.append(ops.result(_moved(name, rows, outputs[name], (start, factor, edges), told_by)))
    fed = [size.output(0), *sources]
    replace_outputs(model, _prefix(provenance), outputs, moved, inner, fed)


def _leave_boxes(model: ov.Model, provenance: Provenance) -> None:
    preprocessing = provenance.preprocessing
    if preprocessing is None or preprocessing.box_coordinates != FRAME:
        return
    restore_outputs(model, _prefix(provenance), _outputs(provenance))


def _checked_outputs(provenance: Provenance, preprocessing: Preprocessing) -> dict[str, int]:
    """Return the outputs to move, and the sizes of their last axes; raise if they cannot be moved."""
    if provenance.parameters.get("names") == "model-api":
        raise TargetError(
            "Boxes in pixels of the frame were asked for together with names='model-api' (--names), expected "
            "one of them: Model API brings boxes back to the frame itself. Leave out box_coordinates "
            "(--box-coordinates)."
        )
    outputs = _outputs(provenance)
    if not _BOXES & set(outputs):
        raise TargetError(
            f"Boxes in pixels of the frame were asked for, and the outputs are {', '.join(provenance.predicted)}, "
            "expected boxes of a detector or of regions. Return them too, or leave box_coordinates out "
            "(--box-coordinates)."
        )
    if provenance.parameters.get("box_format", "xyxy") != "xyxy":
        raise TargetError(
            f"Boxes in pixels of the frame were asked for as {provenance.parameters['box_format']}, expected corners, "
            "which end at the frame's edges. Leave box_format out (--box-format)."
        )
    if outputs.get("boxes") == len(ORIENTED) and preprocessing.resize != LETTERBOX:
        raise TargetError(
            f"Oriented boxes in pixels of the frame were asked for, and frames are stretched ({preprocessing.resize}), "
            "expected letterbox: a turned box is no rectangle any more when stretched. Take resize='letterbox' "
            "(--resize letterbox), or leave box_coordinates out (--box-coordinates)."
        )
    if outputs.get("boxes", 4) not in (4, len(ORIENTED)):
        raise TargetError(
            f"Boxes in pixels of the frame were asked for, and output 'boxes' has {outputs['boxes']} numbers a box, "
            "expected 4 corners, (N,D,4). Leave box_coordinates out (--box-coordinates)."
        )
    return outputs


def _outputs(provenance: Provenance) -> dict[str, int]:
    """Return the outputs to move, and the sizes of their last axes."""
    found = (each for each in provenance.outputs if each.name in COLUMNS and each.dtype == "float32" and each.axes)
    return {each.name: each.sizes[-1] or 0 for each in found}


def _prefix(provenance: Provenance) -> str:
    return f"{provenance.prefix}/{_SCOPE}"


def _placement(size: ov.Node, preprocessing: Preprocessing) -> tuple[ov.Node, ov.Node, ov.Node]:
    """Return x and y of the frame in the model's input, its size divided by the size there, and its size."""
    from openvino import opset13 as ops

    model_size: Sequence[int] = [int(length or 0) for length in preprocessing.model_size or ()]
    whole = ops.constant(np.array(model_size))
    placed = placed_size(size, model_size) if preprocessing.resize == LETTERBOX else whole
    offset = ops.divide(ops.subtract(whole, placed), ops.constant(np.array([2])))
    order = ops.constant(np.array([1, 0]))
    offset, frame, inside = (
        ops.convert(ops.gather(each, order, ops.constant(0)), "f32") for each in (offset, size, placed)
    )
    return offset, ops.divide(frame, inside), frame


def _moved(
    name: str, rows: ov.Node, width: int, placement: tuple[ov.Node, ov.Node, ov.Node], told_by: ov.Node
) -> ov.Node:
    """Move coordinates, as `pp_graph.preprocessing.placement.in_frame`; rows without a detection stay."""
    from openvino import opset13 as ops

    start, scale, edges = placement
    columns, ends = columns_of(name, width)

    def spread(pair: ov.Node, *others: ov.Node) -> ov.Node:
        """Return the number of each column, given those of x, y, a size and what stays."""
        return ops.gather(ops.concat([pair, *others], 0), ops.constant(np.array(columns)), ops.constant(0))

    zeros, most = ops.constant(ZEROS), ops.constant(MOST)
    mean = ops.reduce_mean(scale, ops.constant(np.array([0])), keep_dims=True)
    factors = spread(scale, mean, ops.constant(np.ones(1, np.float32)))
    moved = ops.multiply(ops.subtract(rows, spread(start, zeros)), factors)
    if ends:
        low = ops.constant(np.append(ZEROS, -MOST)[columns])
        moved = ops.minimum(ops.maximum(moved, low), spread(edges, most))
    filled = ops.not_equal(told_by, ops.constant(np.float32(0)))
    if told_by is rows:
        counted = ops.constant(np.array([kind < STAYS for kind in columns]))
        filled = ops.logical_and(filled, counted)
    rank = rows.get_output_partial_shape(0).rank.get_length()
    return ops.select(ops.reduce_logical_or(filled, ops.constant(np.arange(2, rank)), keep_dims=True), moved, rows)
