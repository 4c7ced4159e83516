"""Detectors from candidates to boxes: the reference against plain greedy suppression, and artifacts against it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import pp_graph as pp
from pp_graph.errors import OutputRoleError, PostProcessorError
from pp_graph.postprocessors import HEADS, RAW_BOXES, RAW_CANDIDATES, RAW_SCORES
from tests.detector_scenes import COUNTS as SCENE_COUNTS
from tests.detector_scenes import NAMES, SCENES, corners, logits
from tests.detectors import CELLS, SIZE, detector, greedy, scene
from tests.models import identity_model, run

F32 = np.float32
IMAGES = 3
LABELS = ("cat", "dog", "ox")
ANCHORED = {
    "blazeface-joined": ((16, 8), (2, 6), 6),
    "palm": ((24, 12), (2, 6), 7),
    "pose": ((28, 14, 7), (2, 2, 6), 4),
}
"""Cells in a row, anchors in each cell and key points of heads of MediaPipe."""


def _cells(stride: int, side: int, per_cell: int = 1) -> np.ndarray:
    """Column, row and stride of each candidate of a level."""
    columns, rows = np.meshgrid(np.arange(side), np.arange(side))
    return np.repeat(np.stack([columns, rows, np.full_like(rows, stride)], -1).reshape(-1, 3), per_cell, 0)


def _levels(boxes: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, ...]:
    """Scores, then distributions of distances for each stride: all of it at the two nearest distances."""
    found, start = [], 0
    for stride in (8, 16, 32, 64):
        cells = _cells(stride, SIZE // stride)
        centre, part = (cells[:, :2] + 0.5) * stride, slice(start, start + len(cells))
        start += len(cells)
        distances = np.concatenate([centre - boxes[:, part, :2], boxes[:, part, 2:] - centre], 2) / stride
        distances = np.clip(distances, 0.01, 6.99)
        boxes[:, part] = np.concatenate([centre - distances[..., :2] * stride, centre + distances[..., 2:] * stride], 2)
        weights = np.maximum(1 - np.abs(distances[..., None] - np.arange(8)), 1e-9)
        found.append(np.log(weights).reshape(IMAGES, len(cells), 32).astype(F32))
    counts = np.cumsum([len(each[0]) for each in found])[:-1]
    return (*np.split(scores, counts, 1), *found)


def case(head: str, count: int = CELLS) -> tuple[tuple[np.ndarray, ...], np.ndarray, np.ndarray]:
    """What a model with this head returns for a scene, and the scene: corners (N,K,4) and scores (N,K,C)."""
    rng = np.random.default_rng(len(head))
    boxes, scores = scene(rng, IMAGES, count, 2 if head == "detr" else len(LABELS))
    if head in SCENES:
        return SCENES[head](boxes, scores, SIZE)
    ones = np.ones((IMAGES, count, 1), F32)
    if head == "yolov8":
        return (np.concatenate([boxes, scores], 2).transpose(0, 2, 1).copy(),), corners(boxes), scores
    if head == "yolov8-split":
        # A Sigmoid rounds: no two candidates tie.
        scores = scores + np.arange(count, dtype=F32)[:, None] / 65536
        return (logits(scores).transpose(0, 2, 1).copy(), boxes.transpose(0, 2, 1).copy()), corners(boxes), scores
    if head == "yolov5":
        objects = rng.integers(1, 3, ones.shape).astype(F32) / 2
        return (np.concatenate([boxes, objects, scores], 2),), corners(boxes), scores * objects
    if head == "yolox":
        cells = np.concatenate([_cells(stride, SIZE // stride) for stride in (8, 16, 32)])
        stride = cells[:, 2:]
        raw = np.concatenate([boxes[..., :2] / stride - cells[:, :2], np.log(boxes[..., 2:] / stride)], 2)
        return (np.concatenate([raw, ones, scores], 2).astype(F32),), corners(boxes), scores
    if head == "end2end":
        best = np.concatenate([scores.max(2, keepdims=True), scores.argmax(2)[..., None]], 2)
        return (np.concatenate([corners(boxes), best], 2).astype(F32),), corners(boxes), scores
    if head == "picodet":
        clipped = corners(boxes)
        return _levels(clipped, scores), clipped, scores
    if head == "blazeface":
        cells = [_cells(SIZE // 16, 16, 2), _cells(SIZE // 8, 8, 6)]
        centres = np.concatenate([(cell[:, :2] + 0.5) * cell[:, 2:] for cell in cells])
        raw = np.concatenate([boxes[..., :2] - centres, boxes[..., 2:], np.zeros((IMAGES, count, 12))], 2).astype(F32)
        faces = scores[..., :1]
        return (logits(faces[:, :512]), logits(faces[:, 512:]), raw[:, :512], raw[:, 512:]), corners(boxes), faces
    if head in ANCHORED:
        sides, per_cell, points = ANCHORED[head]
        cells = [(_cells(1, side, each)[:, :2] + 0.5) * SIZE / side for side, each in zip(sides, per_cell, strict=True)]
        moved = np.concatenate([boxes[..., :2] - np.concatenate(cells), boxes[..., 2:]], 2)
        raw = np.concatenate([moved, np.zeros((IMAGES, count, 2 * points))], 2).astype(F32)
        return (logits(scores[..., :1]), raw), corners(boxes), scores[..., :1]
    if head == "centernet":
        side = SIZE // 4
        cells = _cells(4, side)
        # No two neighbours are candidates of a class, and every candidate is a peak.
        apart = (cells[:, 0] % 2 == 0) & (cells[:, 1] % 2 == 0)
        scores = np.where(apart[:, None], scores, F32(0.01)) + np.arange(count, dtype=F32)[:, None] / 65536
        maps = (logits(scores), boxes[..., 2:] / 4, boxes[..., :2] / 4 - cells[:, :2])
        raw = [each.transpose(0, 2, 1).reshape(IMAGES, -1, side, side).astype(F32) for each in maps]
        return tuple(raw), corners(boxes), scores
    if head == "centerface":
        side = SIZE // 4
        cells = _cells(4, side)
        swapped = boxes[..., [1, 0, 3, 2]]
        offsets = swapped[..., :2] / 4 - cells[:, [1, 0]] - 0.5
        maps = (scores[..., :1], np.log(swapped[..., 2:] / 4), offsets)
        raw = [each.transpose(0, 2, 1).reshape(IMAGES, -1, side, side).astype(F32) for each in maps]
        return tuple(raw), corners(boxes), scores[..., :1]
    shares = (boxes / SIZE).astype(F32)
    if head == "rtdetr":
        return (logits(scores), shares), corners(boxes), scores
    assert head == "detr"
    # A softmax rounds: no two candidates tie.
    scores = scores + np.arange(count, dtype=F32)[:, None] / 4096
    rest = 1 - 0.3 * scores.sum(2, keepdims=True)
    return (np.log(np.concatenate([0.3 * scores, rest], 2)).astype(F32), shares), corners(boxes), 0.3 * scores


def feeds(raw: tuple[np.ndarray, ...]) -> dict[str, np.ndarray]:
    image = np.random.default_rng(1).normal(0, 1, (IMAGES, 3, SIZE, SIZE)).astype(F32)
    flat = [array.reshape(*array.shape[:2], -1) if array.ndim == 4 else array for array in raw]
    return {"image": image, **{f"in{place}": array for place, array in enumerate(flat)}}


def model(raw: tuple[np.ndarray, ...], **options: Any) -> onnx.ModelProto:
    return detector(*(array.shape[1:] for array in raw), **options)


TOLD_OTHERWISE = ("detr", "rtdetr", "ultraface")
"""Heads that sizes alone do not tell."""
PLAIN_HEADS = [name for name, head in HEADS.items() if head.extends is None and name != "ssd" and not head.order]
"""Those of `test_detection_parts.py` have more options, and those of `test_listed_heads.py` suppress themselves."""
COUNTS = SCENE_COUNTS | {
    "yolov5": 3 * CELLS,
    "end2end": 60,
    "detr": 40,
    "rtdetr": 40,
    "picodet": CELLS + 1,
    "blazeface": 896,
    "blazeface-joined": 896,
    "palm": 2016,
    "pose": 2254,
    "centerface": 256,
    "centernet": 256,
}


@pytest.mark.sample(every=11)
@pytest.mark.parametrize("aware", [True, False])
@pytest.mark.parametrize("head", PLAIN_HEADS)
def test_finds_what_plain_suppression_finds(head: str, aware: bool) -> None:
    raw, boxes, scores = case(head, COUNTS.get(head, CELLS))
    post = pp.DetectionPostProcessor(
        head=head,
        confidence=0.12,
        iou=0.5,
        class_aware=aware,
        max_detections=40,
        labels=LABELS[: scores.shape[2]] if aware else (),
    )
    proto = model(raw, names=NAMES.get(head, ()))
    fused = pp.fuse(proto, post)
    found = run(fused, feeds(raw))
    assert [found[name].shape[1:] for name in ("boxes", "scores", "classes", "count")] == [(40, 4), (40,), (40,), ()]
    for image in range(IMAGES):
        iou = 0.5 if HEADS[head].overlapping else 2.0
        kept = greedy(boxes[image], scores[image], 0.12, iou, aware=aware)
        count = min(len(kept), 40)
        assert count > 3
        assert found["count"][image] == count
        assert found["candidates"][image] == (scores[image].max(1) > F32(0.12)).sum()
        assert np.allclose(found["boxes"][image, :count], boxes[image, kept[:count]], atol=1e-3)
        assert np.allclose(found["scores"][image, :count], scores[image, kept[:count]].max(1), atol=1e-5)
        assert np.array_equal(found["classes"][image, :count], scores[image, kept[:count]].argmax(1))
        assert not found["boxes"][image, count:].any()
        assert (found["classes"][image, count:] == -1).all()
    for precision in ("f32", "bf16"):
        report = pp.verify(proto, pp.convert(fused), feeds(raw), inference_precision=precision)
        assert report.postprocessing_exact, report.failures


@pytest.mark.parametrize("head", [head for head in PLAIN_HEADS if head not in TOLD_OTHERWISE])
def test_tells_the_head_by_axes_and_sizes(head: str) -> None:
    raw, _, _ = case(head, COUNTS.get(head, CELLS))
    program = pp.DetectionPostProcessor().bind(pp.RawModel.open(model(raw, names=NAMES.get(head, ()))))
    assert program.post.parameters()["head"] == head


def test_several_readings_and_none_are_listed() -> None:
    raw, _, _ = case("rtdetr", 40)
    with pytest.raises(OutputRoleError, match=r"(?s)fit 2 heads.*64x64.*\n  detr: .*\n  rtdetr: .*--head NAME"):
        pp.fuse(model(raw), pp.DetectionPostProcessor())
    with pytest.raises(OutputRoleError, match=r"fit no head(?s:.*)yolov8: YOLOv8(?s:.*)--head NAME"):
        pp.fuse(detector((7, 85)), pp.DetectionPostProcessor())


def test_ties_truncation_and_numbers_that_are_none() -> None:
    x = np.zeros((1, 6, 50), F32)
    x[0, :4] = np.stack([np.arange(50) * 20 + 10, np.full(50, 10), np.full(50, 8), np.full(50, 8)])
    x[0, 4:] = 0.5
    x[0, 4, 3], x[0, 5, 3], x[0, 0, 4] = np.nan, 0.9, np.nan
    x[0, 4, 7], x[0, :, 8] = np.nextafter(F32(0.5), F32(1)), np.nan
    post = pp.DetectionPostProcessor(head="yolov8", confidence=0.4, max_detections=8, candidates=10)
    found = post({RAW_CANDIDATES: x})
    # The best first, ties by index; a box with NaN is none, and a NaN is no score.
    assert (found.boxes[0, :, 0] // 20).tolist() == [3, 7, 0, 1, 2, 5, 6, 9]
    assert found.classes[0].tolist() == [1, 0, 0, 0, 0, 0, 0, 0]
    assert found.candidates.tolist() == [49]
    fused = pp.fuse(identity_model({"out": ["N", 6, 50]}), post)
    for name, array in run(fused, {"out_in": x}).items():
        assert np.array_equal(array, found[name]), name
    equal = pp.DetectionPostProcessor(head="yolov8", confidence=0.5, max_detections=8)({RAW_CANDIDATES: x})
    assert equal.count.tolist() == [2]


def test_limits_on_a_sigmoid_are_cutoffs_on_logits() -> None:
    post = pp.DetectionPostProcessor(head="rtdetr", confidence=(0.5, 0.7, 0.9))
    raw, _, _ = case("rtdetr", 40)
    program = post.bind(pp.RawModel.open(model(raw)))
    assert program.comparisons["passing"].source == RAW_SCORES
    boxes = np.full((1, 2, 4), 0.5, F32)
    x = np.array([[[1e-6, 1, 0], [3, 0, np.nextafter(program.comparisons["passing"].cutoffs[2], F32(0))]]], F32)
    found = program.run({RAW_SCORES: x, RAW_BOXES: boxes})
    assert found["classes"][0, :3].tolist() == [0, 1, -1]


@pytest.mark.sample(every=2)
@pytest.mark.parametrize("head", ["yolov8", "yolov5", "rtdetr", "centerface"])
def test_a_box_for_each_class_that_passes(head: str) -> None:
    raw, boxes, scores = case(head, COUNTS.get(head, CELLS))
    post = pp.DetectionPostProcessor(head=head, confidence=0.1, iou=0.5, every_class=True, max_detections=400)
    fused = pp.fuse(model(raw), post)
    found = run(fused, feeds(raw))
    for image in range(IMAGES):
        passing = scores[image] > F32(0.1)
        assert found["candidates"][image] == passing.sum()
        expected = set()
        for kind in range(scores.shape[2]):
            iou = 0.5 if HEADS[head].overlapping else 2.0
            kept = greedy(boxes[image], scores[image][:, [kind]], 0.1, iou)
            expected |= {(kind, *np.round(boxes[image, place], 1)) for place in kept}
        count = found["count"][image]
        listed = zip(found["classes"][image, :count], found["boxes"][image, :count], strict=True)
        assert {kind for kind, *_ in expected} == set(found["classes"][image, :count].tolist())
        assert len(expected) == count == len({(int(kind), *np.round(box, 1)) for kind, box in listed})
    report = pp.verify(model(raw), pp.convert(fused), feeds(raw))
    assert report.postprocessing_exact, report.failures


def test_probabilities_are_not_activated_twice() -> None:
    raw, _, scores = case("rtdetr", 40)
    proto = model((scores, raw[1]))
    node = next(node for node in proto.graph.node if node.output[0] == "out0")
    node.output[0] = "logits"
    proto.graph.node.append(onnx.helper.make_node("Sigmoid", ["logits"], ["out0"]))
    fused = pp.fuse(proto, pp.DetectionPostProcessor(head="rtdetr", confidence=0.1))
    assert fused.provenance.parameters["activation"] == "sigmoid"
    assert fused.provenance.raw.read[RAW_SCORES].name == "logits"
    found = run(fused, feeds(raw))
    assert np.array_equal(found["candidates"], (scores.max(2) > F32(0.1)).sum(1))
    with pytest.raises(PostProcessorError, match="activation is sigmoid, and output 'out0', .* ends in a sigmoid"):
        pp.fuse(proto, pp.DetectionPostProcessor(head="rtdetr", activation="sigmoid"))


def test_an_open_number_of_candidates_may_be_small() -> None:
    raw, _, _ = case("yolov8")
    post = pp.DetectionPostProcessor(head="yolov8", candidates=100, max_detections=20)
    opened = pp.fuse(identity_model({"out": ["N", 7, "K"]}), post)
    fixed = pp.fuse(identity_model({"out": ["N", 7, CELLS]}), post)
    expected = run(fixed, {"out_in": raw[0]})
    assert all(np.array_equal(array, expected[name]) for name, array in run(opened, {"out_in": raw[0]}).items())
    few = run(opened, {"out_in": raw[0][:, :, :5].copy()})
    assert (few["count"] <= 5).all()


@pytest.mark.parametrize("form", ["xywh", "cxcywh"])
def test_forms_of_boxes_and_suppression_without_a_loop(form: Any) -> None:
    (raw,), _, _ = case("yolov8")
    usual = pp.DetectionPostProcessor(head="yolov8", confidence=0.3, max_detections=12)({RAW_CANDIDATES: raw})
    other = pp.DetectionPostProcessor(head="yolov8", confidence=0.3, max_detections=12, box_format=form, loop_free=True)
    fused = pp.fuse(model((raw,)), other)
    found = run(fused, feeds((raw,)))
    assert "Loop" not in {node.op_type for node in fused.to_proto().graph.node}
    low, high = usual.boxes[..., :2], usual.boxes[..., 2:]
    first = low if form == "xywh" else (low + high) / 2
    assert np.allclose(found["boxes"], np.concatenate([first, high - low], -1), atol=1e-5)
    assert np.array_equal(found["scores"], usual.scores)


@pytest.mark.parametrize("candidates", [3, 60])
def test_few_of_many_candidates(candidates: int) -> None:
    (raw,), _, scores = case("yolov8")
    post = pp.DetectionPostProcessor(confidence=(0.1, 0.3, 0.5), candidates=candidates, max_detections=5)
    fused = pp.fuse(model((raw,)), post)
    found = run(fused, feeds((raw,)))
    expected = fused.program.predictions(fused.program.run({RAW_CANDIDATES: raw}))
    assert all(np.array_equal(array, expected[name]) for name, array in found.items())
    passing = (scores > np.array([0.1, 0.3, 0.5], F32)).any(2).sum(1)
    assert np.array_equal(found["candidates"], passing)
    assert (found["count"] <= candidates).all()


def test_a_named_output_is_the_one_that_is_read() -> None:
    (raw,), _, _ = case("yolov8")
    proto = model((raw, raw))
    with pytest.raises(OutputRoleError, match="fit no head"):
        pp.fuse(proto, pp.DetectionPostProcessor())
    fused = pp.fuse(proto, pp.DetectionPostProcessor(), roles={RAW_CANDIDATES: "out1"})
    assert fused.provenance.raw.read[RAW_CANDIDATES].name == "out1"
    assert "out0" in fused.output_names


def test_names_in_a_model_of_ultralytics() -> None:
    (raw,), _, _ = case("yolov8")
    proto = model((raw,))
    onnx.helper.set_model_props(proto, {"names": "{0: 'cat', 1: 'dog', 2: 'ox'}", "task": "detect"})
    fused = pp.fuse(proto, pp.DetectionPostProcessor())
    assert fused.provenance.outputs[2].class_names == LABELS
    onnx.helper.set_model_props(proto, {"names": "{0: 'person'}", "task": "pose"})
    assert pp.fuse(proto, pp.DetectionPostProcessor()).provenance.parameters["class_count"] == 1
    onnx.helper.set_model_props(proto, {"task": "obb"})
    with pytest.raises(OutputRoleError, match="oriented boxes"):
        pp.fuse(proto, pp.DetectionPostProcessor(head="yolov8"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"confidence": 1.5}, r"confidence is 1.5, expected a number from 0 to 1"),
        ({"confidence": ()}, r"confidence is empty, expected a score, or one for each class"),
        ({"iou": -0.1}, r"iou is -0.1, expected a number from 0 to 1"),
        ({"head": "yolo"}, r"head is 'yolo', expected 'auto' or 'yolov8'"),
        ({"candidates": 5000}, r"candidates is 5000, expected a whole number from 1 to 4096"),
        ({"loop_free": True}, r"max_detections is 300 with loop_free, expected at most 100"),
        ({"box_format": "yxyx"}, r"box_format is 'yxyx', expected 'xyxy' or"),
        ({"labels": ("cat",)}, r"There are 1 labels, and output 'out0', .*, has 3 classes as head 'yolov8'"),
        ({"confidence": (0.5, 0.6)}, r"There are 2 confidences, and output 'out0', .*, has 3 classes"),
        ({"every_class": 1}, r"every_class is 1, expected True or False"),
        ({"head": "yolov5"}, r"(?s)head is 'yolov5', .* and the outputs.*fit only.*yolov8"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises((PostProcessorError, OutputRoleError), match=message):
        pp.fuse(detector((7, CELLS)), pp.DetectionPostProcessor(**options))


def test_a_grid_needs_as_many_candidates_as_cells() -> None:
    with pytest.raises(
        PostProcessorError, match=r"holds 90 candidates, expected 84 of head 'yolox' for images of 64x64"
    ):
        pp.fuse(detector((90, 7)), pp.DetectionPostProcessor(head="yolox"))


def test_a_program_without_a_model_needs_the_head() -> None:
    with pytest.raises(
        PostProcessorError, match=r"head is 'auto' without a model to tell it from, expected one of: yolov8"
    ):
        pp.DetectionPostProcessor()({RAW_CANDIDATES: np.zeros((1, 6, 9), F32)})
