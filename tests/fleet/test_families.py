"""Detectors and classifiers with ground truth, a precision that a search chooses, models by URL, an absent device."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml

import pp_graph as pp
from pp_graph.cli import run
from pp_graph.fleet import read_fleet, read_manifest, run_fleet
from tests.classifiers import classifier, images
from tests.models import conv_model
from tests.quantization.test_truth import folder, squares

__all__ = ["folder"]
Fleet = Callable[..., Path]


def test_rates_of_detectors_and_classifiers(folder: Path) -> None:
    onnx.save(squares(), folder / "squares.onnx")
    onnx.save(classifier(), folder / "kinds.onnx")
    data, fused = images(20), pp.fuse(classifier(), pp.ClassificationPostProcessor())
    found = pp.load(fused)({"image": data}).pred_class
    label = found.copy()
    label[0] = (label[0] + 1) % 4
    np.savez(folder / "photos.npz", image=data, label=label)
    boxes = {
        "path": "squares.onnx",
        "task": "detection",
        "data": "images",
        "boxes": "coco.json",
        "options": {"head": "yolov8"},
    }
    kinds = {"path": "kinds.onnx", "task": "classification", "data": "photos.npz"}
    (folder / "fleet.yaml").write_text(yaml.safe_dump({"output": "out", "models": [boxes, kinds]}))
    report = run_fleet(folder / "fleet.yaml")
    assert report.passed, report
    one, other = report.rows
    expected = pp.calibrate_detector(
        pp.fuse(squares(), pp.DetectionPostProcessor(head="yolov8")), folder / "images", folder / "coco.json"
    )
    assert one["average_precision_50"] == pytest.approx(expected.ap50, abs=1e-6)
    assert one["average_precision_50_95"] == pytest.approx(expected.ap50_95, abs=1e-6)
    assert 0 < one["f1_box"] <= 1
    assert other["class_accuracy"] == 19 / 20
    each = [2 * ((found == k) & (label == k)).sum() / ((found == k).sum() + (label == k).sum())
            for k in range(4) if k in found or k in label]  # fmt: skip
    assert other["f1_class"] == pytest.approx(np.mean(each))
    assert "AP50" in str(report) or report.passed
    page = (folder / "out" / "fleet.html").read_text()
    assert "F1 of boxes" in page
    assert "right classes" in page


@pytest.mark.slow
def test_models_by_url_are_keyed_by_content(fleet: Fleet, tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    fleet(1)
    store = fsspec.filesystem("memory")
    store.pipe("/fleet/a.onnx", (tmp_path / "models" / "cam0.onnx").read_bytes())
    own = pp.calibrate(tmp_path / "models" / "cam0.onnx", tmp_path / "data.npz", resamples=0)
    own.save(tmp_path / "stats.json")
    store.pipe("/fleet/stats.json", (tmp_path / "stats.json").read_bytes())
    try:
        file = fleet(1, models=[
            {"path": "memory://fleet/*.onnx", "statistics": "memory://fleet/stats.json"},
            {"path": "memory://fleet/none.onnx", "name": "missing"},
            {"path": (tmp_path / "models" / "cam0.onnx").as_uri(), "name": "file"},
        ])  # fmt: skip
        report = run_fleet(file)
        assert {row["model"]: row["status"] for row in report.rows} == {
            "a": "passed",
            "missing": "error",
            "file": "passed",
        }
        assert report.rows[0]["raw"] == "memory://fleet/a.onnx"
        assert report.rows[0]["image_threshold"] == own.statistics.image.threshold
        assert "'memory://fleet/none.onnx' cannot be read" in report.rows[1]["problem"]
        store.pipe("/fleet/a.onnx", store.cat("/fleet/a.onnx"))  # another time of change, the same content
        assert run_fleet(file).done == 0
        onnx.save(conv_model(seed=5), tmp_path / "other.onnx")
        store.pipe("/fleet/a.onnx", (tmp_path / "other.onnx").read_bytes())
        changed = run_fleet(file)
        assert changed.done == 5
        assert (
            pp.open(tmp_path / "out" / changed.rows[0]["artifact"]).provenance.raw.sha256
            == pp.RawModel.open(tmp_path / "other.onnx").sha256
        )
        assert len([each for each in (tmp_path / "out" / ".fleet" / "inputs").iterdir() if each.is_dir()]) == 2
    finally:
        store.rm("/fleet", recursive=True)


def test_a_device_that_is_not_here(fleet: Fleet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = fleet(1, defaults={"data": "data.npz", "devices": ["CPU", "NPU"], "batch": 1, "input_shape": [1, 3, 16, 16]})
    assert run(["fleet", str(file), "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    here, absent = found["artifacts"]
    assert (here["status"], absent["status"]) == ("passed", "not here")
    assert absent["problem"].startswith(
        "cam0, NPU f32: verify: device 'NPU' is not on this machine, expected one of: CPU"
    )
    assert (
        "The artifact is made, and was not checked. Run the fleet on a machine that has the device" in absent["problem"]
    )
    assert found["verdict"] == "FAILED: of 2 artifacts, 1 for a device that is not here."
    assert pp.open(tmp_path / "out" / absent["artifact"]).conversion["device"] == "NPU"
    assert 'class="not-here"' in (tmp_path / "out" / "fleet.html").read_text()
    assert len(found["errors"]) == 1


@pytest.mark.slow
def test_a_precision_that_a_search_chooses(fleet: Fleet, tmp_path: Path) -> None:
    defaults = {"data": "data.npz", "precisions": ["auto", "f32"], "search_minutes": 0.3, "input_shape": [None, 3, 16, 16],
                "benchmark_seconds": 0.2}  # fmt: skip
    file = fleet(1, defaults=defaults)
    report = run_fleet(file)
    assert report.passed, report
    auto = report.rows[0]
    artifact = pp.open(tmp_path / "out" / auto["artifact"])
    assert auto["plan"] == artifact.conversion["precision_choice"]["plan"]
    assert auto["inference_precision"] == artifact.conversion["inference_precision"]
    assert auto["image_threshold"] == artifact.provenance.statistics.image.threshold
    assert auto["f1_image"] is not None
    assert run_fleet(file).done == 0
    changed = run_fleet(fleet(1, defaults={**defaults, "options": {"image_sensitivity": 0.7}}))
    assert changed.done == 4, "tuned and verified, and not searched again"
    assert changed.rows[0]["plan"] == auto["plan"]


def test_errors_of_the_new_fields(fleet: Fleet) -> None:
    for fields, message in (
        ({"precisions": ["auto"], "search_minutes": 60}, "field 'search_minutes': searches 60 minutes"),
        ({"boxes": "data.npz"}, "field 'boxes': does not apply to task 'anomaly'"),
        ({"data": "s3://bucket/images"}, "field 'data': of 'cam0' is 's3://bucket/images', expected a place"),
    ):
        with pytest.raises(pp.errors.SettingsError, match=message):
            read_fleet(fleet(1, defaults={"data": "data.npz", **fields}))


def test_numbers_of_before_a_retune_are_marked(
    fleet: Fleet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = fleet(2), tmp_path / "out"
    run_fleet(file)
    (verified,) = (row for row in read_manifest(out) if row["model"] == "cam1")
    assert run(["fleet", "retune", str(out), "--image-sensitivity", "0.9", "--where", "camera=cam1"]) == 0
    assert "1 artifact" in capsys.readouterr().out
    here, changed = read_manifest(out)
    assert (here["measured"], changed["measured"]) == (None, "before the last retune")
    assert changed["f1_image"] == verified["f1_image"]
    page = (out / "fleet.html").read_text()
    assert "F1 and flips of 1 artifact are those before the last retune" in page
    assert page.count(' old"') == sum(
        changed[name] is not None
        for name in ("f1_image", "f1_pixel", "postprocessing_flips", "drift_label_flips", "drift_pixel_flips")
    )
    assert 'verification.html">verification</a>, before the last retune' in page
    assert run(["fleet", "retune", str(out), "--undo"]) == 0
    assert [row["measured"] for row in read_manifest(out)] == [None, None], (
        "an undone change brings back what was measured"
    )
    report = run_fleet(file)
    assert report.passed
    assert "before the last retune" not in (out / "fleet.html").read_text()
