"""Confidences of a detector's classes, from ground truth."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pp_graph.calibration import ConfidenceGoal, calibrate_boxes
from pp_graph.data import Detections, MarkedBoxes
from pp_graph.errors import CalibrationError, OutputFileError, PostProcessorError
from pp_graph.postprocessors.confidence_file import read_confidence

RNG = np.random.default_rng(11)
NAMES = ("cat", "dog", "cow")


def marks(classes: list[int], crowds: list[bool] | None = None) -> MarkedBoxes:
    """Boxes of 10 pixels in a row, 20 pixels apart."""
    left = 20.0 * np.arange(len(classes))
    boxes = np.stack([left, 0 * left, left + 10, 0 * left + 10], 1)
    return MarkedBoxes(boxes, np.array(classes, np.int64), np.array(crowds or [False] * len(classes), bool))


def found(*entries: tuple[int | None, int, float]) -> Detections:
    """Detections: the place of the box that each lies on (None for elsewhere), its class and its score."""
    left = np.array([500.0 if place is None else 20.0 * place for place, _, _ in entries]).reshape(-1)
    boxes = np.stack([left, 0 * left, left + 10, 0 * left + 10], 1).astype(np.float32)
    scores = np.array([score for *_, score in entries], np.float32)
    order = np.argsort(-scores, kind="stable")
    classes = np.array([kind for _, kind, _ in entries], np.int32)
    return Detections(boxes[order], scores[order], classes[order])


# cat: right at 0.9, 0.8, 0.5; wrong at 0.6, 0.4, 0.3. A fourth cat is never found.
FOUND = [found((0, 0, 0.9), (None, 0, 0.6), (1, 0, 0.5)), found((0, 0, 0.8), (None, 0, 0.4), (None, 0, 0.3))]
MARKED = [marks([0, 0]), marks([0, 0])]


@pytest.mark.parametrize(
    ("goal", "between", "counts"),
    [
        (ConfidenceGoal(), (0.4, 0.5), (3, 1)),
        (ConfidenceGoal(precision=1.0), (0.6, 0.8), (2, 0)),
        (ConfidenceGoal(precision=0.75), (0.4, 0.5), (3, 1)),
        (ConfidenceGoal(recall=0.5), (0.6, 0.8), (2, 0)),
        (ConfidenceGoal(recall=0.75), (0.4, 0.5), (3, 1)),
    ],
)
def test_chooses_by_goal(goal: ConfidenceGoal, between: tuple[float, float], counts: tuple[int, int]) -> None:
    result = calibrate_boxes(FOUND, MARKED, ["cat"], goal=goal)
    (cat,) = result.classes
    assert cat.confidence == pytest.approx(sum(between) / 2)
    assert (cat.right, cat.wrong, cat.marked) == (*counts, 4)
    assert cat.precision == pytest.approx(counts[0] / sum(counts))
    assert cat.recall == pytest.approx(counts[0] / 4)
    assert result.notes == ("classes with fewer than 10 boxes, whose confidence is uncertain: cat",)


def test_the_metrics_are_those_of_the_detections_above_the_confidence() -> None:
    """The best F1 by trying every confidence, on many random scores."""
    scenes, truth = [], []
    for _ in range(80):
        count = int(RNG.integers(0, 6))
        truth.append(marks(RNG.integers(0, 2, count).tolist()))
        places = [place if RNG.random() < 0.7 else None for place in range(count)] + [None] * int(RNG.integers(0, 4))
        kinds = [*truth[-1].classes.tolist(), *RNG.integers(0, 2, len(places) - count).tolist()]
        scores = [round(RNG.beta(3, 2) if place is not None else RNG.beta(2, 3), 2) for place in places]
        scenes.append(found(*zip(places, kinds, scores, strict=True)))
    result = calibrate_boxes(scenes, truth, NAMES[:2])
    for index, each in enumerate(result.classes):
        rates = []
        for confidence in np.linspace(0, 1, 201):
            kept = [scene.chosen((scene.classes == index) & (scene.scores > confidence)) for scene in scenes]
            hits = sum(int((scene.boxes[:, 0] < 500).sum()) for scene in kept)
            rates.append(2 * hits / (sum(map(len, kept)) + each.marked))
        assert each.f1 == pytest.approx(max(rates))
        kept = [
            scene.chosen((scene.classes == index) & (scene.scores > np.float32(each.confidence))) for scene in scenes
        ]
        assert sum(map(len, kept)) == each.right + each.wrong
    total = result.total
    assert (total.right, total.marked) == (sum(c.right for c in result.classes), sum(map(len, truth)))


def test_neighbouring_scores_are_told_apart() -> None:
    low = np.float32(0.5)
    high = np.nextafter(low, np.float32(1))
    scenes = [found((0, 0, high), (None, 0, low))]
    (cat,) = calibrate_boxes(scenes, [marks([0])], ["cat"]).classes
    assert low <= np.float32(cat.confidence) < high
    # Equal scores stay together.
    (cat,) = calibrate_boxes([found((0, 0, 0.5), (None, 0, 0.5))], [marks([0])], ["cat"]).classes
    assert (cat.right, cat.wrong) == (1, 1)


def test_classes_without_boxes_get_the_confidence_of_all() -> None:
    scenes = [found((0, 0, 0.9), (None, 0, 0.2), (None, 1, 0.7)), found((None, 2, 0.3))]
    result = calibrate_boxes(scenes, [marks([0]), marks([1])], NAMES)
    pooled = pytest.approx((0.9 + 0.7) / 2)
    assert result.confidence[1:] == (pooled, pooled)
    assert [each.ap50 for each in result.classes] == [pytest.approx(1), 0.0, None]
    assert result.ap50 == pytest.approx(0.5)
    assert "classes that are never found, which get the confidence of all classes together: dog" in result.notes
    assert "classes without boxes in the ground truth, which get the confidence of all" in str(result.notes)


def test_goals_out_of_reach_take_the_nearest_confidence() -> None:
    scenes = [found((None, 0, 0.9), (0, 0, 0.8), (1, 0, 0.7), (None, 0, 0.6))]
    result = calibrate_boxes(scenes, [marks([0, 0, 0])], ["cat"], goal=ConfidenceGoal(precision=0.9))
    assert result.confidence == (pytest.approx(0.65),)
    assert "class 'cat' does not reach a precision of at least 0.9" in result.notes[0]
    result = calibrate_boxes(scenes, [marks([0, 0, 0])], ["cat"], goal=ConfidenceGoal(recall=1.0))
    assert result.confidence == (pytest.approx(0.65),)


def test_detections_in_crowds_do_not_count() -> None:
    scenes = [found((0, 0, 0.9), (1, 0, 0.8), (1, 0, 0.7), (2, 0, 0.6))]
    (cat,) = calibrate_boxes(scenes, [marks([0, 0, 0], [False, True, False])], ["cat"]).classes
    assert (cat.right, cat.wrong, cat.marked) == (2, 0, 2)


def test_saved_confidences_are_read_by_name(tmp_path: Path) -> None:
    scenes = [found((0, 0, 0.9), (1, 1, 0.4), (None, 1, 0.2))]
    result = calibrate_boxes(scenes, [marks([0, 1])], NAMES[:2], model="raw.onnx")
    file = tmp_path / "confidence.json"
    result.save(file)
    with pytest.raises(OutputFileError, match="exists already"):
        result.save(file)
    assert read_confidence(file) == result.confidence
    assert read_confidence(file, ("dog", "cat")) == result.confidence[::-1]
    record = json.loads(file.read_text())
    assert record["calibration"]["goal"] == "largest F1"
    assert record["calibration"]["classes"][1]["recall"] == 1
    with pytest.raises(PostProcessorError, match=r"has no confidence of class 'cow'.*it has 'cat', 'dog'"):
        read_confidence(file, NAMES)
    file.write_text('{"confidence": {"cat": 0.5, "dog": 0.5}}')
    assert read_confidence(file, NAMES[:2]) == 0.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read: .*Expected JSON that pp-graph calibrate --boxes wrote"),
        ("0.5", "has no object 'confidence' with a number for each class"),
        ('{"image": {}}', "has no object 'confidence' with a number for each class"),
        ('{"confidence": {"cat": "high"}}', "has no object 'confidence' with a number for each class"),
    ],
)
def test_files_that_hold_no_confidences(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(PostProcessorError, match=message):
        read_confidence(tmp_path / "c.json")
    with pytest.raises(PostProcessorError, match="cannot be read: .*No such file"):
        read_confidence(tmp_path / "none.json")


def test_mistakes() -> None:
    with pytest.raises(CalibrationError, match="The ground truth has no boxes in 1 images"):
        calibrate_boxes(FOUND[:1], [marks([])], ["cat"])
    with pytest.raises(CalibrationError, match=r"No detection is right in 1 images.*Check that the ground truth"):
        calibrate_boxes([found((None, 0, 0.9))], [marks([0])], ["cat"])
    with pytest.raises(CalibrationError, match=r"boxes of class 2, and the model has 1 classes.*from 0 to 0"):
        calibrate_boxes([found((0, 0, 0.9))], [marks([0, 2])], ["cat"])
    with pytest.raises(CalibrationError, match="A precision and a recall are given"):
        ConfidenceGoal(0.5, 0.5)
    with pytest.raises(CalibrationError, match="least recall is 0, expected a share above 0"):
        ConfidenceGoal(recall=0)
    with pytest.raises(CalibrationError, match="overlap of a match is 2"):
        calibrate_boxes(FOUND, MARKED, ["cat"], overlap=2)
