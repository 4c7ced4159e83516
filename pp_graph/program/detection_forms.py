"""Other forms of a detector's outputs: those of Ultralytics' export, of TensorRT's plugin, or of Intel's Model API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from pp_graph.program.outputs import OutputDescription

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx_ir as ir

    from pp_graph.steps import Array, Emitter

PACKED_DETECTIONS: Final = "detections"
"""Name of the packed output, float32, (N,D,6): corners, score, class.

After the last detection, they are 0, but the class is -1, which tells the end even if scores may be 0.
"""

EFFICIENT_NMS: Final = {"num_dets": "count", "det_boxes": "boxes", "det_scores": "scores", "det_classes": "classes"}
"""Outputs of TensorRT's EfficientNMS plugin, in its order, and ours. The count is int32, (N,1)."""

MODEL_API: Final = {"bboxes": ("boxes", "scores"), "labels": ("classes", "count")}
"""Outputs that the SSD wrapper of Intel's Model API reads, and ours: corners and score, float32, (N,D,5), and classes,
int64, (N,D). After the last detection, they are 0, but the class is -1."""

_PACKED: Final = ("boxes", "scores", "classes", "count")


def packed_detections(outputs: Sequence[OutputDescription]) -> tuple[OutputDescription, ...]:
    """Describe boxes, scores and classes as one tensor, in front of the other outputs."""
    by_name = {output.name: output for output in outputs}
    most = by_name["boxes"].sizes[1]
    packed = OutputDescription(
        name=PACKED_DETECTIONS,
        axes="NKP",
        sizes=(None, most, 6),
        description="each detection: corners in pixels of the input, score, class",
        channels=tuple(by_name[name] for name in _PACKED),
        class_names=by_name["classes"].class_names,
    )
    return (packed, *(output for output in outputs if output.name not in _PACKED))


def renamed_detections(outputs: Sequence[OutputDescription]) -> tuple[OutputDescription, ...]:
    """Describe the outputs under the names of `EFFICIENT_NMS`, in front of the others."""
    by_name = {output.name: output for output in outputs}
    renamed = []
    for name, own in EFFICIENT_NMS.items():
        output = by_name[own]
        axes, sizes = ("NP", (None, 1)) if own == "count" else (output.axes, output.sizes)
        renamed.append(msgspec.structs.replace(output, name=name, axes=axes, sizes=sizes, channels=(output,)))
    return (*renamed, *(output for output in outputs if output.name not in _PACKED))


def model_api_detections(outputs: Sequence[OutputDescription]) -> tuple[OutputDescription, ...]:
    """Describe the outputs in the form of `MODEL_API`."""
    by_name = {output.name: output for output in outputs}
    boxes, classes = by_name["boxes"], by_name["classes"]
    most = boxes.sizes[1]
    return (
        msgspec.structs.replace(
            boxes,
            name="bboxes",
            sizes=(None, most, 5),
            description="corners in pixels of the input, and score",
            channels=tuple(by_name[name] for name in MODEL_API["bboxes"]),
        ),
        msgspec.structs.replace(
            classes, name="labels", dtype="int64", channels=tuple(by_name[name] for name in MODEL_API["labels"])
        ),
        *(output for output in outputs if output.name not in _PACKED),
    )


def holds_detections(output: OutputDescription) -> bool:
    """Return True for an output in one of these forms."""
    return bool(output.channels) and output.name in (PACKED_DETECTIONS, *EFFICIENT_NMS, *MODEL_API)


def emit_detections(op: Emitter, parts: Mapping[str, ir.Value], output: OutputDescription) -> ir.Value:
    """Write an output in one of these forms.

    Args:
        op: Emitter at the graph's opset.
        parts: Our outputs, by name.
        output: Its description.
    """
    if output.name == "labels":
        return op.cast(parts["classes"], np.dtype(np.int64))
    if output.name == "bboxes":
        return op.concat([parts["boxes"], op.unsqueeze(parts["scores"], (2,))], 2)
    if output.name != PACKED_DETECTIONS:
        (own,) = output.channels
        value = parts[own.name]
        return op.unsqueeze(value, (1,)) if own.name == "count" else op.unchanged(value)
    classes = op.cast(parts["classes"], np.dtype(np.float32))
    columns = [op.unsqueeze(value, (2,)) for value in (parts["scores"], classes)]
    return op.concat([parts["boxes"], *columns], 2)


def taken_apart(array: Array, output: OutputDescription) -> dict[str, Array]:
    """Return our outputs, by name, from one in these forms."""
    if output.name == "labels":
        return {"classes": array.astype(np.int32), "count": (array >= 0).sum(1).astype(np.int32)}
    if output.name == "bboxes":
        return {"boxes": np.ascontiguousarray(array[..., :4]), "scores": np.ascontiguousarray(array[..., 4])}
    if output.name != PACKED_DETECTIONS:
        (own,) = output.channels
        return {own.name: array[:, 0] if own.name == "count" else array}
    boxes, scores = (np.ascontiguousarray(part) for part in (array[..., :4], array[..., 4]))
    classes = array[..., 5].astype(np.int32)
    return {"boxes": boxes, "scores": scores, "classes": classes, "count": (classes >= 0).sum(1).astype(np.int32)}
