"""Frames as cameras give them: OpenVINO's conversion, its NumPy twin, FFmpeg's, and what the verbs make of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import onnx
import openvino as ov
import pytest
from PIL import Image

import pp_graph as pp
from pp_graph.errors import DataError, TargetError
from pp_graph.openvino.preprocessing import extract_preprocessing
from pp_graph.preprocessing import YUV_ORDERS
from pp_graph.preprocessing.yuv import from_rgb, to_rgb
from tests.cell_detector import cells, painted, save_scenes
from tests.models import STATS, conv_model, identity_model

ORDERS = list(YUV_ORDERS)
FORMATS = {"NV12": "nv12", "I420": "yuv420p", "YUYV": "yuyv422"}
"""FFmpeg's names."""
RNG = np.random.default_rng(3)


def converted(order: str, **settings: Any) -> Any:
    fused = pp.fuse(conv_model(), pp.OneClassPostProcessor(STATS))
    shape = (None, 3, 64, 96)
    return pp.convert(fused, input_shape=shape, preprocessing=pp.Preprocessing(channel_order=order, **settings))


def alone(artifact: Any, precision: str = "bf16") -> Any:
    model = extract_preprocessing(artifact.network, artifact.provenance)
    return ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": precision})


@pytest.mark.parametrize("order", ORDERS)
def test_equals_the_reference_bit_for_bit(order: str) -> None:
    artifact = converted(order)
    preprocessing = artifact.provenance.preprocessing
    frames = RNG.integers(0, 256, (20, *preprocessing.frame_shape(3, 64, 96)), dtype=np.uint8)
    found = alone(artifact)(frames)[0]
    assert np.array_equal(found, preprocessing.reference(frames))
    assert found.std() > 50


@pytest.mark.sample(every=4)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("size", [None, (48, 62), (130, 98)])
@pytest.mark.parametrize("settings", [
    {"resize": "linear"}, {"resize": "nearest", "model_channel_order": "BGR"},
    {"resize": "letterbox", "mean": (100.0, 110, 120), "scale": (50.0, 60, 70)},
], ids=["linear", "nearest", "letterbox"])  # fmt: skip
def test_resized_frames_equal_the_reference(order: str, size: tuple[int, int] | None, settings: dict[str, Any]) -> None:
    artifact = converted(order, frame_size=size, **settings)
    preprocessing = artifact.provenance.preprocessing
    compiled = alone(artifact)
    for height, width in [size] if size else [(64, 96), (2, 2), (34, 130)]:
        frames = RNG.integers(0, 256, (2, *preprocessing.frame_shape(3, height, width)), dtype=np.uint8)
        expected = preprocessing.reference(frames)
        np.testing.assert_allclose(compiled(frames)[0], expected, rtol=1e-6, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("order", ["NV12", "I420"])
def test_every_combination_of_brightness_and_colour(order: str) -> None:
    side = 4096
    block = np.arange(side * side // 4)
    colours = np.stack([block // 64 // 256, block // 64 % 256], -1).astype(np.uint8)
    bright = (block % 64 * 4)[:, None] + np.arange(4)
    bright = bright.reshape(side // 2, side // 2, 2, 2).transpose(0, 2, 1, 3).reshape(side, side).astype(np.uint8)
    planes = colours.reshape(side // 2, side) if order == "NV12" else colours.T.reshape(side // 2, side)
    frames = np.concatenate([bright, planes])[None, ..., None]
    seen = set()
    fused = pp.fuse(conv_model(), pp.OneClassPostProcessor(STATS))
    preprocessing = pp.Preprocessing(channel_order=order)
    artifact = pp.convert(fused, input_shape=(1, 3, side, side), preprocessing=preprocessing)
    found = alone(artifact)(frames)[0]
    assert np.array_equal(found, artifact.provenance.preprocessing.reference(frames))
    seen |= set(map(int, np.unique(found)))
    assert seen == set(range(256))


@pytest.mark.parametrize("order", ORDERS)
def test_layout_and_colours_are_those_of_ffmpeg(order: str) -> None:
    # Away from the edges of blocks, where FFmpeg smooths colours.
    picture = RNG.integers(0, 256, (8, 12, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=FORMATS[order])
    theirs = frame.to_ndarray().reshape(1, *pp.Preprocessing(channel_order=order).frame_shape(3, 64, 96))
    inside = (slice(None), *(slice(4, None, 8), slice(4, None, 8)))
    assert np.abs(to_rgb(theirs, order)[inside].astype(int) - picture[None][inside]).max() <= 4
    ours = from_rgb(picture[None], order)
    assert np.abs(to_rgb(ours, order).astype(int) - picture).max() <= 4
    assert np.median(np.abs(ours.astype(int) - theirs)) <= 1


@pytest.mark.sample(every=3)
@pytest.mark.parametrize("order", ORDERS)
def test_verify_passes(order: str, tmp_path: Path) -> None:
    onnx.save(conv_model(), tmp_path / "raw.onnx")
    save_scenes(tmp_path / "images", 3, (64, 96))
    fused = pp.fuse(tmp_path / "raw.onnx", pp.OneClassPostProcessor(STATS))
    preprocessing = pp.Preprocessing(channel_order=order, scale=(255,))
    path = pp.convert(fused, input_shape=(None, 3, 64, 96), preprocessing=preprocessing).save(tmp_path / "model.xml")
    report = pp.verify(tmp_path / "raw.onnx", path, tmp_path / "images")
    assert report.passed, str(report)
    assert report.preprocessing_error is not None
    assert report.preprocessing_error < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
def test_a_detector_finds_the_same_as_in_rgb(order: str, tmp_path: Path) -> None:
    onnx.save(cells(), tmp_path / "raw.onnx")
    save_scenes(tmp_path / "images", 4, (128, 170))
    fused = pp.fuse(tmp_path / "raw.onnx", pp.DetectionPostProcessor(head="yolov8", confidence=0.5, max_detections=20))
    boxes = {}
    for each in (order, "RGB"):
        preprocessing = pp.Preprocessing(channel_order=each, scale=(255,), resize="letterbox", box_coordinates="frame")
        path = pp.convert(fused, preprocessing=preprocessing).save(tmp_path / f"{each}.xml")
        report = pp.verify(tmp_path / "raw.onnx", path, tmp_path / "images")
        assert report.passed, str(report)
        found = list(pp.load(path).stream(tmp_path / "images"))
        assert sum(int(one.count.sum()) for one in found) > 4
        boxes[each] = [one.boxes for one in found]
    for found, expected in zip(boxes[order], boxes["RGB"], strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("order", ORDERS)
def test_a_cameras_bytes_go_in_as_they_are(order: str, tmp_path: Path) -> None:
    fused = pp.fuse(cells(), pp.DetectionPostProcessor(head="yolov8", confidence=0.5, max_detections=20))
    preprocessing = pp.Preprocessing(channel_order=order, scale=(255,), resize="linear")
    runner = pp.load(pp.convert(fused, preprocessing=preprocessing))
    picture = np.asarray(painted({3: (0, 0.9), 8: (1, 0.9), 20: (2, 0.9)}, (128, 192)))
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=FORMATS[order]).to_ndarray()
    found = runner(frame.reshape(preprocessing.frame_shape(3, 128, 192)))
    Image.fromarray(picture).save(tmp_path / "picture.png")
    expected = runner(tmp_path / "picture.png")
    assert int(found.count[0]) == int(expected.count[0]) == 3
    assert sorted(found.classes[0, :3]) == [0, 1, 2]
    # Scores are nearly equal, so their order may differ.
    assert sorted(found.boxes[0].tolist()) == sorted(expected.boxes[0].tolist())


def test_impossible_settings() -> None:
    for settings, message in [
        ({"layout": "NCHW"}, "Frames in NV12 are u8 NCHW, expected u8 NHWC"),
        ({"dtype": "f32"}, "Frames in NV12 are f32 NHWC, expected u8 NHWC"),
        ({"resize": "linear", "frame_size": (33, 64)}, "Frames have 33x64 pixels, expected an even height and width"),
    ]:
        with pytest.raises(TargetError, match=message):
            pp.Preprocessing(channel_order="NV12", **settings)
    assert pp.Preprocessing(channel_order="YUYV", resize="linear", frame_size=(33, 64)).frame_size == (33, 64)
    fused = pp.fuse(conv_model(), pp.OneClassPostProcessor(STATS))
    with pytest.raises(TargetError, match="Frames have 63x96 pixels, expected an even"):
        pp.convert(fused, input_shape=(1, 3, 63, 96), preprocessing=pp.Preprocessing(channel_order="I420"))
    gray = pp.fuse(identity_model({"raw_map": ["N", 1, 8, 8]}), pp.OneClassPostProcessor(STATS))
    with pytest.raises(TargetError, match="requested, and input .* has one channel"):
        pp.convert(gray, preprocessing=pp.Preprocessing(channel_order="NV12"))


def test_images_that_cannot_be_frames(tmp_path: Path) -> None:
    runner = pp.load(converted("NV12", resize="linear"))
    Image.fromarray(np.zeros((31, 40, 3), np.uint8)).save(tmp_path / "odd.png")
    with pytest.raises(DataError, match="Images have 31x40 pixels, expected an even height and width"):
        runner(tmp_path / "odd.png")
    with pytest.raises(DataError, match=r"Images have shape \(1, 30, 40, 3\), expected"):
        runner(np.zeros((1, 30, 40, 3), np.uint8))
    with pytest.raises(DataError, match=r"Frames in NV12 have shape \(1, 32, 40, 1\)"):
        to_rgb(np.zeros((1, 32, 40, 1), np.uint8), "NV12")
