"""Raw models of any size, for the scripts that measure how time and memory grow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path


def make_chain(folder: Path, megabytes: int, *, external: bool, distinct: bool) -> Path:
    """Write a chain of matrix multiplications with that many megabytes of weights, and a score.

    `distinct` makes all matrices different, because OpenVINO stores equal ones once. Otherwise external weights are a
    sparse file, which takes no time to write.
    """
    import onnx
    from onnx import TensorProto, helper

    side = 1024 if megabytes < 100 else 4096
    size = side * side * 4
    count = max(1, round(megabytes * 2**20 / size))
    numbers = np.random.default_rng(0).standard_normal((side, side), dtype=np.float32)
    weights = folder / "weights.bin"
    if external and not distinct:
        with weights.open("wb") as stream:
            stream.truncate(count * size)
    initializers, nodes, value = [], [], "features"
    for index in range(count):
        block = (numbers * np.float32(1 + index / count)).tobytes() if distinct else numbers.tobytes()
        tensor = TensorProto(name=f"w{index}", data_type=TensorProto.FLOAT, dims=[side, side])
        if external:
            if distinct:
                with weights.open("ab") as stream:
                    stream.write(block)
            tensor.data_location = TensorProto.EXTERNAL
            for key, entry in (("location", weights.name), ("offset", index * size), ("length", size)):
                tensor.external_data.add(key=key, value=str(entry))
        else:
            tensor.raw_data = block
        initializers.append(tensor)
        nodes.append(helper.make_node("MatMul", [value, f"w{index}"], [f"h{index}"]))
        value = f"h{index}"
    nodes.append(helper.make_node("ReduceMax", [value], ["raw_score"], axes=[1], keepdims=1))
    graph = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", side])],
        [helper.make_tensor_value_info("raw_score", TensorProto.FLOAT, ["N", 1])],
        initializers,
    )
    path = folder / "raw.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path
