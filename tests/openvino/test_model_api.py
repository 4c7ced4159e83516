"""Converted models in Intel's Model API: its decisions are ours."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino as ov
import pytest
from model_api.adapters import OpenvinoAdapter
from model_api.models import Model
from model_api.models.anomaly import AnomalyDetection

import pp_graph as pp
from pp_graph.cli import run
from pp_graph.errors import StatisticsError, TargetError
from pp_graph.fusion import Provenance
from pp_graph.openvino import OpenVINOModel
from pp_graph.openvino.model_info import read_model_info, takes_frames, why_not
from pp_graph.openvino.usage import usage_path
from pp_graph.retuning import retune
from tests.conftest import DEMO
from tests.models import STATS, conv_model, from_text, identity_model, score_and_map

F32 = {"INFERENCE_PRECISION_HINT": "f32"}
RGB_TO_1 = {"reverse_input_channels": True, "scale_values": (255, 255, 255)}
FLOATS = {"input_dtype": "f32"}


def load(path: Path, model_type: str | None = None, **configuration: Any) -> Model:
    """As a user of Model API does; in f32, as a CPU with bf16 would else move raw values."""
    adapter = OpenvinoAdapter(ov.Core(), str(path), device="CPU", plugin_config=F32)
    return Model.create_model(adapter, model_type, configuration=configuration)


def one(name: str, results: Mapping[Any, np.ndarray]) -> np.ndarray:
    return np.array(results[name]).squeeze()


def check_one_image(theirs: Any, ours: Mapping[Any, np.ndarray], *, exact: bool) -> None:
    assert theirs.pred_label == str(bool(one("pred_label", ours)))
    score, scores = np.float32(theirs.pred_score), one("pred_score", ours)
    anomaly_map, mask = one("anomaly_map", ours), one("pred_mask", ours)
    assert theirs.pred_mask.dtype == np.uint8
    assert theirs.pred_mask.shape == mask.shape
    flipped = theirs.pred_mask.astype(bool) != mask
    if exact:
        assert score == scores
        assert not flipped.any()
        assert np.array_equal(theirs.anomaly_map, np.round(anomaly_map * np.float32(255)).astype(np.uint8))
    else:
        # Model API's preprocessing is another graph in front of ours, and the network rounds otherwise behind it.
        np.testing.assert_allclose(score, scores, atol=1e-5)
        assert np.all(np.abs(anomaly_map[flipped] - 0.5) < 1e-5)


def check_images(path: Path, images: np.ndarray, *, as_bytes: bool, **configuration: Any) -> list[bool]:
    """Model API against our own session, and bit for bit against the graph that it compiles, read by OpenVINO alone."""
    model = load(path, **configuration)
    assert type(model) is AnomalyDetection
    same = ov.Core().compile_model(model.inference_adapter.get_model(), "CPU", F32)
    session = OpenVINOModel.load(path).session()
    labels = []
    for image in images:
        fed = image.transpose(1, 2, 0)
        if as_bytes:  # as OpenCV reads a picture
            fed = np.ascontiguousarray(np.round(fed * 255).astype(np.uint8)[..., ::-1])
        theirs = model(fed)
        check_one_image(theirs, same(fed[None]), exact=True)
        check_one_image(theirs, session.run({session.inputs[0].name: image[None]}), exact=False)
        labels.append(theirs.pred_label == "True")
    return labels


@pytest.mark.sample(every=3)
@pytest.mark.parametrize("shape", [None, (1, 3, 256, 256)], ids=["batch open", "batch of one"])
@pytest.mark.parametrize("feeding", [RGB_TO_1, FLOATS], ids=["uint8 BGR", "float32 RGB"])
def test_decisions_on_the_demo_model(
    demo_fused_path: Path, demo_images: np.ndarray, tmp_path: Path, shape: tuple[int, ...] | None, feeding: Any
) -> None:
    path = pp.convert(demo_fused_path, input_shape=shape, model_info=feeding).save(tmp_path / "model.xml")
    labels = check_images(path, demo_images, as_bytes=feeding is RGB_TO_1)
    assert labels.count(True) == labels.count(False) == 6


@pytest.mark.sample(every=2)
@pytest.mark.parametrize("weights", ["f32", "f16"])
def test_decisions_on_brick(brick: Path, tmp_path: Path, weights: str) -> None:
    post = pp.OneClassPostProcessor(pp.Statistics.load(brick / "stats.json"))
    artifact = pp.convert(brick / "raw.onnx", post=post, precision=weights, model_info=RGB_TO_1)
    images = np.load(brick / "images.npz")["image"][24:40].astype(np.float32) / 255
    labels = check_images(artifact.save(tmp_path / "model.xml"), images, as_bytes=True)
    assert {True, False} == set(labels)


def test_retuning_keeps_what_model_api_reads(demo_fused_path: Path, demo_images: np.ndarray, tmp_path: Path) -> None:
    path = pp.convert(demo_fused_path, model_info=RGB_TO_1).save(tmp_path / "model.xml")
    masks = {}
    for sensitivity in (0.3, 0.7):
        tuned = retune(pp.open(path), image_sensitivity=sensitivity, pixel_sensitivity=sensitivity)
        again = tuned.save(tmp_path / f"{sensitivity}.xml")
        assert read_model_info(OpenVINOModel.load(again).network) == read_model_info(OpenVINOModel.load(path).network)
        check_images(again, demo_images[4:8], as_bytes=True)
        masks[sensitivity] = load(again)(np.round(demo_images[6].transpose(1, 2, 0)[..., ::-1] * 255).astype(np.uint8))
    # Were a threshold of Model API's read, both would decide alike.
    assert 0 < masks[0.3].pred_mask.sum() < masks[0.7].pred_mask.sum()


# --- which models Model API can run ---

POST = pp.OneClassPostProcessor(STATS)


def small(
    image: str = "N,3,12,16", reduce: str = "axes=[1], keepdims=1", score: str = "axes=[1,2,3], keepdims=0"
) -> onnx.ModelProto:
    return from_text(
        f"""<ir_version: 8, opset_import: ["": 17]>
        raw (float[{image}] image) => (float score, float heat) {{
            heat = ReduceMean<{reduce}>(image)
            score = ReduceMax<{score}>(heat)
        }}"""
    )


RUNNING: dict[str, Callable[[], tuple[onnx.ModelProto, dict[str, Any]]]] = {
    "score (N,), map (N,1,H,W)": lambda: (small(), {}),
    "score (N,1), map (N,H,W)": lambda: (
        small(reduce="axes=[1], keepdims=0", score="axes=[1,2], keepdims=0"),
        {"input_shape": (1, 3, 12, 16)},
    ),
    "channels last": lambda: (small("N,12,16,3", "axes=[3], keepdims=1"), {}),
    "a batch of one": lambda: (small("1,3,12,16"), {}),
    "f16": lambda: (conv_model(), {"input_shape": (None, 3, 12, 16), "precision": "f16"}),
}


@pytest.mark.parametrize("name", RUNNING)
def test_models_that_model_api_runs(name: str, tmp_path: Path) -> None:
    raw, settings = RUNNING[name]()
    artifact = pp.convert(pp.fuse(raw, POST), model_info=FLOATS, **settings)
    assert why_not(artifact.network, artifact.provenance) is None
    model = load(artifact.save(tmp_path / "model.xml"))
    same = ov.Core().compile_model(model.inference_adapter.get_model(), "CPU", F32)
    session = OpenVINOModel.load(tmp_path / "model.xml").session()
    rng = np.random.default_rng(0)
    labels = set()
    for level in (0.1, 0.6, 1.1, 1.6):
        fed = (level + 0.5 * rng.random((12, 16, 3))).astype(np.float32)
        theirs = model(fed.copy())
        fitting = fed if "last" in name else fed.transpose(2, 0, 1)
        check_one_image(theirs, same(fed[None]), exact=True)
        check_one_image(theirs, session.run({"image": np.ascontiguousarray(fitting[None])}), exact=False)
        labels.add(theirs.pred_label)
    assert labels == {"True", "False"} or name == "f16"


def test_sizes_that_are_open(tmp_path: Path) -> None:
    """There Model API feeds an image as it is, uint8 divided by 255, and heeds neither scale nor channel order."""
    artifact = pp.convert(pp.fuse(small("N,3,H,W"), POST))
    model = load(artifact.save(tmp_path / "model.xml"))
    session = artifact.session()
    for size in ((12, 16), (9, 7)):
        fed = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
        image = (fed.astype(np.float32) / 255).transpose(2, 0, 1)[None]
        check_one_image(model(fed), session.run({"image": image}), exact=True)
    with pytest.raises(
        TargetError, match="Entry 'reverse_input_channels' .* input shape .*expected fixed sizes: .*neither resizes"
    ):
        pp.convert(pp.fuse(small("N,3,H,W"), POST), model_info=RGB_TO_1)


def without(*left_out: str, **settings: Any) -> pp.OneClassPostProcessor:
    names = ("pred_score", "pred_label", "anomaly_map", "pred_mask")
    outputs = tuple(name for name in names if name not in left_out) if left_out else None
    return pp.OneClassPostProcessor(STATS, outputs=outputs, **settings)


# What, the raw model, its post-processor, further settings of fuse, the reason.
NOT_RUNNING: list[tuple[str, onnx.ModelProto, pp.OneClassPostProcessor, dict[str, Any], str]] = [
    ("no map", identity_model({"score": ["N", 1]}), POST, {}, "these are pred_label, pred_score"),
    ("labels only", small(), without("pred_score", "anomaly_map", "pred_mask"), {}, "these are pred_label$"),
    ("two outputs", small(), without("pred_score", "anomaly_map"), {}, "these are pred_label, pred_mask"),
    ("the score only", small(), without("pred_label", "anomaly_map", "pred_mask"), {}, "these are pred_score"),
    ("no decisions", small(), without(threshold=False), {}, "these are anomaly_map, pred_score"),
    ("raw outputs", small(), POST, {"keep_raw": True}, "these are anomaly_map, heat, pred_label"),
    ("a batch of four", small("4,3,12,16"), POST, {}, "the batch is fixed at 4"),
    ("two inputs", score_and_map(), POST, {}, "there are 2"),
    ("one channel", small("N,1,12,16"), POST, {}, "the input has 1"),
    ("open channels", small("N,C,12,16"), POST, {}, "the input has (an open number|16)"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("what", "raw", "post", "settings", "reason"), NOT_RUNNING, ids=[each[0] for each in NOT_RUNNING]
)
def test_models_that_model_api_cannot_run(
    what: str, raw: onnx.ModelProto, post: Any, settings: Any, reason: str, tmp_path: Path
) -> None:
    fused = pp.fuse(raw, post, **settings)
    artifact = pp.convert(fused)
    path = artifact.save(tmp_path / "model.xml")
    info = read_model_info(OpenVINOModel.load(path).network)
    assert "model_type" not in info
    assert info["labels"] == "Normal Anomaly"
    assert re.search(reason, why_not(artifact.network, artifact.provenance) or "")
    with pytest.raises(
        TargetError, match=r"Entries for Model API were given \(labels\), but it cannot run this model: "
    ):
        pp.convert(fused, model_info={"labels": "Good Bad"})
    # It is true: Model API fails, also where it is told what to take the model for.
    with pytest.raises(Exception) as failure:  # noqa: PT011 - theirs, and of many kinds
        load(path, "AnomalyDetection", **FLOATS)(np.full((12, 16, 3), 2, np.float32))
    assert any("model_api" in Path(entry.path).parts for entry in failure.traceback)


def test_the_map_alone_would_be_decided_by_model_api_itself(tmp_path: Path) -> None:
    """It runs there when told to, but the image's label would come from the map's maximum, not from our score."""
    artifact = pp.convert(pp.fuse(small(), without("pred_score", "pred_label", "pred_mask")))
    assert "model_type" not in read_model_info(artifact.network)
    path = artifact.save(tmp_path / "model.xml")
    with pytest.raises(Exception, match="no model with name uknown"):
        load(path)
    assert load(path, "AnomalyDetection", **FLOATS)(np.full((12, 16, 3), 2, np.float32)).pred_label == "Anomaly"


def test_a_map_that_is_not_normalised_is_no_picture(tmp_path: Path) -> None:
    artifact = pp.convert(pp.fuse(small(), pp.OneClassPostProcessor(STATS, normalize=False)))
    info = read_model_info(artifact.network)
    assert "model_type" not in info
    assert "image_threshold" not in info
    assert why_not(artifact.network, artifact.provenance) == (
        "it expects a map in [0, 1], and this one is not normalised"
    )


@pytest.mark.parametrize(
    ("post", "output", "wrapper"),
    [
        (pp.ClassificationPostProcessor(), ["N", 4], "Classification"),
        (pp.SegmentationPostProcessor(areas=False), ["N", 4, 12, 16], "Segmentation"),
        (pp.DetectionPostProcessor(head="yolov8"), ["N", 7, 24], "SSD"),
    ],
)
def test_other_families_do_not_fit_their_wrappers(
    post: pp.PostProcessor, output: list[Any], wrapper: str, tmp_path: Path
) -> None:
    """docs/families.md says why: these wrappers decide again, or take outputs of another form."""
    numbers = int(np.prod(output[1:]))
    weights = onnx.numpy_helper.from_array(np.random.default_rng(0).normal(0, 1, (3, numbers)).astype(np.float32), "w")
    raw = from_text(
        f"""<ir_version: 8, opset_import: ["": 17]>
        g (float[N,3,12,16] image) => (float[{",".join(map(str, output))}] y) <int64[{len(output)}] shape = {{
            {",".join(["0", *map(str, output[1:])])}}}> {{
            pooled = GlobalAveragePool(image)
            flat = Flatten(pooled)
            product = MatMul(flat, w)
            y = Reshape(product, shape)
        }}"""
    )
    raw.graph.initializer.append(weights)
    path = pp.convert(pp.fuse(raw, post), batch=1).save(tmp_path / "model.xml")
    assert "model_type" not in read_model_info(OpenVINOModel.load(path).network)
    with pytest.raises(Exception) as failure:  # noqa: PT011 - theirs, and of many kinds
        load(path, wrapper)(np.zeros((12, 16, 3), np.uint8))
    assert any("model_api" in Path(entry.path).parts for entry in failure.traceback)


# --- what is written ---


def test_entries(demo_fused_path: Path, tmp_path: Path) -> None:
    plain = read_model_info(pp.convert(demo_fused_path).network)
    assert plain == {
        "post_processing": "pp_graph",
        "model_type": "AnomalyDetection",
        "task": "segmentation",
        "labels": "Normal Anomaly",
        "image_threshold": "0.5",
        "pixel_threshold": "0.5",
        "normalization_scale": "1.0",
    }
    given = {
        "mean_values": "0, 0.5 1",
        "scale_values": [1, 2.5, np.float32(3)],
        "reverse_input_channels": "no",
        "resize_type": "fit_to_window",
        "interpolation_mode": "CUBIC",
        "pad_value": 114,
        "labels": ("Good", "Bad"),
        "input_dtype": "u8",
    }
    path = pp.convert(demo_fused_path, model_info=given).save(tmp_path / "model.xml")
    model = load(path)
    for name, value in {
        "mean_values": [0, 0.5, 1],
        "scale_values": [1, 2.5, 3],
        "reverse_input_channels": False,
        "resize_type": "fit_to_window",
        "interpolation_mode": "CUBIC",
        "pad_value": 114,
        "labels": ["Good", "Bad"],
        "input_dtype": "u8",
        "image_threshold": 0.5,
        "pixel_threshold": 0.5,
        "normalization_scale": 1.0,
        "task": "segmentation",
    }.items():
        assert getattr(model.params, name) == value, name


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"scale": 255}, "Entry 'scale' for Model API is unknown or written by pp_graph itself, expected some of: rev"),
        ({"image_threshold": 0.7}, "Entry 'image_threshold' for Model API is unknown or written by pp_graph"),
        ({"model_type": "ssd"}, "'model_type'"),
        ({"scale_values": 255}, "'scale_values' for Model API is 255, expected three numbers other than 0"),
        ({"scale_values": "255 0 255"}, "'scale_values' .* other than 0"),
        ({"scale_values": "255,255,nan"}, "'scale_values' .* other than 0"),
        ({"mean_values": "a b c"}, "'mean_values' for Model API is 'a b c', expected three numbers"),
        ({"mean_values": (1, 2)}, "'mean_values' .* expected three numbers"),
        ({"reverse_input_channels": "BGR"}, "'reverse_input_channels' .* is 'BGR', expected True or False"),
        ({"resize_type": "stretch"}, "'resize_type' .* expected one of: standard, fit_to_window"),
        ({"input_dtype": "float32"}, "'input_dtype' .* expected one of: u8, f32"),
        ({"pad_value": -1}, "'pad_value' .* expected a whole number"),
        ({"labels": "Good"}, "'labels' .* expected two words"),
        ({"labels": ("Good", "Not so good")}, "'labels' .* expected two words"),
    ],
)
def test_impossible_entries(demo_fused_path: Path, entry: dict[str, Any], message: str) -> None:
    with pytest.raises(TargetError, match=message):
        pp.convert(demo_fused_path, model_info=entry)


def test_command_line(demo_fused_path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "model.xml"

    def convert(*options: str) -> tuple[int, dict[str, Any]]:
        status = run(["convert", str(demo_fused_path), "-o", str(target), "--force", "--json", *options])
        return status, json.loads(capfd.readouterr().out)

    entries = [f"--model-info={name}" for name in ("scale_values=255,255,255", "reverse_input_channels=True")]
    assert convert(*entries)[0] == 0
    assert load(target).params.scale_values == [255, 255, 255]
    before = target.read_bytes()
    for options, message in (
        (["--model-info=scale_values"], "'scale_values' is not an entry, expected KEY=VALUE"),
        ([*entries, "--model-info=scale_values=1,1,1"], "'scale_values' is given twice"),
        (["--model-info=scale_values=1"], "Entry 'scale_values' for Model API is '1', expected three numbers"),
    ):
        status, result = convert(*options)
        assert status == 2
        assert message in result["error"]["message"]
    assert target.read_bytes() == before


# --- a model that takes a camera's frames ---


def test_preprocessing_in_the_model(demo_fused_path: Path, demo_images: np.ndarray, tmp_path: Path) -> None:
    """Model API then neither resizes nor scales: it runs the very graph that we run, bit for bit."""
    frames = pp.Preprocessing(channel_order="BGR", scale=(255.0,))
    with pytest.raises(TargetError, match="the preprocessing is in the model already"):
        pp.convert(demo_fused_path, preprocessing=frames, model_info=RGB_TO_1)
    path = pp.convert(demo_fused_path, preprocessing=frames).save(tmp_path / "model.xml")
    assert takes_frames(OpenVINOModel.load(path).network)
    text = usage_path(path).read_text("utf-8")
    assert "| `image` | uint8 | (N, 256, 256, 3) | N H W C |" in text
    assert "The preprocessing is in the model, and a frame goes in as a camera gives it: u8 NHWC BGR frames" in text
    info = load(path).params
    assert (info.embedded_processing, info.orig_height, info.orig_width) == (True, 256, 256)
    theirs, session = load(path), OpenVINOModel.load(path).session()
    for image in demo_images[::3]:
        frame = np.ascontiguousarray(np.round(image.transpose(1, 2, 0) * 255).astype(np.uint8)[..., ::-1])
        check_one_image(theirs(frame), session.run({"image": frame[None]}), exact=True)


# --- our entries are no foreign statistics ---


def test_statistics_come_from_the_provenance(demo_fused_path: Path, tmp_path: Path) -> None:
    path = pp.convert(demo_fused_path, model_info=RGB_TO_1).save(tmp_path / "model.xml")
    stats = pp.Statistics.load(DEMO / "stats.json")
    assert (pp.Statistics.load(path).image, pp.Statistics.load(path).pixel) == (stats.image, stats.pixel)
    # Model API writes every parameter anew when it saves a model.
    load(path).save(str(tmp_path / "theirs.xml"))
    again = pp.Statistics.load(tmp_path / "theirs.xml")
    assert (again.image, again.pixel) == (stats.image, stats.pixel)
    assert again.provenance.source == "model fused by pp_graph"


def test_without_its_provenance_our_model_says_so(demo_ir_path: Path, tmp_path: Path) -> None:
    model = ov.Core().read_model(demo_ir_path)
    assert isinstance(OpenVINOModel.load(demo_ir_path).provenance, Provenance)
    text = demo_ir_path.read_text()
    start, end = text.rindex("<pp_graph>"), text.rindex("</pp_graph>") + len("</pp_graph>")
    (tmp_path / "x.xml").write_text(text[:start] + text[end:])
    with pytest.raises(
        StatisticsError, match="its model_info was written by pp_graph .* provenance with the statistics was removed"
    ):
        pp.Statistics.load(tmp_path / "x.xml")
    assert model.get_rt_info(["model_info", "model_type"]).astype(str) == "AnomalyDetection"
