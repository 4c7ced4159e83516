"""Oriented boxes: the head of YOLOv8-obb, against Ultralytics' fast suppression written out."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import pp_graph as pp
from pp_graph.errors import OutputRoleError, PostProcessorError
from tests.detectors import CELLS, SIZE, scene
from tests.models import run
from tests.postprocessors.test_detection import F32, IMAGES, feeds, model
from tests.postprocessors.test_detection_parts import exact
from tests.postprocessors.test_published_parts import confidence_for, export, of_model


def probabilistic_iou(boxes: np.ndarray) -> np.ndarray:
    """`batch_probiou` of Ultralytics, in float64."""
    x, y, width, height, angle = boxes.astype(np.float64).T
    p, q, cos, sin = width**2 / 12, height**2 / 12, np.cos(angle), np.sin(angle)
    a, b, c = p * cos**2 + q * sin**2, p * sin**2 + q * cos**2, (p - q) * cos * sin
    det = np.maximum(a * b - c**2, 0)
    a, b, c = (each[:, None] + each for each in (a, b, c))
    dx, dy = x[None] - x[:, None], y[:, None] - y[None]
    both = a * b - c**2
    one = (a * dy**2 + b * dx**2) / (both + 1e-7) * 0.25
    two = c * dx * dy / (both + 1e-7) * 0.5
    three = np.log(both / (4 * np.sqrt(det[:, None] * det) + 1e-7) + 1e-7) * 0.5
    distance = np.clip(one + two + three, 1e-7, 100)
    return np.asarray(1 - np.sqrt(1 - np.exp(-distance) + 1e-7))


def regular(boxes: np.ndarray) -> np.ndarray:
    """`regularize_rboxes` of Ultralytics."""
    swap = boxes[:, 4] % np.pi >= np.pi / 2
    sizes = np.where(swap[:, None], boxes[:, 3:1:-1], boxes[:, 2:4])
    return np.concatenate([boxes[:, :2], sizes, boxes[:, 4:] % (np.pi / 2)], 1)


def fast_suppressed(rows: np.ndarray, confidence: float, iou: float) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and classes that `non_max_suppression(rotated=True)` keeps of rows (K,4+C+1), best first."""
    scores = rows[:, 4:-1]
    order = [place for place in np.argsort(-scores.max(1), kind="stable") if scores[place].max() > F32(confidence)]
    boxes, kinds = np.concatenate([rows[order, :4], rows[order, -1:]], 1), scores[order].argmax(1)
    close = np.triu((probabilistic_iou(boxes) >= iou) & (kinds[:, None] == kinds), 1)
    kept = ~close.any(0)
    return regular(boxes[kept]), kinds[kept]


def turned() -> tuple[tuple[np.ndarray, ...], onnx.ModelProto]:
    """Outputs of a model of three classes, and the model."""
    rng = np.random.default_rng(4)
    boxes, scores = scene(rng, IMAGES, CELLS, 3)
    boxes[..., 2] *= 2
    angles = rng.uniform(-np.pi / 4, 3 * np.pi / 4, (IMAGES, CELLS, 1))
    raw = (np.concatenate([boxes, scores, angles], 2).transpose(0, 2, 1).astype(F32),)
    proto = model(raw)
    onnx.helper.set_model_props(proto, {"task": "obb", "names": "{0: 'ship', 1: 'car', 2: 'plane'}"})
    return raw, proto


@pytest.mark.sample(every=3)
@pytest.mark.parametrize("options", [{}, {"class_aware": False}, {"every_class": True}, {"candidates": 20}])
def test_both_runtimes_keep_the_boxes_of_the_reference(options: dict[str, Any]) -> None:
    raw, proto = turned()
    fused = pp.fuse(proto, pp.DetectionPostProcessor(confidence=0.3, max_detections=40, **options))
    assert fused.provenance.parameters["head"] == "yolov8-obb"
    found = run(fused, feeds(raw))
    assert found["boxes"].shape == (IMAGES, 40, 5)
    if not options:
        for image, count in enumerate(found["count"]):
            boxes, kinds = fast_suppressed(raw[0][image].T, 0.3, 0.45)
            assert count == len(boxes) > 3
            assert np.allclose(found["boxes"][image, :count], boxes, atol=1e-4)
            assert np.array_equal(found["classes"][image, :count], kinds)
            assert not found["boxes"][image, count:].any()
    exact(proto, fused, raw)


def test_retuning_changes_the_limit() -> None:
    raw, proto = turned()
    fused = pp.fuse(proto, pp.DetectionPostProcessor(confidence=0.3))
    tuned = pp.retune(fused, iou=0.2, confidence=0.4)
    again = pp.fuse(proto, pp.DetectionPostProcessor(confidence=0.4, iou=0.2))
    found, expected = run(tuned, feeds(raw)), run(again, feeds(raw))
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_options_of_upright_boxes_are_refused() -> None:
    _, proto = turned()
    with pytest.raises(PostProcessorError, match=r"pack is given for head 'yolov8-obb', expected none"):
        pp.fuse(proto, pp.DetectionPostProcessor(pack=True))
    with pytest.raises(OutputRoleError, match=r"head is 'yolov8'.*expected head 'yolov8-obb'"):
        pp.fuse(proto, pp.DetectionPostProcessor(head="yolov8"))


def test_corners_lie_around_the_box() -> None:
    from pp_graph.data import Detections

    outputs = {
        "boxes": np.array([[[SIZE / 2, SIZE / 2, 20, 10, np.pi / 2]]], F32),
        "scores": np.ones((1, 1), F32),
        "classes": np.zeros((1, 1), np.int32),
        "count": np.ones(1, np.int32),
    }
    found = Detections.of_outputs(outputs, 0)
    assert np.allclose(found.boxes, [[27, 22, 37, 42]], atol=1e-4)
    assert np.allclose(found.parts["corners"][0], [[27, 42], [37, 42], [37, 22], [27, 22]], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolov8n-obb", "yolo11n-obb"])
def test_exports_of_ultralytics(name: str) -> None:
    raw = export(name)
    images, outputs = of_model(raw)
    confidence = confidence_for(outputs["output0"][:, 4:-1].max(1), 150)
    fused = pp.fuse(raw, pp.DetectionPostProcessor(confidence=confidence, iou=0.45))
    assert fused.provenance.parameters["head"] == "yolov8-obb"
    session, total = fused.session(), 0
    for output, image in zip(outputs["output0"], np.split(images, len(images)), strict=True):
        found = session.run({"images": image})
        boxes, kinds = fast_suppressed(output.T, confidence, 0.45)
        boxes, kinds = boxes[:300], kinds[:300]
        count = int(found["count"][0])
        total += count
        assert count == len(boxes)
        assert np.array_equal(found["classes"][0, :count], kinds)
        assert np.abs(found["boxes"][0, :count] - boxes).max(initial=0) < 1e-3
    assert total > 30
    for precision in ("f32", "bf16"):
        report = pp.verify(
            raw, pp.convert(fused), {"images": images[:2]}, inference_precision=precision, max_label_flips=None
        )
        assert report.postprocessing_exact, report.failures
