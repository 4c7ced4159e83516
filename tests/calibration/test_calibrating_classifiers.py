"""Temperature, limits and thresholds of classifiers, found on labelled images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image

import pp_graph as pp
from pp_graph.calibration.classification import expected_calibration_error
from pp_graph.cli import run
from pp_graph.errors import CalibrationError, DataError
from tests.classifiers import classifier
from tests.models import score_and_map

F32 = np.float32
CLASSES = 4


def logits_model(head: str | None = None) -> onnx.ModelProto:
    """The images are the logits, so that a test chooses them."""
    value = helper.make_tensor_value_info
    nodes = [helper.make_node(head or "Identity", ["image"], ["logits"])]
    shape: list[int | str] = ["N", CLASSES]
    graph = helper.make_graph(nodes, "g", [value("image", 1, shape)], [value("logits", 1, shape)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def overconfident(count: int = 4000, factor: float = 3.0) -> dict[str, np.ndarray]:
    """Classes drawn from a softmax, and logits that are too large by a factor."""
    rng = np.random.default_rng(0)
    z = rng.normal(0, 1.5, (count, CLASSES))
    chances = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    label = (rng.random((count, 1)) > np.cumsum(chances, 1)).sum(1)
    return {"image": (factor * z).astype(F32), "label": label}


def nll(data: dict[str, np.ndarray], temperature: float) -> float:
    z = data["image"].astype(np.float64) / temperature
    chances = np.exp(z - z.max(1, keepdims=True))
    chances /= chances.sum(1, keepdims=True)
    return float(-np.log(chances[np.arange(len(z)), data["label"]]).mean())


def test_the_temperature_has_the_largest_likelihood() -> None:
    data = overconfident()
    found = pp.calibrate_classifier(logits_model(), data)
    assert found.temperature == pytest.approx(3, rel=0.1)
    best = nll(data, found.temperature)
    assert all(nll(data, found.temperature * factor) >= best for factor in (0.9, 0.999, 1.001, 1.1))
    assert found.metrics["nll_after"] == pytest.approx(best)
    assert found.metrics["nll_before"] == pytest.approx(nll(data, 1))
    assert found.metrics["ece_after"] < 0.03 < 0.15 < found.metrics["ece_before"]


def test_calibration_error_by_hand() -> None:
    # Two bins: three images at 0.9, of which two are right, and one at 0.5, which is wrong.
    error = expected_calibration_error(np.array([0.9, 0.9, 0.9, 0.5]), np.array([True, True, False, False]))
    assert error == pytest.approx(3 / 4 * abs(0.9 - 2 / 3) + 1 / 4 * 0.5)


@pytest.mark.parametrize("rate", [0.0, 0.02, 0.2])
def test_false_accepts_stay_within_the_rate_in_the_artifact(rate: float) -> None:
    data = overconfident(1000)
    data["label"][:200] = -1
    found = pp.calibrate_classifier(logits_model(), data, false_accepts=rate)
    artifact = pp.fuse(logits_model(), pp.ClassificationPostProcessor(**found.settings))
    unknown = pp.load(artifact)({"image": data["image"]}).unknown
    wrong = ~unknown[:200]
    assert wrong.mean() <= rate
    assert found.metrics["false_accepts"] == pytest.approx(wrong.mean(), abs=0.005)
    # One image more would exceed the rate.
    assert wrong.sum() >= np.floor(rate * 200) - 1


def test_without_images_of_no_class_the_wrong_ones_are_rejected() -> None:
    data = overconfident(1000)
    found = pp.calibrate_classifier(logits_model(), data, false_accepts=0.1)
    assert found.unknown_below is not None
    predictions = pp.ClassificationPostProcessor(**found.settings)({"raw_logits": data["image"]})
    wrong = predictions.pred_class != data["label"]
    assert (~predictions.unknown[wrong]).mean() <= 0.1


@pytest.mark.parametrize(("method", "rate"), [("f1", None), ("precision", 0.9), ("recall", 0.9)])
def test_each_class_gets_its_threshold(method: str, rate: float | None) -> None:
    rng = np.random.default_rng(1)
    z = rng.normal(0, 2, (600, CLASSES))
    present = rng.random(z.shape) < 1 / (1 + np.exp(-z - np.arange(CLASSES)))
    data = {"image": z.astype(F32), "label": present.astype(int)}
    estimator: Any = method
    if rate is not None:
        from pp_graph.calibration import threshold_estimator

        estimator = threshold_estimator(method, {method: rate})
    found = pp.calibrate_classifier(logits_model(), data, thresholds=estimator)
    labels = pp.ClassificationPostProcessor(**found.settings)({"raw_logits": data["image"]}).pred_label
    for place in range(CLASSES):
        right = (labels[:, place] & present[:, place]).sum()
        precision, recall = right / labels[:, place].sum(), right / present[:, place].sum()
        assert found.metrics["precision"][place] == pytest.approx(precision)
        if rate is not None:
            assert {"precision": precision, "recall": recall}[method] >= rate
        else:
            f1 = 2 * right / (labels[:, place].sum() + present[:, place].sum())
            for level in np.linspace(0.05, 0.95, 19):
                other = 1 / (1 + np.exp(-z[:, place] / found.temperature)) > level
                assert f1 >= 2 * (other & present[:, place]).sum() / (other.sum() + present[:, place].sum()) - 1e-6


def test_probabilities_have_no_temperature() -> None:
    found = pp.calibrate_classifier(logits_model("Softmax"), overconfident(500))
    assert found.temperature == 1
    assert "the model returns probabilities, so there is no temperature to find" in found.notes


def test_a_classifier_that_is_always_right_keeps_its_temperature() -> None:
    data = {"image": 9 * np.eye(CLASSES, dtype=F32), "label": np.arange(CLASSES)}
    found = pp.calibrate_classifier(logits_model(), data)
    assert found.settings == {"temperature": 1}
    assert "the likelihood has no maximum" in found.notes[0]
    assert "add images of no known class" in found.notes[1]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    onnx.save(classifier(), tmp_path / "raw.onnx")
    (tmp_path / "names.txt").write_text("ant\nbee\ncat\ndog\n")
    rng = np.random.default_rng(0)
    for name in ("ant", "bee", "cat", "dog", "house"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(6):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{index}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_from_folders_of_classes_to_a_retuned_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = ["--task", "classification"]
    arguments = ["--data", "images", "--labels", "names.txt", "--false-accepts", "0.4", "-o", "limits.json"]
    assert run(["calibrate", "raw.onnx", *task, *arguments]) == 0
    assert "expected calibration error after" in capsys.readouterr().out
    limits = json.loads((folder / "limits.json").read_text())
    assert limits["metrics"]["images"] == 30
    assert run(["convert", "raw.onnx", *task, "--stats", "limits.json", "-o", "model.xml"]) == 0
    parameters = pp.open("model.xml").provenance.parameters
    assert parameters["temperature"] == limits["temperature"]
    assert parameters["unknown_below"] == limits["unknown_below"]
    assert run(["retune", "model.xml", "--temperature", "9", "--unknown-below", "0.1"]) == 0
    assert run(["retune", "model.xml", "--stats", "limits.json"]) == 0
    assert pp.open("model.xml").provenance.parameters == parameters
    tuned = ["--retune", "tuned.xml"]
    assert run(["calibrate", "model.xml", *task, "--data", "images", "--labels", "names.txt", *tuned]) == 0
    assert pp.open("tuned.xml").provenance.parameters["temperature"] == pytest.approx(limits["temperature"], rel=1e-3)


def test_a_table_lists_several_classes(folder: Path) -> None:
    rows = ["image,classes"]
    for index, file in enumerate(sorted((folder / "images").rglob("*.png"))):
        rows.append(f"{file.relative_to(folder / 'images')},{['ant; bee', 'cat', '', 'dog'][index % 4]}")
    (folder / "images" / "labels.csv").write_text("\n".join(rows))
    arguments = ["--data", "images", "--labels", "names.txt", "-o", "limits.json"]
    assert run(["calibrate", "raw.onnx", "--task", "classification", *arguments]) == 0
    assert len(json.loads((folder / "limits.json").read_text())["multi_label"]) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "images"], "holds 5 folders .ant, bee.*and the model has 4 classes"),
        (["--data", "images", "--no-masks"], "--no-masks does not apply to --task classification"),
        (["--scores", "s.csv"], "--task classification needs the MODEL and --data"),
    ],
)
def test_mistakes(folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    import re

    assert run(["calibrate", "raw.onnx", "--task", "classification", *arguments]) == 2
    assert re.search(message, " ".join(capsys.readouterr().err.split()))


def test_data_and_models_that_do_not_fit() -> None:
    images = overconfident(10)["image"]
    for label, message in (
        (np.full(10, 9), "holds 9 to 9, expected -1 to 3"),
        (np.zeros((10, 3), int), r"shape \(10, 3\), expected class indices \(10,\)"),
    ):
        with pytest.raises(DataError, match=message):
            pp.calibrate_classifier(logits_model(), {"image": images, "label": label})
    images[2, 1] = np.nan
    with pytest.raises(CalibrationError, match="logits of image '2' are not finite"):
        pp.calibrate_classifier(logits_model(), {"image": images, "label": np.zeros(10, int)})
    anomaly = pp.fuse(score_and_map(), pp.OneClassPostProcessor(pp.Statistics(), threshold=False, normalize=False))
    with pytest.raises(CalibrationError, match="fused with OneClassPostProcessor, expected Classification"):
        pp.calibrate_classifier(anomaly, {"image": images, "label": np.zeros(10, int)})
