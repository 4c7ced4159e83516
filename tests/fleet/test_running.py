"""Fleets of small real models: what is done, what is kept, what a failure holds up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

import pp_graph as pp
from pp_graph.cli import run
from pp_graph.fleet import FleetReport, read_manifest, run_fleet
from tests.conftest import ROOT
from tests.models import conv_model
from tests.project.test_readme import blocks, command_lines

Fleet = Callable[..., Path]


def kinds(folder: Path, report: FleetReport, before: dict[str, int]) -> dict[str, list[str]]:
    """Which tasks have a new record, by the name of the model."""
    found: dict[str, list[str]] = {}
    for path, time in records(folder).items():
        if before.get(path) != time:
            found.setdefault(path.split("/")[0], []).append(Path(path).stem)
    assert sum(map(len, found.values())) == report.done
    return {name: sorted(each) for name, each in found.items()}


def records(folder: Path) -> dict[str, int]:
    root = folder / ".fleet" / "records"
    return {path.relative_to(root).as_posix(): path.stat().st_mtime_ns for path in root.rglob("*.json")}


def test_only_what_changed_is_done_again(fleet: Fleet, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = run_fleet(fleet(2))
    assert (report.passed, report.done, report.kept) == (True, 12, 0)
    artifact = pp.open(out / report.rows[0]["artifact"])
    own = pp.calibrate(tmp_path / "models" / "cam0.onnx", tmp_path / "data.npz")
    assert artifact.provenance.statistics.image == own.statistics.image
    assert report.rows[0]["f1_image"] == own.image.metrics.f1
    assert [row["tag_camera"] for row in read_manifest(out)] == ["cam0", "cam1"]

    before = records(out)
    assert run_fleet(fleet(2)).done == 0
    assert records(out) == before

    # A sensitivity is a number: the artifact is retuned and verified, and not converted.
    content = (out / report.rows[0]["artifact"]).with_suffix(".usage.md").stat().st_mtime_ns
    file = fleet(2, defaults={"data": "data.npz", "options": {"image_sensitivity": 0.7}})
    changed = run_fleet(file)
    assert kinds(out, changed, before) == {"cam0": ["tune", "verify"], "cam1": ["tune", "verify"]}
    assert (out / report.rows[0]["artifact"]).with_suffix(".usage.md").stat().st_mtime_ns == content
    assert changed.rows[0]["image_cutoff"] < report.rows[0]["image_cutoff"]
    again = pp.fuse(tmp_path / "models" / "cam0.onnx", pp.OneClassPostProcessor(own.statistics, image_sensitivity=0.7))
    assert changed.rows[0]["image_cutoff"] == again.provenance.cutoffs["pred_label"]

    # Without the option, its default is back.
    before = records(out)
    assert kinds(out, run_fleet(fleet(2)), before)["cam0"] == ["tune", "verify"]
    assert read_manifest(out)[0]["image_cutoff"] == report.rows[0]["image_cutoff"]

    # A changed model redoes its own.
    onnx.save(conv_model(seed=9), tmp_path / "models" / "cam1.onnx")
    before = records(out)
    assert kinds(out, run_fleet(fleet(2)), before) == {
        "cam1": ["calibrate", "convert", "fuse", "inspect", "tune", "verify"]
    }
    # An artifact that somebody changed or removed is made again.
    (out / report.rows[0]["artifact"]).unlink()
    before = records(out)
    assert kinds(out, run_fleet(fleet(2)), before) == {"cam0": ["convert", "tune", "verify"]}


@pytest.mark.slow
def test_page_of_the_documentation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "fleet.md").read_text("utf-8")
    assert run(["demo", "-o", str(tmp_path / "demo")]) == 0
    monkeypatch.chdir(tmp_path / "demo" / "inputs")
    Path("fleet.yaml").write_text(blocks("yaml", page)[0])
    for arguments in command_lines(page):
        assert run(arguments) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert out.count("PASSED: 3 artifacts of 2 models.") == 2
    assert "Took back the last change of 2 artifacts." in out


@pytest.mark.slow
def test_every_kind_of_task(fleet: Fleet, tmp_path: Path) -> None:
    out = tmp_path / "out"
    every = {
        "data": "data.npz", "precisions": ["f32", "f16", "int8"], "recalibrate": True, "benchmark_seconds": 0.2, "input_shape": [None, 3, 16, 16],
        "inference_precision": "bf16", "limits": {"pixel_flips": "100%", "label_flips": None, "ratio_to_raw": 1000.0},
    }  # fmt: skip
    report = run_fleet(fleet(1, defaults=every))
    assert report.passed, report
    assert report.done == 3 + 3 * 5
    for row in report.rows:
        found = pp.open(out / row["artifact"])
        own = pp.calibrate(found, tmp_path / "data.npz", device="CPU", inference_precision="bf16", resamples=0)
        assert row["image_threshold"] == own.statistics.image.threshold
        assert row["latency_ratio_low"] <= row["latency_ratio"] <= row["latency_ratio_high"]
        assert (out / row["artifact"]).with_name("benchmark.html").exists()
    assert run_fleet(fleet(1, defaults=every)).done == 0
    slow = every | {"limits": every["limits"] | {"ratio_to_raw": 0.001}}
    report = run_fleet(fleet(1, defaults=slow))
    assert report.done == 3, "only verified again"
    assert {row["status"] for row in report.rows} == {"failed"}
    assert "latency is" in report.rows[0]["problem"]


@pytest.mark.slow
def test_packages_follow_the_numbers(fleet: Fleet, tmp_path: Path) -> None:
    out = tmp_path / "out"
    defaults = {"data": "data.npz", "packages": ["python"]}
    report = run_fleet(fleet(1, defaults=defaults))
    assert report.passed
    folder = (out / report.rows[0]["artifact"]).with_name("packages") / "python"
    assert pp.open(folder / "model.xml").provenance.cutoffs["pred_label"] == report.rows[0]["image_cutoff"]
    before = records(out)
    assert run_fleet(fleet(1, defaults=defaults)).done == 0
    changed = run_fleet(fleet(1, defaults={**defaults, "options": {"image_sensitivity": 0.7}}))
    assert kinds(out, changed, before) == {"cam0": ["package", "tune", "verify"]}
    cutoff = pp.open(folder / "model.xml").provenance.cutoffs["pred_label"]
    assert cutoff == changed.rows[0]["image_cutoff"] < report.rows[0]["image_cutoff"]


def test_unknown_package(fleet: Fleet) -> None:
    with pytest.raises(pp.errors.SettingsError, match=r"packages.* has 'java', expected some of: python, cpp, ovms"):
        run_fleet(fleet(1, defaults={"data": "data.npz", "packages": ["java"]}))
