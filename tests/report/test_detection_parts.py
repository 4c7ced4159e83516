"""Key points, masks and oriented boxes of detections: in tables, COCO JSON and pictures, in pixels of the image."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from PIL import Image

import pp_graph as pp
from pp_graph.cli import run
from tests.cell_detector import CELLS, CORNERS, HEIGHT, WIDTH, cells, painted, save_scenes

CENTRES = (CORNERS[:, :2] + CORNERS[:, 2:]) / 2


def with_points() -> onnx.ModelProto:
    """The detector of coloured cells; the key points of a cell are its centre, visible, and its corner, hidden."""
    proto = cells()
    node = next(node for node in proto.graph.node if node.output[0] == "output0")
    ones = np.ones((CELLS, 1), np.float32)
    points = np.concatenate([CENTRES, 0.9 * ones, CORNERS[:, :2], 0.1 * ones], 1).T[None].astype(np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(points.copy(), "points"))
    node.input.append("all_points")
    place = list(proto.graph.node).index(node)
    proto.graph.node.insert(place, helper.make_node("Add", ["zeros", "points"], ["all_points"]))
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 13
    helper.set_model_props(proto, {"task": "pose", "kpt_shape": "[2, 3]", "names": "{0: 'r', 1: 'g', 2: 'b'}"})
    return proto


def test_key_points_are_listed_in_pixels_of_the_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenes = save_scenes(tmp_path / "images")
    onnx.save(with_points(), tmp_path / "raw.onnx")
    pp.convert(pp.fuse(with_points(), pp.DetectionPostProcessor(head="yolov8-pose"))).save(tmp_path / "model.xml")
    out = tmp_path / "out"
    assert run(["run", str(tmp_path / "model.xml"), str(tmp_path / "images"), "-o", str(out), "--coco"]) == 0
    listed = json.loads((out / "predictions.json").read_text())["predictions"]
    coco = json.loads((out / "predictions.coco.json").read_text())["annotations"]
    with (out / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(coco) == sum(map(len, scenes)) > 0
    for scene, entry in zip(scenes, listed, strict=True):
        found = {tuple(map(float, (x, y))) for each in entry["detections"] for x, y, _ in each["keypoints"][:1]}
        assert found == {tuple((2 * CENTRES[cell]).tolist()) for cell in scene}
    for annotation, row in zip(coco, rows, strict=True):
        left, top, _, _ = annotation["bbox"]
        assert annotation["keypoints"] == [left + 16, top + 16, 2, left, top, 1]
        assert row["keypoints"] == f"{left + 16} {top + 16} 0.9; {left} {top} 0.1"
    capsys.readouterr()
    arguments = [str(tmp_path / name) for name in ("raw.onnx", "model.xml", "images")]
    assert run(["verify", *arguments[:2], "--data", arguments[2], "--json"]) == 0
    report = json.loads(capsys.readouterr().out)["detections"]
    assert report["drift"]["point_error_max"] == 0


def with_masks() -> onnx.ModelProto:
    """The detector of coloured cells; a prototype for each colour, and the mask of a cell is the left half of it."""
    proto = cells()
    node = next(node for node in proto.graph.node if node.output[0] == "output0")
    left = np.where(np.arange(WIDTH // 4) % 4 < 2, 1, -1) * np.ones((1, 1, HEIGHT // 4, 1))
    ones = np.ones((1, 1, CELLS))
    added = {"left": left, "ones": ones, "where": np.array([0, 1, HEIGHT // 4, WIDTH // 4])}
    for name, array in added.items():
        kind = np.int64 if name == "where" else np.float32
        proto.graph.initializer.append(numpy_helper.from_array(array.astype(kind), name))
    place = list(proto.graph.node).index(node)
    for made in (
        helper.make_node("AveragePool", ["image"], ["quarter"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("ReduceMean", ["quarter"], ["gray"], axes=[1], keepdims=1),
        helper.make_node("Sub", ["gray", "gray"], ["black"]),
        helper.make_node("Add", ["black", "left"], ["output1"]),
        helper.make_node("Add", ["zeros", "ones"], ["coefficients"]),
    ):
        proto.graph.node.insert(place, made)
        place += 1
    node.input.append("coefficients")
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 8
    shape = ["N", 1, HEIGHT // 4, WIDTH // 4]
    proto.graph.output.append(helper.make_tensor_value_info("output1", onnx.TensorProto.FLOAT, shape))
    helper.set_model_props(proto, {"task": "segment", "names": "{0: 'r', 1: 'g', 2: 'b'}"})
    return proto


def pixels_of(run_lengths: dict[str, list[int]]) -> np.ndarray:
    """The mask of COCO's run lengths."""
    counts = run_lengths["counts"]
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return flat.reshape(run_lengths["size"][::-1]).T


@pytest.mark.parametrize("size", ["prototypes", "input"])
@pytest.mark.parametrize("letterbox", [False, True])
def test_masks_lie_on_the_objects_of_the_image(
    size: Any, letterbox: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = {cell: (cell % 3, 0.9) for cell in (1, 8, 16, 21)}
    whole = np.asarray(painted(scene))
    shown = whole[:, 16:80] if letterbox else whole
    (tmp_path / "images").mkdir()
    large = Image.fromarray(shown).resize((shown.shape[1] * 10, 640), Image.Resampling.NEAREST)
    large.save(tmp_path / "images" / "a.png")
    onnx.save(with_masks(), tmp_path / "raw.onnx")
    post = pp.DetectionPostProcessor(head="yolov8-seg", mask_size=size, confidence=0.5)
    pp.convert(pp.fuse(with_masks(), post)).save(tmp_path / "model.xml")
    out, options = tmp_path / "out", ["--letterbox"] if letterbox else []
    arguments = ["run", str(tmp_path / "model.xml"), str(tmp_path / "images"), "-o", str(out), "--coco", *options]
    assert run(arguments) == 0
    annotations = json.loads((out / "predictions.coco.json").read_text())["annotations"]
    assert len(annotations) == len(scene)
    drawn = np.asarray(Image.open(out / "overlays" / "a.jpg")).astype(int)
    for annotation in annotations:
        left, top, width, height = annotation["bbox"]
        mask = pixels_of(annotation["segmentation"])
        assert mask.shape == (large.height, large.width)
        assert annotation["area"] == mask.sum()
        rows, columns = np.nonzero(mask)
        # The left half, up to half a pixel of the model's mask.
        assert abs(rows.min() - top) <= 20
        assert abs(columns.min() - left) <= 20
        assert abs(columns.max() - left - width / 2) <= 20
        assert abs(rows.max() - top - height) <= 20
        assert 0.3 < mask.sum() / (width * height) < 0.7
    assert np.abs(drawn - np.asarray(large)).max() > 50
    capsys.readouterr()
    arguments = [str(tmp_path / name) for name in ("raw.onnx", "model.xml", "images")]
    assert run(["verify", *arguments[:2], "--data", arguments[2], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["detections"]["drift"]["mask_flips"] == 0


def test_visible_key_points_are_drawn(tmp_path: Path) -> None:
    painted({9: (1, 0.9)}, (320, 480)).save(tmp_path / "a.png")
    runner = pp.load(pp.fuse(with_points(), pp.DetectionPostProcessor(head="yolov8-pose")))
    from pp_graph.report import write_predictions

    write_predictions(runner, tmp_path / "a.png", tmp_path / "out")
    drawn = np.asarray(Image.open(tmp_path / "out" / "overlays" / "a.jpg")).astype(int)
    x, y = (CENTRES[9] * 5).astype(int)
    beside = drawn[y, x + 20]
    assert np.abs(drawn[y, x] - beside).max() > 60


def oriented() -> onnx.ModelProto:
    """The detector of coloured cells, whose boxes are turned by an eighth."""
    proto = cells()
    node = next(node for node in proto.graph.node if node.output[0] == "output0")
    angles = np.full((1, 1, CELLS), np.pi / 4, np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(angles, "eighth"))
    node.input.append("angles")
    place = list(proto.graph.node).index(node)
    zero = helper.make_node("ReduceMax", ["zeros"], ["no_angles"], axes=[1], keepdims=1)
    proto.graph.node.insert(place, helper.make_node("Add", ["no_angles", "eighth"], ["angles"]))
    proto.graph.node.insert(place, zero)
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 8
    helper.set_model_props(proto, {"task": "obb", "names": "{0: 'r', 1: 'g', 2: 'b'}"})
    return proto


def test_corners_of_oriented_boxes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenes = save_scenes(tmp_path / "images")
    onnx.save(oriented(), tmp_path / "raw.onnx")
    pp.convert(pp.fuse(oriented(), pp.DetectionPostProcessor(head="yolov8-obb"))).save(tmp_path / "model.xml")
    out = tmp_path / "out"
    assert run(["run", str(tmp_path / "model.xml"), str(tmp_path / "images"), "-o", str(out), "--coco"]) == 0
    listed = json.loads((out / "predictions.json").read_text())["predictions"]
    coco = json.loads((out / "predictions.coco.json").read_text())["annotations"]
    with (out / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(coco) == sum(map(len, scenes)) > 0
    found = [each for entry in listed for each in entry["detections"]]
    for each, annotation, row in zip(found, coco, rows, strict=True):
        corners = np.array(each["corners"])
        # A square of 16 pixels, enlarged twice, stands on a corner; the box around ends at the image's edge.
        inside = np.clip(corners, 0, [2 * WIDTH, 2 * HEIGHT])
        assert np.allclose([*inside.min(0), *inside.max(0)], each["box"], atol=1e-2)
        assert np.allclose(annotation["segmentation"], [corners.ravel()])
        assert annotation["area"] == pytest.approx(32 * 32, rel=1e-3)
        assert row["corners"] == "; ".join(f"{x} {y}" for x, y in each["corners"])
    assert any((out / "overlays").iterdir())
    capsys.readouterr()
    arguments = [str(tmp_path / name) for name in ("raw.onnx", "model.xml", "images")]
    assert run(["verify", *arguments[:2], "--data", arguments[2], "--json"]) == 0
    report = json.loads(capsys.readouterr().out)["detections"]
    assert report["postprocessing"]["box_error_max"] == 0
    assert report["drift"]["box_error_max"] < 1e-3
