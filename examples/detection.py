"""A detector from candidates to named boxes: fuse, convert, verify, retune, time.

Run it with `python examples/detection.py [FOLDER]`. The model finds red and blue squares; yours comes from a file.
The pictures are in FOLDER/predictions.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import pp_graph as pp
from pp_graph.report import write_predictions

SIZE, STRIDES = 64, (8, 16, 32)
NAMES = ("red", "blue")


def raw_model() -> onnx.ModelProto:
    """A small network with the head of YOLOv8: image (N,3,64,64) in [0, 1] -> candidates (N,4+2,84)."""
    weights = {
        # Red or blue, and nothing else.
        "w": np.array([[1, -1, -1], [-1, -1, 1]], np.float32).reshape(2, 3, 1, 1),
        "zero": np.zeros((), np.float32),
        "flat": np.array([0, 2, -1]),
        "first": np.array([0]),
    }
    nodes = [helper.make_node("Conv", ["image", "w"], ["colour"])]
    boxes = []
    for stride in STRIDES:
        pooled, found = f"pooled{stride}", f"scores{stride}"
        pool = {"kernel_shape": [stride, stride], "strides": [stride, stride]}
        nodes.append(helper.make_node("AveragePool", ["colour"], [pooled], **pool))
        nodes.append(helper.make_node("Reshape", [pooled, "flat"], [found]))
        rows, columns = np.mgrid[: SIZE // stride, : SIZE // stride].reshape(2, -1)
        side = np.full(len(rows), stride)
        boxes.append(np.stack([(columns + 0.5) * stride, (rows + 0.5) * stride, side, side]))
    weights["boxes"] = np.concatenate(boxes, 1)[None].astype(np.float32)
    nodes += [
        helper.make_node("Concat", [f"scores{stride}" for stride in STRIDES], ["scores"], axis=2),
        helper.make_node("Gather", ["scores", "first"], ["one"], axis=1),
        helper.make_node("Mul", ["one", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "boxes"], ["placed"]),
        helper.make_node("Concat", ["placed", "scores"], ["output0"], axis=1),
    ]
    count = sum((SIZE // stride) ** 2 for stride in STRIDES)
    graph = helper.make_graph(
        nodes,
        "squares",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, ["N", 4 + len(NAMES), count])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def pictures(count: int = 12) -> np.ndarray:
    """Dark noisy pictures with a red square of 16 pixels and a blue one of 32, (N,3,64,64)."""
    rng = np.random.default_rng(0)
    found = rng.uniform(0, 0.1, (count, 3, SIZE, SIZE))
    for picture in found:
        row, column = 16 * rng.integers(0, 2, 2)
        picture[0, row : row + 16, column : column + 16] = 0.9
        picture[2, 32:64, 32:64] = rng.uniform(0.6, 0.9)
    return found.astype(np.float32)


def main(folder: Path) -> dict[str, Any]:
    """Go through all verbs, and return what they found."""
    raw, model, images = folder / "raw.onnx", folder / "model.xml", pictures()
    onnx.save(raw_model(), raw)

    post = pp.DetectionPostProcessor(labels=NAMES, confidence=0.4, iou=0.2, max_detections=10)
    pp.convert(raw, post=post).save(model, overwrite=True)
    report = pp.verify(raw, model, images)
    print(report.verdict)

    found = pp.load(model)(images)
    for box, score, kind in zip(found.boxes[0], found.scores[0], found.classes[0], strict=True):
        if kind >= 0:
            print(f"{NAMES[kind]} {score:.2f} at {', '.join(f'{number:.0f}' for number in box)}")

    write_predictions(pp.load(model), images[:4], folder / "predictions", overwrite=True)

    retuned = pp.retune(model, confidence=0.7)  # milliseconds, whatever the size of the model
    stricter = pp.load(model)(images)
    timing = pp.benchmark(raw, [model], inference_precisions=["f32"], seconds=0.5)
    return {
        "verified": report.passed,
        "retuned": bool((stricter.count <= found.count).all() and stricter.count.sum() < found.count.sum()),
        "way": retuned.way,
        "counts": found.count.tolist(),
        "classes": found.classes[0].tolist(),
        "milliseconds": {Path(each.name).name: each.median_ms for each in timing.results if "host" not in each.name},
    }


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "detection_example")
    target.mkdir(parents=True, exist_ok=True)
    print(main(target))
