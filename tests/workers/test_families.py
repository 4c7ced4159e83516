"""Every family of models gives on several processes what it gives on one, bit for bit, also if workers die."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from distributed import Client
from PIL import Image

import pp_graph as pp
from pp_graph.calibration import calibrate_classifier, calibrate_detector
from pp_graph.cli import run
from pp_graph.report import write_predictions
from pp_graph.workers import open_client
from tests.cell_detector import COLORS, cells, save_boxes, save_scenes
from tests.classifiers import classifier
from tests.models import from_text
from tests.recognisers import CHARACTERS, recogniser
from tests.workers.conftest import kill_one
from tests.workers.test_running import files_of


def pixels(channels: int) -> onnx.ModelProto:
    """A model whose map is the image."""
    shape = f"N,{channels},64,96"
    return from_text(
        f"""<ir_version: 8, opset_import: ["": 18]>
        raw (float[{shape}] image) => (float[{shape}] maps) {{ maps = Identity(image) }}"""
    )


FAMILIES: dict[str, tuple[onnx.ModelProto, pp.PostProcessor]] = {
    "detection": (cells(), pp.DetectionPostProcessor(head="yolov8", labels=COLORS, confidence=0.5)),
    "classification": (classifier(3), pp.ClassificationPostProcessor(labels=COLORS, unknown_below=0.6)),
    "segmentation": (pixels(3), pp.SegmentationPostProcessor(labels=COLORS)),
    "regions": (pixels(1), pp.RegionsPostProcessor(pixel_threshold=0.1, box_threshold=0.1, regions=8)),
    "sequence": (recogniser(times=24), pp.SequencePostProcessor(labels=CHARACTERS)),
}


class Killer:
    """Progress that ends a worker as soon as something is done."""

    def __init__(self, client: Client) -> None:
        self.client, self.killed, self.done = client, 0, 0

    def __call__(self, count: int) -> None:
        self.done += count
        if not self.killed:
            self.killed = kill_one(self.client)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of coloured squares: in `images` with YOLO's texts, and by their first colour in `sorted`."""
    folder = tmp_path_factory.mktemp("scenes")
    scenes = save_scenes(folder / "images", 24)
    save_boxes(folder / "images", scenes)
    for index, scene in enumerate(scenes):
        name = f"{index:02}"
        kind = next((COLORS[color] for color, _ in scene.values()), "none")
        (folder / "sorted" / kind).mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = 3 if index % 2 else 1
        Image.open(folder / "images" / f"{name}.png").save(folder / "sorted" / kind / f"{name}.png", exif=exif)
    (folder / "names.txt").write_text("\n".join(COLORS))
    for family, (model, _) in FAMILIES.items():
        onnx.save(model, folder / f"{family}.onnx")
    return folder


def calibrations(scenes: Path, **settings: Any) -> dict[str, Any]:
    """What both calibrations find: that of a detector as converted, that of a classifier in onnxruntime."""
    post = FAMILIES["classification"][1]
    assert isinstance(post, pp.ClassificationPostProcessor)
    detector = pp.convert(pp.fuse(scenes / "detection.onnx", FAMILIES["detection"][1]))
    found = calibrate_detector(detector, scenes / "images", scenes / "images", batch_size=2, **settings)
    classified = calibrate_classifier(
        scenes / "classification.onnx", scenes / "sorted", post=post, batch_size=2, **settings
    )
    assert found.total.right > 20
    assert "of 24 images were turned" in classified.notes[0]
    return {"detector": found.to_dict(), "classifier": classified.to_dict()}


@pytest.fixture(scope="module")
def in_one(scenes: Path) -> dict[str, Any]:
    return calibrations(scenes)


def test_detectors_and_classifiers_are_calibrated_alike(
    scenes: Path, in_one: dict[str, Any], two_workers: Client
) -> None:
    killer = Killer(two_workers)
    assert calibrations(scenes, client=two_workers, progress=killer) == in_one
    assert killer.killed
    assert killer.done == 2 * 24


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 5])
def test_any_number_of_workers(scenes: Path, in_one: dict[str, Any], workers: int) -> None:
    with open_client(workers) as client:
        assert calibrations(scenes, client=client) == in_one


@pytest.mark.slow
def test_raw_detectors_and_models_in_memory(scenes: Path, two_workers: Client) -> None:
    model, post = FAMILIES["detection"]
    assert isinstance(post, pp.DetectionPostProcessor)
    images = np.random.default_rng(3).normal(0, 1.5, (40, 3, 8, 8)).astype(np.float32)
    labels = np.random.default_rng(4).integers(0, 2, (40, 3))
    for raw, device in ((scenes / "detection.onnx", None), (pp.RawModel.open(model), "CPU")):
        one, other = (
            calibrate_detector(
                raw, scenes / "images", scenes / "images", post=post, device=device, letterbox=True, client=client
            )
            for client in (None, two_workers)
        )
        assert one.to_dict() == other.to_dict()
    several = [
        calibrate_classifier(classifier(3), {"image": images, "label": labels}, client=client)  # type: ignore[arg-type]
        for client in (None, two_workers)
    ]
    assert several[0] == several[1]
    assert several[0].multi_label is not None


@pytest.mark.parametrize(
    "family",
    [family if family == "segmentation" else pytest.param(family, marks=pytest.mark.slow) for family in FAMILIES],
)
def test_verify_and_run(family: str, scenes: Path, two_workers: Client, tmp_path: Path) -> None:
    raw, data = scenes / f"{family}.onnx", scenes / "images"
    artifact = pp.convert(pp.fuse(raw, FAMILIES[family][1]))
    killer = Killer(two_workers)
    one = pp.verify(raw, artifact, data, batch_size=2)
    other = pp.verify(raw, artifact, data, batch_size=2, client=two_workers, progress=killer)
    assert killer.killed
    assert one.passed, one.failures
    assert one.to_dict() == other.to_dict()
    assert str(one) == str(other)
    runner = pp.load(artifact, mode="throughput")
    formats = ("csv", "json", *(["coco"] if family == "detection" else []))
    given: dict[str, Any] = {"formats": formats, "save": ("masks", "overlays", "maps"), "batch_size": 2}
    killer = Killer(two_workers)
    write_predictions(runner, data, tmp_path / "one", **given)
    write_predictions(runner, data, tmp_path / "other", **given, client=two_workers, progress=killer)
    assert killer.killed
    assert files_of(tmp_path / "one") == files_of(tmp_path / "other")
    assert len(files_of(tmp_path / "one")) >= 24


@pytest.mark.slow
def test_the_command_line_calibrates_both(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(scenes)
    task = ["--task", "classification", "--labels", "names.txt", "--data", "sorted"]
    pp.fuse("detection.onnx", FAMILIES["detection"][1]).save(tmp_path / "detector.onnx")
    for name, given in (
        ("classifier", ["classification.onnx", *task]),
        ("detector", [str(tmp_path / "detector.onnx"), "--data", "images", "--boxes", "images"]),
    ):
        found = []
        for workers in ([], ["--workers", "2"]):
            out = tmp_path / f"{name}{len(workers)}.json"
            assert run(["calibrate", *given, "-o", str(out), "--json", *workers]) == 0
            found.append({**json.loads(capsys.readouterr().out), "output": None})
            assert out.read_bytes() == (tmp_path / f"{name}0.json").read_bytes()
        assert found[0] == found[1]
