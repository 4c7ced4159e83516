"""Bring masks of one channel to the axes that a step computes on, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnx_ir as ir

    from pp_graph.steps.emitter import Emitter

Mask = npt.NDArray[np.bool_]

_CHANNEL = {"NHW": None, "NCHW": 1, "NHWC": 3, None: 1}


def without_channel(mask: npt.ArrayLike, axes: str | None) -> Mask:
    """A mask as (N,H,W); (N,1,H,W) where its axes are not known and it has four."""
    array = np.asarray(mask, np.bool_)
    place = _CHANNEL[axes]
    return array if place is None or array.ndim == 3 else array.squeeze(place)


def like(images: Mask, mask: Any) -> Mask:
    """A mask (N,H,W) with the axes of another."""
    return images.reshape(np.shape(mask))


def emit_without_channel(op: Emitter, mask: ir.Value, axes: str | None) -> ir.Value:
    """Write what brings a mask to (N,H,W)."""
    place = _CHANNEL[axes]
    return mask if place is None else op.squeeze(mask, place)


def emit_with_channel(op: Emitter, images: ir.Value, axes: str | None) -> ir.Value:
    """Write what brings a mask of (N,H,W) back to its own axes."""
    place = _CHANNEL[axes]
    return images if place is None else op.unsqueeze(images, (place,))
