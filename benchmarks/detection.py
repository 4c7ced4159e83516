"""A detector's post-processing: in the graph, in Python with OpenCV, and as a share of a whole model.

    python benchmarks/detection.py [--model detector.onnx] [--size 320] [--seconds 4] [--json result.json]
        [--ultralytics plain.onnx exported_with_nms.onnx --confidence 0.25]

Scenes hold 150 candidates above the confidence among 2,100 of 18 classes and 8,400 of 80, as YOLOv8 returns them: the
last operators of its head, from boxes and logits to an output, are part of each graph. Python is what packages do
after the raw model: a loop over all candidates, as nudenet's, or NumPy, and then OpenCV's NMSBoxes; it gets that
output. With --model, the raw model and the fused one are timed on noise. With --ultralytics, a YOLOv8 is compared with
its export with nms=True, both cut after the logits, and whole. One thread; everything is interleaved, and a ratio is
the median of those of the same rounds. Each time is processor time of a run that follows an untimed one.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx.utils
import onnxruntime as ort
import openvino as ov
from onnx import TensorProto, helper

import pp_graph as pp

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
    """The end of YOLOv8's head: a Sigmoid of the logits, after the boxes."""
    shapes = {"boxes_in": [1, 4, count], "logits_in": [1, classes, count], "output0": [1, 4 + classes, count]}
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    nodes = [
        helper.make_node("Identity", ["boxes_in"], ["inner_boxes"]),
        helper.make_node("Identity", ["logits_in"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["probabilities"]),
        helper.make_node("Concat", ["inner_boxes", "probabilities"], ["output0"], axis=1),
    ]
    graph = helper.make_graph(nodes, "raw", values[:2], values[2:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def in_openvino(model: Any, *feeds: np.ndarray) -> Run:
    """A model in OpenVINO, compiled for one thread."""
    properties = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1}
    compiled = ov.Core().compile_model(model, "CPU", properties)
    request = compiled.create_infer_request()
    for port, feed in zip(compiled.inputs, feeds, strict=True):
        request.set_tensor(port, ov.Tensor(feed))
    run: Run = request.infer
    return run


def in_onnxruntime(model: onnx.ModelProto, *feeds: np.ndarray) -> Run:
    """A model in onnxruntime, with one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    fed = dict(zip((each.name for each in session.get_inputs()), feeds, strict=True))
    return lambda: session.run(None, fed)


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
            run()
            start = time.process_time()
            run()
            times[name].append(1000 * (time.process_time() - start))
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
    parser.add_argument("--ultralytics", type=Path, nargs=2)
    parser.add_argument("--confidence", type=float, default=_CONFIDENCE)
    given = parser.parse_args()
    results = []
    for count, classes, candidates in _CASES:
        x = scene(count, classes)
        post = pp.DetectionPostProcessor(head="yolov8", confidence=_CONFIDENCE, iou=_IOU, candidates=candidates)
        raw = raw_model(count, classes)
        fused, late = pp.fuse(raw, post), pp.fuse(raw, dataclasses.replace(post, activation="none"))
        scores = np.clip(x[:, 4:], 1e-4, 1)
        fed = (x[:, :4].copy(), np.log(scores / (1 - scores)))
        runs = {
            "in the graph, OpenVINO": in_openvino(pp.convert(fused).network, *fed),
            "after the Sigmoid, OpenVINO": in_openvino(pp.convert(late).network, *fed),
            "in the graph, onnxruntime": in_onnxruntime(fused.to_proto(), *fed),
            "after the Sigmoid, onnxruntime": in_onnxruntime(late.to_proto(), *fed),
            "NumPy and NMSBoxes": in_python(x, loop=False),
            "Python loop and NMSBoxes": in_python(x, loop=True),
        }
        results.append(report(f"{count:,} x {classes}, K {candidates}", runs, given.seconds))
    if given.model is not None:
        results.append(whole_model(given.model, given.size, given.seconds))
    if given.ultralytics is not None:
        results += against_ultralytics(*given.ultralytics, given.confidence, given.seconds)
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


def against_ultralytics(plain: Path, exported: Path, confidence: float, seconds: float) -> list[dict[str, Any]]:
    """Time a YOLOv8 with our post-processing and with that of Ultralytics' export: after the logits, and whole."""
    post = pp.DetectionPostProcessor(confidence=confidence, iou=_IOU)
    fused, theirs = pp.fuse(plain, post), onnx.load(exported)
    sizes = [each.dim_value for each in theirs.graph.input[0].type.tensor_type.shape.dim]
    image = np.random.default_rng(0).random(sizes, dtype=np.float32)
    read = [fused.provenance.raw.read[role].name for role in ("raw_boxes", "raw_scores")]
    names = {name.removeprefix("/model"): name for node in theirs.graph.node for name in node.output}
    inner = [names.get(name, name) for name in read]
    probed = ort.InferenceSession(_probed(onnx.load(plain), read), providers=["CPUExecutionProvider"])
    fed = probed.run(read, {probed.get_inputs()[0].name: image})
    inferred = onnx.shape_inference.infer_shapes(theirs)
    tails = [
        _post_processing(fused.to_proto(), read, fed),
        onnx.utils.Extractor(inferred).extract_model(inner, [output.name for output in theirs.graph.output]),
    ]
    ours, other = (ov.Core().read_model(io.BytesIO(model.SerializeToString())) for model in (fused.to_proto(), theirs))
    cut = [ov.Core().read_model(io.BytesIO(tail.SerializeToString())) for tail in tails]
    after = {
        "ours, OpenVINO": in_openvino(cut[0], *fed),
        "nms=True, OpenVINO": in_openvino(cut[1], *fed),
        "ours, onnxruntime": in_onnxruntime(tails[0], *fed),
        "nms=True, onnxruntime": in_onnxruntime(tails[1], *fed),
    }
    whole = {
        "ours, OpenVINO": in_openvino(ours, image),
        "nms=True, OpenVINO": in_openvino(other, image),
        "ours, onnxruntime": in_onnxruntime(fused.to_proto(), image),
        "nms=True, onnxruntime": in_onnxruntime(theirs, image),
    }
    return [
        report(f"{plain.name}, after the logits", after, seconds),
        report(f"{plain.name}, whole", whole, 2 * seconds),
    ]


def _post_processing(model: onnx.ModelProto, tensors: Sequence[str], fed: Sequence[np.ndarray]) -> onnx.ModelProto:
    graph = model.graph
    graph_inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape)
        for name, array in zip(tensors, fed, strict=True)
    ]
    nodes = [node for node in graph.node if node.name.startswith("pp_graph/")]
    weights = [tensor for tensor in graph.initializer if tensor.name.startswith("pp_graph/")]
    cut = helper.make_graph(nodes, "post_processing", graph_inputs, list(graph.output), weights)
    return helper.make_model(cut, opset_imports=model.opset_import, ir_version=model.ir_version)


def _probed(model: onnx.ModelProto, tensors: Sequence[str]) -> bytes:
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors)
    serialised: bytes = model.SerializeToString()
    return serialised


if __name__ == "__main__":
    main()
