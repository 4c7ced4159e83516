"""Tasks of users, each done with the one command that the help of a verb leads to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import pp_graph as pp
from pp_graph.cli import run
from tests.conftest import DEMO
from tests.detectors import CELLS, detector

RAW, STATS, IMAGES = (str(DEMO / name) for name in ("raw.onnx", "stats.json", "images"))


def done(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    """Run a command and return what --json prints."""
    capsys.readouterr()
    assert run([*map(str, arguments), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_find_95_percent_of_the_anomalies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done(capsys, "calibrate", RAW, "--data", IMAGES, "--recall", "0.95", "--bootstrap", 0, "-o", tmp_path / "own.json")
    found = pp.calibrate(RAW, IMAGES, image=pp.calibration.threshold_estimator("recall", {"recall": 0.95}), resamples=0)
    assert pp.Statistics.load(tmp_path / "own.json").image.threshold == found.statistics.image.threshold


def test_type_six_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = {"threshold": 14, "min": 9, "max": 27}
    typed = [part for level in ("image", "pixel") for name, x in numbers.items() for part in (f"--{level}-{name}", x)]
    done(capsys, "fuse", RAW, *typed, "-o", tmp_path / "fused.onnx")
    image = pp.open(tmp_path / "fused.onnx").provenance.statistics.image
    assert (image.threshold, image.min, image.max) == (14, 9, 27)


@pytest.mark.parametrize(
    ("options", "parameter"),
    [
        (("--image-sensitivity", 0.6), "image_sensitivity"),  # change a sensitivity
        (("--image-threshold", 16), None),  # raise one threshold
    ],
)
def test_retune(
    options: tuple[object, ...],
    parameter: str | None,
    tmp_path: Path,
    demo_fused_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    done(capsys, "retune", demo_fused_path, *options, "-o", tmp_path / "tuned.onnx")
    provenance = pp.open(tmp_path / "tuned.onnx").provenance
    assert options[1] == (provenance.parameters[parameter] if parameter else provenance.statistics.image.threshold)


def test_get_the_raw_file_back(tmp_path: Path, demo_fused_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done(capsys, "strip", demo_fused_path, "-o", tmp_path / "raw.onnx")
    assert (tmp_path / "raw.onnx").read_bytes() == Path(RAW).read_bytes()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--regions", 10), {"region_count"}),  # list defects
        (("--outputs", "pred_label"), {"pred_label"}),  # only labels
        (("--map-size", "128x64"), {"pred_mask"}),  # masks of another size
        (("--device", "gpu"), {"pred_label"}),  # another device
        (("--input-dtype", "u8", "--channel-order", "bgr", "--scale", 255), {"pred_label"}),  # frames of a camera
    ],
    ids=lambda value: str(value[0]) if isinstance(value, tuple) else "",
)
def test_convert(
    options: tuple[object, ...], expected: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done(capsys, "convert", RAW, "--stats", STATS, *options, "-o", tmp_path / "model.xml")
    artifact = pp.open(tmp_path / "model.xml")
    names = {output.name for output in artifact.provenance.outputs}
    assert names == expected if "--outputs" in options else expected <= names
    sizes = {output.name: output.sizes for output in artifact.provenance.outputs}
    if "--map-size" in options:
        assert sizes["pred_mask"][-2:] == (128, 64)
    if "--device" in options:
        assert artifact.conversion["device"] == "GPU"
    if "--input-dtype" in options:
        frame = np.zeros((1, 256, 256, 3), np.uint8)
        assert pp.load(artifact)(frame).pred_label.size == 1


def test_a_detector_at_confidence_04(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(detector((7, CELLS)), tmp_path / "raw.onnx")
    task = ("--task", "detection", "--confidence", 0.4)
    done(capsys, "fuse", tmp_path / "raw.onnx", *task, "-o", tmp_path / "fused.onnx")
    assert pp.open(tmp_path / "fused.onnx").provenance.parameters["confidence"] == 0.4


def test_statistics_of_anomalib(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("image_threshold", "pixel_threshold", "min", "max")
    (tmp_path / "metadata.json").write_text(json.dumps(dict(zip(names, (14.0, 12.5, 2.5, 27.5), strict=True))))
    done(capsys, "stats", "convert", tmp_path / "metadata.json", "-o", tmp_path / "stats.json")
    assert pp.Statistics.load(tmp_path / "stats.json").image.threshold == 14
