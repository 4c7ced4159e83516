"""Oriented boxes, regions and their centroids in pixels of the frame."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from PIL import Image

import pp_graph as pp
from pp_graph.cli import run
from pp_graph.data.boxes import oriented_corners
from pp_graph.errors import PostProcessorError, TargetError
from pp_graph.preprocessing import Placement
from tests.cell_detector import CELLS, cells, save_scenes
from tests.models import STATS, from_text
from tests.openvino.test_frame_boxes import SIZES, frames_of

LIMITS: dict[str, Any] = {"pixel_threshold": 0.5, "box_threshold": 0.5, "min_area": 1, "unclip": 0, "regions": 8}


def turned() -> onnx.ModelProto:
    """The detector of coloured cells, with an angle of each."""
    proto = cells()
    node = next(node for node in proto.graph.node if node.output[0] == "output0")
    angles = np.linspace(0, 1.5, CELLS, dtype=np.float32)[None, None]
    proto.graph.initializer.append(numpy_helper.from_array(angles, "angle"))
    proto.graph.node.insert(len(proto.graph.node) - 1, helper.make_node("Add", ["zeros", "angle"], ["angles"]))
    node.input.append("angles")
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 8
    helper.set_model_props(proto, {"names": "{0: 'r', 1: 'g', 2: 'b'}", "task": "obb"})
    return proto


def reds(step: int = 1, sizes: str = "64,96") -> onnx.ModelProto:
    """A map of how red the image is, its sides divided by `step`."""
    small = "" if sizes != "64,96" else f",{64 // step},{96 // step}"
    return from_text(
        f"""<ir_version: 8, opset_import: ["": 18]>
        reds (float[N,3,{sizes}] image) => (float[N,1{small or ",H,W"}] maps) <int64[1] zero = {{0}}> {{
            red = Gather<axis=1>(image, zero)
            maps = MaxPool<kernel_shape=[{step},{step}], strides=[{step},{step}]>(red)
        }}"""
    )


def framed(method: str = "letterbox", where: str = "frame", **settings: Any) -> pp.Preprocessing:
    return pp.Preprocessing(scale=(255,), resize=method, box_coordinates=where, **settings)  # type: ignore[arg-type]


def test_oriented_boxes_stay_rectangles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(turned(), tmp_path / "raw.onnx")
    save_scenes(tmp_path / "images", 3, (128, 170))
    post = pp.DetectionPostProcessor(head="yolov8-obb", confidence=0.5, max_detections=20)
    fused = pp.fuse(tmp_path / "raw.onnx", post)
    inside, outside = (pp.convert(fused, preprocessing=framed(where=where)) for where in ("input", "frame"))
    total = 0
    for size in SIZES[:4]:
        frames = {"image": frames_of(size)}
        plain, found = (each.session().run(frames) for each in (inside, outside))
        placed = Placement.letterboxed(size, (64, 96))
        # Rounding the letterbox's size makes both directions differ by at most half a pixel of the input.
        pixel = max(size[0] / placed.size[0], size[1] / placed.size[1])
        for row, count in enumerate(found["count"]):
            expected = placed.points_to_frame(oriented_corners(plain["boxes"][row, :count]))
            assert np.allclose(oriented_corners(found["boxes"][row, :count]), expected, atol=0.51 * pixel)
            assert np.array_equal(found["boxes"][row, :, 4], plain["boxes"][row, :, 4])
            assert not found["boxes"][row, count:].any()
            total += count
    assert total > 10
    path = outside.save(tmp_path / "frame.xml")
    report = pp.verify(tmp_path / "raw.onnx", path, tmp_path / "images")
    assert report.passed, str(report)
    assert run(["run", str(path), str(tmp_path / "images"), "-o", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    tuned = pp.retune(path, confidence=0.8, output=tmp_path / "tuned.xml")
    fresh = pp.convert(pp.fuse(turned(), replace(post, confidence=0.8)), preprocessing=framed())
    frames = {"image": frames_of((100, 160))}
    one, two = (each.session().run(frames) for each in (pp.open(tuned.path), fresh))
    assert all(np.array_equal(one[name], two[name]) for name in one)
    with pytest.raises(TargetError, match="frames are stretched \\(linear\\), expected letterbox"):
        pp.convert(fused, preprocessing=framed("linear"))


def by_hand(frame: np.ndarray, plain: dict[str, np.ndarray], placed: Placement, step: int) -> list[np.ndarray]:
    """Boxes and centroids of a map, in pixels of the frame."""
    count = plain["region_count"][0]
    boxes = placed.to_frame(plain["region_boxes"][0, :count] * step)
    centres = placed.points_to_frame((plain["region_centroids"][0, :count] + 0.5) * step) - 0.5
    return [boxes, centres]


@pytest.mark.sample(every=3)
@pytest.mark.parametrize(
    ("method", "step", "sizes"), [("letterbox", 1, "64,96"), ("linear", 4, "64,96"), ("letterbox", 2, "H,W")]
)
def test_regions_and_centroids(method: str, step: int, sizes: str, tmp_path: Path) -> None:
    raw = reds(step, sizes)
    fused = pp.fuse(raw, pp.RegionsPostProcessor(**LIMITS))
    shape = (1, 3, 64, 96)
    inside, outside = (
        pp.convert(fused, input_shape=shape, preprocessing=framed(method, where)) for where in ("input", "frame")
    )
    total = 0
    for size in SIZES[:4]:
        frames = frames_of(size, 1)
        frames[:, size[0] // 3 : size[0] // 2, :, 0] = 255
        plain, found = (each.session().run({"image": frames}) for each in (inside, outside))
        placed = Placement.of(size, (None, None), inside.provenance.preprocessing)
        expected = by_hand(frames, plain, placed, step)
        count = plain["region_count"][0]
        total += count
        for name, wanted in zip(("region_boxes", "region_centroids"), expected, strict=True):
            np.testing.assert_allclose(found[name][0, :count], wanted, rtol=1e-5, atol=1e-3)
            assert not found[name][0, count:].any()
        for name in ("region_areas", "region_scores", "pred_mask"):
            assert np.array_equal(found[name], plain[name])
    assert total > 3
    images = {"image": frames_of((120, 170), 1)}
    report = pp.verify(raw, outside, images)
    assert report.passed, str(report)
    tuned = pp.retune(outside, pixel_threshold=0.9)
    fresh = pp.convert(
        pp.fuse(raw, pp.RegionsPostProcessor(**{**LIMITS, "pixel_threshold": 0.9})),
        input_shape=shape,
        preprocessing=framed(method),
    )
    one, two = (each.session().run(images) for each in (tuned, fresh))
    assert all(np.array_equal(one[name], two[name]) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"frame_size": (80, 120)}])
def test_run_draws_regions_of_letterboxed_frames(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = np.zeros((128, 192, 3), np.uint8)
    pixels[32:64, 48:96, 0] = 255
    (tmp_path / "images").mkdir()
    Image.fromarray(pixels).save(tmp_path / "images" / "a.png")
    for mask in (True, False):
        post = pp.RegionsPostProcessor(**LIMITS, mask=mask)
        artifact = pp.convert(pp.fuse(reds(), post), preprocessing=framed(**settings))
        path = artifact.save(tmp_path / f"{mask}.xml")
        code = run(["run", str(path), str(tmp_path / "images"), "-o", str(tmp_path / f"out{mask}")])
        assert code == (2 if mask else 0), capsys.readouterr().err
    assert (tmp_path / "outFalse" / "overlays").is_dir()
    (row,) = csv.DictReader((tmp_path / "outFalse" / "regions.csv").read_text().splitlines())
    assert np.allclose([float(row[name]) for name in ("x1", "y1", "x2", "y2")], [48, 32, 96, 64], atol=2.1)
    assert np.allclose([float(row["x"]), float(row["y"])], [72, 48], atol=2.1)


@pytest.mark.slow
def test_regions_of_anomaly_models(tmp_path: Path) -> None:
    raw = reds(2)
    post = pp.OneClassPostProcessor(STATS, regions=4)
    artifact = pp.convert(raw, post=post, preprocessing=framed("linear"))
    frames = np.zeros((1, 128, 192, 3), np.uint8)
    frames[:, 32:64, 48:96, 0] = 255
    found = artifact.session().run({"image": frames})
    assert np.allclose(found["region_boxes"][0, 0], [48, 32, 96, 64], atol=4)
    assert np.allclose(found["region_centroids"][0, 0], [71.5, 47.5], atol=2)
    assert pp.verify(raw, artifact, {"image": frames}).passed
    without = pp.convert(raw, post=replace(post, map_size=(32, 48)), preprocessing=framed("linear"))
    assert np.allclose(without.session().run({"image": frames})["region_boxes"], found["region_boxes"], atol=4)


def test_centroids_need_their_boxes() -> None:
    fused = pp.fuse(reds(), pp.RegionsPostProcessor(**LIMITS, outputs=("region_centroids",)))
    with pytest.raises(TargetError, match="expected boxes of a detector or of regions"):
        pp.convert(fused, preprocessing=framed())
    opened = pp.fuse(reds(1, "H,W"), pp.RegionsPostProcessor(**LIMITS))
    with pytest.raises((TargetError, PostProcessorError), match="--input-shape"):
        pp.convert(opened, preprocessing=framed())
