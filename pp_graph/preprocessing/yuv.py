"""Frames as cameras give them, brightness apart from colour: NV12, I420 and YUYV, to RGB and back.

To RGB as OpenVINO 2026.4 converts NV12 and I420 on the CPU, equal for each of the 2^24 combinations: BT.601, Y from 16
to 235, in float32, rounded half to even. Each colour holds for all pixels of its block, without smoothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from pp_graph.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Array = npt.NDArray[Any]
_Bytes = npt.NDArray[np.uint8]

YUV_ORDERS: Final[Mapping[str, int]] = {"NV12": 2, "I420": 2, "YUYV": 1}
"""Orders of the bytes of a frame, and the rows that share a colour; two columns always do."""
_FROM_RGB: Final = np.array(
    [[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]], np.float32
) / np.float32(255)
_OFFSET: Final = np.array([16, 128, 128], np.float32)


def yuv_shape(height: Any, width: Any, order: str) -> tuple[Any, Any, int]:
    """Return the shape of a frame's bytes without the batch: (3/2 H, W, 1), or (H, W, 2) for YUYV; None stays."""
    if order == "YUYV":
        return height, width, 2
    return None if height is None else height * 3 // 2, width, 1


def picture_size(shape: Sequence[Any], order: str) -> tuple[Any, Any]:
    """Return height and width of the picture, from the shape of its bytes (N,...); None stays."""
    _, rows, width, _ = shape
    return rows if order == "YUYV" or not isinstance(rows, int) else rows * 2 // 3, width


def check_even(height: int | None, width: int | None, order: str, what: str) -> None:
    """Raise `DataError` if a picture has an odd height or width that colours cannot cover."""
    if (height or 0) % YUV_ORDERS[order] or (width or 0) % 2:
        raise DataError(
            f"{what} have {height}x{width} pixels, expected an even height and width: in {order}, "
            f"{'two rows and two columns' if order != 'YUYV' else 'two columns'} share a colour. Cut off a row or "
            "column, or resize."
        )


def to_rgb(frames: _Bytes, order: str) -> _Bytes:
    """Convert a batch to RGB.

    Args:
        frames: Bytes, uint8: (N, 3/2 H, W, 1) for NV12 and I420, (N, H, W, 2) for YUYV.
        order: A key of `YUV_ORDERS`.

    Returns:
        RGB, uint8 (N,H,W,3).

    Raises:
        DataError: The shape is that of no frames in this order.
    """
    rows = YUV_ORDERS[order]
    channels = 2 if order == "YUYV" else 1
    per_picture = 1 if order == "YUYV" else 3
    if frames.ndim != 4 or frames.shape[3] != channels or frames.shape[1] % per_picture or frames.shape[2] % 2:
        raise DataError(
            f"Frames in {order} have shape {frames.shape}, expected "
            f"{'(N,H,W,2) with an even width' if order == 'YUYV' else '(N,3/2 H,W,1) with even height and width'}. "
            "Give the bytes as the camera returns them."
        )
    height, width = picture_size(frames.shape, order)
    count = len(frames)
    if order == "YUYV":
        bright = frames[..., 0]
        colours = frames[..., 1].reshape(count, height, width // 2, 2)
    else:
        bright, rest = frames[:, :height, :, 0], frames[:, height:]
        planes = (count, height // 2, width // 2, 2) if order == "NV12" else (count, 2, height // 2, width // 2)
        colours = rest.reshape(planes) if order == "NV12" else np.moveaxis(rest.reshape(planes), 1, -1)
    one = np.float32
    y = one(1.164) * (bright.astype(np.float32) - one(16))
    u, v = np.moveaxis(colours.repeat(rows, 1).repeat(2, 2).astype(np.float32) - one(128), -1, 0)
    rgb = [y + one(1.596) * v, y - one(0.391) * u - one(0.813) * v, y + one(2.018) * u]
    return np.asarray(np.rint(np.clip(np.stack(rgb, -1), 0, 255)), np.uint8)


def from_rgb(pictures: _Bytes, order: str) -> _Bytes:
    """Convert a batch of RGB to the bytes of a camera; a block gets its mean colour.

    Args:
        pictures: RGB, uint8 (N,H,W,3).
        order: A key of `YUV_ORDERS`.

    Returns:
        Bytes, uint8; see `to_rgb`.

    Raises:
        DataError: A size is odd.
    """
    count, height, width, _ = pictures.shape
    check_even(height, width, order, "Images")
    rows = YUV_ORDERS[order]
    yuv = pictures.astype(np.float32) @ _FROM_RGB.T + _OFFSET
    blocks = yuv[..., 1:].reshape(count, height // rows, rows, width // 2, 2, 2)
    bright, colours = (
        np.rint(np.clip(each, 0, 255)).astype(np.uint8) for each in (yuv[..., 0], blocks.mean(axis=(2, 4)))
    )
    if order == "YUYV":
        return np.stack([bright, colours.reshape(count, height, width)], -1)
    planes = colours if order == "NV12" else np.moveaxis(colours, -1, 1)
    return np.concatenate([bright, planes.reshape(count, height // 2, width)], 1)[..., None]
