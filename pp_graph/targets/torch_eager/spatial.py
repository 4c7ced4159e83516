"""Operators over the height and width of a map."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from pp_graph.targets.torch_eager.shaping import Whole, listed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
    """What a window slides over, and the padding that is left to do on both sides alike."""
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
    """The largest in a sliding window; NaN where one is in it. What lies outside counts as -inf."""
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
