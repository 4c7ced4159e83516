"""Shapes, indexing and filters: ONNX operators in torch.

Sizes and indices come as NumPy arrays: they must be known in Python before torch can use them. Where an export leaves a
size open, the array holds what torch puts in its place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


Whole = npt.NDArray[Any]
"""Whole numbers, or what torch puts in their place."""


def whole_numbers(sizes: Sequence[Any]) -> Whole:
    """An array of sizes."""
    if all(isinstance(size, int) for size in sizes):
        return np.array(sizes, np.int64)
    array = np.empty(len(sizes), object)
    for index, size in enumerate(sizes):
        array[index] = size
    return array


def listed(numbers: Whole | Sequence[int]) -> list[Any]:
    """Sizes as torch takes them."""
    return [int(each) if isinstance(each, int | np.integer) else each for each in np.asarray(numbers).ravel()]


def shape(a: Tensor, start: int = 0, end: int | None = None) -> Whole:
    """Sizes of a tensor."""
    return whole_numbers(tuple(a.shape)[start:end])


def size(a: Tensor) -> Whole:
    """Number of elements."""
    return np.array(a.numel(), np.int64)


def reshape(a: Tensor, sizes: Whole, allowzero: int = 0) -> Tensor:
    """Reshape; 0 keeps a size."""
    wanted = listed(sizes)
    if not allowzero:
        wanted = [a.shape[axis] if isinstance(each, int) and each == 0 else each for axis, each in enumerate(wanted)]
    return a.reshape(wanted)


def flatten(a: Tensor, axis: int = 1) -> Tensor:
    """A matrix: the axes before one, and those from it on."""
    axis = axis + a.ndim if axis < 0 else axis
    return a.reshape(1, -1) if axis == 0 else a.flatten(0, axis - 1).flatten(1) if axis < a.ndim else a.reshape(-1, 1)


def unsqueeze(a: Tensor, axes: Whole) -> Tensor:
    """New axes of size 1 at these places of the result."""
    rank = a.ndim + axes.size
    for axis in sorted(each % rank for each in listed(axes)):
        a = a.unsqueeze(axis)
    return a


def squeeze(a: Tensor, axes: Whole | None = None) -> Tensor:
    """Without axes of size 1."""
    if axes is None:
        return a.squeeze()
    for axis in sorted((each % a.ndim for each in listed(axes)), reverse=True):
        a = a.squeeze(axis)
    return a


def transpose(a: Tensor, perm: Sequence[int] | None = None) -> Tensor:
    """The axes in another order; turned over where none is given."""
    return a.permute(*(perm if perm is not None else range(a.ndim - 1, -1, -1)))


def concat(*values: Tensor, axis: int) -> Tensor:
    """Tensors one after the other."""
    return torch.cat(values, axis)


def slice_(a: Tensor, starts: Whole, ends: Whole, axes: Whole | None = None, steps: Whole | None = None) -> Tensor:
    """A cut along some axes."""
    along = range(starts.size) if axes is None else listed(axes)
    strides = [1] * starts.size if steps is None else listed(steps)
    for start, end, axis, step in zip(listed(starts), listed(ends), along, strides, strict=True):
        before = (slice(None),) * (axis % a.ndim)
        if step > 0:
            a = a[(*before, slice(start, end, step))]
        else:
            places = range(*slice(start, end if end >= -a.shape[axis] else None, step).indices(a.shape[axis]))
            a = a[(*before, torch.tensor(list(places), device=a.device))]
    return a


def split(a: Tensor, sizes: Whole | None = None, axis: int = 0, num_outputs: int | None = None) -> tuple[Tensor, ...]:
    """Parts along an axis, of these sizes or of equal ones."""
    if sizes is not None:
        return tuple(torch.split(a, listed(sizes), axis))
    each = -(-a.shape[axis] // (num_outputs or 1))
    return tuple(torch.split(a, each, axis))


def expand(a: Tensor, sizes: Whole) -> Tensor:
    """Repeat along axes of size 1; a size of 1 asks for nothing."""
    wanted = listed(sizes)
    have = [1] * (len(wanted) - a.ndim) + list(a.shape)
    wanted = [1] * (len(have) - len(wanted)) + wanted
    return a.expand([old if isinstance(new, int) and new == 1 else new for old, new in zip(have, wanted, strict=True)])


def tile(a: Tensor, repeats: Whole) -> Tensor:
    """Repeat along each axis."""
    return a.repeat(listed(repeats))


def gather(a: Tensor, index: Tensor, axis: int = 0) -> Tensor:
    """Gather slices along an axis, which takes the shape of `index`."""
    places: list[slice | Tensor] = [slice(None)] * (axis % a.ndim)
    return a[(*places, index)]


def gather_elements(a: Tensor, index: Tensor, axis: int = 0) -> Tensor:
    """Gather elements along an axis, one index for each place."""
    return torch.gather(a, axis, _from_start(index, a.shape[axis]))


def gather_nd(a: Tensor, index: Tensor, batch_dims: int = 0) -> Tensor:
    """Gather elements by coordinates."""
    if batch_dims:
        raise NotImplementedError("batch_dims")
    return a[tuple(index.unbind(-1))]


def scatter_elements(a: Tensor, index: Tensor, updates: Tensor, axis: int = 0, reduction: str = "none") -> Tensor:
    """Numbers put in, added or compared at an index along an axis."""
    places = _from_start(index, a.shape[axis])
    if reduction == "none":
        return torch.scatter(a, axis, places, updates)
    kinds = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
    return torch.scatter_reduce(a, axis, places, updates, kinds[reduction])


def scatter_nd(a: Tensor, index: Tensor, updates: Tensor, reduction: str = "none") -> Tensor:
    """Numbers put in, or added, at some coordinates."""
    if reduction not in ("none", "add"):
        raise NotImplementedError(reduction)
    return torch.index_put(a, tuple(index.unbind(-1)), updates, accumulate=reduction == "add")


def _from_start(index: Tensor, length: int) -> Tensor:
    """Indices counted from the start, also those given from the end."""
    return torch.where(index < 0, index + length, index)


def constant_of_shape(sizes: Whole, device: torch.device, value: Any = None) -> Tensor:
    """One number everywhere; 0 where none is given."""
    filled = np.zeros(1, np.float32) if value is None else value.numpy()
    one = torch.from_numpy(np.array(filled).reshape(-1)[:1].copy())
    return torch.full(
        listed(sizes),
        one.item() if one.dtype != torch.bool else bool(filled.ravel()[0]),
        dtype=one.dtype,
        device=device,
    )


def number_range(start: Whole, limit: Whole, delta: Whole, device: torch.device) -> Tensor:
    """Numbers at equal distances, from `start` up to below `limit`."""
    dtype = torch.int64 if start.dtype.kind in "iO" else torch.float32
    begin, end, step = (each.ravel()[0] for each in (start, limit, delta))
    begin, end, step = (each.item() if isinstance(each, np.generic) else each for each in (begin, end, step))
    return torch.arange(begin, end, step, dtype=dtype, device=device)


def triangle(a: Tensor, k: Whole | None = None, upper: int = 1) -> Tensor:
    """The upper or lower triangle, with zeros elsewhere."""
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


def pad(a: Tensor, pads: Whole, value: Any = None, axes: Whole | None = None, mode: str = "constant") -> Tensor:
    """Numbers around a tensor: a constant, a reflection without the edge, or the edge repeated."""
    rank = a.ndim
    along = [axis % rank for axis in (range(rank) if axes is None else listed(axes))]
    sizes = listed(pads)
    before, after = (
        dict(zip(along, sizes[: len(along)], strict=True)),
        dict(zip(along, sizes[len(along) :], strict=True)),
    )
    if mode == "constant":
        flat = [number for axis in range(rank - 1, -1, -1) for number in (before.get(axis, 0), after.get(axis, 0))]
        return functional.pad(a, flat, value=0.0 if value is None else value.item())
    for axis in along:
        length = a.shape[axis]
        places = torch.arange(-before[axis], length + after[axis], device=a.device)
        if mode == "reflect":
            places = (length - 1 - (places.abs() - (length - 1)).abs()) if length > 1 else torch.zeros_like(places)
        elif mode == "edge":
            places = places.clamp(0, length - 1)
        else:
            raise NotImplementedError(f"mode {mode}")
        a = a.index_select(axis, places)
    return a


def _padding(a: Tensor, pads: Sequence[int] | None, auto_pad: str, fill: float) -> tuple[Tensor, list[int]]:
    """Pad the input, and return the padding left for both sides alike."""
    if auto_pad not in ("NOTSET", "VALID"):
        raise NotImplementedError(f"auto_pad {auto_pad}")
    spatial = a.ndim - 2
    if pads is None or not any(pads):
        return a, [0] * spatial
    before, after = list(pads[:spatial]), list(pads[spatial:])
    if before == after:
        return a, before
    flat = [number for axis in range(spatial - 1, -1, -1) for number in (before[axis], after[axis])]
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
    """A convolution, float32 throughout."""
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
    """Maximum in a sliding window; NaN if it contains one. Outside counts as -inf."""
    del storage_order
    a, padding = _padding(a, pads, auto_pad, float("-inf"))
    if any(2 * each > window for each, window in zip(padding, kernel_shape, strict=True)):
        flat = [each for each in reversed(padding) for _ in range(2)]
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
    """The mean of a sliding window."""
    spatial = a.ndim - 2
    if pads is not None and list(pads[:spatial]) != list(pads[spatial:]):
        raise NotImplementedError("pads that differ between the sides")
    a, padding = _padding(a, pads, auto_pad, 0.0)
    step = strides or [1] * spatial
    return _MEAN_POOLS[spatial](
        a, list(kernel_shape), step, padding, ceil_mode=bool(ceil_mode), count_include_pad=bool(count_include_pad)
    )


def global_max(a: Tensor) -> Tensor:
    """The largest of each channel."""
    return torch.amax(a, list(range(2, a.ndim)), keepdim=True)


def global_mean(a: Tensor) -> Tensor:
    """The mean of each channel."""
    return torch.mean(a, list(range(2, a.ndim)), keepdim=True)


def resize(
    a: Tensor,
    roi: Any = None,
    scales: Any = None,
    sizes: Whole | None = None,
    *,
    mode: str = "nearest",
    coordinate_transformation_mode: str = "half_pixel",
    antialias: int = 0,
    nearest_mode: str = "round_prefer_floor",
    cubic_coeff_a: float = -0.75,
) -> Tensor:
    """Other sizes of H and W of (N,C,H,W), as `torch.nn.functional.interpolate` does."""
    del roi, cubic_coeff_a
    if sizes is None or not sizes.size:
        given = listed(scales) if scales is not None else []
        wanted = [int(a.shape[axis] * float(each)) for axis, each in list(enumerate(given))[2:]]
    else:
        wanted = listed(sizes)[2:]
    corners = coordinate_transformation_mode == "align_corners"
    if mode == "linear" and coordinate_transformation_mode in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        return functional.interpolate(a, wanted, mode="bilinear", align_corners=corners, antialias=bool(antialias))
    if mode == "nearest" and coordinate_transformation_mode == "asymmetric" and nearest_mode == "floor":
        return functional.interpolate(a, wanted, mode="nearest")
    raise NotImplementedError(f"mode {mode} with {coordinate_transformation_mode}")
