"""Tasks of users, each done with the one command that the help of a verb leads to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

import pp_graph as pp
from pp_graph.cli import run
from tests.classifiers import classifier
from tests.conftest import DEMO
from tests.detectors import CELLS, detector

RAW, STATS, IMAGES = (str(DEMO / name) for name in ("raw.onnx", "stats.json", "images"))


def done(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    """Run a command and return what --json prints."""
    capsys.readouterr()
    assert run([*map(str, arguments), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder of its own, so that commands read as people type them."""
    monkeypatch.chdir(tmp_path)


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


@pytest.mark.sample(every=4)
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--regions", 10), {"region_count"}),  # list defects
        (("--outputs", "pred_label"), {"pred_label"}),  # only labels
        (("--map-size", "128x64"), {"pred_mask"}),  # masks of another size
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


@pytest.mark.slow
def test_quantise_without_flipping_a_label(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("nncf")
    given = ("--data", IMAGES, "--budget", 0.05)
    found = done(capsys, "convert", RAW, "--stats", STATS, "--precision", "auto", *given, "-o", "auto.xml")
    assert found["precision_choice"]["labels flipped"] == "0 of 12"
    found = done(capsys, "convert", RAW, "--stats", STATS, "--precision", "int8", "--data", IMAGES, "-o", "int8.xml")
    assert found["precision"] == "int8"
    assert found["quantization"]["images"] == 12


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("gpu", "Fix the sizes with --input-shape"),
        ("npu", "The batch is fixed to 1, one image per run, because NPU runs fixed sizes only."),
    ],
)
def test_convert_for_a_device_that_is_not_here(device: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", RAW, "--stats", STATS, "--device", device, "-o", "model.xml"]) == 0
    out, err = capsys.readouterr()
    assert f"Checked for {device.upper()}, which is not on this machine" in out
    assert said in err
    assert pp.open("model.xml").conversion["device"] == device.upper()


def test_a_classifier_that_knows_what_it_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(classifier(4), "raw.onnx")
    names = ("bolt", "nut", "screw", "washer")
    Path("names.txt").write_text("\n".join(names))
    for name in (*names, "of no class"):
        folder = Path("val", name)
        folder.mkdir(parents=True)
        for number in range(5):
            pixels = np.random.default_rng([number, len(name)]).integers(0, 255, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    task = ("--task", "classification", "--labels", "names.txt")
    found = done(capsys, "calibrate", "raw.onnx", *task, "--data", "val", "-o", "limits.json")
    assert 0 < found["unknown_below"] < 1
    done(capsys, "convert", "raw.onnx", *task, "--stats", "limits.json", "-o", "model.xml")
    assert pp.open("model.xml").provenance.parameters["unknown_below"] == found["unknown_below"]


@pytest.mark.slow
def test_compare_two_benchmarks(demo_fused_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    timed = ("--seconds", 0.2, "--no-memory", "--inference-precision", "f32", "--against", "host-numpy")
    for name in ("before", "after"):
        done(capsys, "convert", demo_fused_path, "-o", f"{name}.xml")
        assert run(["benchmark", RAW, f"{name}.xml", *map(str, timed), "--json", f"{name}.json"]) == 0
    assert run(["benchmark", "--compare", "before.json", "after.json"]) == 0
    assert "before.xml → after.xml" in capsys.readouterr().out
