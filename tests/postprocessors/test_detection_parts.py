"""Detectors whose outputs alone do not say all: key points, masks, and anchors that are given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import pp_graph as pp
from pp_graph.errors import PostProcessorError
from pp_graph.postprocessors.detection_anchors import read_anchors
from tests.detectors import CELLS, SIZE, detector, greedy, scene
from tests.models import run
from tests.postprocessors.test_detection import F32, IMAGES, case, corners, feeds, model


def exact(proto: onnx.ModelProto, fused: pp.FusedModel, raw: tuple[np.ndarray, ...]) -> None:
    """Check that both runtimes decide as the reference, whatever the precision of the network."""
    for artifact, precision in ((fused, None), (pp.convert(fused), "f32"), (pp.convert(fused), "bf16")):
        report = pp.verify(proto, artifact, feeds(raw), inference_precision=precision)
        assert report.postprocessing_exact, report.failures


def pose(numbers: int) -> tuple[tuple[np.ndarray, ...], np.ndarray, np.ndarray, np.ndarray]:
    """Outputs of a model of three classes and five points, its corners, scores and points."""
    rng = np.random.default_rng(numbers)
    boxes, scores = scene(rng, IMAGES, CELLS, 3)
    points = rng.uniform(0, SIZE, (IMAGES, CELLS, 5, numbers)).astype(F32)
    raw = np.concatenate([boxes, scores, points.reshape(IMAGES, CELLS, -1)], 2).transpose(0, 2, 1).copy()
    return (raw,), corners(boxes), scores, points


@pytest.mark.sample(every=4)
@pytest.mark.parametrize("every_class", [False, True])
@pytest.mark.parametrize("numbers", [2, 3])
def test_key_points_of_yolo(numbers: int, every_class: bool) -> None:
    raw, boxes, scores, points = pose(numbers)
    proto = model(raw)
    metadata = {"task": "pose", "kpt_shape": f"[5, {numbers}]", "names": "{0: 'cat', 1: 'dog', 2: 'ox'}"}
    onnx.helper.set_model_props(proto, metadata)
    fused = pp.fuse(proto, pp.DetectionPostProcessor(confidence=0.3, max_detections=30, every_class=every_class))
    assert fused.provenance.parameters["head"] == "yolov8-pose"
    found = run(fused, feeds(raw))
    assert found["keypoints"].shape == (IMAGES, 30, 5, numbers)
    for image, count in enumerate(found["count"]):
        assert count > 3
        for box, kind, listed in zip(
            *(found[name][image, :count] for name in ("boxes", "classes", "keypoints")), strict=True
        ):
            (place,) = np.flatnonzero(np.abs(boxes[image] - box).max(1) < 1e-4)
            assert scores[image, place, kind] > 0.3
            assert np.array_equal(listed, points[image, place])
        assert not found["keypoints"][image, count:].any()
    if not every_class:
        kept = greedy(boxes[0], scores[0], 0.3, 0.45)
        assert np.array_equal(found["keypoints"][0, : len(kept)], points[0, kept])
    exact(proto, fused, raw)


def shapes() -> tuple[tuple[np.ndarray, ...], np.ndarray, np.ndarray, np.ndarray]:
    """Outputs of a model of three classes and masks, its corners, scores and logits of masks."""
    rng = np.random.default_rng(8)
    boxes, scores = scene(rng, IMAGES, CELLS, 3)
    # Whole numbers, so that no runtime rounds a sum.
    weights, prototypes = rng.integers(-3, 4, (IMAGES, CELLS, 8)), rng.integers(-3, 4, (IMAGES, 8, 16, 16))
    raw = np.concatenate([boxes, scores, weights], 2).transpose(0, 2, 1).astype(F32)
    logits = np.einsum("nkc,nchw->nkhw", weights, prototypes)
    return (raw, prototypes.astype(F32)), corners(boxes), scores, logits


@pytest.mark.sample(every=2)
@pytest.mark.parametrize("form", ["xyxy", "xywh"])
def test_masks_lie_in_their_boxes(form: Any) -> None:
    raw, boxes, scores, logits = shapes()
    proto = model(raw)
    fused = pp.fuse(proto, pp.DetectionPostProcessor(confidence=0.3, max_detections=30, box_format=form))
    assert fused.provenance.parameters["head"] == "yolov8-seg"
    found = run(fused, feeds(raw))
    assert found["masks"].dtype == np.bool_
    columns = np.arange(16)
    for image in range(IMAGES):
        kept = greedy(boxes[image], scores[image], 0.3, 0.45)[:30]
        assert found["count"][image] == len(kept) > 2
        assert not found["masks"][image, len(kept) :].any()
        for mask, place in zip(found["masks"][image], kept, strict=False):
            x1, y1, x2, y2 = boxes[image, place] / 4
            inside = ((columns >= y1) & (columns < y2))[:, None] & (columns >= x1) & (columns < x2)
            assert np.array_equal(mask, (logits[image, place] > 0) & inside)
    exact(proto, fused, raw)


def test_masks_of_the_size_of_the_input() -> None:
    raw, boxes, scores, logits = shapes()
    proto = model(raw)
    fused = pp.fuse(proto, pp.DetectionPostProcessor(confidence=0.3, mask_size="input"))
    found = run(fused, feeds(raw))
    assert found["masks"].shape == (IMAGES, 20, SIZE, SIZE)
    torch = pytest.importorskip("torch", reason="torch, whose interpolation is the reference, is not installed")
    (place,) = greedy(boxes[0], scores[0], 0.3, 0.45)[:1]
    large = torch.nn.functional.interpolate(torch.tensor(logits[:1, [place]]).float(), (SIZE, SIZE), mode="bilinear")
    x1, y1, x2, y2 = boxes[0, place]
    pixels = np.arange(SIZE)
    inside = ((pixels >= y1) & (pixels < y2))[:, None] & (pixels >= x1) & (pixels < x2)
    assert np.array_equal(found["masks"][0, 0], (large[0, 0].numpy() > 0) & inside)
    exact(proto, fused, raw)


def test_fewer_detections_with_masks_by_default() -> None:
    assert [
        pp.DetectionPostProcessor(head=head, mask_size=size).bind(pp.RawModel.open(model(shapes()[0]))).types["boxes"].size("K")
        for head, size in (("yolov8", "prototypes"), ("yolov8-seg", "prototypes"), ("yolov8-seg", "input"))
    ] == [300, 100, 20]  # fmt: skip


@pytest.mark.sample(every=4)
@pytest.mark.parametrize("form", ["xyxy", "cxcywh"])
@pytest.mark.parametrize("head", ["blazeface", "centerface"])
def test_key_points_of_faces(head: str, form: Any) -> None:
    count = 896 if head == "blazeface" else 256
    raw, boxes, scores = case(head, count)
    shares = np.random.default_rng(0).uniform(0, 1, (IMAGES, count, 6 if head == "blazeface" else 5, 2)).astype(F32)
    low, extent = boxes[:, :, None, :2], boxes[:, :, None, 2:] - boxes[:, :, None, :2]
    points = low + extent * shares
    if head == "blazeface":
        centres = (boxes[..., :2] + boxes[..., 2:]) / 2 - np.concatenate([raw[2], raw[3]], 1)[..., :2]
        offsets = (points - centres[:, :, None]).reshape(IMAGES, count, -1)
        raw[2][..., 4:], raw[3][..., 4:] = offsets[:, :512], offsets[:, 512:]
    else:
        side = SIZE // 4
        raw = (*raw, shares[..., ::-1].reshape(IMAGES, count, 10).transpose(0, 2, 1).reshape(IMAGES, 10, side, side))
    proto = model(raw)
    fused = pp.fuse(proto, pp.DetectionPostProcessor(confidence=0.3, max_detections=30, box_format=form))
    assert fused.provenance.parameters["head"] == head
    found = run(fused, feeds(raw))
    for image in range(IMAGES):
        kept = greedy(boxes[image], scores[image], 0.3, 0.45)[:30]
        assert found["count"][image] == len(kept) > 2
        assert np.allclose(found["keypoints"][image, : len(kept)], points[image, kept], atol=1e-3)
        assert not found["keypoints"][image, len(kept) :].any()
    exact(proto, fused, raw)


def test_a_face_detector_without_landmarks_returns_none() -> None:
    raw, _, _ = case("centerface", 256)
    fused = pp.fuse(model(raw), pp.DetectionPostProcessor())
    assert "keypoints" not in fused.output_names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"key_points is missing, expected .* \(kpt_shape\)\. Give key_points=\(17, 3\)"),
        ({"key_points": (5, 4)}, r"key_points is \(5, 4\), expected their number, and 2 or 3 numbers"),
        ({"key_points": (9, 3)}, r"The number of classes of output 'out0', .*, is -20, expected at least one"),
    ],
)
def test_impossible_key_points(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PostProcessorError, match=message):
        pp.fuse(detector((11, CELLS)), pp.DetectionPostProcessor(head="yolov8-pose", **options))


@pytest.mark.sample(every=3)
@pytest.mark.parametrize("background", ["first", "last", "none"])
def test_anchors_that_are_given(background: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    count, kinds = 1200, 2
    boxes, scores = scene(rng, IMAGES, count, kinds)
    anchors = np.concatenate([rng.uniform(0, 1, (count, 2)), rng.uniform(0.05, 0.4, (count, 2))], 1).astype(F32)
    shares = boxes.astype(np.float64) / SIZE
    centres = (shares[..., :2] - anchors[:, :2]) / anchors[:, 2:] / 0.1
    deltas = np.concatenate([centres, np.log(shares[..., 2:] / anchors[:, 2:]) / 0.2], 2).astype(F32)
    probabilities = 0.3 * scores + np.arange(count, dtype=F32)[:, None] / 2**16
    rest = 1 - probabilities.sum(2, keepdims=True)
    sides = {"first": [rest, probabilities], "last": [probabilities, rest], "none": [probabilities, rest]}[background]
    raw = (np.log(np.concatenate(sides, 2)).astype(F32), deltas)
    np.save(tmp_path / "anchors.npy", anchors)
    found_anchors = read_anchors(tmp_path / "anchors.npy")
    post = pp.DetectionPostProcessor(
        confidence=0.12, max_detections=60, background=background, anchors=found_anchors, candidates=1200
    )
    proto = model(raw)
    fused = pp.fuse(proto, post)
    assert fused.provenance.parameters["head"] == "ssd"
    found = run(fused, feeds(raw))
    if background == "none":
        assert (found["classes"] == kinds).any()
        return
    for image in range(IMAGES):
        kept = greedy(corners(boxes[image]), probabilities[image], 0.12, 0.45)[:60]
        assert found["count"][image] == len(kept) > 3
        assert np.allclose(found["boxes"][image, : len(kept)], corners(boxes[image, kept]), atol=1e-3)
        assert np.array_equal(found["classes"][image, : len(kept)], probabilities[image, kept].argmax(1))
    exact(proto, fused, raw)


@pytest.mark.parametrize("place", ["output", "weight"])
@pytest.mark.parametrize("form", ["centres", "corners", "pixels"])
def test_anchors_that_the_model_holds(form: str, place: str) -> None:
    rng = np.random.default_rng(4)
    count = 1200
    centres = rng.uniform(0, 1, (count, 2))
    anchors = np.concatenate([centres, rng.uniform(0.05, 0.4, (count, 2))], 1).astype(F32)
    raw = rng.normal(0, 2, (IMAGES, count, 3)).astype(F32), rng.normal(0, 1, (IMAGES, count, 4)).astype(F32)
    options: dict[str, Any] = {"confidence": 0.9, "max_detections": 60}
    expected = run(pp.fuse(model(raw), pp.DetectionPostProcessor(anchors=anchors, **options)), feeds(raw))
    half = anchors[:, 2:] / 2
    stored = {
        "centres": anchors,
        "corners": np.concatenate([anchors[:, :2] - half, anchors[:, :2] + half], 1),
        "pixels": anchors * SIZE,
    }[form]
    proto = model(raw)
    name = "anchors"
    proto.graph.initializer.append(onnx.numpy_helper.from_array(stored[None].astype(F32), "stored"))
    if place == "output":
        proto.graph.node.append(onnx.helper.make_node("Identity", ["stored"], [name]))
        proto.graph.output.append(onnx.helper.make_tensor_value_info(name, 1, [1, count, 4]))
    fused = pp.fuse(proto, pp.DetectionPostProcessor(**options))
    assert fused.provenance.parameters["head"] == "ssd"
    found = run(fused, feeds(raw))
    assert np.array_equal(found["count"], expected["count"])
    assert expected["count"].all()
    assert np.allclose(found["boxes"], expected["boxes"], atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"anchors are missing, expected those of head 'ssd'(?s:.*)\(--anchors FILE.npy\)"),
        ({"anchors": np.ones((9, 5))}, r"anchors are float64 of shape \(9, 5\), expected centre x"),
        ({"anchors": np.ones((9, 4))}, r"holds 1,200 candidates, expected 9 of head 'ssd'"),
    ],
)
def test_impossible_anchors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PostProcessorError, match=message):
        pp.fuse(detector((1200, 3), (1200, 4)), pp.DetectionPostProcessor(**options))


def test_boxes_alone_when_the_plain_head_is_named() -> None:
    raw, _, _, _ = pose(3)
    proto = model(raw)
    onnx.helper.set_model_props(proto, {"task": "pose", "kpt_shape": "[5, 3]", "names": "{0: 'a', 1: 'b', 2: 'c'}"})
    fused = pp.fuse(proto, pp.DetectionPostProcessor(head="yolov8"))
    assert "keypoints" not in fused.output_names
    assert fused.provenance.parameters["class_count"] == 3
