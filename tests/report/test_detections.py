"""Detections of images: tables, COCO JSON, and boxes drawn where the objects are."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

import pp_graph as pp
from pp_graph.cli import run
from pp_graph.data import Detections, open_ground_truth
from pp_graph.errors import DataError
from pp_graph.report import write_predictions
from pp_graph.report.detections import draw_detections
from tests.cell_detector import CORNERS, LISTED, cells, painted, save_scenes

NAMES = ("red", "green", "hot blue")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that lists its detections, as it is and with letterboxed frames."""
    folder = tmp_path_factory.mktemp("detector")
    (folder / "listed.yaml").write_text(LISTED.replace("person, car, dog", ", ".join(NAMES)))
    fused = pp.fuse(cells("listed"), pp.RecipePostProcessor.load(folder / "listed.yaml"))
    pp.convert(fused).save(folder / "model.xml")
    frames = pp.Preprocessing(scale=(255,), resize="letterbox")
    pp.convert(fused, preprocessing=frames).save(folder / "camera.xml")
    return folder


def expected_boxes(scene: dict[int, tuple[int, float]], scale: float) -> dict[tuple[float, ...], int]:
    return {tuple((CORNERS[cell] * scale).tolist()): color for cell, (color, _) in scene.items()}


@pytest.mark.parametrize("name", ["model.xml", "camera.xml"])
def test_boxes_lie_on_the_objects_of_the_image(
    name: str, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenes = save_scenes(tmp_path / "images")
    out = tmp_path / "out"
    assert run(["run", str(models / name), str(tmp_path / "images"), "-o", str(out), "--coco"]) == 0
    shown = capsys.readouterr().out
    total = sum(map(len, scenes))
    assert f"12 images, {total} detections" in shown
    assert "hot blue" in shown
    assert "anomalous" not in shown
    with (out / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == total
    listed = json.loads((out / "predictions.json").read_text())
    assert (listed["detections"], listed["truncated_images"]) == (total, 0)
    for index, (scene, entry) in enumerate(zip(scenes, listed["predictions"], strict=True)):
        found = {tuple(each["box"]): each["class"] for each in entry["detections"]}
        assert found == expected_boxes(scene, 2.0)
        assert entry["count"] == len(scene)
        own = [row for row in rows if row["image"] == f"{index:02}.png"]
        assert {tuple(float(row[edge]) for edge in ("x1", "y1", "x2", "y2")): int(row["class"]) for row in own} == found
        assert [row["class_name"] for row in own] == [NAMES[int(row["class"])] for row in own]
        scores = [float(row["score"]) for row in own]
        assert scores == sorted(scores, reverse=True)
        assert (out / entry["overlay"]).exists()
    # COCO JSON is read back as ground truth.
    truth = open_ground_truth(out / "predictions.coco.json", tmp_path / "images", class_names=NAMES)
    assert [len(each) for each in truth.marked] == list(map(len, scenes))
    assert set(map(tuple, truth.marked[3].boxes.tolist())) == set(expected_boxes(scenes[3], 2.0))


def test_letterboxed_frames_of_any_shape(models: Path, tmp_path: Path) -> None:
    """A square image: the model sees it in the middle of a wide input."""
    scene = {cell: (cell % 3, 0.9) for cell in (1, 8, 16, 21)}
    whole = np.asarray(painted(scene))[:, 16:80]  # what lies in the middle of the input
    Image.fromarray(whole).resize((640, 640), Image.Resampling.NEAREST).save(tmp_path / "square.png")
    written = write_predictions(pp.load(models / "camera.xml"), tmp_path / "square.png", tmp_path / "out")
    (row,) = written.predictions
    # The gray beside the image is brighter than what the model takes for a square.
    found = {tuple(each["box"]): each["class"] for each in row.further["detections"] if each["score"] > 0.5}
    shifted = {
        tuple(float(edge) for edge in (CORNERS[cell] - [16, 0, 16, 0]) * 10): color
        for cell, (color, _) in scene.items()
    }
    assert found == shifted
    drawn = np.asarray(Image.open(tmp_path / "out" / "overlays" / "square.jpg"))
    assert drawn.shape == (640, 640, 3)


def test_arrays(models: Path, tmp_path: Path) -> None:
    scene = {5: (2, 0.8)}
    written = write_predictions(pp.load(models / "model.xml"), np.asarray(painted(scene))[None], tmp_path / "out")
    (row,) = written.predictions
    assert [each["box"] for each in row.further["detections"]] == [CORNERS[5].tolist()]
    assert [each["class_name"] for each in row.further["detections"]] == ["hot blue"]


def test_image_files_are_letterboxed_on_request(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = {cell: (cell % 3, 0.9) for cell in (1, 8, 16, 21)}
    whole = np.asarray(painted(scene))[:, 16:80]
    (tmp_path / "images").mkdir()
    Image.fromarray(whole).resize((640, 640), Image.Resampling.NEAREST).save(tmp_path / "images" / "square.png")
    arguments = [str(tmp_path / "images"), "-o", str(tmp_path / "out"), "--letterbox"]
    assert run(["run", str(models / "model.xml"), *arguments, "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)["predictions"]
    found = {tuple(each["box"]): each["class"] for each in entry["detections"] if each["score"] > 0.5}
    assert found == {
        tuple(float(edge) for edge in (CORNERS[cell] - [16, 0, 16, 0]) * 10): color
        for cell, (color, _) in scene.items()
    }
    assert run(["run", str(models / "camera.xml"), *arguments, "--force"]) == 2
    assert "takes any size, expected a fixed one. Leave out --letterbox" in " ".join(capsys.readouterr().err.split())
    np.savez(tmp_path / "a.npz", image=whole[None])
    assert run(["run", str(models / "model.xml"), str(tmp_path / "a.npz"), *arguments[1:], "--force"]) == 2
    assert "are to be letterboxed, expected image files" in " ".join(capsys.readouterr().err.split())


def test_frames_in_memory(models: Path, tmp_path: Path) -> None:
    frames = np.asarray(painted({9: (1, 0.9)}, (320, 480)))[None]
    (row,) = write_predictions(pp.load(models / "camera.xml"), frames, tmp_path / "out").predictions
    assert [each["box"] for each in row.further["detections"]] == [(CORNERS[9] * 5).tolist()]


def test_a_second_run_removes_the_files_of_the_first(models: Path, tmp_path: Path) -> None:
    save_scenes(tmp_path / "images", 4)
    arguments = ["run", str(models / "model.xml"), str(tmp_path / "images"), "-o", str(tmp_path / "out")]
    assert run([*arguments, "--coco", "--format", "csv"]) == 0
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "overlays", "predictions.coco.json", "predictions.csv",
    ]  # fmt: skip
    assert run([*arguments, "--force", "--format", "json", "--save", "none"]) == 0
    assert [file.name for file in (tmp_path / "out").iterdir() if file.is_file()] == ["predictions.json"]


def test_boxes_are_drawn_with_class_and_score() -> None:
    gray = Image.new("RGB", (400, 300), (90, 90, 90))
    boxes = np.array([[100, 80, 200, 200], [0, 0, 60, 40], [390, 290, 400, 300]], np.float32)
    found = Detections(boxes, np.array([0.9, 0.8, 0.5], np.float32), np.array([0, 1, 7]))
    drawn = np.asarray(draw_detections(gray, found, ("cat", "dog")))
    assert drawn.shape == (300, 400, 3)
    changed = (drawn != 90).any(-1)
    # The outline, and nothing inside the box.
    assert changed[140, 100]
    assert changed[199, 150]
    assert changed[140, 199]
    assert not changed[110:190, 105:195].any()
    # The label is above the box, or in it at the edge of the picture.
    assert changed[66:80, 101:150].any()
    assert changed[0:14, 0:40].all(-1).any()
    assert np.array_equal(np.asarray(gray), np.full((300, 400, 3), 90))
    none = draw_detections(gray, found.chosen(np.zeros(3, bool)), ())
    assert np.array_equal(np.asarray(none), np.asarray(gray))


def test_truncated_candidates_are_a_warning(tmp_path: Path) -> None:
    from pp_graph.report.prediction_folder import _truncations

    (warning,) = _truncations({"truncated_images": 2, "images": 5})
    assert "2 of 5 images have more candidates" in warning
    assert not _truncations({"images": 5})


def test_coco_of_other_models(tmp_path: Path, demo_ir_path: Path, demo_images: Any) -> None:
    with pytest.raises(DataError, match=r"COCO JSON lists boxes, and the model returns .*pred_mask.*Leave out --coco"):
        write_predictions(pp.load(demo_ir_path), demo_images[:1], tmp_path / "out", formats=("coco",))
    assert onnx.checker.check_model(cells()) is None


def test_labels_do_not_cover_each_other() -> None:
    from pp_graph.report.label_places import free_place

    taken: list[tuple[float, float, float, float]] = []
    for left in (20, 24, 28, 32):
        place = free_place((left, 30, left + 60, 70), (50, 12), (120, 100), taken)
        assert all(place[2] <= each[0] or each[2] <= place[0] or place[3] <= each[1] or each[3] <= place[1]
                   for each in taken)  # fmt: skip
        assert 0 <= place[0] <= 120 - 50
        assert 0 <= place[1] <= 100 - 12
        taken.append(place)
