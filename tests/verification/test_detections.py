"""Detections of two sides are matched by overlap, and what differs is counted by kind."""

from __future__ import annotations

import numpy as np
import pytest

from pp_graph.data import Detections
from pp_graph.verification.detections import DetectionTotals, match_detections

RNG = np.random.default_rng(6)


def detections(count: int) -> Detections:
    """Boxes on a grid, so that none overlaps another."""
    places = RNG.permutation(100)[:count]
    corners = np.stack([places % 10, places // 10], 1) * 40.0 + RNG.uniform(0, 8, (count, 2))
    boxes = np.concatenate([corners, corners + RNG.uniform(12, 30, (count, 2))], 1).astype(np.float32)
    scores = np.sort(RNG.uniform(0.3, 1, count).astype(np.float32))[::-1]
    return Detections(boxes, scores, RNG.integers(0, 3, count).astype(np.int32))


def moved(given: Detections, pixels: float) -> Detections:
    """The same objects, a little displaced and in another order."""
    order = RNG.permutation(len(given))
    shift = RNG.uniform(-pixels, pixels, given.boxes.shape).astype(np.float32)
    return Detections(given.boxes + shift, given.scores, given.classes).chosen(order)


def test_equal_sides() -> None:
    totals = DetectionTotals(0.25)
    for image in range(3):
        totals.add(image, *[detections(20)] * 2)
    totals.add(3, *[detections(0)] * 2)
    report = totals.report()
    assert (report.expected, report.found, report.changes) == (60, 60, ())
    assert (report.box_error, report.score_error) == (0, 0)


def test_pairs_do_not_depend_on_the_order() -> None:
    one = detections(40)
    two = moved(one, 1.0)
    pairs = match_detections(one, two)
    assert len(pairs) == 40
    assert (np.abs(one.boxes[pairs[:, 0]] - two.boxes[pairs[:, 1]]).max(1) <= 1.0).all()
    totals = DetectionTotals(0.25)
    totals.add(0, one, two)
    report = totals.report()
    assert not report.changes
    assert 0.5 < report.box_error <= 1.0
    assert len(report.box_errors) == 40


def test_lost_gained_and_other_classes() -> None:
    one = detections(30)
    kept = np.arange(30) != 4
    two = moved(one.chosen(kept), 0.5)
    other = two.classes.copy()
    other[7] = (other[7] + 1) % 3
    extra = np.array([[900, 900, 920, 930]], np.float32)
    two = Detections(
        np.concatenate([two.boxes, extra]), np.append(two.scores, np.float32(0.4)), np.append(other, np.int32(2))
    )
    totals = DetectionTotals((0.1, 0.2, 0.3))
    totals.add(5, one, two)
    report = totals.report()
    assert [report.count(kind) for kind in ("lost", "gained", "class")] == [1, 1, 1]
    by_kind = {change.kind: change for change in report.changes}
    assert by_kind["gained"].distance == pytest.approx(0.1)
    assert by_kind["gained"].box == (900, 900, 920, 930)
    lost = by_kind["lost"]
    assert lost.score == one.scores[4]
    assert lost.distance == pytest.approx(one.scores[4] - (0.1, 0.2, 0.3)[one.classes[4]])
    assert report.box_error <= 0.5
    listed = report.to_dict([f"{index}.png" for index in range(6)])
    assert (listed["expected"], listed["found"], listed["class"]) == (30, 30, 1)
    assert {change["image"] for change in listed["changes"]} == {"5.png"}
    distances = [change["distance"] for change in listed["changes"]]
    assert distances == sorted(distances, reverse=True)


def test_an_equal_class_comes_before_a_larger_overlap() -> None:
    box = np.array([[0, 0, 10, 10]], np.float32)
    one = Detections(box, np.array([0.9], np.float32), np.array([1]))
    two = Detections(np.concatenate([box, box + 1]), np.array([0.9, 0.8], np.float32), np.array([0, 1]))
    assert match_detections(one, two).tolist() == [[0, 1]]


def test_boxes_without_area() -> None:
    """A box that was clipped to a line is the same on both sides."""
    one = Detections(np.array([[3, 4, 3, 9], [0, 0, 5, 5]], np.float32), np.ones(2, np.float32), np.zeros(2))
    assert match_detections(one, one.chosen([1, 0])).tolist() == [[0, 1], [1, 0]]


def test_truncated_images_are_known() -> None:
    outputs = {
        "boxes": np.zeros((2, 3, 4), np.float32),
        "scores": np.array([[0.9, 0.5, 0], [0.8, 0, 0]], np.float32),
        "classes": np.array([[1, 0, -1], [2, -1, -1]], np.int32),
        "count": np.array([2, 1], np.int32),
        "candidates": np.array([300, 301], np.int32),
    }
    found = [Detections.of_outputs(outputs, image, {"candidates": 300}) for image in range(2)]
    assert [(len(each), each.truncated) for each in found] == [(2, False), (1, True)]
    assert found[0].classes.tolist() == [1, 0]
    assert not Detections.of_outputs(outputs, 1).truncated


@pytest.mark.parametrize(("form", "box"), [("xyxy", [1, 2, 5, 10]), ("xywh", [1, 2, 4, 8]), ("cxcywh", [3, 6, 4, 8])])
def test_boxes_of_any_format_become_corners(form: str, box: list[float]) -> None:
    outputs = {
        "boxes": np.array([[box]], np.float32),
        "scores": np.ones((1, 1)),
        "classes": np.zeros((1, 1)),
        "count": np.ones(1),
    }
    assert Detections.of_outputs(outputs, 0, {"box_format": form}).boxes.tolist() == [[1, 2, 5, 10]]
