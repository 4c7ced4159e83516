"""Bring a detector's boxes and key points to the coordinates of the frame, inside the model.

The operators follow the outputs of the post-processing, so that whatever checks or exchanges the post-processing finds
it unchanged before them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from pp_graph.errors import TargetError
from pp_graph.openvino.core import port_name
from pp_graph.openvino.island.float32 import mark_float32
from pp_graph.openvino.island.graph import find_tensor
from pp_graph.preprocessing import LETTERBOX
from pp_graph.preprocessing.placement import COORDINATES, FRAME

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import openvino as ov

    from pp_graph.fusion import Provenance
    from pp_graph.preprocessing import Preprocessing

_FORMS: Final = COORDINATES | {"detections": 4, "det_boxes": 4}
"""Coordinates in outputs of other forms, too."""
_SCOPE: Final = "frame"


def move_to_frame(model: ov.Model, provenance: Provenance) -> None:
    """Return coordinates in pixels of the frame, if the preprocessing says so. Changes the model in place.

    Args:
        model: The converted model, with its preprocessing.
        provenance: Its provenance.

    Raises:
        TargetError: The model returns no boxes as corners.
    """
    import openvino as ov
    from openvino import opset13 as ops

    preprocessing = provenance.preprocessing
    if preprocessing is None or preprocessing.box_coordinates != FRAME:
        return
    if provenance.parameters.get("names") == "model-api":
        raise TargetError(
            "Boxes in pixels of the frame were asked for together with names='model-api' (--names), expected "
            "one of them: Model API brings boxes back to the frame itself. Leave out box_coordinates "
            "(--box-coordinates)."
        )
    outputs = list(_outputs(provenance))
    if not {"boxes", "detections", "det_boxes"} & {name for name, _ in outputs}:
        raise TargetError(
            f"Boxes in pixels of the frame were asked for, and the outputs are {', '.join(provenance.predicted)}, "
            "expected boxes of --task detection. Leave box_coordinates out (--box-coordinates)."
        )
    if provenance.parameters.get("box_format", "xyxy") != "xyxy":
        raise TargetError(
            f"Boxes in pixels of the frame were asked for as {provenance.parameters['box_format']}, expected corners, "
            "which end at the frame's edges. Leave box_format out (--box-format)."
        )
    other = [each for each in provenance.outputs if each.name == "boxes" and each.sizes[-1:] != (4,)]
    if other:
        raise TargetError(
            f"Boxes in pixels of the frame were asked for, and output 'boxes' is {other[0].type or 'of unknown rank'}, "
            "expected corners, (N,D,4). Leave box_coordinates out (--box-coordinates)."
        )
    (frames,) = (each for each in model.get_parameters() if port_name(each.output(0)) == preprocessing.input)
    places = [preprocessing.layout.index(axis) for axis in "HW"]
    size = ops.gather(ops.shape_of(frames), ops.constant(np.array(places)), ops.constant(0))
    sources = [find_tensor(model, name) for name, _ in outputs]
    inner = [ops.parameter([2], ov.Type.i64, name="size")]
    inner += [
        ops.parameter(source.get_partial_shape(), source.get_element_type(), name=f"rows_{place}")
        for place, source in enumerate(sources)
    ]
    offset, scale = _placement(inner[0], preprocessing)
    moved = [
        ops.result(_moved(rows, count, offset, scale, inner[0] if count == COORDINATES["boxes"] else None))
        for rows, (_, count) in zip(inner[1:], outputs, strict=True)
    ]
    small = mark_float32(ov.Model(moved, inner, _SCOPE))
    for node in small.get_ordered_ops():
        if node.get_type_name() not in ("Parameter", "Result"):
            node.set_friendly_name(f"{provenance.prefix}/{_SCOPE}/{node.get_friendly_name()}")
    results = [_result(model, name) for name, _ in outputs]
    for parameter, source in zip(small.get_parameters(), [size.output(0), *sources], strict=True):
        for target in list(parameter.output(0).get_target_inputs()):
            target.replace_source_output(source)
    for (name, _), source, result, end in zip(outputs, sources, results, small.get_results(), strict=True):
        value = end.input_value(0)
        source.get_tensor().set_names((source.get_names() - {name}) | {_tensor(provenance, name)})
        value.get_tensor().set_names({name})
        result.input(0).replace_source_output(value)
    model.validate_nodes_and_infer_types()


def leave_frame(model: ov.Model, provenance: Provenance) -> None:
    """Return coordinates in pixels of the raw model's input again. Changes the model in place."""
    preprocessing = provenance.preprocessing
    if preprocessing is None or preprocessing.box_coordinates != FRAME:
        return
    for name, _ in _outputs(provenance):
        source, result = find_tensor(model, _tensor(provenance, name)), _result(model, name)
        result.input_value(0).get_tensor().set_names(set())
        source.get_tensor().set_names((source.get_names() - {_tensor(provenance, name)}) | {name})
        result.input(0).replace_source_output(source)
    model.validate_nodes_and_infer_types()


def _outputs(provenance: Provenance) -> Iterator[tuple[str, int]]:
    found = (each for each in provenance.outputs if each.name in _FORMS and each.dtype == "float32" and each.axes)
    return ((each.name, _FORMS[each.name]) for each in found)


def _tensor(provenance: Provenance, name: str) -> str:
    return f"{provenance.prefix}/{_SCOPE}/{name}"


def _result(model: ov.Model, name: str) -> ov.op.Result:
    return next(each for each in model.get_results() if name in each.output(0).get_names())


def _placement(size: ov.Node, preprocessing: Preprocessing) -> tuple[ov.Node, ov.Node]:
    """Return x and y of the frame in the model's input, and the frame's width and height divided by those there."""
    from openvino import opset13 as ops

    from pp_graph.openvino.preprocessing import placed_size

    model_size: Sequence[int] = [int(length or 0) for length in preprocessing.model_size or ()]
    whole = ops.constant(np.array(model_size))
    placed = placed_size(size, model_size) if preprocessing.resize == LETTERBOX else whole
    offset = ops.divide(ops.subtract(whole, placed), ops.constant(np.array([2])))
    offset, frame, inside = (ops.convert(_x_first(each), "f32") for each in (offset, size, placed))
    return offset, ops.divide(frame, inside)


def _x_first(pair: ov.Node) -> ov.Node:
    from openvino import opset13 as ops

    return ops.gather(pair, ops.constant(np.array([1, 0])), ops.constant(0))


def _moved(rows: ov.Node, count: int, offset: ov.Node, scale: ov.Node, frame: ov.Node | None) -> ov.Node:
    """Move coordinates, as `pp_graph.preprocessing.placement.in_frame`; rows of zeros stay."""
    from openvino import opset13 as ops

    shape = rows.get_output_partial_shape(0)
    rank, width = shape.rank.get_length(), shape[-1].get_length()
    lengths = ops.constant(np.array([count, width - count]))
    parts = ops.variadic_split(rows, ops.constant(rank - 1), lengths).outputs() if width > count else [rows.output(0)]
    offsets, scales = (ops.concat([each] * (count // 2), 0) for each in (offset, scale))
    moved = ops.multiply(ops.subtract(parts[0], offsets), scales)
    zero = ops.constant(np.float32(0))
    if frame is not None:
        edge = ops.convert(_x_first(frame), "f32")
        moved = ops.minimum(ops.maximum(moved, zero), ops.concat([edge, edge], 0))
    axes = ops.constant(np.arange(2, rank))
    listed = ops.reduce_logical_or(ops.not_equal(parts[0], zero), axes, keep_dims=True)
    chosen = ops.select(listed, moved, parts[0])
    return chosen if width == count else ops.concat([chosen.output(0), parts[1]], rank - 1)
