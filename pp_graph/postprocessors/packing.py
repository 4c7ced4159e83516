"""All predictions of a batch in one tensor, for deployments that index it: `results[..., 0]` is the map."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.postprocessors.layout import DECISION_NAMES

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx_ir as ir

    from pp_graph.postprocessors.layout import RawLayout
    from pp_graph.steps import Array, Emitter, Form

PACKED_NAME: Final = "predictions"
"""Name of the packed output, float32, (N,H,W,4)."""

CHANNELS: Final = ("anomaly_map", "pred_score", "pred_label", "pred_mask")
"""What lies along its last axis. Score and label are the same at every pixel, labels and masks are 0 or 1."""


def check_packable(forms: Mapping[str, Form], layout: RawLayout) -> None:
    """Make sure that all predictions fit into one tensor.

    Args:
        forms: What is known of each value.
        layout: What the raw model gives.

    Raises:
        PostProcessorError: One is missing, has several classes or a number of them that is not known, or is of other
            axes, another size or element type than the rest.
    """
    missing = [name for name in CHANNELS if name not in forms]
    if missing:
        raise PostProcessorError(
            f"The predictions cannot be packed: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing, "
            f"expected {', '.join(CHANNELS)}. Write them, or leave out pack (--pack)."
        )
    for name in CHANNELS:
        form = forms[name]
        if form.classes != 1:
            raise PostProcessorError(
                f"The predictions cannot be packed: {name} is {form}, expected one number "
                f"{'a pixel' if form.level == 'pixel' else 'an image'}. Choose a class first, with SelectClass, "
                "or leave out pack (--pack)."
            )
        rank = layout.pred_score_rank if form.level == "image" else None
        same_axes = (
            form.axes == layout.map_layout
            if form.level == "pixel"
            else form.axes in (None, {1: "N", 2: "NC"}.get(rank or 0))
        )
        same_size = form.level == "image" or form.size == forms["anomaly_map"].size
        if not same_axes or not same_size or form.dtype not in ("float32", "bool"):
            raise PostProcessorError(
                f"The predictions cannot be packed: {name} is {form}, expected float32 or bool, of the axes of the raw "
                "values and, for map and mask, of one size. Leave out pack (--pack)."
            )


def emit_packed(op: Emitter, outputs: Mapping[str, ir.Value], layout: RawLayout) -> ir.Value:
    """Write the packed tensor into a graph.

    Args:
        op: The vocabulary, at the graph's opset.
        outputs: All four outputs; labels and masks as float32.
        layout: What the raw model gives.

    Raises:
        PostProcessorError: The model has no map, or its shape is not known.
    """
    if layout.map_layout is None or layout.pred_score_rank is None:
        raise PostProcessorError(
            "The predictions cannot be packed: the ranks of score and map are not known. Export the model with its "
            "output shapes, or leave out pack (--pack)."
        )
    anomaly_map, mask = (_channel_first(op, outputs[name], layout.map_layout) for name in ("anomaly_map", "pred_mask"))
    axes = tuple(range(layout.pred_score_rank, 4))
    spread = []
    anywhere = op.less(op.constant(np.float32(-np.inf), "lowest"), mask)
    for name in ("pred_score", "pred_label"):
        single = op.unsqueeze(outputs[name], axes)
        # Both branches are the same: what counts is the shape of the condition.
        spread.append(op.where(anywhere, single, single))
    # One Transpose of all is several times faster in OpenVINO than a Concat along the last axis.
    return op.transpose(op.concat([anomaly_map, *spread, mask], axis=1), (0, 2, 3, 1))


def unpack(packed: Array, layout: RawLayout) -> dict[str, Array]:
    """Take a packed tensor apart again.

    Args:
        packed: What a packed model returns, float32, (N,H,W,4).
        layout: What the raw model gives.

    Returns:
        The four outputs as a model without packing returns them: labels and masks bool.
    """
    anomaly_map, mask = (packed[..., channel] for channel in (0, 3))
    channel_axis = {"NCHW": 1, "NHWC": 3}.get(layout.map_layout or "NHW")
    if channel_axis is not None:
        anomaly_map, mask = (np.expand_dims(each, channel_axis) for each in (anomaly_map, mask))
    score, label = (packed[:, 0, 0, channel] for channel in (1, 2))
    if layout.pred_score_rank == 2:
        score, label = score[:, None], label[:, None]
    return {"pred_score": score, "pred_label": label > 0, "anomaly_map": anomaly_map, "pred_mask": mask > 0}


def check_packed(packed: Array) -> None:
    """Make sure that a packed tensor holds what it promises, at every pixel that somebody may index.

    Raises:
        PostProcessorError: Score or label are not the same at every pixel, or a label or mask is neither 0 nor 1.
    """
    for channel, name in enumerate(CHANNELS):
        values = packed[..., channel]
        first = values[:, :1, :1]
        spread = name in ("pred_score", "pred_label")
        if spread and not np.array_equal(np.broadcast_to(first, values.shape), values, equal_nan=True):
            raise PostProcessorError(
                f"Channel {channel} of '{PACKED_NAME}' holds different values in an image, expected {name} at every "
                "pixel. The model was changed after it was written: convert the fused model again."
            )
        if name in DECISION_NAMES and not np.isin(values, (0, 1)).all():
            raise PostProcessorError(
                f"Channel {channel} of '{PACKED_NAME}' holds other numbers than 0 and 1, expected {name}. The model "
                "was changed after it was written: convert the fused model again."
            )


def _channel_first(op: Emitter, value: ir.Value, layout: str) -> ir.Value:
    if layout == "NHW":
        return op.unsqueeze(value, (1,))
    return op.transpose(value, (0, 3, 1, 2)) if layout == "NHWC" else value
