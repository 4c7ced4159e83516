"""Small classifiers, to fuse and run in tests."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def classifier(
    classes: int = 4, *, layout: str = "NC", batch: int | str = "N", dtype: type = np.float32, head: str | None = None
) -> onnx.ModelProto:
    """Image (N,3,8,8) -> logits in a layout: `NC`, `NHWC` (N,1,1,C) or `NCHW` (N,C,1,1).

    `head` is an operator over the classes, such as Softmax, that the exporter left in the model.
    """
    rng = np.random.default_rng(classes)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    weights = [
        numpy_helper.from_array(rng.normal(0, 1.5, (classes, 3, 3, 3)).astype(dtype), "w"),
        numpy_helper.from_array(rng.normal(0, 0.3, classes).astype(dtype), "b"),
    ]
    nodes = [
        helper.make_node("Conv", ["image", "w", "b"], ["features"]),
        helper.make_node("GlobalAveragePool", ["features"], ["pooled"]),
    ]
    shape: list[int | str] = {"NC": [batch, classes], "NHWC": [batch, 1, 1, classes], "NCHW": [batch, classes, 1, 1]}[
        layout
    ]
    last = {"NC": ("Flatten", {}), "NHWC": ("Transpose", {"perm": [0, 2, 3, 1]}), "NCHW": ("Identity", {})}[layout]
    nodes.append(helper.make_node(last[0], ["pooled"], ["logits" if head is None else "before"], **last[1]))
    if head is not None:
        nodes.append(helper.make_node(head, ["before"], ["logits"]))
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("image", kind, [batch, 3, 8, 8])],
        [helper.make_tensor_value_info("logits", kind, shape)],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def two_outputs(classes: tuple[int, int] = (3, 5)) -> onnx.ModelProto:
    """Image (N,3,8,8) -> colour (N,3), kind (N,5): two outputs that could be read as logits."""
    model = classifier(sum(classes))
    graph = model.graph
    graph.node.append(helper.make_node("Split", ["logits", "sizes"], ["colour", "kind"], axis=1))
    graph.initializer.append(numpy_helper.from_array(np.array(classes), "sizes"))
    del graph.output[:]
    graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", count])
        for name, count in zip(("colour", "kind"), classes, strict=True)
    )
    return model


def images(count: int = 12) -> np.ndarray:
    return np.random.default_rng(7).normal(0, 1.5, (count, 3, 8, 8)).astype(np.float32)
