"""The torch function of each ONNX operator.

A new operator is one entry. Its function takes the operator's inputs in order (None for one that is left out) and its
attributes by their names. Inputs listed in `HOST_INPUTS` come as NumPy arrays, all others as tensors.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import torch

from pp_graph.integrations.torch.interpreter import elementwise, spatial
from pp_graph.integrations.torch.interpreter import elementwise as reductions
from pp_graph.integrations.torch.interpreter import spatial as shaping

Function = Callable[..., Any]

OPSET: Final = 18
"""Opset at which post-processors are written to be run in torch; the table's functions are those of this opset."""

OPERATORS: Final[Mapping[str, Function]] = {
    "Abs": torch.abs,
    "Add": torch.add,
    "And": torch.logical_and,
    "ArgMax": reductions.arg_max,
    "ArgMin": reductions.arg_min,
    "AveragePool": spatial.average_pool,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "Cast": elementwise.cast,
    "Ceil": torch.ceil,
    "Clip": elementwise.clip,
    "Concat": shaping.concat,
    "ConstantOfShape": shaping.constant_of_shape,
    "Conv": spatial.convolution,
    "Cos": torch.cos,
    "CumSum": reductions.cumulative_sum,
    "Div": elementwise.divide,
    "Equal": torch.eq,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Expand": shaping.expand,
    "Flatten": shaping.flatten,
    "Floor": torch.floor,
    "Gather": shaping.gather,
    "GatherElements": shaping.gather_elements,
    "GatherND": shaping.gather_nd,
    "Gelu": elementwise.gelu,
    "Gemm": reductions.gemm,
    "GlobalAveragePool": spatial.global_mean,
    "GlobalMaxPool": spatial.global_max,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Identity": torch.clone,
    "IsInf": elementwise.is_infinite,
    "IsNaN": torch.isnan,
    "LeakyRelu": elementwise.leaky_relu,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Log": torch.log,
    "LogSoftmax": reductions.log_softmax,
    "MatMul": torch.matmul,
    "Max": elementwise.maximum,
    "MaxPool": spatial.max_pool,
    "Min": elementwise.minimum,
    "Mod": elementwise.modulo,
    "Mul": torch.mul,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Or": torch.logical_or,
    "Pad": spatial.pad,
    "Pow": elementwise.power,
    "Range": shaping.number_range,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Reshape": shaping.reshape,
    "Resize": spatial.resize,
    "Round": torch.round,
    "ScatterElements": shaping.scatter_elements,
    "ScatterND": shaping.scatter_nd,
    "Shape": shaping.shape,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Size": shaping.size,
    "Slice": shaping.slice_,
    "Softmax": reductions.softmax,
    "Softplus": torch.nn.functional.softplus,
    "Split": shaping.split,
    "Sqrt": torch.sqrt,
    "Squeeze": shaping.squeeze,
    "Sub": torch.sub,
    "Sum": elementwise.total,
    "Tanh": torch.tanh,
    "Tile": shaping.tile,
    "TopK": reductions.top_k,
    "Transpose": shaping.transpose,
    "Trilu": shaping.triangle,
    "Unsqueeze": shaping.unsqueeze,
    "Where": torch.where,
    "Xor": torch.logical_xor,
    **reductions.REDUCTIONS,
}
"""Operators of the default domain, as of `OPSET`."""

VALUES_ALONE: Final[Mapping[str, Function]] = {"TopK": reductions.top_values}
"""Faster functions for operators of which only the first output is read."""

NEEDS_DEVICE: Final = frozenset({"ConstantOfShape", "Range"})
"""Operators that make a tensor from sizes alone, and must be told where."""

HOST_INPUTS: Final[Mapping[str, frozenset[int]]] = {
    "Clip": frozenset({1, 2}),
    "ConstantOfShape": frozenset({0}),
    "CumSum": frozenset({1}),
    "Expand": frozenset({1}),
    "Pad": frozenset({1, 2, 3}),
    "Range": frozenset({0, 1, 2}),
    "Reshape": frozenset({1}),
    "Resize": frozenset({1, 2, 3}),
    "Slice": frozenset({1, 2, 3, 4}),
    "Split": frozenset({1}),
    "Squeeze": frozenset({1}),
    "Tile": frozenset({1}),
    "TopK": frozenset({1}),
    "Trilu": frozenset({1}),
    "Unsqueeze": frozenset({1}),
    **{name: frozenset({1}) for name in reductions.REDUCTIONS},
}
"""Inputs that must be known in Python: sizes, axes and bounds."""


def _joined(*arrays: Any, axis: int) -> Any:
    return np.concatenate(arrays, axis)


def _cut(array: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Any:
    along = range(starts.size) if axes is None else shaping.listed(axes)
    strides = [1] * starts.size if steps is None else shaping.listed(steps)
    for start, end, axis, step in zip(shaping.listed(starts), shaping.listed(ends), along, strides, strict=True):
        array = array[(*(slice(None),) * (axis % array.ndim), slice(start, end, step))]
    return array


HOST_OPERATORS: Final[Mapping[str, Function]] = {
    "Add": operator.add,
    "Cast": lambda array, to: array,
    "Concat": _joined,
    "Div": operator.floordiv,
    "Gather": lambda array, index, axis=0: np.take(array, index.astype(np.int64), axis),
    "Identity": lambda array: array,
    "Max": lambda *arrays: np.max(np.stack(arrays), axis=0),
    "Min": lambda *arrays: np.min(np.stack(arrays), axis=0),
    "Mul": operator.mul,
    "ReduceProd": lambda array, axes=None, keepdims=1: np.prod(array, keepdims=bool(keepdims)),
    "Reshape": lambda array, sizes, allowzero=0: array.reshape(shaping.listed(sizes)),
    "Slice": _cut,
    "Squeeze": lambda array, axes=None: np.squeeze(array, None if axes is None else tuple(shaping.listed(axes))),
    "Sub": operator.sub,
    "Unsqueeze": lambda array, axes: np.expand_dims(array, tuple(shaping.listed(axes))),
}
"""Arithmetic on sizes: what is computed in NumPy where all that is read is whole numbers known in Python."""
