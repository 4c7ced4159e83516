"""A detector through every verb: recognised, fused, verified, retuned, benchmarked and stripped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import pp_graph as pp
from pp_graph.cli import run
from tests.detectors import CELLS, SIZE, detector, scene
from tests.models import run as run_onnx

OPTIONS = ["--task", "detection", "--labels", "names.txt", "--confidence", "0.3", "--max-detections", "20"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rng = np.random.default_rng(0)
    boxes, scores = scene(rng, 4, CELLS, 3)
    onnx.save(detector((7, CELLS)), tmp_path / "raw.onnx")
    (tmp_path / "names.txt").write_text("cat\ndog\nox\n")
    image = rng.normal(0, 1, (4, 3, SIZE, SIZE)).astype(np.float32)
    candidates = np.concatenate([boxes, scores], 2).transpose(0, 2, 1).copy()
    np.savez(tmp_path / "images.npz", image=image, in0=candidates)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_from_the_raw_model_to_a_verified_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", "raw.onnx"]) == 0
    told = capsys.readouterr()
    assert "raw.onnx --task detection --head yolov8 -o model.xml" in told.out
    assert run(["fuse", "raw.onnx", *OPTIONS, "--iou", "0.5", "-o", "fused.onnx"]) == 0
    assert run(["convert", "raw.onnx", *OPTIONS, "--head", "yolov8", "-o", "model.xml"]) == 0
    assert run(["retune", "model.xml", "--iou", "0.5"]) == 0
    assert "confidence   " in capsys.readouterr().out
    assert run(["inspect", "model.xml"]) == 0
    # Steps between the raw value and the outputs have no names that a reader knows.
    assert "passing" not in capsys.readouterr().out
    verify = ["verify", "raw.onnx", "model.xml", "--data", "images.npz", "--inference-precision", "bf16", "--json"]
    assert run(verify) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["postprocessing_exact"]
    data = dict(np.load("images.npz"))
    expected, found = run_onnx("fused.onnx", data), pp.load("model.xml")(data)
    assert all(np.array_equal(expected[name], found[name]) for name in expected)
    assert run(["strip", "fused.onnx", "-o", "again.onnx"]) == 0
    assert Path("again.onnx").read_bytes() == Path("raw.onnx").read_bytes()
    assert "--confidence 0.4" in (folder / "model.usage.md").read_text()
    assert '<task value="detection" />' in Path("model.xml").read_text()
    assert run(["benchmark", "raw.onnx", "model.xml", "--seconds", "0.2", "--json", "times.json"]) == 0


@pytest.mark.parametrize("name", ["fused.onnx", "model.xml"])
def test_retuned_limits_decide_as_fused_again(folder: Path, name: str) -> None:
    verb = "fuse" if name.endswith(".onnx") else "convert"
    assert run([verb, "raw.onnx", *OPTIONS, "-o", name]) == 0
    assert pp.retune(folder / name, confidence=0.5, iou=0.7).way == "constants"
    again = pp.fuse("raw.onnx", pp.DetectionPostProcessor(confidence=0.5, iou=0.7, max_detections=20))
    data = dict(np.load("images.npz"))
    expected, found = run_onnx(again, data), pp.load(folder / name)(data)
    assert all(np.array_equal(expected[output], found[output]) for output in expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--confidence", "0.5"], "--confidence applies only to detectors, and the task is anomaly. Add --task"),
        (["--task", "detection", "--top", "3"], "--top applies only to classifiers, and the task is detection"),
        (["--task", "detection", "--stats", "names.txt"], "names.txt"),
        (["--task", "detection", "--head", "yolov5"], "head is 'yolov5'"),
        (["--task", "detection", "--confidence", "2"], "confidence is 2.0, expected a number from 0 to 1"),
    ],
)
def test_errors_say_what_would_do(
    folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    del folder
    assert run(["fuse", "raw.onnx", *arguments, "-o", "fused.onnx"]) == 2
    assert message in capsys.readouterr().err
    assert not Path("fused.onnx").exists()
