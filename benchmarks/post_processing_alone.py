"""The post-processing alone as the map grows: in the graph, in NumPy, in torch, and a plain copy of the same bytes.

    python benchmarks/post_processing_alone.py [--sides 256,512,1024,2048,4096] [--seconds 4] [--json result.json]

"The same bytes" are those of the outputs: the map in float32 and the mask in bytes; copying reads and writes as many.
Everything is interleaved, and a figure is the median of ratios to the copy of the same round. The model returns map and
score; its sizes are fixed, as they are on a device. OpenVINO's CPU plugin computes a mask in bytes and then converts it
to its boolean type in a separate pass, which takes longer than all the rest; a mask of u8 (`--mask-dtype u8`) needs no
such pass. Variants: `map only` and `mask only` compute one output; `adjustable` has cutoffs that can change at run time
(`--thresholds runtime`, u8 mask); `packed` returns one tensor (`--pack`).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
from onnx import TensorProto, helper

import pp_graph as pp
from pp_graph.sessions import OnnxSession

if TYPE_CHECKING:
    from collections.abc import Callable

_STATISTICS = pp.Statistics(
    image=pp.LevelStatistics(threshold=12.0, min=0.0, max=20.0),
    pixel=pp.LevelStatistics(threshold=11.0, min=0.0, max=20.0),
)


def raw_model(side: int) -> Any:
    """A model that computes nothing, so that only the post-processing is left."""
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["heat"]), helper.make_node("Identity", ["level"], ["score"])],
        "raw",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, side, side]),
            helper.make_tensor_value_info("level", TensorProto.FLOAT, [1, 1]),
        ],
        [
            helper.make_tensor_value_info("heat", TensorProto.FLOAT, [1, 1, side, side]),
            helper.make_tensor_value_info("score", TensorProto.FLOAT, [1, 1]),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def in_openvino(side: int, feeds: dict[str, np.ndarray], **form: Any) -> Callable[[], object]:
    """The fused model's post-processing, compiled."""
    post = pp.OneClassPostProcessor(_STATISTICS, **form)
    model = pp.convert(pp.fuse(raw_model(side), post)).model
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"})
    request = compiled.create_infer_request()
    for port in compiled.inputs:
        request.set_tensor(port, ov.Tensor(feeds[next(iter(port.get_names() & set(feeds)))]))
    return request.infer


def candidates(side: int) -> dict[str, Callable[[], object]]:
    """What is timed, by name; the copy first."""
    rng = np.random.default_rng(0)
    feeds = {
        "x": (rng.random((1, 1, side, side), dtype=np.float32) * 20),
        "level": np.full((1, 1), 13, np.float32),
    }
    mask = np.zeros(feeds["x"].shape, bool)
    target, mask_target = np.empty_like(feeds["x"]), np.empty_like(mask)

    def copy() -> None:
        np.copyto(target, feeds["x"])
        np.copyto(mask_target, mask)

    post = pp.OneClassPostProcessor(_STATISTICS)
    session = OnnxSession(pp.fuse(raw_model(side), post).opened)
    found: dict[str, Callable[[], object]] = {
        "copy": copy,
        "OpenVINO": in_openvino(side, feeds),
        "OpenVINO, mask as u8": in_openvino(side, feeds, mask_dtype="u8"),
        "OpenVINO, map only": in_openvino(side, feeds, outputs=("anomaly_map",)),
        "OpenVINO, mask only": in_openvino(side, feeds, outputs=("pred_mask",)),
        "OpenVINO, u8 mask only": in_openvino(side, feeds, outputs=("pred_mask",), mask_dtype="u8"),
        "OpenVINO, adjustable": in_openvino(side, feeds, outputs=("pred_mask",), mask_dtype="u8", thresholds="runtime"),
        "OpenVINO, packed": in_openvino(side, feeds, pack=True),
        "OpenVINO, label only": in_openvino(side, feeds, outputs=("pred_label",)),
        "onnxruntime": lambda: session.run(feeds),
        "NumPy": lambda: post({"pred_score": feeds["level"], "anomaly_map": feeds["x"]}),
    }
    try:
        import torch
    except ImportError:
        return found
    x = torch.from_numpy(feeds["x"])

    def in_torch() -> object:
        normalized = torch.clamp((x - 11.0) / 20.0 + 0.5, 0, 1)
        return normalized, normalized > 0.5

    found["torch"] = in_torch
    return found


def measure(side: int, seconds: float) -> list[dict[str, Any]]:
    """Time everything interleaved on a map of some size."""
    found = candidates(side)
    times: dict[str, list[float]] = {name: [] for name in found}
    rng = np.random.default_rng(0)
    names = list(found)
    start = time.perf_counter()
    while time.perf_counter() - start < seconds or len(times["copy"]) < 12:
        for index in rng.permutation(len(names)):
            run = found[names[index]]
            run()
            begin = time.perf_counter()
            run()
            times[names[index]].append(time.perf_counter() - begin)
    reference = np.array(times["copy"])
    return [
        {
            "side": side,
            "what": name,
            "median_ms": float(np.median(each) * 1e3),
            "ratio_to_copy": float(np.median(np.array(each) / reference)),
        }
        for name, each in times.items()
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", default="256,512,1024,2048,4096")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    for side in (int(part) for part in arguments.sides.split(",")):
        for row in measure(side, arguments.seconds):
            print(f"{side:>5}  {row['what']:22} {row['median_ms']:9.3f} ms  {row['ratio_to_copy']:6.2f} x copy")
            rows.append(row)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
