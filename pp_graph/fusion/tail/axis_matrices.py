"""Operators along one axis of a map, as matrices in float64.

A separable linear operator turns a map X (h,w) into `A @ X @ B.T`, A acting along the height and B along the width.
Each function here pushes the identity through the one-dimensional operator and returns what comes out: row i holds the
weights with which output i sums the inputs, shape (outputs, inputs). Formulas are those of the ONNX operator
specifications (Resize-19, Pad-21, Conv-22, AveragePool-22, Slice-13).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence

Matrix = npt.NDArray[np.float64]
Positions = npt.NDArray[Any]

_UNCERTAIN: Final = 1e-4

COORDINATE_MODES: Final = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_half_pixel_for_nn",
    "tf_crop_and_resize",
)


def pad_matrix(size: int, before: int, after: int, mode: Literal["constant", "reflect", "edge", "wrap"]) -> Matrix:
    """Padding along an axis; `constant` pads zeros. Negative amounts crop, in the mode `constant` only."""
    cropped = np.eye(size)[max(0, -before) : size - max(0, -after)]
    return np.pad(cropped, ((max(0, before), max(0, after)), (0, 0)), mode=mode)


def slice_matrix(size: int, start: int, stop: int, step: int) -> Matrix:
    """A cut along an axis; bounds as ONNX writes them, clamped to the axis."""
    if start < 0:
        start += size
    if stop < 0:
        stop += size
    if step > 0:
        taken = range(min(max(start, 0), size), min(max(stop, 0), size), step)
    else:
        taken = range(min(max(start, 0), size - 1), max(min(stop, size - 1), -1), step)
    return np.eye(size)[list(taken)]


def convolution_matrix(
    size: int, kernel: Matrix, *, stride: int = 1, dilation: int = 1, before: int = 0, after: int = 0
) -> Matrix:
    """A one-dimensional convolution (ONNX's, which does not flip the kernel) with zero padding."""
    reach = dilation * (len(kernel) - 1) + 1
    padded = pad_matrix(size, before, after, "constant")
    starts = range(0, len(padded) - reach + 1, stride)
    return np.array([kernel @ padded[start : start + reach : dilation] for start in starts]).reshape(-1, size)


def average_matrix(
    size: int, window: int, *, stride: int, dilation: int, before: int, after: int, count_padding: bool
) -> Matrix:
    """A one-dimensional average; padding counts as zeros, or not at all."""
    sums = convolution_matrix(size, np.ones(window), stride=stride, dilation=dilation, before=before, after=after)
    return sums / (window if count_padding else np.maximum(sums.sum(axis=1, keepdims=True), 1))


def resize_matrix(
    size: int,
    outputs: int,
    *,
    scale: float,
    mode: str,
    coordinates: str,
    nearest: str = "round_prefer_floor",
    cubic_a: float = -0.75,
    exclude_outside: bool = False,
    crop: tuple[float, float] = (0.0, 1.0),
) -> Matrix:
    """Resizing along an axis.

    Args:
        size: Inputs.
        outputs: Outputs.
        scale: Outputs an input; not always `outputs / size`, where the scale is given and the size follows.
        mode: `nearest`, `linear` or `cubic`.
        coordinates: One of `COORDINATE_MODES`.
        nearest: Which neighbour `nearest` takes.
        cubic_a: Coefficient of `cubic`.
        exclude_outside: Whether weights of positions outside are dropped and the others made to sum to 1.
        crop: For `tf_crop_and_resize`: start and end of the region, as fractions. Outputs outside are 0.
    """
    if coordinates == "tf_crop_and_resize":
        start, end = crop
        step = (end - start) * (size - 1) / (outputs - 1) if outputs > 1 else 0.0
        first = start * (size - 1) if outputs > 1 else (start + end) * (size - 1) / 2
        positions = first + np.arange(outputs) * step
        inside = (positions >= 0) & (positions <= size - 1)
        return _interpolate(size, positions, mode, nearest, cubic_a, exclude_outside) * inside[:, None]
    if mode == "nearest":
        # Runtimes compute positions in float32, and a position that is nearly an integer goes where that rounds it.
        positions = _positions(size, np.arange(outputs, dtype=np.float32), np.float32(scale), coordinates)
    else:
        positions = _positions(size, np.arange(outputs, dtype=np.float64), np.float64(scale), coordinates)
    return _interpolate(size, positions, mode, nearest, cubic_a, exclude_outside)


def nearest_is_certain(size: int, outputs: int, *, scale: float, coordinates: str, nearest: str) -> bool:
    """True if no output lies so close to the middle of two inputs that rounding chooses between them.

    Where the scale is a whole number, or its inverse a power of two, runtimes compute such positions exactly.
    """
    whole = float(scale).is_integer() or (float(np.float32(scale)) == scale and (1 / scale).is_integer())
    if whole and coordinates != "align_corners":
        return True
    positions = _positions(size, np.arange(outputs, dtype=np.float64), np.float64(scale), coordinates)
    shifted = positions + (0.5 if nearest.startswith("round") else 0.0)
    # The first output lies on the first input in these, whatever the scale.
    exact = 1 if coordinates in ("asymmetric", "align_corners") else 0
    return bool((np.abs(shifted - np.round(shifted)) > _UNCERTAIN)[exact:].all())


def _interpolate(
    size: int, positions: Positions, mode: str, nearest: str, cubic_a: float, exclude_outside: bool
) -> Matrix:
    """Weights of the inputs for outputs at given positions."""
    outputs = len(positions)
    if mode == "nearest":
        half = positions.dtype.type(0.5)
        shifted = {"round_prefer_floor": positions - half, "round_prefer_ceil": positions + half}.get(
            nearest, positions
        )
        index = np.floor(shifted) if nearest in ("floor", "round_prefer_ceil") else np.ceil(shifted)
        nearest_only: Matrix = np.eye(size)[np.clip(index.astype(np.int64), 0, size - 1)]
        return nearest_only
    low = np.floor(positions).astype(np.int64)
    offset = positions.astype(np.float64) - low
    taps: dict[int, npt.NDArray[Any]]
    if mode == "linear":
        taps = {0: 1 - offset, 1: offset}
    else:
        taps = {step: _cubic_weight(np.abs(offset - step), cubic_a) for step in (-1, 0, 1, 2)}
    matrix = np.zeros((outputs, size))
    for step, weights in taps.items():
        at = low + step
        inside = (at >= 0) & (at < size)
        kept = np.where(inside, weights, 0.0) if exclude_outside else weights
        np.add.at(matrix, (np.arange(outputs), np.clip(at, 0, size - 1)), kept)
    if exclude_outside:
        matrix /= matrix.sum(axis=1, keepdims=True)
    return matrix


def _positions(size: int, x: Positions, scale: Any, coordinates: str) -> Positions:
    """Positions of the outputs among the inputs, in the precision of `x`, the outputs' indices."""
    real = x.dtype.type
    half, outputs = real(0.5), len(x)
    positions: Positions = (x + half) / scale - half
    if coordinates == "asymmetric":
        positions = x / scale
    elif coordinates == "align_corners":
        positions = x * real(size - 1) / real(max(outputs - 1, 1))
    elif coordinates == "tf_half_pixel_for_nn":
        positions = (x + half) / scale
    elif coordinates == "pytorch_half_pixel" and outputs == 1:
        positions = np.zeros_like(x)
    elif coordinates == "half_pixel_symmetric":
        # The output may be rounded down from `size * scale`; what is missing is shared by both ends.
        adjustment = outputs / (float(scale) * size)
        positions += real(size / 2 * (1 - adjustment))
    return positions


def _cubic_weight(distance: npt.NDArray[np.float64], a: float) -> npt.NDArray[np.float64]:
    """Weight of an input at a distance below 2. Source: R. Keys, 1981, equation 4, with `a` for -1/2."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def rank_one_factors(kernel: Matrix, tolerance: float) -> tuple[Matrix, Matrix] | None:
    """Split a kernel into a column and a row whose outer product it is.

    Args:
        kernel: Shape (height, width).
        tolerance: Largest difference allowed, as a fraction of the kernel's largest number.

    Returns:
        Column and row, or None if no rank-one kernel is that close.
    """
    left, singular, right = np.linalg.svd(kernel)
    column, row = left[:, 0] * singular[0], right[0]
    if row.sum() < 0:
        column, row = -column, -row
    if np.abs(kernel - np.outer(column, row)).max() > tolerance * np.abs(kernel).max():
        return None
    # Shared out evenly, so that neither factor leaves float32's range.
    root = np.sqrt(singular[0]) if singular[0] > 0 else 1.0
    return column / root, row * root


def product(matrices: Sequence[Matrix | None]) -> Matrix | None:
    """Multiply matrices, the first applied first; None is the identity."""
    result: Matrix | None = None
    for matrix in matrices:
        if matrix is not None:
            result = matrix if result is None else matrix @ result
    return result
