"""Resizing in NumPy, equal to OpenVINO's `PrePostProcessor` pixel by pixel.

Every method is separable: a new pixel is a weighted sum of a few old pixels (taps) in its row, then in its column.
Checked against OpenVINO 2026.4 on the CPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

Array = npt.NDArray[Any]
_Taps = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]
"""Indices of the old pixels in each new pixel's sum, and their weights; both of shape (size, taps)."""

_CUBIC: Final = -0.75
_PILLOW_CUBIC: Final = -0.5


def resize(frames: Array, height: int, width: int, method: str) -> npt.NDArray[np.float32]:
    """Resize a batch.

    Args:
        frames: Frames (N,H,W,C) of any element type.
        height: New height in pixels.
        width: New width in pixels.
        method: A key of `RESIZES`.

    Returns:
        Frames (N,height,width,C), not rounded to integers.
    """
    taps = RESIZES[method]
    resized: Array = frames
    for axis, size in ((1, height), (2, width)):
        resized = _weighted(resized, axis, *taps(resized.shape[axis], size))
    return resized.astype(np.float32)


def resized_strips(
    read: Callable[[int, int], Array], frame: tuple[int, int], height: int, width: int, method: str, pixels: int
) -> Iterator[npt.NDArray[np.float32]]:
    """Resize a frame that is too large to be in memory as floats, strip by strip, to the numbers of `resize`.

    Args:
        read: Returns rows of the frame, (rows,W,C), given the first and the one after the last.
        frame: Height and width of the frame.
        height: New height in pixels.
        width: New width in pixels.
        method: A key of `RESIZES`.
        pixels: Number of the frame's pixels to read at a time; at least those for one new row.

    Yields:
        Strips of the new frame from the top, (rows,width,C), not rounded to integers.
    """
    taps = RESIZES[method]
    indices, weights = taps(frame[0], height)
    columns, across = taps(frame[1], width)
    taken, places = np.unique(columns, return_inverse=True)  # a row may be as long as a picture is large
    columns = places.reshape(columns.shape)
    step = max(1, height * pixels // (max(frame[0], height) * frame[1]))
    for start in range(0, height, step):
        part = indices[start : start + step]
        first = int(part.min())
        rows = read(first, int(part.max()) + 1)[:, taken]
        strip = _weighted(rows, 0, part - first, weights[start : start + step])
        yield _weighted(strip, 1, columns, across).astype(np.float32)


def _weighted(array: Array, axis: int, indices: Array, weights: Array) -> Array:
    total = np.zeros((*array.shape[:axis], len(indices), *array.shape[axis + 1 :]))
    weight_shape = [1] * array.ndim
    weight_shape[axis] = -1
    for tap in range(indices.shape[1]):
        # Only what is taken becomes float64: a frame of uint8 would need eight times its memory.
        total += np.take(array, indices[:, tap], axis).astype(np.float64) * weights[:, tap].reshape(weight_shape)
    return total


def _positions(old: int, new: int) -> npt.NDArray[np.float32]:
    """Return the new pixels' centres in old pixel coordinates, in float32 as the CPU plugin computes them."""
    scale = np.float32(new) / np.float32(old)
    return (np.arange(new, dtype=np.float32) + np.float32(0.5)) / scale - np.float32(0.5)


def _nearest(old: int, new: int) -> _Taps:
    at = _positions(old, new)
    below = np.floor(at)
    # Halfway between two pixels, the plugin takes the lower one.
    index = np.where(at - below == np.float32(0.5), below, np.rint(at)).astype(np.int64)
    return index.clip(0, old - 1)[:, None], np.ones((new, 1))


def _linear(old: int, new: int) -> _Taps:
    at = _positions(old, new).clip(0, old - 1)
    below = at.astype(np.int64)
    part = (at - below).astype(np.float64)
    return np.stack([below, (below + 1).clip(0, old - 1)], 1), np.stack([1 - part, part], 1)


def _cubic(old: int, new: int) -> _Taps:
    at = _positions(old, new)
    below = np.floor(at)
    near = np.arange(-1, 3)
    weights = _keys_kernel((at - below).astype(np.float64)[:, None] - near, _CUBIC)
    return (below.astype(np.int64)[:, None] + near).clip(0, old - 1), weights


def _keys_kernel(distance: Array, a: float) -> Array:
    x = np.abs(distance)
    inner = ((a + 2) * x - (a + 3)) * x * x + 1
    outer = (((x - 5) * x + 8) * x - 4) * a
    return np.asarray(np.where(x <= 1, inner, np.where(x < 2, outer, 0)))


def _triangle(distance: Array) -> Array:
    return np.asarray(np.maximum(0, 1 - np.abs(distance)))


def _pillow(kernel: Callable[[Array], Array], reach: float) -> Callable[[int, int], _Taps]:
    """Return Pillow's resampling, whose kernel covers all old pixels that shrink into a new one."""

    def taps(old: int, new: int) -> _Taps:
        scale = old / new
        widening = max(scale, 1.0)
        centers = (np.arange(new) + 0.5) * scale
        first = (centers - reach * widening + 0.5).astype(np.int64).clip(0)
        end = (centers + reach * widening + 0.5).astype(np.int64).clip(None, old)
        indices = first[:, None] + np.arange((end - first).max())
        weights = kernel((indices - centers[:, None] + 0.5) / widening)
        weights[indices >= end[:, None]] = 0
        return indices.clip(0, old - 1), weights / weights.sum(1, keepdims=True)

    return taps


RESIZES: Final[Mapping[str, Callable[[int, int], _Taps]]] = {
    "linear": _linear,
    "cubic": _cubic,
    "nearest": _nearest,
    "bilinear_pillow": _pillow(_triangle, 1.0),
    "bicubic_pillow": _pillow(lambda x: _keys_kernel(x, _PILLOW_CUBIC), 2.0),
}
"""Methods by name. When a frame shrinks, the first three use only the nearest pixels, as OpenCV does; the last two
average all pixels, as Pillow and torchvision (`antialias=True`) do."""
