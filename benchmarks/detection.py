"""A detector's post-processing: in the graph, in Python with OpenCV, and as a share of a whole model.

    python benchmarks/detection.py [--model detector.onnx] [--size 320] [--seconds 4] [--json result.json]

Scenes hold 150 candidates above the confidence among 2,100 of 18 classes and 8,400 of 80, as YOLOv8 returns them.
Python is what packages do after the raw model: a loop over all candidates, as nudenet's, or NumPy, and then OpenCV's
NMSBoxes. With --model, the raw model and the fused one are timed on noise. One thread; everything is interleaved, and a
ratio is the median of those of the same rounds.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
import openvino as ov
from onnx import TensorProto, helper

import pp_graph as pp

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx

    Run = Callable[[], object]

_CASES = ((2100, 18, 300), (8400, 80, 300), (8400, 80, 1000))
_CONFIDENCE, _IOU = 0.25, 0.45


def scene(count: int, classes: int) -> np.ndarray:
    """Candidates (1,4+C,K) around 20 objects, 150 of them above the confidence."""
    rng = np.random.default_rng(0)
    centres = rng.uniform(50, 590, (20, 2))[rng.integers(0, 20, count)] + rng.normal(0, 6, (count, 2))
    scores = rng.uniform(0, 0.1, (count, classes))
    scores[rng.permutation(count)[:150], rng.integers(0, classes, 150)] = rng.uniform(0.3, 0.9, 150)
    return np.concatenate([centres, rng.uniform(40, 120, (count, 2)), scores], 1).T[None].astype(np.float32)


def raw_model(count: int, classes: int) -> onnx.ModelProto:
    """A model that computes nothing, so that only the post-processing is left."""
    shape = [1, 4 + classes, count]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "output0")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["output0"])], "raw", values[:1], values[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def in_openvino(model: Any, feed: np.ndarray) -> Run:
    """A model in OpenVINO, compiled for one thread."""
    properties = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1}
    compiled = ov.Core().compile_model(model, "CPU", properties)
    request = compiled.create_infer_request()
    request.set_tensor(compiled.inputs[0], ov.Tensor(feed))
    run: Run = request.infer
    return run


def in_onnxruntime(model: onnx.ModelProto, feed: np.ndarray) -> Run:
    """A model in onnxruntime, with one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: feed})


def in_python(x: np.ndarray, *, loop: bool) -> Run:
    """What packages do: choose in a loop or with NumPy, then OpenCV's NMSBoxes."""
    import cv2

    cv2.setNumThreads(1)

    def suppress(boxes: list[Any], scores: list[Any]) -> object:
        return cv2.dnn.NMSBoxes(boxes, scores, _CONFIDENCE, _IOU)

    def looped() -> object:
        boxes, scores = [], []
        for row in np.transpose(np.squeeze(x)):
            best = np.amax(row[4:])
            if best >= _CONFIDENCE:
                np.argmax(row[4:])
                centre_x, centre_y, width, height = row[:4]
                boxes.append([centre_x - width / 2, centre_y - height / 2, width, height])
                scores.append(best)
        return suppress(boxes, scores)

    def vectorised() -> object:
        best = x[0, 4:].max(0)
        places = np.flatnonzero(best > _CONFIDENCE)
        rows = x[0][:, places]
        rows[4:].argmax(0)
        boxes = np.stack([rows[0] - rows[2] / 2, rows[1] - rows[3] / 2, rows[2], rows[3]], 1)
        return suppress(boxes.tolist(), best[places].tolist())

    return looped if loop else vectorised


def timed(runs: dict[str, Run], seconds: float) -> dict[str, list[float]]:
    """Milliseconds of each round, by name."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(1000 * (time.perf_counter() - start))
    return times


def report(title: str, runs: dict[str, Run], seconds: float) -> dict[str, Any]:
    """Time runs, and print medians, minima, and ratios to the first."""
    times = timed(runs, seconds)
    first = np.array(next(iter(times.values())))
    print(f"\n{title}, {len(first)} rounds")
    found = {}
    for name, each in times.items():
        ratio = float(np.median(np.array(each) / first))
        found[name] = {"median_ms": float(np.median(each)), "min_ms": min(each), "ratio": ratio}
        print(f"  {name:34} {np.median(each):8.2f} ms (least {min(each):.2f}), ratio {ratio:.2f}")
    return {"case": title, "runs": found}


def main() -> None:
    """Time all cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    results = []
    for count, classes, candidates in _CASES:
        x = scene(count, classes)
        post = pp.DetectionPostProcessor(head="yolov8", confidence=_CONFIDENCE, iou=_IOU, candidates=candidates)
        fused = pp.fuse(raw_model(count, classes), post)
        runs = {
            "in the graph, OpenVINO": in_openvino(pp.convert(fused).network, x),
            "in the graph, onnxruntime": in_onnxruntime(fused.to_proto(), x),
            "NumPy and NMSBoxes": in_python(x, loop=False),
            "Python loop and NMSBoxes": in_python(x, loop=True),
        }
        results.append(report(f"{count:,} x {classes}, K {candidates}", runs, given.seconds))
    if given.model is not None:
        results.append(whole_model(given.model, given.size, given.seconds))
    if given.json is not None:
        given.json.write_text(json.dumps(results, indent=2), encoding="utf-8")


def whole_model(file: Path, size: int, seconds: float) -> dict[str, Any]:
    """Time a raw model and the fused one, with one image of a fixed size."""
    raw = pp.RawModel.open(file)
    x = np.random.default_rng(0).random((1, 3, size, size), dtype=np.float32)
    fused = pp.fuse(file, pp.DetectionPostProcessor(confidence=_CONFIDENCE, iou=_IOU))
    plain = ov.Core().read_model(file)
    plain.reshape({plain.inputs[0].get_any_name(): [1, 3, size, size]})
    return report(
        file.name,
        {
            "raw, OpenVINO": in_openvino(plain, x),
            "fused, OpenVINO": in_openvino(pp.convert(fused, input_shape=[1, 3, size, size]).network, x),
            "raw, onnxruntime": in_onnxruntime(raw.to_proto(), x),
            "fused, onnxruntime": in_onnxruntime(fused.to_proto(), x),
        },
        seconds,
    )


if __name__ == "__main__":
    main()
