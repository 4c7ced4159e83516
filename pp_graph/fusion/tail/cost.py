"""Estimate the cost of operators, in microseconds per image, from arithmetic and memory traffic.

Only ratios of costs matter. The rates were measured in OpenVINO 2026.4 on two cores with AVX-512, in float32 with batch
1. A single-channel convolution reaches a tenth of the rate of a matrix product, and the cost of an interpolation is
proportional to its outputs. `benchmarks/operator_rates.py` measures convolutions, products, averages and
interpolations; the rates of searches and of batched products come from profiles of PatchCore and PaDiM.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    import onnx_ir as ir

    from pp_graph.fusion.tail.view import GraphView

LAUNCH_US: Final = 5.0
"""Overhead of an operator in microseconds."""

_BYTES_PER_US: Final = 10_000.0

_MATMUL_MACS_PER_US: Final = 50_000.0
_MATMUL_BYTES_PER_US: Final = 15_000.0
_MATMUL_EACH_US: Final = 0.07
"""Overhead of each product in a batched matrix product."""
_DENSE_CONV_MACS_PER_US: Final = 50_000.0
"""Convolutions with many channels run as fast as matrix products."""
_NARROW_CONV_MACS_PER_US: Final = 6_000.0
"""Convolutions with one channel per group cannot be vectorised over channels."""
_NARROW_CONV_OUTPUTS_PER_US: Final = 250.0
_POOL_MACS_PER_US: Final = 4_000.0
_RESIZE_OUTPUTS_PER_US: Final = {"nearest": 500.0, "linear": 125.0, "cubic": 30.0}
_ARG_INPUTS_PER_US: Final = 430.0
"""ArgMin and ArgMax: OpenVINO runs them as TopK."""
_ORDER_US: Final = 0.008
"""TopK: time for each result and doubling of their number."""
_REDUCE_INPUTS_PER_US: Final = 10_000.0


def moved(elements: float) -> float:
    """Cost of an operator that only reads or writes float32 values."""
    return LAUNCH_US + 4 * elements / _BYTES_PER_US


def matmul(rows: int, inner: int, columns: int, *, count: int = 1) -> float:
    """Cost of `count` matrix products of the same size."""
    macs = float(rows * inner * columns * count)
    size = 4.0 * count * (rows * inner + inner * columns + rows * columns)
    return LAUNCH_US + count * _MATMUL_EACH_US + max(macs / _MATMUL_MACS_PER_US, size / _MATMUL_BYTES_PER_US)


def narrow_convolution(outputs: float, taps: int) -> float:
    """Cost of a convolution with one input channel per group."""
    return LAUNCH_US + outputs / _NARROW_CONV_OUTPUTS_PER_US + outputs * taps / _NARROW_CONV_MACS_PER_US


def dense_convolution(outputs: float, taps: int) -> float:
    """Cost of a convolution that mixes channels. `taps` is the number of inputs per output."""
    return LAUNCH_US + max(outputs * taps / _DENSE_CONV_MACS_PER_US, 8 * outputs / _BYTES_PER_US)


def resized(outputs: float, mode: str) -> float:
    """Cost of interpolating in one of the modes of Resize."""
    return LAUNCH_US + max(8 * outputs / _BYTES_PER_US, outputs / _RESIZE_OUTPUTS_PER_US.get(mode, 125.0))


def pooled(outputs: float, taps: int) -> float:
    """Cost of averages over windows of some size."""
    return LAUNCH_US + max(8 * outputs / _BYTES_PER_US, outputs * taps / _POOL_MACS_PER_US)


def search(inputs: float, kept: float = 0, count: int = 1) -> float:
    """Cost of ArgMin, ArgMax or TopK over some inputs, with `kept` results, `count` of them in order."""
    return LAUNCH_US + inputs / _ARG_INPUTS_PER_US + kept * math.log2(count) * _ORDER_US


def of_nodes(view: GraphView, nodes: Iterable[ir.Node]) -> float:
    """Estimate the cost of existing operators."""
    return sum(_of_node(view, node) for node in nodes)


def _of_node(view: GraphView, node: ir.Node) -> float:
    read = sum(elements(view, value) for value in node.inputs if value is not None)
    written = sum(elements(view, value) for value in node.outputs)
    size = 4.0 * (read + written)
    bandwidth = size / _BYTES_PER_US
    if node.op_type in ("Shape", "Constant", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"):
        return 0.0
    if written <= 8 and read <= 64:
        return 0.0
    if node.op_type == "Conv" and node.inputs[1] is not None:
        weight = view.shape(node.inputs[1])
        if weight is not None and all(isinstance(dim, int) for dim in weight):
            taps = math.prod(int(dim) for dim in weight[1:] if isinstance(dim, int))
            if weight[1] == 1:
                return narrow_convolution(written, taps)
            return dense_convolution(written, taps)
    if node.op_type in ("MatMul", "Gemm") and node.inputs[0] is not None:
        shape = view.shape(node.inputs[0])
        inner = shape[-1] if shape and isinstance(shape[-1], int) else 1
        macs = float(written * inner)
        batch = [1, *(dim if isinstance(dim, int) else 1 for dim in (shape or ())[:-2])]
        time = math.prod(batch) * _MATMUL_EACH_US + max(size / _MATMUL_BYTES_PER_US, macs / _MATMUL_MACS_PER_US)
        return LAUNCH_US + time
    if node.op_type == "AveragePool":
        macs = written * float(math.prod(node.attributes.get_ints("kernel_shape", (1,))))
        return LAUNCH_US + max(bandwidth, macs / _POOL_MACS_PER_US)
    if node.op_type in ("Resize", "Upsample"):
        rate = _RESIZE_OUTPUTS_PER_US.get(node.attributes.get_string("mode", "nearest"), 125.0)
        return LAUNCH_US + max(bandwidth, written / rate)
    if node.op_type in ("ArgMin", "ArgMax", "TopK"):
        shape = None if node.inputs[0] is None else view.shape(node.inputs[0])
        row = shape[node.attributes.get_int("axis", -1)] if shape else 1
        counts = view.known_integers(node.inputs[1]) if len(node.inputs) > 1 else None
        count = max(1, counts[0]) if counts else 1
        return search(read, read / row * count if isinstance(row, int) and row else 0, count)
    if node.op_type.startswith("Reduce"):
        return LAUNCH_US + max(bandwidth, read / _REDUCE_INPUTS_PER_US)
    return LAUNCH_US + bandwidth


def elements(view: GraphView, value: ir.Value) -> int:
    """Return the number of elements of a value for one image. Open sizes count as 1."""
    shape = view.shape(value)
    return 0 if shape is None else math.prod(dim if isinstance(dim, int) else 1 for dim in shape)
