"""`max_drop` measures classifiers by right classes and detectors by average precision."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import pp_graph as pp
from pp_graph.calibration import BoxTruth
from pp_graph.cli import run
from pp_graph.errors import DataError
from pp_graph.quantization import Quantization
from pp_graph.quantization.truth import ClassJudgement, open_truth
from tests.cell_detector import COLORS, CORNERS, HEIGHT, WIDTH, cells, save_scenes
from tests.classifiers import classifier, images

POST = pp.ClassificationPostProcessor()


@pytest.fixture(scope="module")
def fused() -> pp.FusedModel:
    return pp.fuse(classifier(), POST)


def record_of(artifact: pp.OpenVINOModel) -> dict:
    return artifact.conversion["quantization"]


@pytest.mark.parametrize("kind", ["arrays", "several classes", "no known class"])
def test_classifiers_are_rated_by_right_classes(kind: str, fused: pp.FusedModel) -> None:
    data = images(40)
    settings = {"several classes": {"multi_label": 0.5}, "no known class": {"unknown_below": 0.5}}.get(kind, {})
    model = pp.fuse(classifier(), pp.ClassificationPostProcessor(**settings))
    found = pp.load(model)({"image": data})
    label = {
        "arrays": found.pred_class,
        "several classes": found.get("pred_label"),
        "no known class": np.where(found.get("unknown", False), -1, found.pred_class),
    }[kind]
    label = np.asarray(label).astype(np.int64)
    label[0] = (label[0] + 1) % 2  # one is wrong
    quantization = Quantization({"image": data}, labelled={"image": data, "label": label}, max_drop=0.2)
    record = record_of(pp.convert(model, precision="int8", quantization=quantization))
    assert record["rates_f32"]["class_accuracy"] == pytest.approx(1 - 1 / 40, abs=0.03)
    assert record["drop"] <= 0.2
    assert record["rates_int8"]["class_accuracy"] >= record["rates_f32"]["class_accuracy"] - 0.2


def squares(gain: float = 1.0) -> onnx.ModelProto:
    """The detector of cells with a layer to quantise: one that mixes channels, if only a little."""
    model, weights = cells(gain=gain), np.full((3, 3, 3, 3), 1e-4, np.float32)
    weights[range(3), range(3), 1, 1] = 1
    model.graph.node[0].input[0] = "mixed"
    model.graph.node.insert(0, helper.make_node("Conv", ["image", "eye"], ["mixed"], pads=[1, 1, 1, 1]))
    model.graph.initializer.append(numpy_helper.from_array(weights, "eye"))
    return model


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    scenes = save_scenes(tmp_path / "images", 12)
    boxes = []
    for image, scene in enumerate(scenes, 1):
        for cell, (color, _) in scene.items():
            left, top, right, bottom = 2 * CORNERS[cell].astype(float)
            boxes.append({"id": len(boxes) + 1, "image_id": image, "category_id": color + 1, "iscrowd": 0,
                          "bbox": [left, top, right - left, bottom - top], "area": 1.0})  # fmt: skip
    coco = {
        "images": [{"id": n, "file_name": f"{n - 1:02}.png", "height": 2 * HEIGHT, "width": 2 * WIDTH}
                   for n in range(1, 13)],
        "categories": [{"id": n + 1, "name": name} for n, name in enumerate(COLORS)],
        "annotations": boxes,
    }  # fmt: skip
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    onnx.save(squares(), tmp_path / "raw.onnx")
    return tmp_path


DETECTOR = ["fuse", "raw.onnx", "--task", "detection", "--head", "yolov8"]


def test_detectors_are_rated_by_average_precision(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    del folder
    assert run([*DETECTOR, "-o", "fused.onnx"]) == 0
    options = ["--precision", "int8", "--calibration-data", "images", "--boxes", "coco.json", "--max-drop", "0.1"]
    assert run(["convert", "fused.onnx", *options, "-o", "model.xml"]) == 0
    told = capsys.readouterr().out
    assert "average precision 50 1.0000 in float32" in told
    record = record_of(pp.open("model.xml"))
    assert record["labels"] == "coco.json"
    expected = pp.calibrate_detector("fused.onnx", "images", "coco.json")
    assert record["rates_f32"]["average_precision_50"] == pytest.approx(expected.ap50, abs=1e-9)
    assert record["rates_f32"]["average_precision_50_95"] == pytest.approx(expected.ap50_95, abs=1e-9)


def test_raw_classifiers_take_labelled_folders(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    del folder
    data = images(20)
    label = pp.load(pp.fuse(classifier(), POST))({"image": data}).pred_class
    np.savez("val.npz", image=data, label=label)
    onnx.save(classifier(), "classifier.onnx")
    convert = ["convert", "classifier.onnx", "--task", "classification", "--precision", "int8", "-o", "model.xml"]
    assert run([*convert, "--calibration-data", "val.npz", "--labels", "val.npz", "--max-drop", "0.2"]) == 0
    assert "class accuracy 1.0000 in float32" in capsys.readouterr().out


def test_data_that_do_not_fit_the_family(
    folder: Path, fused: pp.FusedModel, capsys: pytest.CaptureFixture[str]
) -> None:
    data = images(8)
    several = {"image": data, "label": np.zeros((8, 4), np.int64)}
    with pytest.raises(DataError, match="may be of several classes, and the model decides for one"):
        pp.convert(fused, precision="int8", quantization=Quantization(data, labelled=several, max_drop=0.1))
    detector = pp.fuse(squares(), pp.DetectionPostProcessor(head="yolov8"))
    with pytest.raises(DataError, match="for a detector, expected its boxes: COCO JSON"):
        open_truth({"image": data, "label": np.zeros(8, np.int64)}, detector.provenance)
    fused.save("classifier.onnx")
    options = ["--precision", "int8", "--calibration-data", "images", "--max-drop", "0.1", "-o", "model.xml"]
    assert run(["convert", "classifier.onnx", *options, "--boxes", "coco.json"]) == 2
    assert "--boxes is for a detector, and the model is none" in capsys.readouterr().err
    assert run(["convert", "classifier.onnx", *options, "--boxes", "coco.json", "--labels", "images"]) == 2
    assert "expected one of them" in capsys.readouterr().err
    truth = BoxTruth.open("coco.json", folder / "images", detector.provenance)
    assert len(truth.images) == 12


def test_a_drop_beyond_the_limit_names_the_rate(fused: pp.FusedModel) -> None:
    data = images(40)
    truth = open_truth({"image": data, "label": pp.load(fused)({"image": data}).pred_class}, fused.provenance)
    judged = [ClassJudgement(1.0), ClassJudgement(0.0), ClassJudgement(None)]
    assert truth.rates(judged) == {"class_accuracy": 0.5}
    assert [each.right for each in judged] == [1.0, 0.0, 1.0]
