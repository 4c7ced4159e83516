"""Evaluate values that do not depend on inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

Array = npt.NDArray[Any]

LARGEST_CONSTANT: Final = 1 << 20
"""Number of elements up to which constants are read. Kernels, sizes and scales are smaller."""

_IR_VERSION: Final = 10
FOLDED: Final = frozenset({
    "Add", "Cast", "Clip", "Concat", "ConstantOfShape", "Div", "Expand", "Gather", "Identity", "Less", "Max", "Min",
    "Mul", "Neg", "Range", "Reshape", "Slice", "Squeeze", "Sub", "Transpose", "Unsqueeze",
})  # fmt: skip
"""Operators with which exporters compute shapes, pads and indices from constants."""


def read_constant_node(node: ir.Node) -> Array | None:
    """Return the numbers of a Constant; None if it has a different type or more than `LARGEST_CONSTANT` elements."""
    # onnx_ir's get_const_tensor would rename the tensor.
    attribute = next(iter(node.attributes.values()), None)
    if attribute is None or attribute.is_ref():
        return None
    if attribute.name == "value":
        tensor = attribute.as_tensor()
        return None if tensor.size > LARGEST_CONSTANT else np.asarray(tensor.numpy())
    if attribute.name in ("value_int", "value_ints"):
        integers = attribute.as_ints() if attribute.name == "value_ints" else attribute.as_int()
        return np.asarray(integers, np.int64)
    if attribute.name in ("value_float", "value_floats"):
        reals = attribute.as_floats() if attribute.name == "value_floats" else attribute.as_float()
        return np.asarray(reals, np.float32)
    return None


def evaluate(node: ir.Node, inputs: dict[str, Array], opset: int) -> Array | None:
    """Compute an operator on constants; None if that fails or returns more than `LARGEST_CONSTANT` elements."""
    import onnx
    import onnx_ir as ir
    from onnx import helper

    try:
        graph = helper.make_graph(
            [ir.to_proto(node)],
            "constant",
            [
                helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
                for name, array in inputs.items()
            ],
            [onnx.ValueInfoProto(name=node.outputs[0].name or "")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=_IR_VERSION)
        result = _run(model, inputs)
    except Exception:
        return None  # an operator that the evaluator cannot run is not a known constant
    array = np.asarray(result)
    return array if array.size <= LARGEST_CONSTANT else None


def _run(model: onnx.ModelProto, inputs: dict[str, Array]) -> object:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        (result,) = session.run(None, inputs)
        return result
    except Exception:
        # It knows more types, but takes longer to import than most models take to fuse.
        from onnx.reference import ReferenceEvaluator

        (found,) = ReferenceEvaluator(model).run(None, inputs)
        return found
