"""The file of a fleet: defaults, patterns, and errors that name line and field."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pp_graph.cli import run
from pp_graph.errors import ClusterError, SettingsError
from pp_graph.fleet import read_fleet, run_fleet
from tests.conftest import DEMO

HEAD = f"output: out\ndefaults:\n  data: {DEMO}/images\n  options: {{image_sensitivity: 0.4}}\nmodels:\n"


def read(folder: Path, text: str) -> object:
    (folder / "fleet.yaml").write_text(text)
    return read_fleet(folder / "fleet.yaml")


def test_defaults_patterns_and_tags(tmp_path: Path) -> None:
    for name in ("left", "right"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "raw.onnx").touch()
        (tmp_path / name / "stats.json").touch()
    text = HEAD + (
        '  - path: "*/raw.onnx"\n    name: "{folder}"\n    tags: {side: "{folder}", product: 7}\n'
        '    statistics: "{folder}/stats.json"\n    options: {pixel_sensitivity: 0.6}\n    precisions: [f32, int8]\n'
    )
    left, right = read(tmp_path, text).models
    assert (left.name, right.name) == ("left", "right")
    assert right.tags == {"side": "right", "product": 7}
    assert right.statistics == tmp_path / "right" / "stats.json"
    assert right.options == {"image_sensitivity": 0.4, "pixel_sensitivity": 0.6}
    assert not right.calibrated
    assert right.precisions == ("f32", "int8")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("  - path: none.onnx\n", "line 6, field 'path': '.*none.onnx' is not a file, expected a raw ONNX model"),
        ("  - path: '*.none'\n", "line 6, field 'path': '\\*.none' matches no file"),
        (
            "  - path: RAW\n    nam: x\n",
            "line 7, field 'nam': is not known, expected some of: tags, statistics, .*path, name",
        ),
        ("  - path: RAW\n    devices: [TPU]\n", "line 7, field 'devices': of 'raw': Device 'TPU' is not known"),
        ("  - path: RAW\n    precisions: [f8]\n", "line 7, field 'precisions': has 'f8', expected some of: f32, f16"),
        ("  - path: RAW\n    options: {sensitivity: 1}\n", "line 7, field 'options': .*has no option 'sensitivity'"),
        ("  - path: RAW\n    options: {image_sensitivity: 3}\n", "line 7, field 'options': .*image_sensitivity is 3"),
        ("  - path: RAW\n    limits: {pixel_flips: many}\n", "line 7, field 'limits': .*pixel_flips is 'many'"),
        ("  - path: RAW\n    limits: {ratio_to_raw: 1.2}\n", "line 7, field 'limits': .*needs 'benchmark_seconds'"),
        ("  - path: RAW\n    statistics: '{nam}.json'\n", "line 7, field 'statistics': has '{nam}', expected some of"),
        ("  - path: RAW\n    statistics: none.json\n", "line 7, field 'statistics': of 'raw' is '.*none.json', which"),
        ("  - path: RAW\n    calibrate: {image: f2}\n", "line 7, field 'calibrate': .*'f2' is not known"),
        (
            "  - path: RAW\n    benchmark_seconds: 1\n    input_shape: [1, 3, null, 8]\n",
            "line 8, field 'input_shape': leaves a",
        ),
        ("  - path: RAW\n    calibrate: {image: {}}\n", "line 7, field 'calibrate': .*image names 0 methods"),
        (
            "  - path: RAW\n    task: detection\n    options: {confidence: {a: 1}}\n",
            "line 8, field 'options': of 'raw'",
        ),
        ("  - path: RAW\n    name: a/b\n", "line 7, field 'name': 'a/b' is no name"),
        ("  - path: RAW\n  - path: RAW\n", "line 7.*: 'raw' is the name of two models, expected different names"),
        ("  - path: RAW\nmemory: 4 MB\n", "line 7, field 'memory': is '4 MB', expected at least 1 GiB"),
        ("  - path: RAW\n    task: anomalies\n", "line 7, field 'task': Invalid enum value 'anomalies'"),
    ],
)
def test_errors_name_line_and_field(entry: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=f"Fleet '{re.escape(str(tmp_path))}/fleet.yaml', {message}"):
        read(tmp_path, HEAD + entry.replace("RAW", f"{DEMO}/raw.onnx"))


def test_folder_of_others_and_missing_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").touch()
    (tmp_path / "fleet.yaml").write_text(f"{HEAD}  - path: {DEMO}/raw.onnx\n")
    assert run(["fleet", str(tmp_path / "fleet.yaml")]) == 2
    assert "holds files that are not of a fleet" in capsys.readouterr().err
    (tmp_path / "fleet.yaml").write_text(f"output: out\nmodels: [{{path: {DEMO}/raw.onnx}}]\n")
    assert run(["fleet", str(tmp_path / "fleet.yaml"), "--json"]) == 2
    assert "'raw' has no 'data', expected images to verify on" in capsys.readouterr().out
    assert run(["fleet", str(tmp_path / "none.yaml")]) == 2


def test_workers_are_at_least_one(tmp_path: Path) -> None:
    (tmp_path / "fleet.yaml").write_text(f"{HEAD}  - path: {DEMO}/raw.onnx\n")
    with pytest.raises(ClusterError, match="workers is 0, expected at least 1"):
        run_fleet(tmp_path / "fleet.yaml", workers=0)
