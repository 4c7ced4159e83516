"""Small detectors that suppress overlaps themselves, in the forms in which exporters list their detections."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from tests.models import from_text

F32 = np.float32
SIZE = 64
CELLS = 64
MOST = 40
"""Detections of the forms of fixed size."""
OUTPUTS = {
    "torchvision": "float[D,4] boxes, int64[D] labels, float[D] scores",
    "torchvision-keypoints": "float[D,4] boxes, int64[D] labels, float[D] scores, float[D,5,3] keypoints, "
    "float[D,5] sure",
    "tensorflow": f"float[1,{MOST},4] detection_boxes, float[1,{MOST}] detection_classes, "
    f"float[1,{MOST}] detection_scores, float[1] num_detections",
    "efficient-nms": f"int32[1,1] num_dets, float[1,{MOST},4] det_boxes, float[1,{MOST}] det_scores, "
    f"int32[1,{MOST}] det_classes",
    "rtdetr-deploy": f"int64[1,{MOST}] labels, float[1,{MOST},4] boxes, float[1,{MOST}] scores",
    "mmdeploy": "float[1,D,5] dets, int64[1,D] labels",
    "detection-output": f"float[1,1,{MOST},7] detection_out",
    "yolov7-end2end": "float[D,7] output",
    "yolo-nas-flat": "float[D,7] graph2_flat_predictions",
}
_KEPT = """
    pooled = AveragePool <kernel_shape=[8,8], strides=[8,8]> (image)
    flat = Reshape (pooled, by_class)
    moved = ReduceMean <axes=[1,2], keepdims=1> (flat)
    priors = Add (cells, moved)
    chosen = NonMaxSuppression (priors, flat, most, iou, least)
    pair = Gather <axis=1> (chosen, class_and_cell)
    place = Gather <axis=1> (chosen, two)
    kind = Gather <axis=1> (chosen, one)
    kept_scores = GatherND (plain_scores, pair)
    kept_boxes = Gather <axis=0> (plain_boxes, place)
"""
_BODY = {
    "torchvision": """
    boxes = Identity (kept_boxes)
    labels = Add (kind, one)
    scores = Identity (kept_scores)
""",
    "tensorflow": """
    shares = Mul (kept_boxes, share)
    swapped = Gather <axis=1> (shares, y_first)
    long = Pad (swapped, more_boxes)
    cut = Slice (long, zeros, mosts, zeros)
    detection_boxes = Unsqueeze (cut, zeros)
    class_number = Add (kind, one)
    number = Cast <to=1> (class_number)
    long_classes = Pad (number, more, one_float)
    cut_classes = Slice (long_classes, zeros, mosts, zeros)
    detection_classes = Unsqueeze (cut_classes, zeros)
    long_scores = Pad (kept_scores, more, rest_score)
    cut_scores = Slice (long_scores, zeros, mosts, zeros)
    detection_scores = Unsqueeze (cut_scores, zeros)
    sizes = Shape (kept_scores)
    counted = Min (sizes, mosts)
    num_detections = Cast <to=1> (counted)
""",
    "efficient-nms": """
    long = Pad (kept_boxes, more_boxes)
    cut = Slice (long, zeros, mosts, zeros)
    det_boxes = Unsqueeze (cut, zeros)
    number = Cast <to=6> (kind)
    long_classes = Pad (number, more)
    cut_classes = Slice (long_classes, zeros, mosts, zeros)
    det_classes = Unsqueeze (cut_classes, zeros)
    long_scores = Pad (kept_scores, more, rest_score)
    cut_scores = Slice (long_scores, zeros, mosts, zeros)
    det_scores = Unsqueeze (cut_scores, zeros)
    sizes = Shape (kept_scores)
    counted = Min (sizes, mosts)
    whole = Cast <to=6> (counted)
    num_dets = Unsqueeze (whole, zeros)
""",
    "rtdetr-deploy": """
    long = Pad (kept_boxes, more_boxes)
    cut = Slice (long, zeros, mosts, zeros)
    boxes = Unsqueeze (cut, zeros)
    long_classes = Pad (kind, more)
    cut_classes = Slice (long_classes, zeros, mosts, zeros)
    labels = Unsqueeze (cut_classes, zeros)
    long_scores = Pad (kept_scores, more)
    cut_scores = Slice (long_scores, zeros, mosts, zeros)
    scores = Unsqueeze (cut_scores, zeros)
""",
    "mmdeploy": """
    columns = Unsqueeze (kept_scores, ones)
    rows = Concat <axis=1> (kept_boxes, columns)
    dets = Unsqueeze (rows, zeros)
    labels = Unsqueeze (kind, zeros)
""",
    "detection-output": """
    shares = Mul (kept_boxes, share)
    number = Cast <to=1> (kind)
    classes = Unsqueeze (number, ones)
    columns = Unsqueeze (kept_scores, ones)
    images = Sub (classes, classes)
    rows = Concat <axis=1> (images, classes, columns, shares)
    ended = Concat <axis=0> (rows, end_row)
    long = Pad (ended, more_boxes, rest_score)
    cut = Slice (long, zeros, mosts, zeros)
    detection_out = Unsqueeze (cut, both)
""",
    "yolov7-end2end": """
    number = Cast <to=1> (kind)
    classes = Unsqueeze (number, ones)
    columns = Unsqueeze (kept_scores, ones)
    images = Sub (classes, classes)
    output = Concat <axis=1> (images, kept_boxes, classes, columns)
""",
    "yolo-nas-flat": """
    number = Cast <to=1> (kind)
    classes = Unsqueeze (number, ones)
    columns = Unsqueeze (kept_scores, ones)
    images = Sub (classes, classes)
    graph2_flat_predictions = Concat <axis=1> (images, kept_boxes, columns, classes)
""",
}
_BODY["torchvision-keypoints"] = (
    _BODY["torchvision"]
    + """
    first = Slice (kept_boxes, zeros, twos, ones)
    offset = Unsqueeze (first, ones)
    visible = Pad (offset, more_parts, one_float)
    keypoints = Add (visible, shape_of_five)
    sure = ReduceMax <axes=[2], keepdims=0> (keypoints)
"""
)


def listed_detector(head: str, batch: int | str = 1) -> onnx.ModelProto:
    """Image (1,3,64,64) -> detections, none for a dark image: class scores of 8x8 cells are means of its channels."""
    text = f"""<ir_version: 8, opset_import: ["": 17], producer_name: "tests">
        raw (float[{batch},3,{SIZE},{SIZE}] image) => ({OUTPUTS[head]}) {{{_KEPT}{_BODY[head]}}}"""
    text = text.replace("kept_scores = GatherND (plain_scores, pair)", "plain_scores = Squeeze (flat, zeros)\n"
                        "    kept_scores = GatherND (plain_scores, pair)")  # fmt: skip
    text = text.replace("kept_boxes = Gather", "plain_boxes = Squeeze (priors, zeros)\n    kept_boxes = Gather")
    columns, rows = np.meshgrid(np.arange(8), np.arange(8))
    corner = 8.0 * np.stack([columns, rows], -1).reshape(-1, 2)
    cells = np.concatenate([corner - 3.3, corner + 9.1 + (columns.reshape(-1, 1) % 3)], 1)[None]
    constants = {
        "by_class": np.array([1, 3, CELLS]),
        "cells": cells.astype(F32),
        "most": np.array([MOST]),
        "iou": np.array([0.5], F32),
        "least": np.array([0.1], F32),
        "class_and_cell": np.array([1, 2]),
        "one": np.array(1),
        "two": np.array(2),
        "share": np.full((1, 4), 1 / SIZE, F32),
        "y_first": np.array([1, 0, 3, 2]),
        "more_boxes": np.array([0, 0, MOST, 0]),
        "more_parts": np.array([0, 0, 0, 0, 0, 1]),
        "more": np.array([0, MOST]),
        "zeros": np.array([0]),
        "ones": np.array([1]),
        "twos": np.array([2]),
        "both": np.array([0, 1]),
        "mosts": np.array([MOST]),
        "one_float": np.array(1, F32),
        # What follows the last detection must not count, whatever its score.
        "rest_score": np.array(0.99, F32),
        "end_row": np.array([[-1, 0, 0.9, 0, 0, 1, 1]], F32),
        "shape_of_five": np.arange(15, dtype=F32).reshape(1, 5, 3),
    }
    model = from_text(text)
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in constants.items() if name in used
    )
    return model


def pictures(count: int = 3) -> np.ndarray:
    """Pictures with a few bright cells, (N,3,64,64); the first one is dark. Some scores tie."""
    rng = np.random.default_rng(3)
    cells = np.where(rng.random((count, 3, 8, 8)) < 0.15, rng.integers(2, 16, (count, 3, 8, 8)) / 16, 0.0)
    cells[0] = 0
    return np.repeat(np.repeat(cells, 8, 2), 8, 3).astype(F32)


def plain(head: str, raw: dict[str, np.ndarray], confidence: float, most: int) -> dict[str, np.ndarray]:
    """What the model lists above a confidence, in plain NumPy: by score, then in its order; pixels."""
    if head.startswith("torchvision"):
        boxes, scores, classes = raw["boxes"], raw["scores"], raw["labels"]
    elif head == "tensorflow":
        count = int(raw["num_detections"][0])
        boxes = raw["detection_boxes"][0, :count][:, [1, 0, 3, 2]] * SIZE
        scores, classes = raw["detection_scores"][0, :count], raw["detection_classes"][0, :count]
    elif head == "efficient-nms":
        count = int(raw["num_dets"][0, 0])
        boxes, scores, classes = (raw[f"det_{name}"][0, :count] for name in ("boxes", "scores", "classes"))
    elif head == "rtdetr-deploy":
        boxes, scores, classes = raw["boxes"][0], raw["scores"][0], raw["labels"][0]
    elif head == "mmdeploy":
        boxes, scores, classes = raw["dets"][0, :, :4], raw["dets"][0, :, 4], raw["labels"][0]
    elif head == "detection-output":
        rows = raw["detection_out"][0, 0]
        ends = np.flatnonzero(rows[:, 0] < 0)
        rows = rows[: ends[0]] if len(ends) else rows
        boxes, scores, classes = rows[:, 3:] * SIZE, rows[:, 2], rows[:, 1]
    elif head == "yolo-nas-flat":
        rows = raw["graph2_flat_predictions"]
        boxes, scores, classes = rows[:, 1:5], rows[:, 5], rows[:, 6]
    else:
        rows = raw["output"]
        boxes, scores, classes = rows[:, 1:5], rows[:, 6], rows[:, 5]
    order = [int(place) for place in np.argsort(-scores, kind="stable") if scores[place] > F32(confidence)]
    found = {"boxes": np.zeros((1, most, 4), F32), "scores": np.zeros((1, most), F32)}
    found |= {"classes": np.full((1, most), -1, np.int32), "count": np.array([min(len(order), most)], np.int32)}
    found["candidates"] = np.array([len(order)], np.int32)
    kept = order[:most]
    found["boxes"][0, : len(kept)], found["scores"][0, : len(kept)] = boxes[kept], scores[kept]
    found["classes"][0, : len(kept)] = classes[kept]
    if "keypoints" in raw:
        found["keypoints"] = np.zeros((1, most, *raw["keypoints"].shape[1:]), F32)
        found["keypoints"][0, : len(kept)] = raw["keypoints"][kept]
    return found
