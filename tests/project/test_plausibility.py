"""Warnings about results that look wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import pp_graph as pp
from pp_graph.cli import run
from pp_graph.plausibility import preprocessing_warnings, range_warnings
from pp_graph.preprocessing import Preprocessing
from tests.conftest import DEMO


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {"mean": (0.485, 0.456, 0.406), "scale": (0.229, 0.224, 0.225)},
            "Was --mean 123.675,116.28,103.53 --scale 58.395,57.12,57.375 meant?",
        ),
        ({"mean": (0.5,)}, "Was --mean 127.5 --scale 255 meant?"),
        ({"scale": (0.5,)}, "Was --scale 127.5 meant?"),
        ({"dtype": "u16", "mean": (0.5,), "scale": (0.5,)}, "Was --mean 32767.5 --scale 32767.5 meant?"),
        ({"mean": (123.7,), "scale": (58.4,)}, None),
        ({"scale": (255,)}, None),
        ({}, None),
        ({"dtype": "f32", "mean": (0.5,), "scale": (0.5,)}, None),
    ],
)
def test_mean_and_scale_on_another_scale(settings: dict, expected: str | None) -> None:
    found = preprocessing_warnings(Preprocessing(**settings))
    assert found[0].endswith(expected) if expected else not found, found
    assert preprocessing_warnings(None) == []


def test_float_frames_on_another_scale() -> None:
    large, small = Preprocessing("f32", mean=(123.7,), scale=(58.0,)), Preprocessing("f32", mean=(0.5,), scale=(0.5,))
    assert "is for 0..255. Feed frames as 0..255" in range_warnings(large, 0.0, 0.9)[0]
    assert "is for [0, 1]. Feed frames in [0, 1]" in range_warnings(small, 0.0, 250.0)[0]
    assert range_warnings(large, 0.0, 250.0) == range_warnings(small, 0.0, 1.0) == range_warnings(None, 0, 255) == []


def test_convert_run_and_verify_say_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("raw.onnx", "stats.json"):
        shutil.copy(DEMO / name, name)
    assert run(["convert", "raw.onnx", "--stats", "stats.json", "-o", "m.xml", "--mean", "0.5", "--scale", "0.25"]) == 0
    assert "Was --mean 127.5 --scale 63.75 meant?" in capfd.readouterr().err
    assert run(["run", "m.xml", str(DEMO / "images"), "-o", "out", "--json"]) == 0
    out, err = capfd.readouterr()
    assert "All 12 decisions of 'pred_label' are anomalous" in err
    assert json.loads(out)["warnings"][0].endswith("Was --mean 127.5 --scale 63.75 meant?")
    assert run(["verify", "raw.onnx", "m.xml", "--data", str(DEMO / "images")]) == 0
    captured = capfd.readouterr()
    assert "Was --mean 127.5 --scale 63.75 meant?" in captured.err
    assert "All 12 decisions of 'pred_label' are anomalous" in captured.err
    assert "Post-processing  exact" in captured.out


def test_a_shape_that_contradicts_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    import onnx

    from tests.models import STATS, conv_model

    monkeypatch.chdir(tmp_path)
    proto = conv_model()
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 8
    proto.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 8
    onnx.save(proto, "raw.onnx")
    STATS.save("stats.json")
    command = ["convert", "raw.onnx", "--stats", "stats.json", "--force", "-o", "m.xml", "--input-shape"]
    assert run([*command, "1,3,16,16"]) == 0
    assert "is declared as (N, 3, 8, 8), and --input-shape makes it (1, 3, 16, 16)" in capfd.readouterr().err
    assert run([*command, "1,3,8,8"]) == 0
    assert "Warning" not in capfd.readouterr().err


def test_calibration_that_tells_nothing_apart() -> None:
    raw = np.array([0, 0, 0, 1, 1, 1], np.float32)
    calibrator = pp.Calibrator(image="sigma")
    calibrator.update(scores=raw, labels=raw > 0)
    found = calibrator.result(resamples=0)
    assert any("all scores are 0 or 1: does the model return labels" in warning for warning in found.image.warnings)
    same = pp.Calibrator(image="sigma")
    same.update(scores=np.linspace(0.1, 0.9, 8, dtype=np.float32), labels=np.arange(8) % 2 == 1)
    warnings = same.result(resamples=0).image.warnings
    assert any("nothing is anomalous at this threshold, although labels name both kinds" in text for text in warnings)
    assert any("lies outside the range from 0.1 to 0.9" in text for text in warnings)
