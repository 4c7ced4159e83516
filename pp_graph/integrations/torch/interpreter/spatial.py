"""ONNX operators in torch: shapes, indexing and filters.

Sizes and indices are NumPy arrays, because torch needs them as Python numbers. If an export leaves a size open, the
array contains a symbol of torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


Sizes = npt.NDArray[Any]
"""Array of integers, or an object array if some are symbols of torch."""


def size_array(sizes: Sequence[Any]) -> Sizes:
    """Build an array of sizes."""
    if all(isinstance(size, int) for size in sizes):
        return np.array(sizes, np.int64)
    array = np.empty(len(sizes), object)
    for index, size in enumerate(sizes):
        array[index] = size
    return array


def size_list(sizes: Sizes | Sequence[int]) -> list[Any]:
    """Return sizes as a list for torch."""
    return [int(size) if isinstance(size, int | np.integer) else size for size in np.asarray(sizes).ravel()]


def shape(a: Tensor, start: int = 0, end: int | None = None) -> Sizes:
    """Return the sizes of a tensor."""
    return size_array(tuple(a.shape)[start:end])


def size(a: Tensor) -> Sizes:
    """Return the number of elements."""
    return np.array(a.numel(), np.int64)


def reshape(a: Tensor, sizes: Sizes, allowzero: int = 0) -> Tensor:
    """Reshape; 0 keeps a size."""
    new_sizes = size_list(sizes)
    if not allowzero:
        new_sizes = [
            a.shape[axis] if isinstance(size, int) and size == 0 else size for axis, size in enumerate(new_sizes)
        ]
    return a.reshape(new_sizes)


def flatten(a: Tensor, axis: int = 1) -> Tensor:
    """Flatten to a matrix, split before an axis."""
    axis = axis + a.ndim if axis < 0 else axis
    return a.reshape(1, -1) if axis == 0 else a.flatten(0, axis - 1).flatten(1) if axis < a.ndim else a.reshape(-1, 1)


def unsqueeze(a: Tensor, axes: Sizes) -> Tensor:
    """Insert axes of size 1. `axes` count in the result."""
    rank = a.ndim + axes.size
    for axis in sorted(axis % rank for axis in size_list(axes)):
        a = a.unsqueeze(axis)
    return a


def squeeze(a: Tensor, axes: Sizes | None = None) -> Tensor:
    """Remove axes of size 1."""
    if axes is None:
        return a.squeeze()
    for axis in sorted((axis % a.ndim for axis in size_list(axes)), reverse=True):
        a = a.squeeze(axis)
    return a


def transpose(a: Tensor, perm: Sequence[int] | None = None) -> Tensor:
    """Permute the axes; reverse them by default."""
    return a.permute(*(perm if perm is not None else range(a.ndim - 1, -1, -1)))


def concat(*values: Tensor, axis: int) -> Tensor:
    """Concatenate tensors along an axis."""
    return torch.cat(values, axis)


def slice_(a: Tensor, starts: Sizes, ends: Sizes, axes: Sizes | None = None, steps: Sizes | None = None) -> Tensor:
    """Slice along some axes."""
    for axis, chosen in slices(starts, ends, axes, steps):
        before: list[slice | Tensor] = [slice(None)] * (axis % a.ndim)
        if chosen.step > 0:
            a = a[(*before, chosen)]
        else:
            # torch has no negative steps, so select the elements by index.
            end = chosen.stop if chosen.stop >= -a.shape[axis] else None
            indices = range(*slice(chosen.start, end, chosen.step).indices(a.shape[axis]))
            a = a[(*before, torch.tensor(list(indices), device=a.device))]
    return a


def slices(starts: Sizes, ends: Sizes, axes: Sizes | None, steps: Sizes | None) -> Iterator[tuple[int, slice]]:
    """Yield each axis with its slice, from the inputs of Slice."""
    along = range(starts.size) if axes is None else size_list(axes)
    strides = [1] * starts.size if steps is None else size_list(steps)
    for start, end, axis, step in zip(size_list(starts), size_list(ends), along, strides, strict=True):
        yield axis, slice(start, end, step)


def split(a: Tensor, sizes: Sizes | None = None, axis: int = 0, num_outputs: int | None = None) -> tuple[Tensor, ...]:
    """Split along an axis into parts of given sizes, or into `num_outputs` equal parts."""
    parts: Any = -(-a.shape[axis] // (num_outputs or 1)) if sizes is None else size_list(sizes)
    return tuple(torch.split(a, parts, axis))


def expand(a: Tensor, sizes: Sizes) -> Tensor:
    """Broadcast to sizes; 1 keeps a size."""
    new_sizes = size_list(sizes)
    old_sizes = [1] * (len(new_sizes) - a.ndim) + list(a.shape)
    new_sizes = [1] * (len(old_sizes) - len(new_sizes)) + new_sizes
    pairs = zip(old_sizes, new_sizes, strict=True)
    return a.expand([old if isinstance(new, int) and new == 1 else new for old, new in pairs])


def tile(a: Tensor, repeats: Sizes) -> Tensor:
    """Repeat along each axis."""
    return a.repeat(size_list(repeats))


def gather(a: Tensor, index: Tensor, axis: int = 0) -> Tensor:
    """Gather slices along an axis, which is replaced by the axes of `index`."""
    before: list[slice | Tensor] = [slice(None)] * (axis % a.ndim)
    return a[(*before, index)]


def gather_elements(a: Tensor, index: Tensor, axis: int = 0) -> Tensor:
    """Gather elements along an axis, one for each element of `index`."""
    return torch.gather(a, axis, _nonnegative(index, a.shape[axis]))


def gather_nd(a: Tensor, index: Tensor, batch_dims: int = 0) -> Tensor:
    """Gather elements by coordinates; the first axes of both are images."""
    if batch_dims > 1:
        raise NotImplementedError("batch_dims above 1")
    places = index.unbind(-1)
    if not batch_dims:
        return a[places]
    images = torch.arange(a.shape[0], device=a.device).reshape(-1, *(1,) * (index.ndim - 2))
    return a[(images, *places)]


def non_zero(a: Tensor) -> Tensor:
    """Indices of all numbers but 0, one column for each."""
    return torch.nonzero(a).T


def scatter_elements(a: Tensor, index: Tensor, updates: Tensor, axis: int = 0, reduction: str = "none") -> Tensor:
    """Write or reduce updates at indices along an axis."""
    positions = _nonnegative(index, a.shape[axis])
    if reduction == "none":
        return torch.scatter(a, axis, positions, updates)
    reductions = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
    return torch.scatter_reduce(a, axis, positions, updates, reductions[reduction])


def scatter_nd(a: Tensor, index: Tensor, updates: Tensor, reduction: str = "none") -> Tensor:
    """Write or add updates at coordinates."""
    if reduction not in ("none", "add"):
        raise NotImplementedError(reduction)
    return torch.index_put(a, tuple(index.unbind(-1)), updates, accumulate=reduction == "add")


def _nonnegative(index: Tensor, length: int) -> Tensor:
    """Convert indices from the end to indices from the start."""
    return torch.where(index < 0, index + length, index)


def constant_of_shape(sizes: Sizes, device: torch.device, value: Any = None) -> Tensor:
    """Fill a tensor with one number, 0 by default."""
    fill = torch.from_numpy(np.zeros(1, np.float32) if value is None else np.array(value.numpy()).reshape(-1)[:1])
    return torch.full(size_list(sizes), fill.item(), dtype=fill.dtype, device=device)


def number_range(start: Sizes, limit: Sizes, delta: Sizes, device: torch.device) -> Tensor:
    """Return evenly spaced numbers from `start` up to, but without, `limit`."""
    dtype = torch.int64 if start.dtype.kind in "iO" else torch.float32
    numbers = (array.ravel()[0] for array in (start, limit, delta))
    begin, end, step = (number.item() if isinstance(number, np.generic) else number for number in numbers)
    return torch.arange(begin, end, step, dtype=dtype, device=device)


def triangle(a: Tensor, k: Sizes | None = None, upper: int = 1) -> Tensor:
    """Return the upper or lower triangle, with zeros elsewhere."""
    diagonal = 0 if k is None else int(k.ravel()[0])
    return torch.triu(a, diagonal) if upper else torch.tril(a, diagonal)


_CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_MAX_POOLS: dict[int, Callable[..., Tensor]] = {
    1: functional.max_pool1d,
    2: functional.max_pool2d,
    3: functional.max_pool3d,
}
_MEAN_POOLS: dict[int, Callable[..., Tensor]] = {
    1: functional.avg_pool1d,
    2: functional.avg_pool2d,
    3: functional.avg_pool3d,
}


def pad(a: Tensor, pads: Sizes, value: Any = None, axes: Sizes | None = None, mode: str = "constant") -> Tensor:
    """Pad with a constant, with a reflection that excludes the edge, or with the edge repeated."""
    rank = a.ndim
    along = [axis % rank for axis in (range(rank) if axes is None else size_list(axes))]
    sizes = size_list(pads)
    before = dict(zip(along, sizes[: len(along)], strict=True))
    after = dict(zip(along, sizes[len(along) :], strict=True))
    if mode == "constant":
        flat = [count for axis in range(rank - 1, -1, -1) for count in (before.get(axis, 0), after.get(axis, 0))]
        return functional.pad(a, flat, value=0.0 if value is None else value.item())
    for axis in along:
        length = a.shape[axis]
        index = torch.arange(-before[axis], length + after[axis], device=a.device)
        if mode == "reflect":
            index = (length - 1 - (index.abs() - (length - 1)).abs()) if length > 1 else torch.zeros_like(index)
        elif mode == "edge":
            index = index.clamp(0, length - 1)
        else:
            raise NotImplementedError(f"mode {mode}")
        a = a.index_select(axis, index)
    return a


def _padding(a: Tensor, pads: Sequence[int] | None, auto_pad: str, fill: float) -> tuple[Tensor, list[int]]:
    """Pad the input if its sides differ; return it with the remaining padding, equal on both sides."""
    if auto_pad not in ("NOTSET", "VALID"):
        raise NotImplementedError(f"auto_pad {auto_pad}")
    spatial = a.ndim - 2
    if pads is None or not any(pads):
        return a, [0] * spatial
    before, after = list(pads[:spatial]), list(pads[spatial:])
    if before == after:
        return a, before
    flat = [count for axis in range(spatial - 1, -1, -1) for count in (before[axis], after[axis])]
    return functional.pad(a, flat, value=fill), [0] * spatial


def convolution(
    a: Tensor,
    kernel: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Convolve in float32."""
    del kernel_shape
    a, padding = _padding(a, pads, auto_pad, 0.0)
    return _CONVOLUTIONS[a.ndim - 2](
        a, kernel, bias, stride=strides or 1, padding=padding, dilation=dilations or 1, groups=group
    )


def max_pool(
    a: Tensor,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    storage_order: int = 0,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Return the maximum of a sliding window, NaN if it contains one. Padding is -inf."""
    del storage_order
    a, padding = _padding(a, pads, auto_pad, float("-inf"))
    # torch pads by at most half a window.
    if any(2 * count > window for count, window in zip(padding, kernel_shape, strict=True)):
        flat = [count for count in reversed(padding) for _ in range(2)]
        a, padding = functional.pad(a, flat, value=float("-inf")), [0] * len(padding)
    step = strides or [1] * len(padding)
    return _MAX_POOLS[a.ndim - 2](a, list(kernel_shape), step, padding, dilations or 1, ceil_mode=bool(ceil_mode))


def average_pool(
    a: Tensor,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Return the mean of a sliding window."""
    spatial = a.ndim - 2
    if pads is not None and list(pads[:spatial]) != list(pads[spatial:]):
        raise NotImplementedError("pads that differ between the sides")
    a, padding = _padding(a, pads, auto_pad, 0.0)
    step = strides or [1] * spatial
    return _MEAN_POOLS[spatial](
        a, list(kernel_shape), step, padding, ceil_mode=bool(ceil_mode), count_include_pad=bool(count_include_pad)
    )


def global_max(a: Tensor) -> Tensor:
    """Return the maximum of each channel."""
    return torch.amax(a, list(range(2, a.ndim)), keepdim=True)


def global_mean(a: Tensor) -> Tensor:
    """Return the mean of each channel."""
    return torch.mean(a, list(range(2, a.ndim)), keepdim=True)


def resize(
    a: Tensor,
    roi: Any = None,
    scales: Any = None,
    sizes: Sizes | None = None,
    *,
    mode: str = "nearest",
    coordinate_transformation_mode: str = "half_pixel",
    antialias: int = 0,
    nearest_mode: str = "round_prefer_floor",
    cubic_coeff_a: float = -0.75,
) -> Tensor:
    """Resize height and width of (N,C,H,W) with `torch.nn.functional.interpolate`."""
    del roi, cubic_coeff_a
    if sizes is None or not sizes.size:
        factors = size_list(scales) if scales is not None else []
        new_size = [int(size * float(factor)) for size, factor in zip(a.shape[2:], factors[2:], strict=False)]
    else:
        new_size = size_list(sizes)[2:]
    corners = coordinate_transformation_mode == "align_corners"
    if mode == "linear" and coordinate_transformation_mode in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        return functional.interpolate(a, new_size, mode="bilinear", align_corners=corners, antialias=bool(antialias))
    if mode == "nearest" and coordinate_transformation_mode == "asymmetric" and nearest_mode == "floor":
        return functional.interpolate(a, new_size, mode="nearest")
    raise NotImplementedError(f"mode {mode} with {coordinate_transformation_mode}")
