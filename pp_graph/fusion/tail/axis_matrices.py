"""Matrices of linear operators along one axis of a map, in float64.

A separable linear operator maps X (h,w) to `A @ X @ B.T`, where A acts along the height and B along the width. Each
function here applies the one-dimensional operator to the identity and returns the result, shape (outputs, inputs): row
i holds the weights of the inputs in output i. Formulas are those of the ONNX operator specifications (Resize-19,
Pad-21, Conv-22, AveragePool-22, Slice-13).
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
_MOST_ELEMENTS: Final = 2**24

COORDINATE_MODES: Final = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_half_pixel_for_nn",
    "tf_crop_and_resize",
)


class RefusalError(Exception):
    """A supported operator is not separable or linear, or not known well enough. The message gives the reason."""


def pad_matrix(size: int, before: int, after: int, mode: Literal["constant", "reflect", "edge", "wrap"]) -> Matrix:
    """Matrix of padding. `constant` pads with zeros; only this mode accepts negative amounts, which crop."""
    _check_size(size + before + after, size)
    cropped = np.eye(size)[max(0, -before) : size - max(0, -after)]
    return np.pad(cropped, ((max(0, before), max(0, after)), (0, 0)), mode=mode)


def slice_matrix(size: int, start: int, stop: int, step: int) -> Matrix:
    """Matrix of a slice. Bounds follow ONNX: negative ones count from the end, and all are clamped to the axis."""
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
    """Matrix of a convolution with zero padding. As in ONNX, the kernel is not flipped."""
    reach = dilation * (len(kernel) - 1) + 1
    padded = pad_matrix(size, before, after, "constant")
    starts = range(0, len(padded) - reach + 1, stride)
    return np.array([kernel @ padded[start : start + reach : dilation] for start in starts]).reshape(-1, size)


def average_matrix(
    size: int, window: int, *, stride: int, dilation: int, before: int, after: int, count_padding: bool
) -> Matrix:
    """Matrix of average pooling. Padding counts as zeros if `count_padding`, otherwise it is ignored."""
    _check_size(window, size)
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
    """Matrix of resizing.

    Args:
        size: Number of inputs.
        outputs: Number of outputs.
        scale: Outputs per input. Not exactly `outputs / size` if the model gives scales and rounds the size.
        mode: `nearest`, `linear` or `cubic`.
        coordinates: One of `COORDINATE_MODES`.
        nearest: Rounding of positions in mode `nearest`.
        cubic_a: Coefficient of mode `cubic`.
        exclude_outside: True to drop the weights of positions outside the input and normalise the others to sum to 1.
        crop: Start and end of the region for `tf_crop_and_resize`, as fractions. Outputs outside are 0.
    """
    _check_size(outputs, size)
    if coordinates == "tf_crop_and_resize":
        start, end = crop
        step = (end - start) * (size - 1) / (outputs - 1) if outputs > 1 else 0.0
        first = start * (size - 1) if outputs > 1 else (start + end) * (size - 1) / 2
        positions = first + np.arange(outputs) * step
        inside = (positions >= 0) & (positions <= size - 1)
        return _interpolate(size, positions, mode, nearest, cubic_a, exclude_outside) * inside[:, None]
    if mode == "nearest":
        # Runtimes compute positions in float32, whose rounding decides for positions close to an integer.
        positions = _positions(size, np.arange(outputs, dtype=np.float32), np.float32(scale), coordinates)
    else:
        positions = _positions(size, np.arange(outputs, dtype=np.float64), np.float64(scale), coordinates)
    return _interpolate(size, positions, mode, nearest, cubic_a, exclude_outside)


def nearest_is_certain(size: int, outputs: int, *, scale: float, coordinates: str, nearest: str) -> bool:
    """True if no output is so close to the midpoint of two inputs that rounding would choose between them.

    If the scale is an integer, or its inverse a power of two, runtimes compute such positions exactly.
    """
    whole = float(scale).is_integer() or (float(np.float32(scale)) == scale and (1 / scale).is_integer())
    if whole and coordinates != "align_corners":
        return True
    positions = _positions(size, np.arange(outputs, dtype=np.float64), np.float64(scale), coordinates)
    shifted = positions + (0.5 if nearest.startswith("round") else 0.0)
    # In these modes the first output coincides with the first input.
    exact = 1 if coordinates in ("asymmetric", "align_corners") else 0
    return bool((np.abs(shifted - np.round(shifted)) > _UNCERTAIN)[exact:].all())


def _interpolate(
    size: int, positions: Positions, mode: str, nearest: str, cubic_a: float, exclude_outside: bool
) -> Matrix:
    """Return the weights of the inputs for outputs at given positions."""
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
        index = low + step
        inside = (index >= 0) & (index < size)
        kept = np.where(inside, weights, 0.0) if exclude_outside else weights
        np.add.at(matrix, (np.arange(outputs), np.clip(index, 0, size - 1)), kept)
    if exclude_outside:
        matrix /= matrix.sum(axis=1, keepdims=True)
    return matrix


def _positions(size: int, x: Positions, scale: Any, coordinates: str) -> Positions:
    """Return the positions of the outputs among the inputs, in the dtype of `x`, the outputs' indices."""
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
        # The output may be smaller than `size * scale` due to rounding; both ends share the difference.
        adjustment = outputs / (float(scale) * size)
        positions += real(size / 2 * (1 - adjustment))
    return positions


def _cubic_weight(distance: npt.NDArray[np.float64], a: float) -> npt.NDArray[np.float64]:
    """Weight of an input at a distance below 2. Source: R. Keys, 1981, equation 4, where `a` is -1/2."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def _check_size(outputs: int, inputs: int) -> None:
    if outputs * inputs > _MOST_ELEMENTS:
        raise RefusalError(f"its matrix would have {outputs:,} rows and {inputs:,} columns")


def rank_one_factors(kernel: Matrix, tolerance: float) -> tuple[Matrix, Matrix] | None:
    """Factor a kernel into the outer product of a column and a row.

    Args:
        kernel: Shape (height, width).
        tolerance: Maximum error, as a fraction of the kernel's largest absolute value.

    Returns:
        Column and row; None if the kernel is not of rank one within the tolerance.
    """
    left, singular, right = np.linalg.svd(kernel)
    column, row = left[:, 0] * singular[0], right[0]
    if row.sum() < 0:
        column, row = -column, -row
    if np.abs(kernel - np.outer(column, row)).max() > tolerance * np.abs(kernel).max():
        return None
    # Scale both factors alike, so that neither leaves float32's range.
    root = np.sqrt(singular[0]) if singular[0] > 0 else 1.0
    return column / root, row * root


def product(matrices: Sequence[Matrix | None]) -> Matrix | None:
    """Compose matrices; the first is applied first. None means the identity."""
    result: Matrix | None = None
    for matrix in matrices:
        if matrix is not None:
            result = matrix if result is None else matrix @ result
    return result
