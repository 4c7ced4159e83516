"""All predictions of a batch packed into one tensor, for deployments that index it: `results[..., 0]` is the map."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from pp_graph.errors import PostProcessorError
from pp_graph.program.detection_forms import holds_detections, taken_apart
from pp_graph.program.outputs import OutputDescription

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx_ir as ir

    from pp_graph.steps import Array, Emitter
    from pp_graph.values import ValueType

PACKED_NAME: Final = "predictions"
"""Name of the packed output, float32, (N,H,W,4)."""

CHANNELS: Final = ("anomaly_map", "pred_score", "pred_label", "pred_mask")
"""Outputs along its last axis. Score and label are repeated at every pixel; labels and masks are 0 or 1."""


def packed_output(outputs: Sequence[OutputDescription], types: Mapping[str, ValueType]) -> OutputDescription:
    """Describe the tensor that holds all predictions.

    Args:
        outputs: The outputs without packing.
        types: Type of each value.

    Raises:
        PostProcessorError: An output is missing, has several or an unknown number of classes, or differs from the
            others in axes, size or element type.
    """
    by_name = {output.name: output for output in outputs}
    missing = [name for name in CHANNELS if name not in by_name]
    if missing:
        raise PostProcessorError(
            f"The predictions cannot be packed: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing, "
            f"expected {', '.join(CHANNELS)}. Write them, or leave out pack (--pack)."
        )
    further = [name for name in (*by_name, *types) if name == PACKED_NAME or (name in by_name and name not in CHANNELS)]
    if further:
        raise PostProcessorError(
            f"The predictions cannot be packed: '{further[0]}' has no place among {', '.join(CHANNELS)}. Rename it or "
            "leave it out, or leave out pack (--pack)."
        )
    whole = types["anomaly_map"]
    for name in CHANNELS:
        value = types[name]
        if value.size("C") != 1:
            raise PostProcessorError(
                f"The predictions cannot be packed: {name} is {value}, expected one number "
                f"{'a pixel' if value.per_pixel else 'an image'}. Choose a class first, with SelectClass, "
                "or leave out pack (--pack)."
            )
        same = not value.per_pixel or (value.axes == whole.axes and value.map_size == whole.map_size)
        if not same or value.dtype not in ("float32", "bool"):
            raise PostProcessorError(
                f"The predictions cannot be packed: {name} is {value}, expected float32 or bool, of the axes of the "
                "raw values and, for map and mask, of one size. Leave out pack (--pack)."
            )
        if not value.rank_known:
            raise PostProcessorError(
                "The predictions cannot be packed: the ranks of score and map are not known. Export the model with its "
                "output shapes, or leave out pack (--pack)."
            )
    height, width = whole.map_size or (None, None)
    return OutputDescription(
        name=PACKED_NAME,
        axes="NHWC",
        sizes=(None, height, width, len(CHANNELS)),
        description="all predictions of each pixel; those of the image are the same at every pixel",
        channels=tuple(_as_channel(by_name[name]) for name in CHANNELS),
    )


def _as_channel(output: OutputDescription) -> OutputDescription:
    """Describe an output within a packed tensor, where decisions are 0 or 1."""
    values = (0.0, 1.0) if output.decides else None
    return msgspec.structs.replace(output, dtype="float32", decision_values=values)


def emit_packed(op: Emitter, outputs: Mapping[str, ir.Value], packed: OutputDescription) -> ir.Value:
    """Write the packed tensor into a graph.

    Args:
        op: Emitter at the graph's opset.
        outputs: The outputs without packing, by name.
        packed: Description of the packed tensor.
    """
    single: dict[str, ir.Value] = {name: _as_number(op, value) for name, value in outputs.items()}
    axes = {channel.name: channel.axes or "" for channel in packed.channels}
    anomaly_map, mask = (_channel_first(op, single[name], axes[name]) for name in ("anomaly_map", "pred_mask"))
    spread = []
    anywhere = op.less(op.constant(np.float32(-np.inf), "lowest"), mask)
    for name in ("pred_score", "pred_label"):
        value = op.unsqueeze(single[name], tuple(range(len(axes[name]), 4)))
        # Both branches are equal: Where only broadcasts the value to the shape of the condition.
        spread.append(op.where(anywhere, value, value))
    # In OpenVINO one Transpose of all is several times faster than a Concat along the last axis.
    return op.transpose(op.concat([anomaly_map, *spread, mask], axis=1), (0, 2, 3, 1))


def unpacked(array: Array, packed: OutputDescription) -> dict[str, Array]:
    """Split a packed tensor into its outputs.

    Args:
        array: The packed tensor, float32, (N,H,W,4).
        packed: Its description.

    Returns:
        The outputs by name, as a model without packing returns them; labels and masks are bool.
    """
    if holds_detections(packed):
        return taken_apart(array, packed)
    by_name: dict[str, Array] = {}
    for index, channel in enumerate(packed.channels):
        axes = channel.axes or ""
        values = array[..., index] if channel.per_pixel else array[:, 0, 0, index]
        if "C" in axes:
            values = np.expand_dims(values, axes.index("C"))
        by_name[channel.name] = values > 0 if channel.decides else values
    return by_name


def check_packed(array: Array, packed: OutputDescription) -> None:
    """Check every pixel of a packed tensor.

    Raises:
        PostProcessorError: Score or label differ between pixels, or a label or mask is neither 0 nor 1.
    """
    for index, channel in enumerate(() if holds_detections(packed) else packed.channels):
        values = array[..., index]
        first = values[:, :1, :1]
        if not channel.per_pixel and not np.array_equal(np.broadcast_to(first, values.shape), values, equal_nan=True):
            raise PostProcessorError(
                f"Channel {index} of '{packed.name}' holds different values in an image, expected {channel.name} at "
                "every pixel. The model was changed after it was written: convert the fused model again."
            )
        if channel.decides and not np.isin(values, (0, 1)).all():
            raise PostProcessorError(
                f"Channel {index} of '{packed.name}' holds other numbers than 0 and 1, expected {channel.name}. The "
                "model was changed after it was written: convert the fused model again."
            )


def _as_number(op: Emitter, value: ir.Value) -> ir.Value:
    """Convert a decision to 0 or 1; leave numbers unchanged."""
    if value.dtype is None or value.dtype.numpy() != np.bool_:
        return value
    return op.where(value, op.constant(np.float32(1), "anomalous"), op.constant(np.float32(0), "normal"))


def _channel_first(op: Emitter, value: ir.Value, axes: str) -> ir.Value:
    if axes == "NHW":
        return op.unsqueeze(value, (1,))
    return op.transpose(value, (0, 3, 1, 2)) if axes == "NHWC" else value
