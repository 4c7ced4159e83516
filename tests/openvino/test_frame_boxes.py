"""Boxes and key points in pixels of the frame: operators in the IR, the NumPy reference, and what reads them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import pp_graph as pp
from pp_graph.cli import run
from pp_graph.errors import TargetError
from pp_graph.preprocessing import Placement
from pp_graph.preprocessing.placement import in_frame
from tests.cell_detector import CELLS, HEIGHT, WIDTH, cells, painted, save_scenes
from tests.models import STATS, conv_model
from tests.report.test_detection_parts import with_masks

POST = pp.DetectionPostProcessor(head="yolov8", confidence=0.5, max_detections=20)
SIZES = ((128, 192), (200, 90), (33, 301), (64, 96), (7, 5))
RNG = np.random.default_rng(2)


def frames_of(size: tuple[int, int], count: int = 2) -> np.ndarray:
    scenes = [{int(cell): (int(cell) % 3, 0.9) for cell in RNG.permutation(CELLS)[:5]} for _ in range(count)]
    return np.stack([np.asarray(painted(scene, size)) for scene in scenes])


def with_points() -> onnx.ModelProto:
    """The detector of coloured cells, with two key points: the upper left corner of a cell, and a hidden zero."""
    proto = cells()
    node = next(node for node in proto.graph.node if node.output[0] == "output0")
    centred = next(each for each in proto.graph.initializer if each.name == "centred")
    boxes = numpy_helper.to_array(centred)
    points = np.zeros((1, 6, CELLS), np.float32)
    points[0, :2], points[0, 2] = boxes[0, :2] - boxes[0, 2:] / 2, 1
    proto.graph.initializer.append(numpy_helper.from_array(points, "corner"))
    proto.graph.node.insert(len(proto.graph.node) - 1, helper.make_node("Add", ["zeros", "corner"], ["points"]))
    node.input.append("points")
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 13
    helper.set_model_props(proto, {"kpt_shape": "[2, 3]", "names": "{0: 'r', 1: 'g', 2: 'b'}", "task": "pose"})
    return proto


def camera(fused: Any, coordinates: str = "frame", **settings: Any) -> Any:
    asked: dict[str, Any] = {"scale": (255,), "resize": "letterbox", **settings}
    return pp.convert(fused, preprocessing=pp.Preprocessing(**asked, box_coordinates=coordinates))


@pytest.mark.sample(every=6)
@pytest.mark.parametrize("form", [{}, {"pack": True}, {"names": "efficient-nms"}], ids=["own", "packed", "tensorrt"])
@pytest.mark.parametrize("method", ["letterbox", "linear"])
def test_boxes_are_in_pixels_of_the_frame(method: str, form: dict[str, Any]) -> None:
    fused = pp.fuse(cells(), replace(POST, **form))
    inside, outside = (camera(fused, where, resize=method) for where in ("input", "frame"))
    total = 0
    for size in SIZES:
        frames = frames_of(size)
        plain, found = (each.provenance.unpacked(each.session().run({"image": frames})) for each in (inside, outside))
        for name in ("scores", "classes", "count"):
            assert np.array_equal(found[name], plain[name])
        total += found["count"].sum()
        expected = in_frame(plain, outside.provenance.preprocessing, {"image": frames})["boxes"]
        np.testing.assert_allclose(found["boxes"], expected, rtol=1e-6, atol=1e-4)
        preprocessing = outside.provenance.preprocessing
        placed = Placement.of(size, (None, None), replace(preprocessing, box_coordinates="input"))
        for row, count in enumerate(found["count"]):
            own = placed.to_frame(plain["boxes"][row, :count])
            np.testing.assert_allclose(found["boxes"][row, :count], own, rtol=1e-5, atol=1e-3)
            assert not found["boxes"][row, count:].any()
    assert total > 10


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_key_points_move_with_their_boxes(precision: str) -> None:
    post = pp.DetectionPostProcessor(head="yolov8-pose", confidence=0.6, max_detections=20)
    artifact = camera(pp.fuse(with_points(), post))
    session = artifact.session(precision=precision)
    assert {"f32"} == {kind for name, kind in session.island.items() if "/frame/" in name and "f" in kind}
    for size in ((128, 192), (100, 160)):
        found = session.run({"image": frames_of(size)})
        shown = found["keypoints"][..., 0, 2] == 1
        assert shown.any()
        # Not clipped, as boxes are.
        corners = np.clip(found["keypoints"][..., 0, :2], 0, size[::-1])
        np.testing.assert_allclose(corners[shown], found["boxes"][..., :2][shown], atol=1e-3)
        assert not found["keypoints"][~shown].any()


@pytest.mark.sample(every=3)
@pytest.mark.parametrize("settings", [{}, {"frame_size": (120, 80)}, {"resize": "cubic", "channel_order": "BGR"}])
def test_verify_run_retune_and_save(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(with_points(), tmp_path / "raw.onnx")
    save_scenes(tmp_path / "images", 4, (128, 170))
    post = pp.DetectionPostProcessor(head="yolov8-pose", confidence=0.6, max_detections=20)
    fused = pp.fuse(tmp_path / "raw.onnx", post)
    tables = {}
    for where in ("input", "frame"):
        path = camera(fused, where, **settings).save(tmp_path / f"{where}.xml")
        report = pp.verify(tmp_path / "raw.onnx", path, tmp_path / "images")
        assert report.passed, str(report)
        errors = {each.name: each.max_scaled for each in report.postprocessing_errors}
        assert errors["boxes"] < 1e-6
        assert errors["keypoints"] < 1e-6
        assert run(["run", str(path), str(tmp_path / "images"), "-o", str(tmp_path / where), "--json"]) == 0
        capsys.readouterr()
        tables[where] = json.loads((tmp_path / where / "predictions.json").read_text())["predictions"]
    for own, theirs in zip(tables["frame"], tables["input"], strict=True):
        for each, other in zip(own["detections"], theirs["detections"], strict=True):
            assert (each["class"], each["score"]) == (other["class"], other["score"])
            np.testing.assert_allclose(each["box"], other["box"], atol=1e-3)
            np.testing.assert_allclose(each["keypoints"], other["keypoints"], atol=1e-3)
    # A class has its own confidence: other operators, so that the whole post-processing is exchanged.
    for confidence in (0.7, (0.7, 0.8, 0.5)):
        changed = pp.retune(tmp_path / "frame.xml", confidence=confidence, output=tmp_path / "new.xml", overwrite=True)
        fresh = camera(pp.fuse(tmp_path / "raw.onnx", replace(post, confidence=confidence)), **settings)
        frames = frames_of((120, 80))
        ours, theirs = (each.session().run({"image": frames}) for each in (pp.open(changed.path), fresh))
        for name, array in theirs.items():
            assert np.array_equal(ours[name], array), name
        assert pp.verify(tmp_path / "raw.onnx", changed.path, tmp_path / "images").passed
    usage = (tmp_path / "frame.usage.md").read_text()
    assert "in pixels of the frame as it goes in" in usage
    assert "lies letterboxed" not in usage


@pytest.mark.parametrize("options", [{}, {"precision": "f16"}], ids=["f32", "f16"])
def test_cutoffs_that_change_while_the_model_runs(options: dict[str, Any]) -> None:
    fused = pp.fuse(cells(), replace(POST, thresholds="runtime"))
    frames = pp.Preprocessing(scale=(255,), resize="linear", box_coordinates="frame")
    artifact = pp.convert(fused, preprocessing=frames, **options)
    session, image = artifact.session(), {"image": frames_of((128, 192))}
    before = session.run(image)
    session.set_states({"confidence_cutoff": np.array(0.95, np.float32)})
    assert session.run(image)["count"].sum() == 0 < before["count"].sum()


def test_masks_are_drawn_at_the_same_place(tmp_path: Path) -> None:
    save_scenes(tmp_path / "images", 3, (128, 170))
    fused = pp.fuse(with_masks(), pp.DetectionPostProcessor(head="yolov8-seg", confidence=0.5))
    annotations = []
    for where in ("input", "frame"):
        path = camera(fused, where).save(tmp_path / f"{where}.xml")
        assert run(["run", str(path), str(tmp_path / "images"), "-o", str(tmp_path / where), "--coco"]) == 0
        listed = json.loads((tmp_path / where / "predictions.coco.json").read_text())["annotations"]
        annotations.append([each["segmentation"] for each in listed])
    assert annotations[0] == annotations[1] != []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--resize", "linear", "--box-coordinates", "image"], "'image', expected one of: input, frame"),
        (["--box-coordinates", "frame"], "without a method to resize frames, expected both"),
        (
            ["--resize", "linear", "--box-coordinates", "frame", "--box-format", "xywh"],
            "asked for as xywh, expected corners",
        ),
    ],
)
def test_impossible_coordinates(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(cells(), tmp_path / "raw.onnx")
    arguments = ["convert", str(tmp_path / "raw.onnx"), "-o", str(tmp_path / "model.xml"), "--task", "detection"]
    assert run([*arguments, "--head", "yolov8", *options]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "model.xml").exists()


def test_models_without_boxes_have_no_coordinates() -> None:
    fused = pp.fuse(conv_model(), pp.OneClassPostProcessor(STATS))
    with pytest.raises(TargetError, match="the outputs are .*, expected boxes of a detector or of regions"):
        pp.convert(
            fused,
            input_shape=(1, 3, 12, 16),
            preprocessing=pp.Preprocessing(resize="linear", box_coordinates="frame"),
        )


def test_the_size_of_the_frames_does_not_change_the_network() -> None:
    artifact = camera(pp.fuse(cells(), POST))
    (found,) = (port for port in artifact.network.outputs if "boxes" in port.get_names())
    assert str(found.get_partial_shape()).endswith("20,4]")
    assert artifact.provenance.preprocessing.model_size == (HEIGHT, WIDTH)
