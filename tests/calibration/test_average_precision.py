"""Average precision is that of pycocotools."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest

from pp_graph.calibration.box_matches import COCO_OVERLAPS, average_precision, match_class
from pp_graph.data import Detections, MarkedBoxes

RNG = np.random.default_rng(8)
CLASSES = 4


def random_boxes(count: int) -> np.ndarray:
    corners = RNG.uniform(0, 80, (count, 2))
    return np.concatenate([corners, corners + RNG.uniform(2, 40, (count, 2))], 1)


def scene(crowds: float, whole: bool) -> tuple[Detections, MarkedBoxes]:
    """Ground truth, and detections of which many lie close to it; whole numbers give equal overlaps and scores."""
    count = int(RNG.integers(0, 12))
    boxes, classes = random_boxes(count), RNG.integers(0, CLASSES - 1, count)
    close = np.repeat(np.arange(count), RNG.integers(0, 4, count))
    found = np.concatenate([boxes[close] + RNG.normal(0, 2, (len(close), 4)), random_boxes(int(RNG.integers(0, 30)))])
    found[:, 2:] = np.maximum(found[:, 2:], found[:, :2])
    kinds = RNG.integers(0, CLASSES - 1, len(found))
    kinds[: len(close)] = classes[close]
    scores = RNG.uniform(0, 1, len(found))
    if whole:
        boxes, found, scores = np.round(boxes / 8) * 8, np.round(found / 8) * 8, np.round(scores, 1)
    found = found.astype(np.float32)
    order = np.argsort(-scores, kind="stable")
    return (
        Detections(found[order], scores[order].astype(np.float32), kinds[order]),
        MarkedBoxes(boxes, classes, RNG.uniform(0, 1, count) < crowds),
    )


def coco_averages(found: list[Detections], marked: list[MarkedBoxes]) -> tuple[np.ndarray, float, float]:
    """AP of each class and overlap, AP50-95 and AP50, as pycocotools computes them."""
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    from pycocotools.cocoeval import COCOeval

    def entries(boxes: np.ndarray, **columns: np.ndarray) -> list[dict[str, object]]:
        left, top, right, bottom = boxes.astype(np.float64).T.tolist()
        return [
            {"bbox": [a, b, c - a, d - b], "area": (c - a) * (d - b), **{name: v[i].item() for name, v in columns.items()}}
            for i, (a, b, c, d) in enumerate(zip(left, top, right, bottom, strict=True))
        ]  # fmt: skip

    truth, results = [], []
    for image, (each, boxes) in enumerate(zip(found, marked, strict=True), 1):
        truth += [
            entry | {"image_id": image}
            for entry in entries(boxes.boxes, category_id=boxes.classes + 1, iscrowd=boxes.crowds.astype(int))
        ]
        results += [
            entry | {"image_id": image}
            for entry in entries(each.boxes, category_id=each.classes + 1, score=each.scores.astype(np.float64))
        ]
    for number, entry in enumerate(truth, 1):  # pycocotools takes an id of 0 for no match
        entry["id"] = number
    with contextlib.redirect_stdout(io.StringIO()):
        data = coco.COCO()
        data.dataset = {
            "images": [{"id": image, "width": 128, "height": 128} for image in range(1, len(found) + 1)],
            "categories": [{"id": index, "name": str(index)} for index in range(1, CLASSES + 1)],
            "annotations": truth,
        }
        data.createIndex()
        evaluation = COCOeval(data, data.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, 2]  # overlap, recall, class
    return precision.mean(1), float(evaluation.stats[0]), float(evaluation.stats[1])


@pytest.mark.parametrize(("crowds", "whole"), [(0.0, False), (0.2, False), (0.2, True)])
def test_equals_pycocotools(crowds: float, whole: bool) -> None:
    scenes = [scene(crowds, whole) for _ in range(60)]
    found, marked = [each for each, _ in scenes], [boxes for _, boxes in scenes]
    by_class, mean, mean_at_50 = coco_averages(found, marked)
    ours = average_precision(found, marked, CLASSES)
    assert ours.means == pytest.approx((mean_at_50, mean), abs=1e-9)
    for index in range(CLASSES - 1):
        each = match_class(found, marked, index).average_precision
        assert np.allclose(each, by_class[:, index], atol=1e-9, rtol=0)
    assert 0.05 < mean < mean_at_50 < 0.95
    # The last class has no boxes.
    assert np.isnan(ours.at_50[-1])
    assert (by_class[:, -1] == -1).all()


def test_more_than_100_detections_of_a_class() -> None:
    boxes = random_boxes(150)
    marked = MarkedBoxes(boxes, np.zeros(150, np.int64), np.zeros(150, np.bool_))
    found = Detections(boxes.astype(np.float32), np.linspace(1, 0.1, 150, dtype=np.float32), np.zeros(150, np.int32))
    _, mean, mean_at_50 = coco_averages([found], [marked])
    assert average_precision([found], [marked], 1).means == pytest.approx((mean_at_50, mean), abs=1e-9)
    assert mean_at_50 == pytest.approx(67 / 101)


def test_a_perfect_detector_and_none() -> None:
    scenes = [scene(0.0, whole=False)[1] for _ in range(5)]
    perfect = [Detections(each.boxes, np.ones(len(each)), each.classes) for each in scenes]
    assert average_precision(perfect, scenes, CLASSES).means == pytest.approx((1.0, 1.0))
    nothing = [each.chosen(np.zeros(len(each), bool)) for each in perfect]
    assert average_precision(nothing, scenes, CLASSES).means == (0.0, 0.0)
    assert np.isnan(average_precision([], [], CLASSES).means).all()
    assert len(COCO_OVERLAPS) == 10
