"""A detector through every verb: recognised, fused, verified, retuned, benchmarked and stripped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import pp_graph as pp
from pp_graph.cli import run
from tests.detectors import CELLS, SIZE, detector, scene
from tests.listed_detectors import listed_detector, pictures, plain
from tests.models import run as run_onnx

OPTIONS = ["--task", "detection", "--labels", "names.txt", "--confidence", "0.3", "--max-detections", "20"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rng = np.random.default_rng(0)
    boxes, scores = scene(rng, 4, CELLS, 3)
    onnx.save(detector((7, CELLS)), tmp_path / "raw.onnx")
    (tmp_path / "names.txt").write_text("cat\ndog\nox\n")
    image = rng.normal(0, 1, (4, 3, SIZE, SIZE)).astype(np.float32)
    candidates = np.concatenate([boxes, scores], 2).transpose(0, 2, 1).copy()
    np.savez(tmp_path / "images.npz", image=image, in0=candidates)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_from_the_raw_model_to_a_verified_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", "raw.onnx"]) == 0
    told = capsys.readouterr()
    assert "raw.onnx --task detection --head yolov8 -o model.xml" in told.out
    assert run(["fuse", "raw.onnx", *OPTIONS, "--iou", "0.5", "-o", "fused.onnx"]) == 0
    assert run(["convert", "raw.onnx", *OPTIONS, "--head", "yolov8", "-o", "model.xml"]) == 0
    assert run(["retune", "model.xml", "--iou", "0.5"]) == 0
    assert "confidence   " in capsys.readouterr().out
    assert run(["inspect", "model.xml"]) == 0
    # Steps between the raw value and the outputs have no names that a reader knows.
    assert "passing" not in capsys.readouterr().out
    verify = ["verify", "raw.onnx", "model.xml", "--data", "images.npz", "--inference-precision", "bf16", "--json"]
    assert run(verify) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["postprocessing_exact"]
    data = dict(np.load("images.npz"))
    expected, found = run_onnx("fused.onnx", data), pp.load("model.xml")(data)
    assert all(np.array_equal(expected[name], found[name]) for name in expected)
    assert run(["strip", "fused.onnx", "-o", "again.onnx"]) == 0
    assert Path("again.onnx").read_bytes() == Path("raw.onnx").read_bytes()
    assert "--confidence 0.4" in (folder / "model.usage.md").read_text()
    assert '<task value="detection" />' in Path("model.xml").read_text()
    assert run(["benchmark", "raw.onnx", "model.xml", "--seconds", "0.2", "--json", "times.json"]) == 0


@pytest.mark.sample(every=2)
@pytest.mark.parametrize("name", ["fused.onnx", "model.xml"])
def test_retuned_limits_decide_as_fused_again(folder: Path, name: str) -> None:
    verb = "fuse" if name.endswith(".onnx") else "convert"
    assert run([verb, "raw.onnx", *OPTIONS, "-o", name]) == 0
    assert pp.retune(folder / name, confidence=0.5, iou=0.7).way == "constants"
    again = pp.fuse("raw.onnx", pp.DetectionPostProcessor(confidence=0.5, iou=0.7, max_detections=20))
    data = dict(np.load("images.npz"))
    expected, found = run_onnx(again, data), pp.load(folder / name)(data)
    assert all(np.array_equal(expected[output], found[output]) for output in expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--confidence", "0.5"], "--confidence applies only to detectors, and the task is anomaly. Add --task"),
        (["--task", "detection", "--top", "3"], "--top applies only to classifiers, and the task is detection"),
        (["--task", "detection", "--stats", "names.txt"], "names.txt"),
        (["--task", "detection", "--head", "yolov5"], "head is 'yolov5'"),
        (["--task", "detection", "--confidence", "2"], "confidence is 2.0, expected a number from 0 to 1"),
    ],
)
def test_errors_say_what_would_do(
    folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    del folder
    assert run(["fuse", "raw.onnx", *arguments, "-o", "fused.onnx"]) == 2
    assert message in capsys.readouterr().err
    assert not Path("fused.onnx").exists()


def test_an_input_that_scales_the_boxes_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proto = listed_detector("rtdetr-deploy")
    proto.graph.input.append(onnx.helper.make_tensor_value_info("orig_target_sizes", onnx.TensorProto.INT64, [1, 2]))
    node = next(node for node in proto.graph.node if node.output[0] == "boxes")
    node.output[0] = "unscaled"
    # Boxes in pixels of 64x64, brought to the size that is given.
    proto.graph.node.extend(
        [
            onnx.helper.make_node("Cast", ["orig_target_sizes"], ["sizes_as_floats"], to=onnx.TensorProto.FLOAT),
            onnx.helper.make_node("Tile", ["sizes_as_floats", "once_twice"], ["corners"]),
            onnx.helper.make_node("Unsqueeze", ["corners", "second"], ["factors"]),
            onnx.helper.make_node("Mul", ["unscaled", "factors"], ["large"]),
            onnx.helper.make_node("Div", ["large", "of_image"], ["boxes"]),
        ]
    )
    constants = {"once_twice": np.array([1, 2]), "second": np.array([1]), "of_image": np.array(64, np.float32)}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in constants.items())
    onnx.save(proto, tmp_path / "raw.onnx")
    raw, model = str(tmp_path / "raw.onnx"), str(tmp_path / "model.xml")
    assert run(["convert", raw, "--task", "detection", "--confidence", "0.3", "-o", model]) == 0
    option = "orig_target_sizes=64,64"
    assert f"Give it their width and height: --input {option}." in " ".join(capsys.readouterr().err.split())
    (tmp_path / "images").mkdir()
    for place, each in enumerate(pictures()):
        pixels = (each.transpose(1, 2, 0) * 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{place}.png")
    data = ["--data", str(tmp_path / "images")]
    assert run(["verify", raw, model, *data]) == 2
    assert "nothing feeds 'orig_target_sizes'" in capsys.readouterr().err
    assert run(["verify", raw, model, *data, "--input", option]) == 0
    assert run(["run", model, str(tmp_path / "images"), "-o", str(tmp_path / "out"), "--input", option]) == 0
    rows = (tmp_path / "out" / "predictions.csv").read_text().splitlines()
    columns = rows[0].split(",")
    found = [dict(zip(columns, row.split(","), strict=True)) for row in rows[1:]]
    corners = [[float(row[name]) for name in ("x1", "y1", "x2", "y2")] for row in found if row["image"] == "2.png"]
    seen = (pictures()[2:] * 255).astype(np.uint8).astype(np.float32) / 255
    expected = plain("rtdetr-deploy", run_onnx(listed_detector("rtdetr-deploy"), {"image": seen}), 0.3, 300)
    count = expected["count"][0]
    assert len(corners) == count > 3
    assert np.allclose(corners, np.clip(expected["boxes"][0, :count], 0, 64), atol=1e-2)
