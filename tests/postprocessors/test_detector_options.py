"""Options of detectors together, all pairs of them, against decoding and suppression written out in NumPy.

The reference starts from the raw output that the same runtime returns, in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import pp_graph as pp
from pp_graph.postprocessors import HEADS
from pp_graph.preprocessing import Placement
from pp_graph.raw_values import open_raw_values
from tests.detectors import CELLS, SIZE, detector, scene
from tests.pairwise import Row, described, pairwise
from tests.postprocessors.test_detection import _cells, corners, logits

F32 = np.float32
MANY = 400
FACTORS: dict[str, Any] = {
    "head": ("yolov8", "yolov5", "yolox", "yolov8-split", "end2end", "detr", "rtdetr"),
    "confidence": (0.25, (0.1, 0.3, 0.5), 0.97),
    "iou": (0.45, 0.0, 1.0),
    "class_aware": (True, False),
    "every_class": (False, True),
    "form": ("own", "pack", "efficient-nms", "model-api", "some", "xywh", "cxcywh"),
    "thresholds": ("fixed", "runtime"),
    "resize": (None, "input", "linear", "letterbox"),
    "runtime": ("onnxruntime", "f32", "bf16", "f16"),
    "candidates": (20, 310, 330, 1000),
    "max_detections": (5, 24, None),
    "loop_free": (False, True),
    "batch": (1, 2, "open"),
}
FORMS: dict[str, dict[str, Any]] = {
    "own": {},
    "pack": {"pack": True},
    "some": {"outputs": ("classes", "boxes", "count")},
    "xywh": {"box_format": "xywh"},
    "cxcywh": {"box_format": "cxcywh"},
    "efficient-nms": {"names": "efficient-nms"},
    "model-api": {"names": "model-api"},
}

ROLES = {"raw_scores": "out0", "raw_boxes": "out1"}
"""Scores of three classes and a background have the shape of boxes."""


def allowed(row: Row) -> bool:
    """Return True for options that fit each other; the others are errors with tests of their own."""
    framed = row["resize"] in ("linear", "letterbox")
    return not (
        (row["resize"] is not None and row["runtime"] == "onnxruntime")
        or (framed and row["form"] in ("model-api", "xywh", "cxcywh"))
        or (row["head"] == "end2end" and (row["every_class"] or isinstance(row["confidence"], tuple)))
        or (row["loop_free"] and row["max_detections"] is None)
    )


def outputs_of(head: str, images: int, seed: int) -> list[np.ndarray]:
    """What a model with this head returns: many candidates around a few objects, some of equal scores."""
    rng = np.random.default_rng(seed)
    count = CELLS if head == "yolox" else MANY
    boxes, scores = scene(rng, images, count, 3)
    first = boxes.transpose(0, 2, 1)
    if head in ("yolov8-split", "detr", "rtdetr"):
        # A sigmoid rounds, so none of its results lies at a confidence. Those of other heads do.
        scores = scores + F32(0.013)
    if head == "yolov8":
        return [np.concatenate([first, scores.transpose(0, 2, 1)], 1)]
    if head == "yolov8-split":
        return [logits(scores).transpose(0, 2, 1), first]
    if head == "end2end":
        kinds = scores.argmax(2)[..., None].astype(F32)
        return [np.concatenate([corners(boxes), scores.max(2, keepdims=True), kinds], 2)]
    if head in ("detr", "rtdetr"):
        rest = [logits(1 - scores.sum(2, keepdims=True) / 4)] if head == "detr" else []
        return [np.concatenate([logits(scores), *rest], 2), boxes / F32(SIZE)]
    objects = rng.integers(1, 3, (images, count, 1)).astype(F32) / 2
    if head == "yolox":
        grid = np.concatenate([_cells(stride, SIZE // stride) for stride in (8, 16, 32)])
        sizes = np.log(boxes[..., 2:] / grid[:, 2:])
        boxes = np.concatenate([boxes[..., :2] / grid[:, 2:] - grid[:, :2], sizes], 2)
    return [np.concatenate([boxes, objects, scores], 2).astype(F32)]


def decoded(head: str, raw: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Corners (N,K,4), scores (N,K,C) and classes (N,K,C) of raw values."""
    arrays = {role: array.astype(np.float64) for role, array in raw.items()}
    if head in ("yolov8-split", "detr", "rtdetr"):
        scores, boxes = arrays["raw_scores"], arrays["raw_boxes"]
        if head == "yolov8-split":
            scores, boxes = scores.transpose(0, 2, 1), boxes.transpose(0, 2, 1)
        if head == "detr":
            powers = np.exp(scores - scores.max(2, keepdims=True))
            scores = (powers / powers.sum(2, keepdims=True))[..., :-1]
        else:
            scores = 1 / (1 + np.exp(-scores))
        boxes = boxes if head == "yolov8-split" else boxes * SIZE
    else:
        rows = arrays["raw_candidates"]
        rows = rows.transpose(0, 2, 1) if head == "yolov8" else rows
        boxes, scores = rows[..., :4], rows[..., 4:]
        if head == "end2end":
            return boxes, scores[..., :1], scores[..., 1:].astype(int)
        if head != "yolov8":
            # The product of two float32 numbers, as float32.
            scores = (scores[..., :1] * scores[..., 1:]).astype(F32).astype(np.float64)
        if head == "yolox":
            grid = np.concatenate([_cells(stride, SIZE // stride) for stride in (8, 16, 32)])
            boxes = np.concatenate([boxes[..., :2] + grid[:, :2], np.exp(boxes[..., 2:])], 2) * grid[:, 2:]
    return corners(boxes), scores, np.broadcast_to(np.arange(scores.shape[2]), scores.shape)


def expected(row: Row, confidence: Any, raw: dict[str, np.ndarray], image: int) -> dict[str, Any]:
    """Plain greedy suppression of one image: boxes, scores and classes, best first."""
    boxes, scores, kinds = (each[image] for each in decoded(row["head"], raw))
    listed = np.where(scores > np.asarray(confidence, F32), scores, -1.0)
    if row["every_class"]:
        # Pairs in the order of the model's output, in which equal scores stay.
        by_class = row["head"] in ("yolov8", "yolov8-split")
        flat = (listed.T if by_class else listed).ravel()
        places = np.arange(flat.size)
        place, kind = (places % len(boxes), places // len(boxes)) if by_class else np.divmod(places, listed.shape[1])
    else:
        flat, place = listed.max(1), np.arange(len(boxes))
        kind = listed.argmax(1)
    passing = int((flat >= 0).sum())
    order = [each for each in np.argsort(-flat, kind="stable") if flat[each] >= 0][: row["candidates"]]
    most = row["max_detections"] or 300
    kept: list[tuple[np.ndarray, float, int]] = []
    for each in order:
        box, number = boxes[place[each]], int(kinds[place[each], kind[each]])
        if HEADS[row["head"]].overlapping and any(
            overlaps(box, other, row["iou"]) and (number == theirs or not row["class_aware"])
            for other, _, theirs in kept
        ):
            continue
        kept.append((box, float(flat[each]), number))
        if len(kept) == most:
            break
    return {
        "boxes": np.array([box for box, _, _ in kept]).reshape(-1, 4),
        "scores": np.array([score for _, score, _ in kept]),
        "classes": np.array([number for _, _, number in kept], int),
        "candidates": passing,
    }


def overlaps(one: np.ndarray, other: np.ndarray, iou: float) -> bool:
    """Return True if the intersection exceeds this share of the union."""
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    shared = np.prod(np.maximum(high - low, 0))
    areas = sum(np.prod(each[2:] - each[:2]) for each in (one, other))
    return bool(shared > F32(iou) * (areas - shared))


def check(row: Row, seed: int) -> None:
    """Fuse, convert and run with these options, and compare."""
    batch = 2 if row["batch"] == "open" else row["batch"]
    arrays = outputs_of(row["head"], batch, seed)
    proto = detector(*(each.shape[1:] for each in arrays), batch="N" if row["batch"] == "open" else batch)
    confidence = row["confidence"]
    names = ("head", "iou", "class_aware", "every_class", "thresholds", "candidates", "max_detections", "loop_free")
    post = pp.DetectionPostProcessor(confidence=confidence, **{name: row[name] for name in names}, **FORMS[row["form"]])
    fused = pp.fuse(proto, post, roles=ROLES if row["head"] == "detr" else None)
    size, framed = (SIZE, SIZE), row["resize"] in ("linear", "letterbox")
    precision = None if row["runtime"] == "onnxruntime" else "bf16" if row["runtime"] == "bf16" else "f32"
    artifact: Any = fused
    preprocessing = None
    if row["runtime"] != "onnxruntime":
        if row["resize"] is not None:
            size = (90, 160)
            preprocessing = pp.Preprocessing(
                input="image",
                scale=(255,),
                resize=row["resize"] if framed else "linear",
                box_coordinates="frame" if framed else "input",
            )
        artifact = pp.convert(fused, preprocessing=preprocessing, precision="f16" if row["runtime"] == "f16" else "f32")
    frame = np.random.default_rng(seed).integers(0, 256, (batch, *size, 3)).astype(np.uint8)
    image = frame if preprocessing is not None else (frame.transpose(0, 3, 1, 2) / F32(255)).astype(F32)
    feeds = {"image": image, **{f"in{place}": each.copy() for place, each in enumerate(arrays)}}
    found_raw = open_raw_values(artifact, inference_precision=precision).run(feeds)
    raw = {role: found_raw[role] for role in artifact.provenance.raw.read}
    session = artifact.session(precision=precision)
    for turn in range(2 if row["thresholds"] == "runtime" else 1):
        wanted, given = row, {}
        if turn:
            wanted = {**row, "iou": 0.3}
            confidence = (0.2, 0.4, 0.15) if isinstance(confidence, tuple) else 0.4
            cutoffs = pp.cutoffs_for(artifact.provenance, confidence=confidence, iou=0.3)
            given = cutoffs if artifact is fused else {}
            if not given:
                session.set_states(cutoffs)
        outputs = artifact.provenance.unpacked(session.run({**feeds, **given}))
        compare(outputs, wanted, confidence, raw, None if not framed else (artifact.provenance.preprocessing, size))


def compare(outputs: Any, row: Row, confidence: Any, raw: dict[str, np.ndarray], frame: Any) -> None:
    """Compare the outputs of all images with those expected."""
    for image in range(len(outputs["boxes"])):
        wanted = expected(row, confidence, raw, image)
        count = len(wanted["classes"])
        assert outputs["count"][image] == count
        assert outputs["classes"][image, :count].tolist() == wanted["classes"].tolist()
        assert (outputs["classes"][image, count:] == -1).all()
        if "candidates" in outputs:
            assert outputs["candidates"][image] == wanted["candidates"]
        boxes = wanted["boxes"]
        if frame is not None:
            preprocessing, size = frame
            boxes = Placement.of(size, (None, None), preprocessing).to_frame(boxes)
        if row["form"] in ("xywh", "cxcywh"):
            sides = boxes[:, 2:] - boxes[:, :2]
            boxes = np.concatenate([boxes[:, :2] if row["form"] == "xywh" else boxes[:, :2] + sides / 2, sides], 1)
        np.testing.assert_allclose(outputs["boxes"][image, :count], boxes, rtol=1e-5, atol=1e-3)
        assert not outputs["boxes"][image, count:].any()
        if "scores" in outputs:
            np.testing.assert_allclose(outputs["scores"][image, :count], wanted["scores"], atol=1e-6)
            assert not outputs["scores"][image, count:].any()


@pytest.mark.sample(every=4)
@pytest.mark.parametrize("row", pairwise(FACTORS, allowed), ids=described)
def test_all_pairs(row: Row) -> None:
    check(row, 1)


@pytest.mark.parametrize(
    "seed",
    [pytest.param(2, marks=pytest.mark.slow), *(pytest.param(seed, marks=pytest.mark.sweep) for seed in range(3, 12))],
)
def test_more_pairs(seed: int) -> None:
    for row in pairwise(FACTORS, allowed, seed):
        check(row, seed)


def test_a_row_of_each_kind_finds_something() -> None:
    found = []
    for head in FACTORS["head"]:
        row = {name: values[0] for name, values in FACTORS.items()} | {"head": head}
        post = pp.DetectionPostProcessor(head=head, candidates=1000)
        arrays = outputs_of(head, 1, 1)
        proto = detector(*(each.shape[1:] for each in arrays))
        program = pp.fuse(proto, post, roles=ROLES if head == "detr" else None).program
        raw = dict(zip(program.signature, arrays, strict=True))
        found.append(len(expected({**row, "candidates": 1000}, 0.25, raw, 0)["classes"]))
    assert min(found) > 3
