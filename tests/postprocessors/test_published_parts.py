"""Ultralytics' heads for key points and masks: what its own post-processing finds, from exports with random weights.

The exports are `detectors/yolov8n-pose.onnx` and so on among the cases, of 320x320 pixels:
`YOLO("yolov8n-pose.yaml").export(format="onnx", imgsz=320)` with weights that are changed at random, so that scores
differ. What Ultralytics does afterwards (8.4, `non_max_suppression`, `process_mask`) is written here as it does it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import pp_graph as pp
from pp_graph.sessions import OnnxSession
from tests.postprocessors.test_published_detectors import F32, FOLDER, pictures, planes, suppressed

IOU = 0.45


def export(name: str) -> onnx.ModelProto:
    file = FOLDER / f"{name}.onnx"
    if not file.exists():
        pytest.skip(f"the export '{name}' is not beside the project ({FOLDER.name}/{file.name} is missing)")
    return onnx.load(file)


def of_model(raw: onnx.ModelProto) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Photographs and what a model returns for them."""
    images = planes(pictures(320, 320)) / 255
    session = OnnxSession(pp.RawModel.open(raw))
    found = [session.run({"images": image}) for image in np.split(images, len(images))]
    return images, {name: np.concatenate([each[name] for each in found]) for name in found[0]}


def confidence_for(scores: np.ndarray, passing: int) -> float:
    """Confidence halfway between two scores that about this many candidates of an image exceed."""
    ordered = np.sort(scores.ravel())[::-1]
    place = passing * len(scores)
    return float((ordered[place].astype(np.float64) + ordered[place + 1]) / 2)


def kept_rows(rows: np.ndarray, classes: int, confidence: float) -> np.ndarray:
    """`non_max_suppression` for one image: rows of cx, cy, w, h, scores and more that are kept, best first."""
    best, kinds = rows[:, 4 : 4 + classes].max(1), rows[:, 4 : 4 + classes].argmax(1)
    rows, kinds, best = (each[best > F32(confidence)] for each in (rows, kinds, best))
    boxes = np.concatenate([rows[:, :2] - rows[:, 2:4] / 2, rows[:, :2] + rows[:, 2:4] / 2], 1)
    kept = suppressed(boxes.astype(np.float64) + 7680.0 * kinds[:, None], best, IOU)
    return np.concatenate([boxes, best[:, None], kinds[:, None], rows[:, 4 + classes :]], 1)[kept]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolov8n-pose", "yolo11n-pose"])
def test_key_points(name: str) -> None:
    raw = export(name)
    images, outputs = of_model(raw)
    classes = outputs["output0"].shape[1] - 4 - 17 * 3
    confidence = confidence_for(outputs["output0"][:, 4 : 4 + classes].max(1), 150)
    fused = pp.fuse(raw, pp.DetectionPostProcessor(confidence=confidence, iou=IOU))
    assert fused.provenance.parameters["head"] == "yolov8-pose"
    session, total = fused.session(), 0
    for output, image in zip(outputs["output0"], np.split(images, len(images)), strict=True):
        found = session.run({"images": image})
        expected = kept_rows(output.T, classes, confidence)
        count = int(found["count"][0])
        total += count
        assert count == len(expected)
        assert np.abs(found["boxes"][0, :count] - expected[:, :4]).max(initial=0) < 1e-3
        assert np.array_equal(found["keypoints"][0, :count].reshape(count, -1), expected[:, 6:])
    assert total > 50
    for precision in ("f32", "bf16"):
        report = pp.verify(
            raw, pp.convert(fused), {"images": images[:2]}, inference_precision=precision, max_label_flips=None
        )
        assert report.postprocessing_exact, report.failures


@pytest.mark.slow
@pytest.mark.parametrize("size", ["prototypes", "input"])
@pytest.mark.parametrize("name", ["yolov8n-seg", "yolo11n-seg"])
def test_masks(name: str, size: Any) -> None:
    raw = export(name)
    images, outputs = of_model(raw)
    classes = outputs["output0"].shape[1] - 4 - 32
    confidence = confidence_for(outputs["output0"][:, 4 : 4 + classes].max(1), 150)
    post = pp.DetectionPostProcessor(confidence=confidence, iou=IOU, mask_size=size, max_detections=40)
    fused = pp.fuse(raw, post)
    assert fused.provenance.parameters["head"] == "yolov8-seg"
    session, total, pixels, flips = fused.session(), 0, 0, 0
    for output, prototypes, image in zip(*outputs.values(), np.split(images, len(images)), strict=True):
        found = session.run({"images": image})
        expected = kept_rows(output.T, classes, confidence)[:40]
        count = int(found["count"][0])
        total += count
        assert count == len(expected)
        masks = process_mask(prototypes, expected[:, 6:], expected[:, :4], upsample=size == "input")
        assert found["masks"][0, :count].shape == masks.shape
        pixels += int(masks.sum())
        flips += int((found["masks"][0, :count] != masks).sum())
    assert total > 50
    # Sums of 32 products are rounded in another order.
    assert flips <= pixels * 1e-4
    assert pixels > 1000
    for precision in ("f32", "bf16"):
        report = pp.verify(
            raw,
            pp.convert(fused),
            {"images": images[:2]},
            inference_precision=precision,
            max_label_flips=None,
            max_pixel_flips=None,
        )
        assert report.postprocessing_exact, report.failures


def process_mask(prototypes: np.ndarray, weights: np.ndarray, boxes: np.ndarray, *, upsample: bool) -> np.ndarray:
    """`process_mask` and `crop_mask` for images of 320x320 pixels."""
    torch = pytest.importorskip("torch", reason="torch, with which Ultralytics resizes masks, is not installed")
    logits = (weights.astype(F32) @ prototypes.reshape(len(prototypes), -1)).reshape(-1, *prototypes.shape[1:])
    if upsample:
        logits = torch.nn.functional.interpolate(torch.tensor(logits)[None], (320, 320), mode="bilinear")[0].numpy()
    x1, y1, x2, y2 = (boxes.astype(F32) * F32(logits.shape[2] / 320)).T[:, :, None]
    rows, columns = (np.arange(size, dtype=F32) for size in logits.shape[1:])
    inside = ((rows >= y1) & (rows < y2))[:, :, None] & ((columns >= x1) & (columns < x2))[:, None]
    return (logits > 0) & inside
