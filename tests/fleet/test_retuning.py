"""`fleet retune`, `--undo` and `fleet diff`, on artifacts of the demo's model and of a classifier."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml

import pp_graph as pp
from pp_graph.cli import run
from pp_graph.errors import PostProcessorError, SettingsError
from pp_graph.fleet import diff_fleets, read_manifest, retune_fleet, run_fleet, undo_retuning
from tests.classifiers import classifier
from tests.fleet.conftest import write_models


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two anomaly models and a classifier, whose fleet has run."""
    folder = tmp_path_factory.mktemp("fleets") / "made"
    write_models(folder, 2)
    onnx.save(classifier(), folder / "classifier.onnx")
    wanted = pp.inspect(folder / "classifier.onnx").inputs[0].shape[1:]
    np.savez(folder / "photos.npz", image=np.random.default_rng(0).normal(size=(6, *wanted)).astype(np.float32))
    anomaly = {"path": "models/*.onnx", "data": "data.npz", "tags": {"camera": "{stem}", "line": 1}}
    other = {"path": "classifier.onnx", "task": "classification", "data": "photos.npz", "tags": {"line": 2},
             "options": {"unknown_below": 0.5}}  # fmt: skip
    (folder / "fleet.yaml").write_text(yaml.safe_dump({"output": "out", "models": [anomaly, other]}))
    assert run_fleet(folder / "fleet.yaml", workers=2).passed
    return folder


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path / "out"


def cutoff(out: Path, model: str) -> object:
    return pp.open(out / "models" / model / "CPU-f32" / "model.xml").provenance.cutoffs["pred_label"]


def test_retune_undo_and_diff(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "before.parquet").write_bytes((out / "fleet.parquet").read_bytes())
    first = cutoff(out, "cam0"), cutoff(out, "cam1")
    retuned = ["fleet", "retune", str(out), "--image-sensitivity", "0.7", "--where", "camera=cam1"]
    assert run([*retuned, "--dry-run"]) == 0
    assert cutoff(out, "cam1") == first[1]
    assert capsys.readouterr().out == "cam1/CPU-f32\nWould retune 1 artifact.\n"
    assert run([*retuned, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["artifacts"] == ["cam1/CPU-f32"]
    assert cutoff(out, "cam0") == first[0]
    assert cutoff(out, "cam1") < first[1]
    moved = {each.what for each in diff_fleets(tmp_path / "before.parquet", out).moved}
    assert {"image_sensitivity", "image_cutoff", "status"} <= moved
    statuses = {row["model"]: row["status"] for row in read_manifest(out)}
    assert statuses == {"cam0": "passed", "cam1": "retuned", "classifier": "passed"}
    assert "NOT VERIFIED: of 3 artifacts, 1 retuned. pp-graph fleet" in (out / "fleet.html").read_text()

    # Another number of the same artifact, and of one more.
    retune_fleet(out, {"image_sensitivity": 0.2}, where={"line": "1"})
    second = cutoff(out, "cam1")
    report = run_fleet(tmp_path / "fleet.yaml")
    assert report.passed
    assert cutoff(out, "cam1") == second, "a run keeps the numbers"
    assert "2 artifacts have numbers that pp-graph fleet retune set" in report.notes[0]

    undo_retuning(out)
    assert (cutoff(out, "cam0"), cutoff(out, "cam1") < first[1]) == (first[0], True)
    assert run(["fleet", "retune", str(out), "--undo"]) == 0
    assert (cutoff(out, "cam0"), cutoff(out, "cam1")) == first
    with pytest.raises(SettingsError, match="has no change to undo"):
        undo_retuning(out)
    report = run_fleet(tmp_path / "fleet.yaml")
    assert (report.passed, report.notes) == (True, ())
    assert {each.what for each in diff_fleets(tmp_path / "before.parquet", out).moved} <= {"bytes"}


def test_nothing_changes_if_a_value_does_not_fit_one(out: Path) -> None:
    first = cutoff(out, "cam0")
    with pytest.raises(PostProcessorError, match="Model 'classifier': image_sensitivity was given"):
        retune_fleet(out, {"image_sensitivity": 0.7})
    assert cutoff(out, "cam0") == first
    with pytest.raises(SettingsError, match=r"'camra' is no tag of this fleet, expected some of: model, device"):
        retune_fleet(out, {"image_sensitivity": 0.7}, where={"camra": "cam1"})
    with pytest.raises(SettingsError, match="No artifact has line=3, expected one of: 1, 2"):
        retune_fleet(out, {"image_sensitivity": 0.7}, where={"line": "3"})
    retune_fleet(out, {"unknown_below": 0.9}, where={"line": "2"})
    row = next(row for row in read_manifest(out) if row["model"] == "classifier")
    assert json.loads(row["parameters"])["unknown_below"] == 0.9


def test_a_retune_that_is_ended_halfway_shows_no_old_number_as_current(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(path: Path) -> dict[str, object]:
        raise KeyboardInterrupt

    first = cutoff(out, "cam0")
    monkeypatch.setattr("pp_graph.fleet.history.identity_of", ended)
    with pytest.raises(KeyboardInterrupt):
        retune_fleet(out, {"image_sensitivity": 0.7}, where={"line": "1"})
    monkeypatch.undo()
    assert cutoff(out, "cam0") < first
    found = {row["model"]: (row["status"], row["measured"]) for row in read_manifest(out)}
    assert found["cam0"] == found["cam1"] == ("retuned", "before the last retune")
    assert found["classifier"] == ("passed", None)
    undo_retuning(out)
    assert cutoff(out, "cam0") == first


def test_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.json").write_text("{}")
    for arguments, message in (
        (["retune", str(tmp_path), "--image-sensitivity", "0.6"], "is not that of a fleet"),
        (["retune", str(tmp_path)], "There is nothing to change"),
        (["retune", str(tmp_path), "--undo", "--where", "a=1"], "--undo takes back the last change as a whole"),
        (["retune", str(tmp_path), "--iou", "0.6", "--where", "a"], "expected TAG=VALUE"),
        (["retune", str(tmp_path), "--confidence", str(tmp_path / "c.json")], "expected numbers: models of a fleet"),
        (["diff", str(tmp_path), str(tmp_path)], "has no fleet.parquet"),
    ):
        assert run(["fleet", *arguments]) == 2
        assert message in capsys.readouterr().err


def test_diff_of_what_is_no_fleet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "some.onnx").write_bytes(b"no parquet")
    assert run(["fleet", "diff", str(tmp_path / "some.onnx"), str(tmp_path / "some.onnx")]) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert "some.onnx' is not the manifest of a fleet: " in err
    assert ".." not in err
