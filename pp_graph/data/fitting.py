"""Bring arrays into the shape, layout and element type of a model's input."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from pp_graph.errors import DataError
from pp_graph.model import FrameFormat, format_shape
from pp_graph.preprocessing.yuv import YUV_ORDERS, from_rgb, picture_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pp_graph.data.arrays import AnyArray
    from pp_graph.model import ModelInput

Array = npt.NDArray[Any]

_CHANNELS: Final = (1, 3)


def is_numeric(array: AnyArray) -> bool:
    """True if an array holds numbers or booleans."""
    return array.dtype.kind in "fiub" or array.dtype.name == "bfloat16"


def as_element_type(array: Array, wanted: ModelInput) -> Array:
    """Convert numbers to an input's element type.

    Args:
        array: The numbers.
        wanted: The input.

    Returns:
        The same numbers. Floating point may be rounded to other floating point; all other conversions are exact.

    Raises:
        DataError: The array does not hold numbers, or the element type cannot represent them.
    """
    target = np.dtype(wanted.dtype or "float32")
    if array.dtype == target:
        return array
    if not is_numeric(array):
        raise DataError(
            f"Array for input '{wanted.name}' holds {array.dtype}, expected numbers for {target}. Give numbers, true "
            "or false."
        )
    lost = np.asarray(_lost(array, target))
    if lost.any():
        raise DataError(
            f"Array for input '{wanted.name}' holds {array[lost].ravel()[0]} ({array.dtype}), expected a number that "
            f"{target} holds exactly. Give another number, or an array of that type."
        )
    return array.astype(target)


def _lost(array: Array, target: np.dtype[Any]) -> Array:
    """Mask of numbers that an element type cannot hold. Casts of these differ between machines."""
    if array.dtype.kind == "b":
        return np.zeros(array.shape, np.bool_)
    if target.kind == "b":
        return np.asarray((array != 0) & (array != 1))
    if target.kind in "iu":
        limits = np.iinfo(target)
        low, beyond = int(limits.min), int(limits.max) + 1
        if array.dtype.kind in "iu":
            return np.asarray((array < low) | (array >= beyond))
        wide = array.astype(np.float64)
        return np.asarray(~((wide >= low) & (wide < beyond) & (np.trunc(wide) == wide)))
    with np.errstate(over="ignore"):
        found = array.astype(target).astype(np.float64)
    if array.dtype.kind not in "iu":
        return np.asarray(np.isinf(found) & np.isfinite(array))
    own = np.iinfo(array.dtype)
    inside = (found >= int(own.min)) & (found < int(own.max) + 1)
    return np.asarray(~inside | (np.where(inside, found, 0).astype(array.dtype) != array))


def image_shape(wanted: ModelInput) -> tuple[int, int | None, int | None]:
    """Return channels, height and width of an image input; None for an open size."""
    shape = wanted.shape
    if shape is None:
        return 3, None, None
    if len(shape) != 4:
        raise DataError(
            f"Input '{wanted.name}' has shape {format_shape(shape)}, expected (N,C,H,W) or (N,H,W,C) for images from a "
            "folder. Give an .npz with arrays of that shape."
        )
    sizes = [size if isinstance(size, int) else None for size in shape]
    if wanted.frames is not None and wanted.frames.channel_order in YUV_ORDERS:
        return 3, *picture_size(sizes, wanted.frames.channel_order)
    if wanted.frames is None:
        channels_last = sizes[1] not in _CHANNELS and sizes[3] in _CHANNELS
    else:
        channels_last = wanted.frames.layout == "NHWC"
    if channels_last:
        return sizes[3] or 3, sizes[1], sizes[2]
    return sizes[1] or 3, sizes[2], sizes[3]


def fit(array: Array, wanted: ModelInput) -> Array:
    """Bring a batch of images into the layout and element type of an input.

    Args:
        array: The batch. uint8 is scaled to [0, 1] for a floating-point input, except for frames.
        wanted: The input.

    Returns:
        The batch. (N,C,H,W) and (N,H,W,C) are exchanged if only the other layout fits. Frames get the channel order
        that the input needs.

    Raises:
        DataError: Neither layout fits, or the element type cannot be used.
    """
    if not is_numeric(array):
        raise DataError(
            f"Images for input '{wanted.name}' hold {array.dtype}, expected numbers. Give uint8 or floating-point "
            "arrays."
        )
    if wanted.frames is not None and wanted.frames.channel_order in YUV_ORDERS:
        return _as_yuv(array, wanted, wanted.frames.channel_order)
    candidates = [array]
    if array.ndim == 4:
        candidates += [array.transpose(0, 3, 1, 2), array.transpose(0, 2, 3, 1)]
    fitting = [candidate for candidate in candidates if _matches(candidate, wanted)]
    if not fitting:
        raise DataError(
            f"Images have shape {array.shape}, expected {format_shape(wanted.shape)} for input '{wanted.name}', "
            "as (N,C,H,W) or (N,H,W,C). Bring them to the rank, channels and size of the model's input."
        )
    if wanted.frames is not None:
        return _as_frames(fitting[0], wanted, *wanted.frames)
    return np.ascontiguousarray(_as_dtype(_likeliest(fitting, wanted), wanted))


def _as_yuv(array: Array, wanted: ModelInput, order: str) -> Array:
    """Return RGB images as the bytes of a camera. Such bytes, which no RGB image has the shape of, stay."""
    if _matches(array, wanted):
        return _as_frames(array, wanted, "NHWC", "RGB")
    count, *_ = wanted.shape or (None,)
    shape = (count, *image_shape(wanted)[1:], 3)
    pictures = fit(array, replace(wanted, shape=shape, frames=FrameFormat("NHWC", "RGB")))
    return from_rgb(pictures, order)


def _as_frames(array: Array, wanted: ModelInput, layout: str, channel_order: str) -> Array:
    """Return images as a camera delivers them: unscaled, in the channel order of the frames."""
    target = np.dtype(wanted.dtype or "uint8")
    if array.dtype != target and not (target.kind == "f" and array.dtype.kind in "fu"):
        raise DataError(
            f"Images hold {array.dtype}, expected {target}: the model preprocesses its input '{wanted.name}' itself. "
            "Give them as they come from the camera, without scaling."
        )
    if channel_order == "BGR":
        array = array[..., ::-1] if layout == "NHWC" else array[:, ::-1]
    return np.ascontiguousarray(array, target)


def _likeliest(fitting: Sequence[Array], wanted: ModelInput) -> Array:
    """Choose among fitting layouts: (N,C,H,W) if the input leaves its channels open."""
    shape = wanted.shape
    channels_open = shape is None or (len(shape) == 4 and not any(isinstance(shape[axis], int) for axis in (1, 3)))
    if channels_open and fitting[0].ndim == 4 and fitting[0].shape[1] not in _CHANNELS:
        return next((each for each in fitting if each.shape[1] in _CHANNELS), fitting[0])
    return fitting[0]


def _matches(array: Array, wanted: ModelInput) -> bool:
    """Return True if all sizes but the batch fit; the batch is cut later."""
    if wanted.shape is None:
        return True
    return array.ndim == len(wanted.shape) and all(
        not isinstance(size, int) or size == has for size, has in zip(wanted.shape[1:], array.shape[1:], strict=True)
    )


def _as_dtype(array: Array, wanted: ModelInput) -> Array:
    target = np.dtype(wanted.dtype or "float32")
    if array.dtype == target:
        return array
    if array.dtype == np.uint8 and target.kind == "f":
        return (array.astype(np.float32) / np.float32(255)).astype(target)
    if array.dtype.kind == "f" and target.kind == "f":
        return array.astype(target)
    raise DataError(
        f"Images hold {array.dtype}, expected {'uint8 or floating point' if target.kind == 'f' else target} for input "
        f"'{wanted.name}' of {target}. Convert them."
    )


def scale_pixels(pixels: Array, wanted: ModelInput) -> Array:
    """Convert the pixels of an image file to an input's element type.

    Args:
        pixels: uint8 or uint16.
        wanted: The input.

    Returns:
        Frames keep their numbers. Other floating-point inputs get [0, 1]: 8 bits divided by 255, 16 bits by 65535. For
        a uint16 input, 8 bits become 16 (times 257, so that white stays white).

    Raises:
        DataError: The pixels have 16 bits and the input takes 8.
    """
    target = np.dtype(wanted.dtype or "float32")
    if target.kind == "f":
        if wanted.frames is not None:
            return pixels.astype(target)
        return pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)
    if target == np.uint16 and pixels.dtype == np.uint8:
        return pixels.astype(np.uint16) * np.uint16(257)
    if target == np.uint8 and pixels.dtype == np.uint16:
        raise DataError(
            f"its pixels have more than 8 bits, expected 8 for input '{wanted.name}' of {target}. Scale them to 8 "
            "bits, or convert the model with --input-dtype u16."
        )
    return pixels
