"""Segmentation: classes, masks and mattes as NumPy computes them, in every runtime and through every verb."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

import pp_graph as pp
from pp_graph.cli import run as call
from pp_graph.errors import OpsetError, OutputRoleError, PostProcessorError
from tests.models import from_text, run, run_openvino

NAMES = ("ground", "grass", "gravel")
RNG = np.random.default_rng(0)


def raw(classes: int = 3, *, layout: str = "NCHW", opset: int = 18, head: str = "Identity") -> onnx.ModelProto:
    sizes = {"NCHW": f"N,{classes},12,16", "NHWC": f"N,12,16,{classes}", "NHW": "N,12,16"}[layout]
    return from_text(
        f"""<ir_version: 8, opset_import: ["": {opset}]>
        raw (float[{sizes}] image) => (float[{sizes}] logits) {{ logits = {head}(image) }}"""
    )


def logits(classes: int = 3, layout: str = "NCHW", count: int = 6) -> np.ndarray:
    """Rounded numbers, of which many tie, with NaN and infinities."""
    numbers = np.round(RNG.normal(0, 2, (count, classes, 12, 16))).astype(np.float32)
    special = np.array([np.nan, np.inf, -np.inf], np.float32)
    numbers[0] = np.where(RNG.random(numbers[0].shape) < 0.2, RNG.choice(special, numbers[0].shape), numbers[0])
    return {"NCHW": numbers, "NHWC": numbers.transpose(0, 2, 3, 1), "NHW": numbers[:, 0]}[layout]


def sigmoid(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x.astype(np.float64)))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_the_largest_logit_decides_as_in_numpy(layout: str) -> None:
    model, images = raw(layout=layout), logits(layout=layout)
    expected = images.argmax(layout.index("C"))
    fused = pp.fuse(model, pp.SegmentationPostProcessor(labels=NAMES))
    for found in (run(fused, {"image": images}), run_openvino(fused, {"image": images}, "bf16")):
        assert found["class_map"].dtype == np.uint8
        assert np.array_equal(found["class_map"], expected)
        assert found["class_area"].dtype == np.int32
        assert np.array_equal(found["class_area"], [np.bincount(each.ravel(), minlength=3) for each in expected])
    report = pp.verify(model, pp.convert(fused), {"image": images})
    assert report.passed, report.failures
    (decision,) = report.decisions
    assert decision.per_pixel
    assert decision.total == expected.size


@pytest.mark.parametrize("thresholds", [0.4, (0.2, 0.5, 0.9)])
@pytest.mark.parametrize("on_nan", ["anomalous", "normal"])
def test_thresholds_of_each_class(thresholds: Any, on_nan: str) -> None:
    images = logits()
    post = pp.SegmentationPostProcessor(class_thresholds=thresholds, on_nan=on_nan)
    with np.errstate(invalid="ignore"):
        expected = sigmoid(images) > np.reshape(np.broadcast_to(thresholds, 3), (1, 3, 1, 1))
    expected |= np.isnan(images) & (on_nan == "anomalous")
    fused = pp.fuse(raw(), post)
    for found in (run(fused, {"image": images}), run_openvino(fused, {"image": images}, "bf16")):
        assert np.array_equal(found["class_masks"], expected)
        assert np.array_equal(found["class_area"], expected.sum((2, 3)))
    assert not fused.program.intermediates  # cutoffs on logits


@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "NHW"])
@pytest.mark.parametrize(("head", "activation"), [("Identity", "sigmoid"), ("Sigmoid", "none")])
def test_mattes(layout: str, head: str, activation: str) -> None:
    images = logits(1, layout)
    fused = pp.fuse(raw(1, layout=layout, head=head), pp.SegmentationPostProcessor())
    assert fused.provenance.parameters["activation"] == activation
    expected = np.round(255 * np.nan_to_num(sigmoid(images)))
    for found in (run(fused, {"image": images}), run_openvino(fused, {"image": images})):
        assert found["alpha"].dtype == np.uint8
        assert np.abs(found["alpha"] - expected).max() <= 1  # sigmoids differ in the last bit
    report = pp.verify(raw(1, layout=layout, head=head), pp.convert(fused), {"image": images[1:]})
    assert report.passed, report.failures


def test_stretched_mattes_are_those_of_u2net() -> None:
    images = RNG.normal(0, 0.3, (3, 1, 12, 16)).astype(np.float32)
    fused = pp.fuse(raw(1), pp.SegmentationPostProcessor(activation="none", stretch=True))
    low, high = (reduce(images, axis=(1, 2, 3), keepdims=True) for reduce in (np.min, np.max))
    found = run(fused, {"image": images})["alpha"]
    assert np.abs(found - np.round(255.0 * (images - low) / (high - low))).max() <= 1
    assert found.min() == 0
    assert found.max() == 255


@pytest.mark.parametrize("size", [(24, 32), (12, 16), "input"])
def test_logits_are_resized_before_they_decide(size: Any) -> None:
    images, model = logits()[1:], raw()
    post = pp.SegmentationPostProcessor(map_size=size)
    fused = pp.fuse(model, post)
    height, width = (12, 16) if size == "input" else size
    assert run(fused, {"image": images})["class_map"].shape == (5, height, width)
    assert bool(fused.program.intermediates) == (height == 24)
    assert pp.verify(model, pp.convert(fused), {"image": images}).passed


def class_map_model(dtype: int = TensorProto.INT64) -> onnx.ModelProto:
    model = raw()
    del model.graph.output[:]
    model.graph.node.append(helper.make_node("ArgMax", ["logits"], ["found"], axis=1, keepdims=1))
    model.graph.node.append(helper.make_node("Cast", ["found"], ["classes"], to=dtype))
    model.graph.output.append(helper.make_tensor_value_info("classes", dtype, ["N", 1, 12, 16]))
    return model


@pytest.mark.parametrize("dtype", [TensorProto.INT64, TensorProto.INT32])
def test_a_model_that_returns_classes_already(dtype: int) -> None:
    images = logits()[1:]
    fused = pp.fuse(class_map_model(dtype), pp.SegmentationPostProcessor(labels=NAMES))
    for found in (run(fused, {"image": images}), run_openvino(fused, {"image": images})):
        assert np.array_equal(found["class_map"], images.argmax(1))
        assert found["class_area"].sum() == 5 * 12 * 16
    with pytest.raises(PostProcessorError, match="stretch is given, and the model returns a class map"):
        pp.fuse(class_map_model(), pp.SegmentationPostProcessor(stretch=True))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    onnx.save(raw(), tmp_path / "raw.onnx")
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    np.savez(tmp_path / "images.npz", image=logits()[1:])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_from_the_raw_model_to_pictures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--task", "segmentation", "--labels", "names.txt"]
    assert call(["fuse", "raw.onnx", *options, "-o", "fused.onnx"]) == 0
    assert call(["convert", "raw.onnx", *options, "-o", "model.xml"]) == 0
    assert call(["verify", "raw.onnx", "model.xml", "--data", "images.npz"]) == 0
    capsys.readouterr()
    assert call(["run", "model.xml", "images.npz", "-o", "out"]) == 0
    assert "anomalous" not in capsys.readouterr().out
    listed = json.loads((folder / "out" / "predictions.json").read_text())
    expected = logits_of(folder).argmax(1)
    colours = {each["class"]: tuple(each["color"]) for each in listed["classes"]}
    assert [each["name"] for each in listed["classes"]] == list(NAMES)
    assert colours[0] == (0, 0, 0)
    assert colours[1] == (128, 0, 0)
    for entry, classes in zip(listed["predictions"], expected, strict=True):
        assert entry["class_area"] == np.bincount(classes.ravel(), minlength=3).tolist()
        with Image.open(folder / "out" / entry["class_map"]) as picture:
            assert np.array_equal(np.asarray(picture), classes)
            shown = np.asarray(picture.convert("RGB"))
        assert {tuple(map(int, each)) for each in np.unique(shown.reshape(-1, 3), axis=0)} <= set(colours.values())
        assert (folder / "out" / entry["overlay"]).exists()


def test_masks_of_classes_have_a_colour_each_and_a_legend(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--task", "segmentation", "--labels", "names.txt", "--class-thresholds", "0.6"]
    assert call(["convert", "raw.onnx", *options, "-o", "model.xml"]) == 0
    assert call(["verify", "raw.onnx", "model.xml", "--data", "images.npz"]) == 0
    assert "true " in capsys.readouterr().out
    assert call(["run", "model.xml", "images.npz", "-o", "out"]) == 0
    told = capsys.readouterr().out
    assert "anomalous" not in told
    assert f"{NAMES[0]} " in told
    listed = json.loads((folder / "out" / "predictions.json").read_text())
    assert [each["pixel"] for each in listed["classes"]] == [1, 2, 3]
    masks = pp.load("model.xml")({"image": logits_of(folder)}).class_masks
    for entry, present in zip(listed["predictions"], masks, strict=True):
        assert not {"anomalous_pixels", "mask_pixels"} & set(entry)
        assert [entry[f"pixels_{name}"] for name in NAMES] == present.sum(axis=(1, 2)).tolist()
        expected = (present * np.arange(1, 4)[:, None, None]).max(axis=0)
        with Image.open(folder / "out" / entry["mask"]) as picture:
            assert np.array_equal(np.asarray(picture), expected)
        with Image.open(folder / "out" / entry["overlay"]) as picture:
            assert picture.width == masks.shape[3]
            # The legend is below the image.
            assert (picture.height > masks.shape[2]) == bool(expected.any())


def test_a_matte_cuts_out_the_foreground(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(raw(1), "matte.onnx")
    np.savez("matte.npz", image=logits_of(folder)[:, :1])
    assert call(["convert", "matte.onnx", "--task", "segmentation", "-o", "matte.xml"]) == 0
    assert call(["run", "matte.xml", "matte.npz", "-o", "out"]) == 0
    told = capsys.readouterr().out
    assert "anomalous" not in told
    assert "alpha mean" in told
    assert len(list((folder / "out" / "overlays").iterdir())) == len(logits_of(folder))


def logits_of(folder: Path) -> np.ndarray:
    with np.load(folder / "images.npz") as arrays:
        return arrays["image"]


def test_retuned_thresholds_decide_as_fused_again(folder: Path) -> None:
    options = ["--task", "segmentation", "--class-thresholds", "0.5"]
    assert call(["convert", "raw.onnx", *options, "-o", "model.xml"]) == 0
    assert "--class-thresholds 0.6" in (folder / "model.usage.md").read_text()
    assert call(["retune", "model.xml", "--class-thresholds", "0.1,0.5,0.8"]) == 0
    again = pp.fuse("raw.onnx", pp.SegmentationPostProcessor(class_thresholds=(0.1, 0.5, 0.8)))
    images = {"image": logits_of(folder)}
    assert np.array_equal(pp.load("model.xml")(images).class_masks, pp.load(again)(images).class_masks)
    assert pp.verify("raw.onnx", "model.xml", images).passed


def test_inspect_proposes_the_task() -> None:
    (family,) = pp.inspect(raw()).families
    assert family.why == "'logits' (N, 3, 12, 16) holds a number for each pixel and class"
    assert family.options == "--task segmentation"


def two_outputs() -> onnx.ModelProto:
    model = raw(1)
    model.graph.node.append(helper.make_node("Neg", ["logits"], ["side"]))
    model.graph.output.append(helper.make_tensor_value_info("side", TensorProto.FLOAT, ["N", 1, 12, 16]))
    return model


def test_several_outputs_are_listed() -> None:
    model = two_outputs()
    model.graph.output[0].name = model.graph.node[0].output[0] = model.graph.node[1].input[0] = "first"
    with pytest.raises(OutputRoleError, match="(?s)2 outputs can be read as the logits.*'first'.*'side'"):
        pp.fuse(model, pp.SegmentationPostProcessor())
    assert pp.fuse(model, pp.SegmentationPostProcessor(), roles={"raw_logits": "side"}).program.outputs


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": ("a",)}, "There are 1 labels, and output 'logits'.*has 3 classes, expected one label"),
        ({"class_thresholds": (0.1, 0.2)}, "There are 2 class_thresholds, and output 'logits'.*has 3 classes"),
        ({"class_thresholds": 2}, "class_thresholds is 2, expected a number from 0 to 1"),
        ({"stretch": True}, "stretch is given, and output 'logits'.*has 3 classes, expected one"),
        ({"stretch": True, "class_thresholds": 0.5}, "stretch is given together with class_thresholds"),
        ({"activation": "tanh"}, "activation is 'tanh', expected 'softmax' or 'sigmoid' or 'none'"),
        ({"map_size": (0, 3)}, "map_size is .0, 3., expected height and width"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PostProcessorError, match=message):
        pp.fuse(raw(), pp.SegmentationPostProcessor(**options))


def test_areas_need_opset_16() -> None:
    with pytest.raises(OpsetError, match="opset 15, expected 16 or later to count the pixels of each class"):
        pp.fuse(raw(opset=15), pp.SegmentationPostProcessor())
    assert pp.fuse(raw(opset=15), pp.SegmentationPostProcessor(areas=False)).output_names == ("class_map",)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--class-thresholds", "0.5"], "--class-thresholds applies only to segmentation models.*task is anomaly"),
        (["--task", "segmentation", "--top", "3"], "--top applies only to classifiers, and the task is segmentation"),
        (["--task", "segmentation", "--pack"], "--pack applies only to anomaly models, and the task is segmentation"),
        (["--task", "classification", "--unclip", "2"], "--unclip applies only to models of regions"),
    ],
)
def test_options_of_other_tasks(
    folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["fuse", "raw.onnx", *arguments, "-o", "fused.onnx"]) == 2
    assert re.search(message, " ".join(capsys.readouterr().err.split()))
