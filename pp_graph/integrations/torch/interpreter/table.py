"""The torch function of each ONNX operator.

To add an operator, add an entry. Its function takes the operator's inputs in order (None for an omitted one) and its
attributes by name. Inputs listed in `HOST_INPUTS` are NumPy arrays, all others tensors.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import torch

from pp_graph.integrations.torch.interpreter import elementwise, spatial

Function = Callable[..., Any]

OPSET: Final = 18
"""Opset of the graphs that run in torch, and of the functions in this table."""

OPERATORS: Final[Mapping[str, Function]] = {
    "Abs": torch.abs,
    "Add": torch.add,
    "And": torch.logical_and,
    "ArgMax": elementwise.locating(torch.argmax),
    "ArgMin": elementwise.locating(torch.argmin),
    "AveragePool": spatial.average_pool,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "Cast": elementwise.cast,
    "Ceil": torch.ceil,
    "Clip": elementwise.clip,
    "Concat": spatial.concat,
    "ConstantOfShape": spatial.constant_of_shape,
    "Conv": spatial.convolution,
    "Cos": torch.cos,
    "CumSum": elementwise.cumulative_sum,
    "Div": elementwise.divide,
    "Equal": torch.eq,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Expand": spatial.expand,
    "Flatten": spatial.flatten,
    "Floor": torch.floor,
    "Gather": spatial.gather,
    "GatherElements": spatial.gather_elements,
    "GatherND": spatial.gather_nd,
    "Gelu": elementwise.gelu,
    "Gemm": elementwise.gemm,
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
    "LogSoftmax": elementwise.log_softmax,
    "MatMul": torch.matmul,
    "Max": elementwise.folding(torch.maximum),
    "MaxPool": spatial.max_pool,
    "Min": elementwise.folding(torch.minimum),
    "Mod": elementwise.modulo,
    "Mul": torch.mul,
    "Neg": torch.neg,
    "NonZero": spatial.non_zero,
    "Not": torch.logical_not,
    "Or": torch.logical_or,
    "Pad": spatial.pad,
    "Pow": elementwise.power,
    "Range": spatial.number_range,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Reshape": spatial.reshape,
    "Resize": spatial.resize,
    "Round": torch.round,
    "ScatterElements": spatial.scatter_elements,
    "ScatterND": spatial.scatter_nd,
    "Shape": spatial.shape,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Size": spatial.size,
    "Slice": spatial.slice_,
    "Softmax": elementwise.softmax,
    "Softplus": torch.nn.functional.softplus,
    "Split": spatial.split,
    "Sqrt": torch.sqrt,
    "Squeeze": spatial.squeeze,
    "Sub": torch.sub,
    "Sum": elementwise.folding(torch.add),
    "Tanh": torch.tanh,
    "Tile": spatial.tile,
    "TopK": elementwise.top_k,
    "Transpose": spatial.transpose,
    "Trilu": spatial.triangle,
    "Unsqueeze": spatial.unsqueeze,
    "Where": torch.where,
    "Xor": torch.logical_xor,
    **elementwise.REDUCTIONS,
}
"""Operators of the default domain at `OPSET`."""

VALUES_ALONE: Final[Mapping[str, Function]] = {"TopK": elementwise.top_values}
"""Faster functions for operators whose other outputs are unused."""

NEEDS_DEVICE: Final = frozenset({"ConstantOfShape", "Range"})
"""Operators without tensor inputs. They take the device as an argument."""

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
    **{name: frozenset({1}) for name in elementwise.REDUCTIONS},
}
"""Inputs that torch needs as Python numbers: sizes, axes and bounds."""


def _slice_array(array: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Any:
    for axis, chosen in spatial.slices(starts, ends, axes, steps):
        array = array[(*(slice(None),) * (axis % array.ndim), chosen)]
    return array


HOST_OPERATORS: Final[Mapping[str, Function]] = {
    "Add": operator.add,
    "Cast": lambda array, to: array,
    "Concat": lambda *arrays, axis: np.concatenate(arrays, axis),
    "Div": operator.floordiv,
    "Gather": lambda array, index, axis=0: np.take(array, index.astype(np.int64), axis),
    "Identity": lambda array: array,
    "Max": lambda *arrays: np.max(np.stack(arrays), axis=0),
    "Min": lambda *arrays: np.min(np.stack(arrays), axis=0),
    "Mul": operator.mul,
    "ReduceProd": lambda array, axes=None, keepdims=1: np.prod(array, keepdims=bool(keepdims)),
    "Reshape": lambda array, sizes, allowzero=0: array.reshape(spatial.size_list(sizes)),
    "Slice": _slice_array,
    "Squeeze": lambda array, axes=None: np.squeeze(array, None if axes is None else tuple(spatial.size_list(axes))),
    "Sub": operator.sub,
    "Unsqueeze": lambda array, axes: np.expand_dims(array, tuple(spatial.size_list(axes))),
}
"""NumPy functions for operators whose inputs are all sizes known in Python."""
