"""Pages of detectors and classifiers decide as the models that `retune` writes with the page's own command line."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

import pp_graph as pp
from pp_graph.calibration.box_matches import match_class
from pp_graph.cli import run
from pp_graph.data import Detections, open_ground_truth
from pp_graph.postprocessors import ClassificationPostProcessor, DetectionPostProcessor
from tests.cell_detector import COLORS, CORNERS, cells, painted
from tests.classifiers import classifier, images
from tests.detectors import detector, scene
from tests.exploring.conftest import set_number, settle

FOUND = """(place) => detect(rowsOf[place], settings).map((i) =>
  [...[0, 1, 2, 3, SCORE, CLASS].map((part) => rowsOf[place][part][i])])"""
CLASSES = 3


def options_of(page: Any) -> dict[str, Any]:
    """Read the JSON of the page, and check that its command line says the same."""
    options = json.loads(page.text_content("#json-0"))
    words = shlex.split(page.text_content("#command-0"))
    assert words[:2] == ["pp-graph", "retune"]
    for name, value in options.items():
        given = words[words.index(f"--{name.replace('_', '-')}") + 1]
        assert np.array_equal(np.array(given.split(","), float), np.ravel(value))
    return {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}


def compare_detections(page: Any, found: pp.Predictions) -> int:
    """Compare boxes, scores and classes bit for bit; return their number."""
    for place, count in enumerate(found.count):
        shown = np.array(page.evaluate(FOUND, place), np.float32).reshape(-1, 6)
        expected = (found.boxes[place], found.scores[place][:, None], found.classes[place][:, None])
        assert np.array_equal(shown, np.concatenate(expected, 1)[:count]), place
    return int(found.count.sum())


@pytest.mark.sample(every=7)
@pytest.mark.parametrize("kind", ["fused", "ir"])
@pytest.mark.parametrize(
    "options",
    [
        {"confidence": 0.3},
        {"confidence": (0.3, 0.12, 0.5)},
        {"confidence": (0.3, 0.12, 0.5), "class_aware": False, "every_class": True},
        {"confidence": 0.2, "activation": "sigmoid", "thresholds": "runtime", "max_detections": 12},
        {"confidence": (0.2, 0.25, 0.3), "activation": "sigmoid", "candidates": 30, "pack": True},
    ],
    ids=str,
)
def test_detections_are_those_of_the_retuned_model(open_page, options: dict[str, Any], kind: str) -> None:
    boxes, scores = scene(np.random.default_rng(4), 6, 84, CLASSES)
    if "activation" in options:
        scores = np.log(scores.clip(1e-4) / (1 - scores.clip(1e-4)))
    candidates = np.concatenate([boxes, scores], 2).transpose(0, 2, 1)
    data = {"image": np.zeros((6, 3, 64, 64), np.float32), "in0": np.ascontiguousarray(candidates, np.float32)}
    model: Any = pp.fuse(detector((4 + CLASSES, 84)), DetectionPostProcessor(head="yolov8", **options))
    model = pp.convert(model) if kind == "ir" else model
    page = open_page(pp.explore(model, data))
    compared = compare_detections(page, pp.load(model)(data))
    several = isinstance(options["confidence"], tuple)
    # 0.4 is a score that many candidates have.
    for confidence, iou in ((0.01, 0.9), (0.4, 0.2)):
        set_number(page, "confidence", confidence)
        set_number(page, "iou", iou)
        if several:
            page.evaluate("document.querySelector('#levels details').open = true")
            set_number(page, "confidence-1", 0.55)
        found = pp.load(pp.retune(model, **options_of(page)))(data)
        compared += compare_detections(page, found)
    assert compared > 100


@pytest.fixture
def squares(tmp_path: Path) -> Path:
    """Images with squares, of which the darker ones are not in the ground truth."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(2)
    for image in range(8):
        marked, dark = np.split(rng.permutation(len(CORNERS))[:7], [4])
        shown = {int(cell): (int(rng.integers(0, 3)), float(rng.uniform(0.4, 1))) for cell in marked}
        lines = []
        for cell, (color, _) in shown.items():
            middle, extent = (CORNERS[cell][:2] + CORNERS[cell][2:]) / 2, CORNERS[cell][2:] - CORNERS[cell][:2]
            lines.append(" ".join(map(str, (color, *(middle / [96, 64]), *(extent / [96, 64])))))
        shown |= {int(cell): (int(rng.integers(0, 3)), float(rng.uniform(0.3, 0.6))) for cell in dark}
        painted(shown, (128, 192)).save(folder / f"{image:02}.png")
        (folder / f"{image:02}.txt").write_text("\n".join(lines))
    onnx.save(cells(), tmp_path / "raw.onnx")
    (tmp_path / "names.txt").write_text("\n".join(COLORS))
    return folder


def test_metrics_of_a_detector_follow_its_confidence(open_page, squares: Path) -> None:
    words = ["raw.onnx", "--task", "detection", "--head", "yolov8", "--labels", "names.txt", "-o", "model.xml"]
    assert run(["convert", *words]) == 0
    assert run(["explore", "model.xml", "--data", "images", "--boxes", "images"]) == 0
    page = open_page(pp.explore("model.xml", "images", boxes="images"))
    assert page.text_content("#levels h2") == "Scores"
    truth = open_ground_truth("images", "images", class_names=COLORS)
    for confidence in (0.45, 0.7):
        set_number(page, "confidence", confidence)
        options_of(page)
        assert run([*shlex.split(page.text_content("#command-0"))[1:], "--force"]) == 0
        found = pp.load("tuned.xml")("images")
        assert compare_detections(page, found) == found.count.sum() > 0
        outputs = {name: getattr(found, name) for name in ("boxes", "scores", "classes", "count")}
        outputs["boxes"] = outputs["boxes"] * 2
        detections = [Detections.of_outputs(outputs, place) for place in range(8)]
        for index, name in enumerate(COLORS):
            each = match_class(detections, truth.marked, index, (0.5,))
            right, wrong = int(each.right.sum()), int(each.wrong.sum())
            cells_of = page.locator("#table tr", has_text=name).locator("td").all_text_contents()
            assert cells_of[:3] == [str(right + wrong), str(each.marked - right), str(wrong)]
    page.select_option("#filter", "missed")
    settle(page)
    missed = [place for place in range(8) if page.evaluate("(place) => found[place].missed.length", place)]
    assert page.locator("#gallery li").count() == len(missed) > 0
    page.click("#gallery button >> nth=0")
    assert page.text_content("#viewer-name").endswith(".png")
    page.keyboard.press("Escape")
    page.click("#best")
    page.click("text=Reset settings")
    settle(page)
    assert float(page.input_value("#confidence")) == 0.25


@pytest.mark.sample(every=4)
@pytest.mark.parametrize("kind", ["fused", "ir"])
@pytest.mark.parametrize(
    ("options", "classes"),
    [
        ({"unknown_below": 0.6}, 4),
        ({"unknown_below": 0.8, "temperature": 1.7, "top": 1}, 2),
        ({"unknown_below": 0.6, "multi_label": 0.5, "thresholds": "runtime"}, 4),
        ({"multi_label": (0.3, 0.5, 0.7, 0.9)}, 4),
        ({"unknown_below": 0.9, "on_nan": "normal"}, 4),
    ],
    ids=str,
)
def test_classes_are_those_of_the_retuned_model(open_page, options: dict[str, Any], classes: int, kind: str) -> None:
    given = images(60)
    given[7] = np.nan
    model: Any = pp.fuse(classifier(classes), ClassificationPostProcessor(**options))
    model = pp.convert(model) if kind == "ir" else model
    page = open_page(pp.explore(model, {"image": given, "label": np.arange(60) % classes}))
    # Limits at a probability that an image has, and at its neighbours.
    near = float(page.evaluate("rowsOf[3][0][0]"))
    for limit in (near, float(np.nextafter(np.float32(near), np.float32(1)))):
        if "unknown_below" in options:
            set_number(page, "unknown", limit)
        if "multi_label" in options:
            set_number(page, "multi", float(page.evaluate("rowsOf[5][0][3]")))
        found = pp.load(pp.retune(model, **options_of(page)))(given)
        assert page.evaluate("found.map((each) => each.kind)") == found.pred_class.ravel().tolist()
        if "unknown_below" in options:
            assert page.evaluate("found.map((each) => each.unknown)") == found.unknown.ravel().tolist()
        if "multi_label" in options:
            shown = page.evaluate("found.map((each) => each.labels)")
            assert shown == [np.flatnonzero(row).tolist() for row in found.pred_label]


def test_confusion_matrix_of_folders(open_page, tmp_path: Path) -> None:
    names = ("ant", "bee", "cat")
    rng = np.random.default_rng(3)
    for name in (*names, "other"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(4):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{index}.png")
    model = pp.fuse(classifier(3), ClassificationPostProcessor(labels=names, unknown_below=0.5))
    page = open_page(pp.explore(model, tmp_path / "data"))
    found = pp.load(model)(tmp_path / "data")
    called = np.where(found.unknown.ravel(), -1, found.pred_class.ravel())
    truth = np.repeat([0, 1, 2, -1], 4)
    heads = page.locator("#confusion th[scope=col]").all_text_contents()[1:]
    for index, name in [*enumerate(names), (-1, "unknown")]:
        row = page.locator(f"#confusion tr:has(th[scope=row]:text-is('{name}'))")
        expected = [
            ((truth == index) & (called == (*range(3), -1)[(*names, "unknown").index(head)])).sum() for head in heads
        ]
        assert row.locator("td").all_text_contents() == list(map(str, expected))
    page.select_option("#filter", "wrong")
    settle(page)
    assert page.locator("#gallery li").count() == (called != truth).sum()


def test_a_sample_and_truncated_candidates_are_said(open_page) -> None:
    """More than 4,096 candidates above the model's confidence: the page starts where all are known."""
    rng = np.random.default_rng(5)
    candidates = rng.uniform(0.3, 1, (3, 5, 6000)).astype(np.float32)
    candidates[:, :2] *= 64
    candidates[:, 2:4] *= 5
    data = {"image": np.zeros((3, 3, 64, 64), np.float32), "in0": candidates}
    model = pp.fuse(detector((5, 6000)), DetectionPostProcessor(head="yolov8", confidence=0.3))
    shown = pp.explore(model, data, max_images=2)
    assert any("more than 4,096 candidates" in note for note in shown.notes)
    assert any("2 of 3 images are shown" in note for note in shown.notes)
    page = open_page(shown)
    set_number(page, "confidence", 0.01)
    assert options_of(page)["confidence"] > 0.5
    found = pp.load(pp.retune(model, **options_of(page)))({name: array[[0, 2]] for name, array in data.items()})
    assert compare_detections(page, found) > 100
