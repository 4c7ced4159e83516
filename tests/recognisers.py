"""A small text recogniser, to fuse and run in tests."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

CHARACTERS = ("a", "b", " ", "c")


def recogniser(
    layout: str = "NTC", *, times: int | str = "T", batch: int | str = "N", opset: int = 17, head: str | None = None
) -> onnx.ModelProto:
    """Image (N,3,1,T) -> logits of five classes at each column, in a layout; `head` is an operator over the classes."""
    classes = 5
    weights = {"w": np.random.default_rng(1).normal(0, 1, (classes, 3, 1, 1)).astype(np.float32)}
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["features"]),
        helper.make_node("Squeeze", ["features", "two"], ["columns"])
        if opset >= 13
        else helper.make_node("Squeeze", ["features"], ["columns"], axes=[2]),
        helper.make_node("Transpose", ["columns"], ["before" if head else "logits"],
                         perm=[0, 2, 1] if layout == "NTC" else [2, 0, 1]),
    ]  # fmt: skip
    initializers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    if opset >= 13:
        initializers.append(numpy_helper.from_array(np.array([2]), "two"))
    if head is not None:
        nodes.append(helper.make_node(head, ["before"], ["logits"], axis=2))
    sizes: dict[str, int | str] = {"N": batch, "T": times, "C": classes}
    graph = helper.make_graph(
        nodes,
        "recogniser",
        [helper.make_tensor_value_info("image", 1, [batch, 3, 1, times])],
        [helper.make_tensor_value_info("logits", 1, [sizes[axis] for axis in layout])],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8 if opset > 9 else 3)


def lines(count: int = 6, times: int = 14) -> np.ndarray:
    """Images in which columns often repeat."""
    rng = np.random.default_rng(4)
    columns = rng.normal(0, 1.5, (count, 3, 1, times)).astype(np.float32)
    return np.repeat(columns, 2, axis=3)[..., :times].copy()
