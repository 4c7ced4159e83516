"""Read separable linear operators as matrices.

`read_operator` reads one operator, or raises `RefusalError` with a reason and a remedy. To support another operator,
write a function and list it in `_READERS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from pp_graph.fusion.tail.axis_matrices import (
    COORDINATE_MODES,
    Matrix,
    RefusalError,
    average_matrix,
    convolution_matrix,
    nearest_is_certain,
    pad_matrix,
    rank_one_factors,
    resize_matrix,
    slice_matrix,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import onnx_ir as ir

    from pp_graph.fusion.tail.view import GraphView

RANK_ONE_TOLERANCE: Final = 2.0**-21
"""Tolerance for kernels of rank one: four units in the last place of the largest weight.

A kernel computed and normalised in float32 differs from an exact outer product by a few such units.
"""

_LONGEST_AXIS: Final = 2048
"""Maximum side of a map. Matrices of larger ones take more memory than the map; only convolutions are split there."""


@dataclass(frozen=True)
class LinearOperator:
    """`Y = height @ X @ width.T + offset`.

    Attributes:
        source: X, (N,C,h,w).
        height: (H,h), or (C,H,h) if channels differ; None for the identity.
        width: (W,w), or (C,W,w); None for the identity.
        offset: A scalar, or one number per channel (C,1,1); None for 0.
    """

    source: ir.Value
    height: Matrix | None = None
    width: Matrix | None = None
    offset: Matrix | float | None = None


def read_operator(view: GraphView, node: ir.Node) -> LinearOperator | None:
    """Read an operator as matrices along the axes.

    Returns:
        The matrices; None if the operator's type is not supported.

    Raises:
        RefusalError: The operator is not separable or not linear, or a size or weight is unknown.
    """
    reader = _READERS.get(node.op_type)
    operator = None if reader is None else reader(view, node)
    if operator is not None and view.sizes(node.outputs[0]) is None:
        raise RefusalError("its size depends on how a runtime rounds; export with sizes instead of scales or ceil_mode")
    return operator


def _sizes(view: GraphView, value: ir.Value | None) -> tuple[int, int]:
    assert value is not None
    if view.dtype(value) not in (None, "FLOAT"):
        raise RefusalError(f"its element type is {view.dtype(value)}, and only float32 is rewritten")
    sizes = view.sizes(value)
    if sizes is None:
        raise RefusalError("height and width are not known; export with static sizes")
    if max(sizes) > _LONGEST_AXIS:
        raise RefusalError(
            f"a side of {max(sizes)} is above {_LONGEST_AXIS}, so matrices take more memory than the map"
        )
    return sizes


def read_convolution(view: GraphView, node: ir.Node) -> tuple[list[Matrix], list[Matrix], Matrix | None]:
    """Read a depthwise convolution with rank-one kernels.

    Returns:
        Columns and rows of the kernels, one of each per channel, and the bias (C,) or None.

    Raises:
        RefusalError: The convolution mixes channels, or its kernel is unknown or not of rank one.
    """
    weight = node.inputs[1]
    shape = None if weight is None else view.shape(weight)
    if shape is None or len(shape) != 4:
        raise RefusalError("its kernel is not two-dimensional")
    group = node.attributes.get_int("group", 1)
    if shape[1] != 1 or shape[0] != group:
        raise RefusalError(f"it mixes channels: {shape[1]} per group, {shape[0]} outputs in {group} groups")
    kernel = view.constant(weight)
    if kernel is None:
        raise RefusalError("its kernel is not a constant")
    if kernel.dtype != np.float32:
        raise RefusalError(f"its kernel is {kernel.dtype}, and only float32 is rewritten")
    if not np.isfinite(kernel).all():
        raise RefusalError("its kernel contains values that are not finite")
    bias = None
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = view.constant(node.inputs[2])
        if bias is None:
            raise RefusalError("its bias is not a constant")
    if not kernel.size:
        raise RefusalError("its kernel is empty")
    candidates = [rank_one_factors(channel[0].astype(np.float64), RANK_ONE_TOLERANCE) for channel in kernel]
    factors = [pair for pair in candidates if pair is not None]
    if len(factors) < len(candidates):
        raise RefusalError(f"its {kernel.shape[2]}×{kernel.shape[3]} kernel is not the product of a column and a row")
    columns, rows = [column for column, _ in factors], [row for _, row in factors]
    return columns, rows, None if bias is None else bias.astype(np.float64)


def spatial_attributes(
    view: GraphView, node: ir.Node, kernel: Sequence[int]
) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
    """Return strides, dilations and pads (top, left, bottom, right) of a convolution or pooling.

    Raises:
        RefusalError: `auto_pad` depends on sizes that are unknown.
    """
    strides = node.attributes.get_ints("strides", (1, 1))
    dilations = node.attributes.get_ints("dilations", (1, 1))
    auto = node.attributes.get_string("auto_pad", "NOTSET")
    if auto == "NOTSET":
        return strides, dilations, node.attributes.get_ints("pads", (0, 0, 0, 0))
    if auto == "VALID":
        return strides, dilations, (0, 0, 0, 0)
    begins, ends = [], []
    for size, window, stride, dilation in zip(_sizes(view, node.inputs[0]), kernel, strides, dilations, strict=True):
        missing = max((-(-size // stride) - 1) * stride + dilation * (window - 1) + 1 - size, 0)
        less, more = missing // 2, missing - missing // 2
        begins.append(less if auto == "SAME_UPPER" else more)
        ends.append(more if auto == "SAME_UPPER" else less)
    return strides, dilations, (*begins, *ends)


def _convolution(view: GraphView, node: ir.Node) -> LinearOperator | None:
    source, weight = node.inputs[:2]
    assert source is not None
    assert weight is not None
    shape = view.shape(weight)
    if shape is None or len(shape) != 4 or shape[1] != 1 or shape[2:] == (1, 1):
        return None  # a layer of the network, not worth a refusal
    columns, rows, bias = read_convolution(view, node)
    height, width = _sizes(view, source)
    strides, dilations, pads = spatial_attributes(view, node, (len(columns[0]), len(rows[0])))
    matrices = []
    for axis, (size, kernels) in enumerate(((height, columns), (width, rows))):
        channels = [
            convolution_matrix(
                size, kernel, stride=strides[axis], dilation=dilations[axis], before=pads[axis], after=pads[axis + 2]
            )
            for kernel in kernels
        ]
        matrices.append(channels[0] if len(channels) == 1 else np.stack(channels))
    offset = None if bias is None else bias[:, None, None]
    return LinearOperator(source, matrices[0], matrices[1], offset)


def _pad(view: GraphView, node: ir.Node) -> LinearOperator:
    source = node.inputs[0]
    assert source is not None
    mode = node.attributes.get_string("mode", "constant")
    rank = 4
    if "pads" in node.attributes:  # up to opset 10
        pads: Sequence[int] | None = node.attributes.get_ints("pads", ())
        fill: float | None = node.attributes.get_float("value", 0.0)
    else:
        pads = view.known_integers(node.inputs[1])
        given = node.inputs[2] if len(node.inputs) > 2 else None
        fill = 0.0 if given is None else view.uniform(given)
    if pads is None:
        raise RefusalError("its pads are not constant")
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        axes = view.known_integers(node.inputs[3])
        if axes is None:
            raise RefusalError("its axes are not constant")
        begins, ends = [0] * rank, [0] * rank
        for position, axis in enumerate(axes):
            begins[axis], ends[axis] = pads[position], pads[position + len(axes)]
        pads = [*begins, *ends]
    if len(pads) != 2 * rank or any(pads[axis] for axis in (0, 1, 4, 5)):
        raise RefusalError("it pads other axes than height and width")
    if mode == "constant" and fill != 0:
        raise RefusalError("it pads with another number than 0")
    if mode not in ("constant", "reflect", "edge", "wrap"):
        raise RefusalError(f"its mode '{mode}' is not known")
    height, width = _sizes(view, source)
    if mode != "constant" and (min(pads) < 0 or max(pads[2], pads[6]) >= height or
                               max(pads[3], pads[7]) >= width):  # fmt: skip
        raise RefusalError(f"its pads are negative, or larger than mode '{mode}' allows")
    checked: Literal["constant", "reflect", "edge", "wrap"] = mode  # type: ignore[assignment]
    return LinearOperator(
        source, pad_matrix(height, pads[2], pads[6], checked), pad_matrix(width, pads[3], pads[7], checked)
    )


def _average_pool(view: GraphView, node: ir.Node) -> LinearOperator:
    source = node.inputs[0]
    kernel = node.attributes.get_ints("kernel_shape", ())
    if len(kernel) != 2:
        raise RefusalError("its window is not two-dimensional")
    sizes = _sizes(view, source)
    strides, dilations, pads = spatial_attributes(view, node, kernel)
    height, width = (
        average_matrix(
            size,
            kernel[axis],
            stride=strides[axis],
            dilation=dilations[axis],
            before=pads[axis],
            after=pads[axis + 2],
            count_padding=bool(node.attributes.get_int("count_include_pad", 0)),
        )
        for axis, size in enumerate(sizes)
    )
    assert source is not None
    return LinearOperator(source, height, width)


def _slice(view: GraphView, node: ir.Node) -> LinearOperator:
    source = node.inputs[0]
    assert source is not None
    if "starts" in node.attributes:  # up to opset 9
        starts, ends = node.attributes.get_ints("starts", ()), node.attributes.get_ints("ends", ())
        axes = node.attributes.get_ints("axes", tuple(range(len(starts))))
        steps: tuple[int, ...] = (1,) * len(starts)
    else:
        given = [*node.inputs[1:], None, None, None, None][:4]
        vectors = [view.known_integers(value) for value in given]
        if any(value is not None and vector is None for value, vector in zip(given, vectors, strict=True)):
            raise RefusalError("its bounds are not constant")
        count = len(vectors[0] or ())
        defaults = ((), (), tuple(range(count)), (1,) * count)
        bounds = [default if vector is None else vector for vector, default in zip(vectors, defaults, strict=True)]
        if any(len(bound) != count for bound in bounds):
            raise RefusalError("its bounds are not constant")
        starts, ends, axes, steps = bounds
    axes = tuple(axis % 4 for axis in axes)
    if not set(axes) <= {2, 3}:
        raise RefusalError("it cuts other axes than height and width")
    matrices: dict[int, Matrix] = {}
    sizes = dict(zip((2, 3), _sizes(view, source), strict=True))
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        matrices[axis] = slice_matrix(sizes[axis], start, end, step)
    return LinearOperator(source, matrices.get(2), matrices.get(3))


def _resize(view: GraphView, node: ir.Node) -> LinearOperator:
    source = node.inputs[0]
    assert source is not None
    sizes = _sizes(view, source)
    mode = node.attributes.get_string("mode", "nearest")
    old = node.op_type == "Upsample" or view.opset < 11
    coordinates = node.attributes.get_string("coordinate_transformation_mode", "asymmetric" if old else "half_pixel")
    nearest = node.attributes.get_string("nearest_mode", "floor" if old else "round_prefer_floor")
    if mode not in ("nearest", "linear", "cubic"):
        raise RefusalError(f"its mode '{mode}' is not known")
    if coordinates not in COORDINATE_MODES:
        raise RefusalError(f"its coordinate mode '{coordinates}' is not known")
    if coordinates == "tf_crop_and_resize" and mode == "nearest":
        raise RefusalError("the nearest neighbour in a region (tf_crop_and_resize) depends on rounding")
    if node.attributes.get_int("antialias", 0):
        raise RefusalError("it filters against aliasing (antialias)")
    if node.attributes.get_string("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise RefusalError("it keeps the aspect ratio")
    outputs = view.sizes(node.outputs[0])
    if outputs is None:
        raise RefusalError(
            "the size it resizes to is not known, or depends on how a runtime rounds; export with static sizes"
        )
    if max(outputs) > _LONGEST_AXIS:
        raise RefusalError(
            f"a side of {max(outputs)} is above {_LONGEST_AXIS}, so matrices take more memory than the map"
        )
    scales = resize_scales(view, node, sizes, outputs)
    same_side = any(size == output for size, output in zip(sizes, outputs, strict=True))
    if (sizes == outputs and scales != (1.0, 1.0)) or (same_side and coordinates == "tf_crop_and_resize"):
        raise RefusalError("it keeps the size although its scales or region differ, which runtimes treat differently")
    for size, output, scale in zip(sizes, outputs, scales, strict=True):
        if mode == "nearest" and not nearest_is_certain(
            size, output, scale=scale, coordinates=coordinates, nearest=nearest
        ):
            raise RefusalError(f"the nearest neighbour from {size} to {output} depends on rounding")
    height, width = (
        resize_matrix(
            size,
            output,
            scale=scale,
            mode=mode,
            coordinates=coordinates,
            nearest=nearest,
            cubic_a=node.attributes.get_float("cubic_coeff_a", -0.75),
            exclude_outside=bool(node.attributes.get_int("exclude_outside", 0)),
            crop=crop,
        )
        for size, output, scale, crop in zip(sizes, outputs, scales, _crops(view, node, coordinates), strict=True)
    )
    return LinearOperator(source, height, width)


def resize_scales(
    view: GraphView, node: ir.Node, sizes: tuple[int, int], outputs: tuple[int, int]
) -> tuple[float, ...]:
    """Return the scales of height and width, as given or computed from the sizes."""
    source = node.inputs[0]
    axes = tuple(axis % 4 for axis in node.attributes.get_ints("axes", (0, 1, 2, 3)))
    wanted = node.inputs[3] if len(node.inputs) > 3 else None
    if wanted is not None and source is not None:
        new_shape, shape = view.integers(wanted), view.named_shape(source)
        if new_shape is None or shape is None or len(new_shape) != len(axes):
            raise RefusalError("the size it resizes to is not known")
        if any(new_shape[position] != shape[axis] for position, axis in enumerate(axes) if axis < 2):
            raise RefusalError("it resizes other axes than height and width, or may change the batch")
        return tuple(output / size for size, output in zip(sizes, outputs, strict=True))
    if "scales" in node.attributes:
        scales: Sequence[float] = node.attributes["scales"].as_floats()
    else:
        given = view.constant(node.inputs[1 if len(node.inputs) == 2 else 2])
        scales = () if given is None else [float(scale) for scale in given.ravel()]
    if len(scales) != len(axes):
        raise RefusalError("its scales are not constant")
    by_axis = dict(zip(axes, scales, strict=True))
    if any(by_axis.get(axis, 1) != 1 for axis in (0, 1)):
        raise RefusalError("it resizes other axes than height and width")
    return by_axis.get(2, 1.0), by_axis.get(3, 1.0)


def fixed_scales(view: GraphView, node: ir.Node) -> tuple[float, float] | None:
    """Return scales with which a Resize gives its sizes for any number of channels; None if there are none."""
    source = node.inputs[0]
    sizes, outputs = None if source is None else view.sizes(source), view.sizes(node.outputs[0])
    if sizes is None or outputs is None or view.opset < 11 or "axes" in node.attributes:
        return None
    try:
        scales = resize_scales(view, node, sizes, outputs)
    except RefusalError:
        return None
    found = []
    for size, scale, output in zip(sizes, scales, outputs, strict=True):
        single = np.float32(scale)
        if float(single) * size < output and node.attributes.get_string("mode", "nearest") != "nearest":
            single = np.nextafter(single, np.float32(np.inf))  # runtimes round the size down, some in float64
        if int(single * np.float32(size)) != output or int(float(single) * size) != output:
            return None
        found.append(float(single))
    return found[0], found[1]


def _crops(view: GraphView, node: ir.Node, coordinates: str) -> tuple[tuple[float, float], ...]:
    """Return the region along height and width that `tf_crop_and_resize` resizes."""
    if coordinates != "tf_crop_and_resize":
        return ((0.0, 1.0), (0.0, 1.0))
    region = view.constant(node.inputs[1])
    if region is None or region.size != 8:
        raise RefusalError("the region it crops is not a constant of 8 numbers")
    if node.attributes.get_float("extrapolation_value", 0.0):
        raise RefusalError("its extrapolation_value is not 0")
    starts, ends = region.astype(np.float64).reshape(2, 4)
    if (starts[:2] != 0).any() or (ends[:2] != 1).any():
        raise RefusalError("it crops other axes than height and width")
    return ((starts[2], ends[2]), (starts[3], ends[3]))


def _scaled(view: GraphView, node: ir.Node) -> LinearOperator | None:
    """Read Mul or Div by a constant number."""
    first, second = node.inputs
    if first is None or second is None:
        return None
    factor = view.uniform(second)
    source = first
    if factor is None and node.op_type == "Mul":
        factor, source = view.uniform(first), second
    shape = view.shape(source)
    if factor is None or shape is None or len(shape) != 4 or shape != view.shape(node.outputs[0]):
        return None
    if node.op_type == "Div" and factor == 0:
        return None
    scale = np.float64(1 / factor if node.op_type == "Div" else factor)
    return LinearOperator(source, np.eye(_sizes(view, source)[0]) * scale)


_READERS: Final[dict[str, Callable[[GraphView, ir.Node], LinearOperator | None]]] = {
    "Resize": _resize,
    "Upsample": _resize,
    "Pad": _pad,
    "Conv": _convolution,
    "AveragePool": _average_pool,
    "Slice": _slice,
    "Mul": _scaled,
    "Div": _scaled,
}
