"""Find the logits inside a detector whose outputs are probabilities, so that it is compared and selected on logits.

onnxruntime's Sigmoid is not monotone (1.32), so no cutoff on its output decides the same in every runtime. A cutoff on
its input does. Candidates are then selected before the Sigmoid, and only the chosen ones need it.

A product of two sigmoids, as YOLOv5 and YOLOX return it, does not follow from one logit: such scores are compared as
they are. Of YuNet, which returns both factors, both logits are read: OpenVINO fuses a Sigmoid into the layer before it
or not, as other operators read the same value, and in bf16 both round differently.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pp_graph.model import describe_outputs
from pp_graph.postprocessors.cell_heads import RAW_OBJECTS
from pp_graph.postprocessors.detection_heads import HEADS
from pp_graph.postprocessors.head_finding import RAW_BOXES, RAW_CANDIDATES, RAW_HEAT, RAW_SCORES

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx_ir as ir

    from pp_graph.model import RawModel
    from pp_graph.postprocessors.detection_heads import Head

_SPLIT: Final = {"yolov8": "yolov8-split"}
"""Head with boxes and logits apart, by the head whose output joins them."""


def find_logits(raw: RawModel, head: Head, roles: Mapping[str, str]) -> tuple[Head, dict[str, str]] | None:
    """Find the inner values that a detector's outputs are computed from.

    Args:
        raw: The raw model.
        head: Its head.
        roles: Names of its outputs, by role.

    Returns:
        The head that reads the inner values, and names by role, with `roles` where the output itself is read. None if
        the scores are not the result of a Sigmoid, or not in float32.
    """
    outputs = {value.name: value for value in raw.model.graph.outputs}
    found = dict(roles)
    if head.name in _SPLIT and RAW_CANDIDATES in roles:
        node = _maker(outputs[roles[RAW_CANDIDATES]])
        if node is None or node.op_type != "Concat" or len(node.inputs) != 2:
            return None
        axis = node.attributes.get_int("axis", 0)
        boxes, logits = node.inputs[0], _before_sigmoid(node.inputs[1])
        if axis not in (1, -2) or boxes is None or logits is None:
            return None
        head, found = HEADS[_SPLIT[head.name]], {RAW_SCORES: logits, RAW_BOXES: boxes.name or ""}
    elif head.class_start is None and head.class_part is None and head.background != "last":
        for role in (role for role in roles if role.startswith((RAW_SCORES, RAW_HEAT, RAW_OBJECTS))):
            inside = _before_sigmoid(outputs[roles[role]])
            if inside is None:
                return None
            found[role] = inside
    inner = set(found.values()) - set(outputs)
    if found == dict(roles) or not _fit(raw, inner, found.get(RAW_BOXES), counted=bool(head.strides)):
        return None
    return head, found


def _fit(raw: RawModel, inner: set[str], boxes: str | None, *, counted: bool) -> bool:
    """True if inner values are float32 with the number of axes of the outputs, and boxes have four parts.

    `counted` requires a known number of candidates.
    """
    # A Sigmoid of float16 rounds to fewer numbers: more candidates tie than have equal logits.
    infos = [info for info in describe_outputs(raw, inner) if info.name in inner]
    known = all(
        info.dtype == "FLOAT"
        and info.shape is not None
        and len(info.shape) in (2, 3, 4)
        and not (counted and None in info.shape[1:])
        for info in infos
    )
    return (
        known
        and len(infos) == len(inner)
        and all(info.name != boxes or info.shape is None or info.shape[1] == 4 for info in infos)
    )


def _maker(value: ir.Value | None) -> ir.Node | None:
    node = None if value is None else value.producer()
    while node is not None and node.op_type == "Identity" and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node


def _before_sigmoid(value: ir.Value | None) -> str | None:
    """Name of the computed value that a Sigmoid takes; None if this is not the result of one."""
    node = _maker(value)
    if node is None or node.op_type != "Sigmoid" or node.inputs[0] is None or node.inputs[0].producer() is None:
        return None
    if value is not None and value.shape is not None:
        # A Sigmoid keeps the shape, which only outputs declare.
        node.inputs[0].shape, node.inputs[0].type = value.shape, value.type
    return node.inputs[0].name
