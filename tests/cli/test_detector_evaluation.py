"""A detector is calibrated on ground truth, compared with its raw model, and run: boxes in pixels of the images."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest

import pp_graph as pp
from pp_graph.calibration import ConfidenceGoal, calibrate_detector
from pp_graph.cli import run
from pp_graph.data import open_images
from pp_graph.errors import CalibrationError, DataError
from pp_graph.postprocessors.confidence_file import read_confidence
from pp_graph.precision.decisions import Judge
from pp_graph.preprocessing import Placement
from tests.cell_detector import COLORS, CORNERS, LISTED, cells, painted

FUSED = ["--task", "detection", "--head", "yolov8", "--labels", "names.txt", "--max-detections", "20"]
SIZE = (128, 192)
"""Height and width of the images: twice those of the model's input."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images with squares, of which the darker ones are not objects; ground truth as YOLO's texts and COCO JSON."""
    folder = tmp_path_factory.mktemp("cells")
    (folder / "images").mkdir()
    rng = np.random.default_rng(2)
    content: dict[str, list] = {"images": [], "annotations": []}
    content["categories"] = [{"id": 10 - index, "name": color} for index, color in enumerate(COLORS)]
    for image in range(16):
        marked, dark = np.split(rng.permutation(len(CORNERS))[:7], [4])
        scene = {int(cell): (int(rng.integers(0, 3)), float(rng.uniform(0.61, 1))) for cell in marked}
        lines = []
        for cell, (color, _) in scene.items():
            box = CORNERS[cell]
            middle, extent = (box[:2] + box[2:]) / 2 / [96, 64], (box[2:] - box[:2]) / [96, 64]
            lines.append(" ".join(map(str, (color, *middle, *extent))))
            left, top, right, bottom = (2 * box).tolist()
            content["annotations"].append({
                "id": len(content["annotations"]) + 1, "image_id": image, "category_id": 10 - color,
                "bbox": [left, top, right - left, bottom - top],
            })  # fmt: skip
        scene |= {int(cell): (int(rng.integers(0, 3)), float(rng.uniform(0.3, 0.49))) for cell in dark}
        painted(scene, SIZE).save(folder / "images" / f"{image:02}.png")
        (folder / "images" / f"{image:02}.txt").write_text("\n".join(lines))
        content["images"].append({"id": image, "file_name": f"{image:02}.png", "width": SIZE[1], "height": SIZE[0]})
    (folder / "coco.json").write_text(json.dumps(content))
    (folder / "names.txt").write_text("\n".join(COLORS))
    onnx.save(cells(), folder / "raw.onnx")
    return folder


@pytest.fixture
def folder(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("images", "coco.json", "names.txt", "raw.onnx"):
        (tmp_path / name).symlink_to(data / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.sample(every=2)
@pytest.mark.parametrize("boxes", ["images", "coco.json"])
def test_calibrated_confidences_tell_objects_from_others(
    boxes: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["convert", "raw.onnx", *FUSED, "--confidence", "0.9", "-o", "model.xml"]) == 0
    verb = ["calibrate", "model.xml", "--data", "images", "--boxes", boxes, "-o", "confidence.json"]
    assert run([*verb, "--retune", "tuned.xml"]) == 0
    shown = capsys.readouterr()
    assert re.search(r"Calibrated on 16 images with 64 boxes", shown.out)
    assert re.search(r"AP50-95\s+1\.0000", shown.out)
    confidence = read_confidence("confidence.json", COLORS)
    assert len(confidence) == 3
    assert all(0.49 < each < 0.61 for each in confidence)
    record = json.loads(Path("confidence.json").read_text())["calibration"]
    assert sum(each["marked"] for each in record["classes"]) == 64
    assert record["model"] == "model.xml"
    assert all(each["f1"] == each["recall"] == 1 for each in record["classes"])
    # The retuned model keeps the marked squares only, and so does one that is made with the file.
    assert run(["fuse", "raw.onnx", *FUSED, "--confidence", "confidence.json", "-o", "fused.onnx"]) == 0
    for name in ("tuned.xml", "fused.onnx"):
        assert pp.load(name)("images").count.tolist() == [4] * 16
    assert run(["retune", "model.xml", "--confidence", "confidence.json"]) == 0
    assert pp.open("model.xml").provenance.parameters["confidence"] == list(confidence)


def test_every_way_of_running_gives_the_same(folder: Path) -> None:
    post = pp.DetectionPostProcessor(head="yolov8", labels=COLORS)
    expected = calibrate_detector("raw.onnx", "images", "coco.json", post=post)
    fused = pp.fuse("raw.onnx", post)
    camera = pp.convert(fused, preprocessing=pp.Preprocessing(scale=(255,), resize="letterbox"))
    frames = pp.Preprocessing(scale=(255,), resize="letterbox", box_coordinates="frame")
    placed = pp.convert(fused, preprocessing=frames)
    turned = pp.convert(pp.fuse("raw.onnx", pp.DetectionPostProcessor(head="yolov8", box_format="cxcywh")))
    for model, device in (
        (fused, None),
        (fused, "CPU"),
        (pp.convert(fused), None),
        (camera, None),
        (placed, None),
        (turned, None),
    ):
        found = calibrate_detector(model, "images", "images", device=device)
        assert found.ap50_95 == pytest.approx(1.0)
        # Images are shrunk with antialiasing, frames without it.
        tolerance = 0.03 if model in (camera, placed) else 1e-5
        assert found.confidence == pytest.approx(expected.confidence, abs=tolerance)
    assert expected.goal == ConfidenceGoal()
    assert "suppress each other" not in str(expected.notes)
    every = pp.DetectionPostProcessor(head="yolov8", labels=COLORS, every_class=True)
    assert calibrate_detector("raw.onnx", "images", "images", post=every).confidence == expected.confidence
    agnostic = pp.DetectionPostProcessor(head="yolov8", labels=COLORS, class_aware=False)
    found = calibrate_detector("raw.onnx", "images", "images", post=agnostic)
    assert found.confidence == expected.confidence
    assert "boxes of different classes suppress each other in this model" in found.notes[-1]


def test_models_that_return_one_class_a_box_get_one_confidence(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(cells("end2end"), folder / "listed.onnx")
    assert run(["fuse", "listed.onnx", *FUSED[:2], "--head", "end2end", *FUSED[4:], "-o", "fused.onnx"]) == 0
    verb = ["calibrate", "fused.onnx", "--data", "images", "--boxes", "coco.json", "-o", "confidence.json"]
    assert run([*verb, "--retune", "tuned.onnx"]) == 0
    assert isinstance(read_confidence("confidence.json", COLORS), float)
    assert pp.load("tuned.onnx")("images").count.tolist() == [4] * 16


@pytest.mark.sample(every=2)
@pytest.mark.parametrize("form", ["yolov8", "end2end"])
def test_models_without_labels(form: str, folder: Path) -> None:
    fused = pp.fuse(cells(form), pp.DetectionPostProcessor(head=form))
    content = json.loads(Path("coco.json").read_text())
    # The ids of the categories are in the reverse order of the model's classes.
    for entry in (*content["categories"], *content["annotations"]):
        key = "category_id" if "bbox" in entry else "id"
        entry[key] = 10 - entry[key]
    Path("turned.json").write_text(json.dumps(content))
    found = calibrate_detector(fused, "images", "turned.json")
    assert [each.name for each in found.classes] == list(COLORS)
    assert found.ap50_95 == pytest.approx(1)
    assert [each.name for each in calibrate_detector(fused, "images", "images").classes] == ["0", "1", "2"]
    content["categories"] = content["categories"][:2]
    content["annotations"] = [each for each in content["annotations"] if each["category_id"] < 2]
    Path("fewer.json").write_text(json.dumps(content))
    with pytest.raises(CalibrationError, match=r"has 3 classes and no labels, .* names 2: red, green, .*--labels FILE"):
        calibrate_detector(fused, "images", "fewer.json")


def test_models_that_list_their_detections_themselves(folder: Path) -> None:
    """Suppression is in the raw model, and a recipe says what its outputs are."""
    Path("listed.yaml").write_text(LISTED.replace("person, car, dog", ", ".join(COLORS)))
    onnx.save(cells("listed"), folder / "listed.onnx")
    assert run(["convert", "listed.onnx", "--recipe", "listed.yaml", "-o", "model.xml"]) == 0
    for precision in ("f32", "bf16"):
        report = pp.verify("listed.onnx", "model.xml", "images", inference_precision=precision, max_label_flips=None)
        assert report.postprocessing_exact, report.failures
        assert report.detections is not None
        assert report.detections.drift.expected == 16 * 7
    found = calibrate_detector("model.xml", "images", "coco.json")
    assert found.ap50_95 == pytest.approx(1)
    assert "the confidence of this model is fixed" in str(found.notes)


def test_stretched_images_are_noted(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "square").mkdir()
    painted({0: (0, 0.9), 13: (1, 0.8)}, (150, 150)).save(tmp_path / "square" / "a.png")
    (tmp_path / "square" / "a.txt").write_text("0 0.0833333 0.125 0.1666667 0.25")
    post = pp.DetectionPostProcessor(head="yolov8", labels=COLORS)
    found = calibrate_detector("raw.onnx", "square", "square", post=post)
    assert "1 of 1 images were stretched to the model's input" in found.notes[0]
    assert found.classes[0].ap50_95 == pytest.approx(1)
    assert "stretched" not in str(calibrate_detector("raw.onnx", "images", "images", post=post).notes)
    letterboxed = calibrate_detector("raw.onnx", "square", "square", post=post, letterbox=True)
    assert "stretched" not in str(letterboxed.notes)
    # The cell lies between two cells of the letterboxed image.
    assert letterboxed.classes[0].ap50_95 < 1
    fixed = pp.Preprocessing(scale=(255,), resize="linear", frame_size=(64, 64))
    artifact = pp.convert(pp.fuse("raw.onnx", post), preprocessing=fixed)
    with pytest.raises(DataError, match=r"the model resizes frames itself \(linear\), expected one of the two"):
        calibrate_detector(artifact, "square", "square", letterbox=True)


def test_goals(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fuse", "raw.onnx", *FUSED, "-o", "fused.onnx"]) == 0
    capsys.readouterr()
    verb = ["calibrate", "fused.onnx", "--data", "images", "--boxes", "images", "--json"]
    assert run([*verb, "--recall", "0.5"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert min(record["confidence"].values()) > 0.6
    assert all(0.5 <= each["recall"] < 0.7 for each in record["calibration"]["classes"])
    assert run([*verb, "--precision", "0.6"]) == 0
    record = json.loads(capsys.readouterr().out)
    # Of the confidences with the largest recall, the highest.
    assert all(0.49 < each < 0.61 for each in record["confidence"].values())
    assert all(each["precision"] == each["recall"] == 1 for each in record["calibration"]["classes"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--boxes", "coco.json"], "--boxes needs the MODEL to run, and its images with --data"),
        (["fused.onnx", "--data", "images", "--letterbox"], "--letterbox applies only to detectors"),
        (
            ["fused.onnx", "--data", "images", "--boxes", "images", "--one-pass"],
            "--one-pass has no effect with --boxes",
        ),
        (["fused.onnx", "--data", "images", "--boxes", "images", "--recall", "2"], "least recall is 2, expected"),
        (["fused.onnx", "--data", "images", "--boxes", "names.txt"], "'names.txt' cannot be read.*Expected COCO JSON"),
        (["fused.onnx", "--data", "images", "--boxes", "coco.json", "-o", "coco.json", "--force"], "is an input"),
        (
            ["fused.onnx", "--data", "images", "--boxes", "images", "--inference-precision", "bf16"],
            "is bf16 for an ONNX",
        ),
    ],
)
def test_mistakes(folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fuse", "raw.onnx", *FUSED, "-o", "fused.onnx"]) == 0
    assert run(["calibrate", *arguments]) == 2
    assert re.search(message, " ".join(capsys.readouterr().err.split()))


def test_a_detector_without_boxes_names_the_way(folder: Path) -> None:
    fused = pp.fuse("raw.onnx", pp.DetectionPostProcessor(head="yolov8"))
    data = {"image": np.zeros((2, 3, 64, 96), np.float32), "label": np.array([0, 1])}
    with pytest.raises(CalibrationError, match=r"has nothing to calibrate.*truth: --boxes \(calibrate_detector"):
        pp.calibrate(fused, data)


def test_models_that_detect_nothing(folder: Path, demo_ir_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"returns .*pred_mask.*, expected the boxes, scores, classes and count"):
        calibrate_detector(demo_ir_path, "images", "images")


@pytest.mark.sample(every=2)
@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_verified_detections(folder: Path, precision: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", "raw.onnx", *FUSED, "--confidence", "0.55", "-o", "model.xml"]) == 0
    capsys.readouterr()
    verb = ["verify", "raw.onnx", "model.xml", "--data", "images", "--inference-precision", precision]
    assert run(verb) == 0
    assert "PASSED" in capsys.readouterr().out
    assert run([*verb, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)["detections"]
    assert report["postprocessing"]["expected"] == report["drift"]["expected"] == 64
    assert not report["postprocessing"]["changes"]
    assert (report["drift"]["box_error_max"], report["truncated_images"]) == (0, 0)
    assert report["drift"]["score_error_max"] < 0.01


def test_lost_detections_are_drift_with_their_distance(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(cells(gain=0.9), folder / "other.onnx")
    assert run(["convert", "other.onnx", *FUSED, "--confidence", "0.6", "-o", "model.xml"]) == 0
    capsys.readouterr()
    verb = ["verify", "raw.onnx", "model.xml", "--data", "images", "--other-raw"]
    assert run(verb) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "Detections that differ by drift" in shown
    assert "detections lost, gained or classified otherwise, of 64" in shown
    report = pp.verify("raw.onnx", "model.xml", "images", other_raw=True)
    assert report.postprocessing_exact
    assert report.detections is not None
    drift = report.detections.drift
    assert 0 < drift.count("lost") < 64
    assert drift.count("gained") == drift.count("class") == 0
    # Scores below 0.6 / 0.9 are lost.
    assert all(0 < change.distance <= 0.6 / 0.9 - 0.6 + 1e-6 for change in drift.changes)
    assert drift.score_error == pytest.approx(0.1, abs=0.01)
    assert report.drift_flips == drift.count("lost")
    with_limit = pp.verify("raw.onnx", "model.xml", "images", other_raw=True, max_label_flips="90%")
    assert with_limit.passed
    assert "detections" in with_limit.to_dict()["drift"]


@pytest.mark.slow
def test_a_search_for_a_precision_counts_detections(folder: Path) -> None:
    """As `verify` does: a lost detection counts once, although all that follow move up."""
    post = pp.DetectionPostProcessor(head="yolov8", confidence=0.6, max_detections=20)
    darker = cells(gain=0.9)
    artifact, images = pp.convert(pp.fuse(darker, post)), open_images("images")
    lost = pp.verify("raw.onnx", artifact, images, other_raw=True).drift_flips
    fused = pp.fuse("raw.onnx", post)
    (found,) = Judge(fused, pp.convert(fused), images, None, None).decide(artifact, "CPU", "f32", recalibrate=False)
    assert found.label_flips == lost > 0
    assert found.labels == 64 - lost


@pytest.mark.parametrize(
    ("method", "says"),
    [("letterbox", r"coordinates are (.*) and (.*)\.$"), ("cubic", r"its coordinates are (.*) and (.*)\.$")],
)
def test_the_usage_text_says_how_boxes_find_back(method: str, says: str, folder: Path) -> None:
    assert run(["convert", "raw.onnx", *FUSED, "--resize", method, "-o", "model.xml"]) == 0
    formulas = re.search(says, Path("model.usage.md").read_text(), re.MULTILINE)
    assert formulas
    h, w, x, y = 300, 210, 30, 40
    g = min(64 / h, 96 / w)
    names = {"h": h, "w": w, "x": x, "y": y, "rows": round(h * g), "columns": round(w * g)}
    placed = Placement.letterboxed((h, w), (64, 96)) if method == "letterbox" else Placement((h, w), (64, 96))
    expected = placed.to_frame(np.array([x, y, x, y]))
    assert [eval(each, names) for each in formulas.groups()] == pytest.approx(expected[:2], rel=1e-6)


def test_truncated_candidates_are_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", "raw.onnx", *FUSED, "--candidates", "3", "-o", "model.xml"]) == 0
    assert run(["verify", "raw.onnx", "model.xml", "--data", "images"]) == 0
    assert "16 images have more candidates above the confidence" in capsys.readouterr().err
    assert run(["run", "model.xml", "images", "-o", "out", "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert (written["truncated_images"], written["detections"]) == (16, 48)
    assert "16 of 16 images have more candidates" in written["warnings"][-1]
