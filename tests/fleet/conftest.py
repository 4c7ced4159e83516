from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from tests.models import conv_model


def write_models(folder: Path, count: int) -> None:
    """Models of different weights, and labelled images whose anomalies are bright spots with masks."""
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 0.2, (8, 3, 16, 16)).astype(np.float32)
    masks = np.zeros((8, 16, 16), np.uint8)
    for index in range(4):
        images[index, :, 4:8, 4:8] += 0.8
        masks[index, 4:8, 4:8] = 1
    (folder / "models").mkdir(parents=True)
    np.savez(folder / "data.npz", image=images, label=np.arange(8) < 4, mask=masks)
    for index in range(count):
        onnx.save(conv_model(seed=index), folder / "models" / f"cam{index}.onnx")


@pytest.fixture
def fleet(tmp_path: Path) -> Callable[..., Path]:
    """Write models and the file of a fleet of them, with further fields."""

    def make(count: int = 2, **fields: object) -> Path:
        if not (tmp_path / "models").exists():
            write_models(tmp_path, count)
        content = {
            "output": "out",
            "defaults": {"data": "data.npz"},
            "models": [{"path": "models/*.onnx", "tags": {"camera": "{stem}"}}],
            **fields,
        }
        (tmp_path / "fleet.yaml").write_text(yaml.safe_dump(content))
        return tmp_path / "fleet.yaml"

    return make


def poisoned(kind: str) -> onnx.ModelProto:
    """A valid model that takes 14 GB (`memory`) or never ends (`endless`) when it runs."""
    model = conv_model()
    graph = model.graph
    if kind == "memory":
        graph.initializer.append(numpy_helper.from_array(np.array([60000, 60000], np.int64), "size"))
        graph.initializer.append(numpy_helper.from_array(np.array(0, np.float32), "zero"))
        first = [
            helper.make_node("ConstantOfShape", ["size"], ["large"]),
            helper.make_node("RandomUniformLike", ["large"], ["noise"]),  # which no optimizer computes beforehand
            helper.make_node("ReduceMax", ["noise"], ["most"], keepdims=0),
            helper.make_node("Mul", ["most", "zero"], ["nothing"]),
            helper.make_node("Add", ["image", "nothing"], ["same"]),
        ]
    else:
        graph.initializer.append(numpy_helper.from_array(np.array(2**62, np.int64), "trips"))
        body = helper.make_graph(
            [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Sin", ["x"], ["y"])],
            "body",
            [
                helper.make_tensor_value_info("trip", TensorProto.INT64, []),
                helper.make_tensor_value_info("go", TensorProto.BOOL, []),
                helper.make_tensor_value_info("x", TensorProto.FLOAT, None),
            ],
            [
                helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
                helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
            ],
        )
        first = [helper.make_node("Loop", ["trips", "", "image"], ["same"], body=body)]
    next(node for node in graph.node if node.name == "conv1").input[0] = "same"
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*first, *rest])
    return model
