"""Masks and maps in the size of the frame: operators in the IR, the NumPy reference, and what reads them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

import pp_graph as pp
from pp_graph.cli import run
from pp_graph.errors import PostProcessorError, TargetError
from pp_graph.preprocessing import Placement
from pp_graph.preprocessing.placement import map_places, maps_in_frame
from tests.cell_detector import cells
from tests.conftest import DEMO
from tests.models import STATS, conv_model
from tests.video.servers import demo_frames, write_video

SIZES = ((200, 300), (34, 22), (64, 96), (2, 150))
RNG = np.random.default_rng(4)


def camera(fused: Any, map_size: str | None = "frame", **settings: Any) -> Any:
    asked: dict[str, Any] = {"scale": (255,), "resize": "letterbox", **settings}
    return pp.convert(fused, input_shape=(None, 3, 64, 96), preprocessing=pp.Preprocessing(**asked, map_size=map_size))


def test_each_pixel_lies_where_its_centre_does() -> None:
    for _ in range(200):
        frame, model, count = (tuple(map(int, RNG.integers(1, 400, 2))) for _ in range(3))
        placed = Placement.letterboxed(frame, model)
        for axis in (0, 1):
            centres = (np.arange(frame[axis]) + 0.5) * placed.size[axis] / frame[axis] + placed.offset[axis]
            found = map_places(placed, axis, count[axis], model[axis])
            exact = centres * count[axis] / model[axis]
            assert ((found <= exact + 1e-9) & (exact - 1e-9 < found + 1)).all()
            assert found.min() >= 0
            assert found.max() < count[axis]


@pytest.mark.sample(every=4)
@pytest.mark.parametrize("form", [{}, {"pack": True}, {"mask_dtype": "u8", "map_size": (20, 30)}],
                         ids=["own", "packed", "resized"])  # fmt: skip
@pytest.mark.parametrize("settings", [{}, {"resize": "linear"}, {"channel_order": "NV12"}],
                         ids=["letterbox", "stretched", "nv12"])  # fmt: skip
def test_no_number_changes(form: dict[str, Any], settings: dict[str, Any]) -> None:
    fused = pp.fuse(conv_model(), pp.OneClassPostProcessor(STATS, **form))
    plain, enlarged = camera(fused, None, **settings), camera(fused, **settings)
    sessions = [each.session(precision="bf16") for each in (plain, enlarged)]
    preprocessing = enlarged.provenance.preprocessing
    axes = {name: output.axes for name, output in enlarged.provenance.predicted.items()}
    for size in SIZES:
        frames = RNG.integers(0, 256, (2, *preprocessing.frame_shape(3, *size)), dtype=np.uint8)
        own, found = (enlarged.provenance.unpacked(each.run({"image": frames})) for each in sessions)
        expected = maps_in_frame(own, axes, preprocessing, {"image": frames})
        assert found["anomaly_map"].shape == found["pred_mask"].shape == (2, 1, *size)
        for name, array in found.items():
            assert array.dtype == own[name].dtype
            assert np.array_equal(array, expected[name])


def test_a_mask_lies_on_what_it_is_about(demo_post: pp.OneClassPostProcessor, tmp_path: Path) -> None:
    """A part in a wide frame, right of a dark border: the mask is where it would be in the part alone."""
    part = demo_frames()[8]
    wide = np.full((256, 512, 3), part.mean(), np.uint8)
    wide[:, 256:] = part
    preprocessing = pp.Preprocessing(scale=(255,), resize="letterbox", map_size="frame")
    runner = pp.load(pp.convert(pp.fuse(DEMO / "raw.onnx", demo_post), preprocessing=preprocessing))
    mask = runner(wide).pred_mask[0, 0]
    assert mask.shape == (256, 512)
    plain = runner(part).pred_mask[0, 0]
    both = (mask[:, 256:] & plain).sum()
    assert both > 0.5 * plain.sum(), "shrunk to half, it still finds most"


@pytest.mark.parametrize("settings", [{}, pytest.param({"frame_size": (120, 80)}, marks=pytest.mark.slow)])
def test_verify_run_and_retune(settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(conv_model(), tmp_path / "raw.onnx")
    (tmp_path / "images").mkdir()
    for index in range(3):
        pixels = RNG.integers(0, 256, (130, 98, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{index}.png")
    fused = pp.fuse(tmp_path / "raw.onnx", pp.OneClassPostProcessor(STATS))
    path = camera(fused, **settings).save(tmp_path / "model.xml")
    assert "Masks and maps have the size of the frame" in path.with_suffix(".usage.md").read_text()
    report = pp.verify(tmp_path / "raw.onnx", path, tmp_path / "images")
    assert report.passed, str(report)
    before = pp.load(path)(tmp_path / "images" / "0.png").pred_mask
    pp.retune(path, pixel_sensitivity=0.9)
    after = pp.load(path)(tmp_path / "images" / "0.png").pred_mask
    assert before.shape == after.shape == (1, 1, *settings.get("frame_size", (130, 98)))
    assert after.sum() > before.sum()
    assert pp.verify(tmp_path / "raw.onnx", path, tmp_path / "images").passed
    assert run(["run", str(path), str(tmp_path / "images"), "-o", str(tmp_path / "found")]) == 0, capsys.readouterr()
    mask = np.asarray(Image.open(tmp_path / "found" / "masks" / "0.png"))
    assert mask.shape == (130, 98)
    if not settings:
        assert np.array_equal(mask > 0, after[0, 0])


def test_a_letterboxed_model_annotates_a_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(conv_model(), "raw.onnx")
    write_video(tmp_path / "wide.mp4", [np.full((48, 128, 3), 9 * index, np.uint8) for index in range(5)])
    fused = pp.fuse("raw.onnx", pp.OneClassPostProcessor(STATS))
    for name, size in (("own", None), ("frame", "frame")):
        camera(fused, size).save(tmp_path / f"{name}.xml")
    assert run(["run", "own.xml", "wide.mp4", "-o", "own.mp4"]) == 2
    assert "Convert with --map-size frame" in " ".join(capsys.readouterr().err.split())
    assert run(["run", "frame.xml", "wide.mp4", "-o", "seen.mp4", "-o", "seen.csv"]) == 0
    with Path("seen.csv").open() as stream:
        shares = [float(row["anomalous_pixels"]) / (48 * 128) for row in csv.DictReader(stream)]
    assert len(shares) == 5
    assert all(0 <= share <= 1 for share in shares)


def test_the_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(conv_model(), "raw.onnx")
    pp.fuse("raw.onnx", pp.OneClassPostProcessor(STATS)).save("fused.onnx")
    line = ["convert", "fused.onnx", "-o", "model.xml", "--input-shape", "1,3,64,96", "--map-size", "frame"]
    assert run(line) == 2
    assert "without a method to resize frames" in " ".join(capsys.readouterr().err.split())
    assert run([*line, "--resize", "letterbox", "--scale", "255"]) == 0
    assert "masks and maps in the size of the frame" in " ".join(capsys.readouterr().out.split())
    assert pp.open("model.xml").provenance.preprocessing.map_size == "frame"


def test_refusals() -> None:
    detector = pp.fuse(cells(), pp.DetectionPostProcessor(head="yolov8", confidence=0.5))
    with pytest.raises(TargetError, match="the outputs are boxes, .* expected a mask or a map"):
        pp.convert(detector, preprocessing=pp.Preprocessing(resize="letterbox", map_size="frame"))
    with pytest.raises(TargetError, match="Size of maps of frames is 'input', expected one of: frame"):
        pp.Preprocessing(resize="letterbox", map_size="input")
    with pytest.raises(PostProcessorError, match="map_size='frame' of Preprocessing, is set when converting"):
        pp.OneClassPostProcessor(STATS, map_size="frame")  # type: ignore[arg-type]
