"""Anomalib's ONNX exports: a post-processor with the imported statistics decides like the graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

import pp_graph as pp
from pp_graph.errors import StatisticsError
from tests.conftest import ROOT
from tests.models import from_text, run

FILES = ROOT / "tests" / "assets" / "statistics"
EXPORTS = sorted(file.name for file in FILES.glob("*.onnx"))
LEVEL = pp.LevelStatistics
IMAGE, PIXEL = 9.959613800048828, 7.9113240242004395
WIDE, NARROW = np.float32(15.979560852050781) - np.float32(7.425710201263428), 14.391907691955566


def with_raw_outputs(path: Path) -> onnx.ModelProto:
    """The model with its raw map and raw score as additional outputs."""
    model = onnx.load(path)
    (reduced,) = [node for node in model.graph.node if node.op_type == "ReduceMax"]
    for name, value in (("raw_map", reduced.input[0]), ("raw_score", reduced.output[0])):
        model.graph.node.append(helper.make_node("Identity", [value], [name]))
        model.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return model


def compare(path: Path, images: np.ndarray, stats: pp.Statistics) -> dict[str, int]:
    """Compare a file with the post-processor imported from it on the same raw values. Returns the decisions."""
    model = with_raw_outputs(path)
    found = run(model, {model.graph.input[0].name: images})
    post = pp.OneClassPostProcessor(stats, **stats.provenance.settings)
    raw = {"pred_score": found["raw_score"]}
    if stats.pixel != LEVEL():
        raw["anomaly_map"] = found["raw_map"]
    predictions = post(raw)
    counted = {}
    for name in {"pred_score", "pred_label", "anomaly_map", "pred_mask"} & set(found):
        ours = getattr(predictions, name)
        if ours is not None:
            np.testing.assert_array_equal(found[name], ours, err_msg=name)
            counted[name] = int(np.count_nonzero(ours))
    return counted


@pytest.mark.parametrize("file", EXPORTS)
def test_decides_as_the_export_does(file: str) -> None:
    stats = pp.Statistics.load(FILES / file)
    images = np.random.default_rng(0).normal(0, 1.0, (64, 3, 16, 16)).astype(np.float32)
    images *= np.linspace(0, 2.5, 64, dtype=np.float32)[:, None, None, None]
    counted = compare(FILES / file, images, stats)
    outputs = {value.name for value in onnx.load(FILES / file).graph.output}
    unknown = {"anomaly_map", "pred_mask"} if "no_pixel_range" in file else set()
    assert set(counted) == outputs - unknown
    # Both decisions occur.
    if "pred_label" in counted and "not_normalized" not in file:
        assert 0 < counted["pred_label"] < 64


@pytest.mark.parametrize("exporter", ["", "_torchscript"])
def test_statistics_of_each_exporter(exporter: str) -> None:
    def load(name: str) -> pp.Statistics:
        return pp.Statistics.load(FILES / f"{name}{exporter}.onnx")

    plain = load("plain")
    if exporter:
        # This exporter keeps the buffers in the graph.
        assert plain.image == LEVEL(threshold=IMAGE, min=7.425710201263428, max=15.979560852050781)
        assert plain.pixel == LEVEL(threshold=PIXEL, min=1.5876535177230835, max=15.979560852050781)
        assert plain.provenance.notes == []
    else:
        assert plain.image == LEVEL(threshold=IMAGE, min=0.0, max=float(WIDE))
        assert plain.pixel == LEVEL(threshold=PIXEL, min=0.0, max=NARROW)
        assert "only the difference max - min" in plain.provenance.notes[0]
    assert plain.provenance.source == "Anomalib 2.x ONNX export"
    both = {"image_sensitivity": 0.5, "pixel_sensitivity": 0.5}
    assert plain.provenance.settings == {"normalize": True, "threshold": True, **both}
    assert load("sensitive").provenance.settings["image_sensitivity"] == 0.7
    assert load("sensitive").provenance.settings["pixel_sensitivity"] == 0.2
    assert load("matched").pixel.threshold == IMAGE
    assert load("centred").image.threshold == pytest.approx((7.4257102 + 15.9795609) / 2)
    flat = load("zero_range").image
    assert (flat.threshold, flat.min == flat.max) == (IMAGE, True)
    assert load("no_pixel_range").pixel == LEVEL()
    assert any("anomaly_map comes out raw" in note for note in load("no_pixel_range").provenance.notes)
    assert load("score_only").pixel == LEVEL()
    assert load("score_only").provenance.settings["image_sensitivity"] == 0.6
    for name in ("floats_only", "not_thresholded"):
        assert load(name).provenance.settings == {"normalize": True, "threshold": False}
    off = load("not_normalized")
    assert off.provenance.settings == {"normalize": False, "threshold": True}
    assert (off.image, off.pixel) == (LEVEL(threshold=float(np.float32(0.7))), LEVEL(threshold=0.5))
    assert "calibrated ones are in the checkpoint" in off.provenance.notes[0]


@pytest.mark.parametrize("level", ["ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED"])
@pytest.mark.parametrize("file", [name for name in EXPORTS if "no_pixel" not in name])
def test_after_an_optimiser(file: str, level: str, tmp_path: Path) -> None:
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.log_severity_level = 3
    ort.InferenceSession(str(FILES / file), options, providers=["CPUExecutionProvider"])
    expected, found = pp.Statistics.load(FILES / file), pp.Statistics.load(tmp_path / "optimised.onnx")
    assert found.provenance.settings == expected.provenance.settings
    for each in ("image", "pixel"):
        ours, theirs = getattr(found, each), getattr(expected, each)
        assert ours.threshold == theirs.threshold
        if theirs.max is not None:
            assert np.float32(ours.max) - np.float32(ours.min) == np.float32(theirs.max) - np.float32(theirs.min)


def test_trained_model(brick: Path) -> None:
    images = np.load(brick / "images.npz")["image"][::5].astype(np.float32) / 255
    stats = pp.Statistics.load(brick / "full.onnx")
    counted = compare(brick / "full.onnx", images, stats)
    assert set(counted) == {"pred_score", "pred_label", "anomaly_map", "pred_mask"}
    assert 0 < counted["pred_label"] < len(images)
    # Export and checkpoint come from different calibrations, whose results differ by a few float32 steps.
    checkpoint = pp.Statistics.load(brick / "post_processor.ckpt")
    assert stats.image.threshold == pytest.approx(checkpoint.image.threshold, rel=1e-6)
    with pytest.raises(StatisticsError, match=r"expected Anomalib's clip\(\(x - threshold\)"):
        pp.Statistics.load(brick / "raw.onnx")


# --- other forms of the same arithmetic ---

HEADER = '<ir_version: 8, opset_import: ["": 17]> g '
CONSTANTS = "<float t = {3.0}, float r = {8.0}, float low = {1.0}, float high = {9.0}, float half = {0.5}, float zero = {0.0}, float one = {1.0}, float c = {0.25}>"
OUTPUTS = "(float[N,1] x, float s) => (float[N,1] pred_score, bool[N,1] pred_label)"
LABEL = "pred_label = Greater(pred_score, c)"


def load_text(tmp_path: Path, body: str, opset: int = 17, constants: str = CONSTANTS) -> pp.Statistics:
    text = f'<ir_version: 8, opset_import: ["": {opset}]> g {OUTPUTS} {constants} {{ {body} }}'
    onnx.save(from_text(text), tmp_path / "x.onnx")
    return pp.Statistics.load(tmp_path / "x.onnx")


WRITTEN = {
    "plain": "a = Sub(x, t) b = Div(a, r) d = Add(b, half) pred_score = Clip(d, zero, one)",
    "commuted": "a = Sub(x, t) b = Div(a, r) d = Add(half, b) pred_score = Clip(d, zero, one)",
    "min of max": "a = Sub(x, t) b = Div(a, r) d = Add(b, half) e = Max(d, zero) pred_score = Min(one, e)",
    "max of min": "a = Sub(x, t) b = Div(a, r) d = Add(b, half) e = Min(d, one) pred_score = Max(e, zero)",
    "range not folded": "q = Sub(high, low) a = Sub(x, t) b = Div(a, q) d = Add(b, half) pred_score = Clip(d, zero, one)",
    "constant nodes": "q = Constant<value_float = 8.0>() a = Sub(x, t) b = Div(a, q) h = Constant<value_float = 0.5>() "
    "d = Add(b, h) pred_score = Clip(d, zero, one)",
    "named again": "y = Identity(x) a = Sub(y, t) i = Identity(a) b = Div(i, r) d = Add(b, half) "
    "e = Clip(d, zero, one) pred_score = Cast<to = 1>(e)",
}


@pytest.mark.parametrize("body", WRITTEN.values(), ids=WRITTEN)
def test_other_forms(tmp_path: Path, body: str) -> None:
    found = load_text(tmp_path, f"{body} {LABEL}")
    assert found.provenance.settings["image_sensitivity"] == 0.75
    assert found.image.threshold == 3.0
    known = "range not folded" if "high" in body else "difference"
    assert (found.image.min, found.image.max) == ((1.0, 9.0) if known == "range not folded" else (0.0, 8.0))


def test_bounds_as_attributes(tmp_path: Path) -> None:
    body = "a = Sub(x, t) b = Div(a, r) d = Add(b, half) pred_score = Clip<min = 0.0, max = 1.0>(d)"
    assert load_text(tmp_path, f"{body} {LABEL}", opset=9).image.threshold == 3.0


def test_division_by_one_and_subtraction_of_zero_may_be_missing(tmp_path: Path) -> None:
    found = load_text(tmp_path, f"d = Add(x, half) pred_score = Clip(d, zero, one) {LABEL}")
    assert found.image == LEVEL(threshold=0.0, min=0.0, max=1.0)


def test_a_label_may_use_less(tmp_path: Path) -> None:
    found = load_text(tmp_path, f"{WRITTEN['plain']} pred_label = Less(c, pred_score)")
    assert found.provenance.settings["image_sensitivity"] == 0.75


@pytest.mark.parametrize(
    "label",
    [
        "pred_label = GreaterOrEqual(pred_score, c)",
        "pred_label = Greater(x, c)",
        "pred_label = Less(pred_score, c)",
        "pred_label = Greater(pred_score, s)",
    ],
)
def test_other_decisions_are_not_recognised(tmp_path: Path, label: str) -> None:
    found = load_text(tmp_path, f"{WRITTEN['plain']} {label}")
    assert found.image.threshold == 3.0
    assert "image_sensitivity" not in found.provenance.settings
    assert any("pred_label is not pred_score > a number" in note for note in found.provenance.notes)


@pytest.mark.parametrize(
    "body",
    [
        "a = Sub(x, s) b = Div(a, r) d = Add(b, half) pred_score = Clip(d, zero, one)",
        "a = Sub(x, t) b = Div(a, s) d = Add(b, half) pred_score = Clip(d, zero, one)",
        "a = Sub(x, t) b = Div(a, r) d = Add(b, one) pred_score = Clip(d, zero, one)",
        "a = Sub(x, t) b = Div(a, r) d = Add(b, half) pred_score = Clip(d, zero, high)",
        "a = Sub(x, t) b = Div(a, r) d = Add(b, half) pred_score = Clip(d, zero)",
        "a = Sub(x, t) b = Mul(a, r) d = Sub(b, half) pred_score = Sigmoid(d)",
    ],
)
def test_other_arithmetic_is_not_recognised(tmp_path: Path, body: str) -> None:
    with pytest.raises(StatisticsError, match="has no known post-processing"):
        load_text(tmp_path, f"{body} y = Greater(x, x) pred_label = Identity(y)")
    assert pp.inspect(tmp_path / "x.onnx").post_processing is None


def test_a_cast_to_integers_is_not_an_identity(tmp_path: Path) -> None:
    body = f"{WRITTEN['plain'].replace('pred_score', 'e')} i = Cast<to = 6>(e) pred_score = Cast<to = 1>(i)"
    with pytest.raises(StatisticsError, match="has no known post-processing"):
        load_text(tmp_path, f"{body} y = Greater(x, x) pred_label = Identity(y)")


def test_other_precisions_are_noted(tmp_path: Path) -> None:
    def half(name: str, value: float) -> onnx.TensorProto:
        return numpy_helper.from_array(np.array(value, np.float16), name)

    nodes = [
        helper.make_node("Sub", ["x", "t"], ["a"]),
        helper.make_node("Div", ["a", "r"], ["b"]),
        helper.make_node("Add", ["b", "half"], ["d"]),
        helper.make_node("Clip", ["d", "zero", "one"], ["e"]),
        helper.make_node("Cast", ["e"], ["pred_score"], to=1),
    ]
    numbers = {"t": 3.3, "r": 8, "half": 0.5, "zero": 0, "one": 1}
    graph = helper.make_graph(
        nodes,
        "half",
        [helper.make_tensor_value_info("x", 10, ["N", 1])],
        [helper.make_tensor_value_info("pred_score", 1, ["N", 1])],
        [half(*each) for each in numbers.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "x.onnx")
    found = pp.Statistics.load(tmp_path / "x.onnx")
    assert found.image.threshold == float(np.float16(3.3))
    assert any("in float16, pp_graph in float32" in note for note in found.provenance.notes)


@pytest.mark.parametrize(
    ("value", "message"), [(np.inf, "is inf, expected a finite"), (np.nan, "is NaN, expected a number")]
)
@pytest.mark.parametrize(("constant", "what"), [("onnx::Div", "max - min"), ("_threshold", "threshold")])
def test_nan_and_infinite_constants(tmp_path: Path, value: float, message: str, constant: str, what: str) -> None:
    model = onnx.load(FILES / "earlier_torchscript.onnx")
    for each in model.graph.initializer:
        if constant in each.name:
            each.CopyFrom(numpy_helper.from_array(np.array(value, np.float32), each.name))
    onnx.save(model, tmp_path / "x.onnx")
    with pytest.raises(StatisticsError, match=f"'image {what}' {message}"):
        pp.Statistics.load(tmp_path / "x.onnx")
    assert pp.inspect(tmp_path / "x.onnx").post_processing is None
