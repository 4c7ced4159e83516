"""Fleets of small real models: what is done, what is kept, what a failure holds up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx

import pp_graph as pp
from pp_graph.fleet import FleetReport, read_manifest, run_fleet
from tests.models import conv_model

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
