"""Rates of the operators that a tail is made of: what `pp_graph/fusion/tail/cost.py` estimates with.

    python benchmarks/operator_rates.py [--json result.json]

Each operator runs alone in OpenVINO and in onnxruntime, in float32, on a map of one channel.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import openvino as ov
from onnx import TensorProto, helper, numpy_helper

_RUNS = 15
_KINDS = (
    ("convolution", 33),
    ("convolution", 5),
    ("column and row", 33),
    ("column and row", 5),
    ("matrix products", 0),
    ("average", 21),
    ("nearest", 4),
    ("linear", 4),
    ("cubic", 4),
)


def make(side: int, what: str, size: int) -> tuple[bytes, float]:
    """A model of one operator, or of a pair, and its multiply-adds."""
    rng = np.random.default_rng(0)
    half = size // 2
    weights: dict[str, np.ndarray] = {}
    if what == "convolution":
        weights["w"] = rng.random((1, 1, size, size), dtype=np.float32)
        nodes = [helper.make_node("Conv", ["x", "w"], ["y"], pads=[half] * 4)]
        macs = size * size * side * side
    elif what == "column and row":
        weights["w"] = rng.random((1, 1, size, 1), dtype=np.float32)
        weights["v"] = rng.random((1, 1, 1, size), dtype=np.float32)
        nodes = [
            helper.make_node("Conv", ["x", "w"], ["t"], pads=[half, 0, half, 0]),
            helper.make_node("Conv", ["t", "v"], ["y"], pads=[0, half, 0, half]),
        ]
        macs = 2 * size * side * side
    elif what == "matrix products":
        weights["w"], weights["v"] = rng.random((2, side, side), dtype=np.float32)
        nodes = [helper.make_node("MatMul", ["w", "x"], ["t"]), helper.make_node("MatMul", ["t", "v"], ["y"])]
        macs = 2 * side**3
    elif what == "average":
        nodes = [helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[size, size], pads=[half] * 4)]
        macs = size * size * side * side
    else:
        weights["s"] = np.array([1, 1, size, size], np.float32)
        nodes = [helper.make_node("Resize", ["x", "", "s"], ["y"], mode=what)]
        macs = {"nearest": 1, "linear": 4, "cubic": 16}[what] * (side * size) ** 2
    graph = helper.make_graph(
        nodes,
        "rate",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, side, side])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString(), float(macs)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    core = ov.Core()
    rows: list[dict[str, Any]] = []
    for side in (64, 256):
        x = np.random.default_rng(0).random((1, 1, side, side), dtype=np.float32)
        for what, size in _KINDS:
            model, macs = make(side, what, size)
            compiled = core.compile_model(core.read_model(model, b""), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
            request = compiled.create_infer_request()
            request.set_input_tensor(0, ov.Tensor(x))
            session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
            runs = {"OpenVINO": request.infer, "onnxruntime": partial(session.run, None, {"x": x})}
            times: dict[str, list[float]] = {name: [] for name in runs}
            for _ in range(_RUNS):
                for name, run in runs.items():
                    start = time.perf_counter()
                    run()
                    times[name].append(time.perf_counter() - start)
            for name, each in times.items():
                seconds = float(np.median(each))
                rows.append({"side": side, "what": what, "size": size, "runtime": name, "microseconds": seconds * 1e6,
                             "gmacs": macs / seconds / 1e9})  # fmt: skip
                rate = macs / seconds / 1e9
                print(f"{side:>4} {what:16}{size or '':>3} {name:12} {seconds * 1e6:9.0f} µs {rate:8.2f} GMAC/s")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
