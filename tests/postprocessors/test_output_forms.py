"""One packed output, masks of other element types, maps of other sizes: the same decisions in another form."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pp_graph as pp
from pp_graph.cli import run as pp_graph
from pp_graph.errors import OpsetError, PostProcessorError
from pp_graph.program import check_packed
from tests.models import STATS, conv_model, from_text, identity_model, run, run_openvino, score_and_map

DEMO = Path(pp.__file__).parent / "demo/data"
DEMO_STATS = pp.Statistics.load(DEMO / "stats.json")
RUNTIMES = {"onnxruntime": run, "openvino": run_openvino}
MASK_DTYPES = {"bool": (np.bool_, 1), "u8": (np.uint8, 1), "u8_255": (np.uint8, 255), "f32": (np.float32, 1)}

SHAPES = {
    "scores of rank 1": {"score": ["N"], "heat": ["N", "H", "W"]},
    "scores of rank 2": {"score": ["N", 1], "heat": ["N", 1, "H", "W"]},
    "channels last": {"score": ["N", 1], "heat": ["N", "H", "W", 1]},
    "no score, rank 3": {"heat": ["N", "H", "W"]},
    "no score, rank 4": {"heat": ["N", 1, "H", "W"]},
}


def raw_values(shapes: dict[str, list], seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    sizes = {"N": 3, "H": 5, "W": 4}
    feeds = {
        name: rng.normal(1, 1, [sizes.get(size, size) for size in shape]).astype(np.float32)
        for name, shape in shapes.items()
    }
    feeds["heat"].ravel()[:3] = [np.nan, np.inf, -np.inf]
    return feeds


def test_opencv_reads_the_packed_output(tmp_path: Path) -> None:
    model = conv_model()
    for port in (*model.graph.input, *model.graph.output):
        for axis, size in zip(port.type.tensor_type.shape.dim, (1, None, 16, 16), strict=False):
            axis.dim_value = size or axis.dim_value
    path = pp.fuse(model, pp.OneClassPostProcessor(STATS, pack=True)).save(tmp_path / "fused.onnx")
    name, channels = model.graph.input[0].name, model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    image = np.random.default_rng(0).random((1, channels, 16, 16), np.float32)
    network = cv2.dnn.readNetFromONNX(str(path))
    network.setInput(image, name)
    expected = run(onnx.load(path), {name: image})["predictions"]
    found = network.forward("predictions")
    assert np.array_equal(found[..., 2:], expected[..., 2:])
    assert set(np.unique(expected[..., 3])) == {0, 1}
    assert np.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_packed(shapes: dict[str, list], runtime: str) -> None:
    feeds = raw_values(shapes)
    post = pp.OneClassPostProcessor(STATS, pack=True)
    fused = pp.fuse(identity_model(shapes), post)
    assert fused.output_names == ("predictions",)
    onnx.checker.check_model(fused.to_proto(), full_check=True)
    packed = RUNTIMES[runtime](fused, {f"{name}_in": array for name, array in feeds.items()})["predictions"]
    assert packed.shape == (3, 5, 4, 4)
    assert packed.dtype == np.float32
    eager = pp.OneClassPostProcessor(STATS)({"pred_score": feeds.get("score"), "anomaly_map": feeds["heat"]})
    assert np.allclose(packed[..., 0], eager.anomaly_map.reshape(3, 5, 4), atol=1e-6)
    assert np.allclose(packed[..., 1], eager.pred_score.reshape(3, 1, 1), atol=1e-6)
    assert np.array_equal(packed[..., 2], np.broadcast_to(eager.pred_label.reshape(3, 1, 1), (3, 5, 4)))
    assert np.array_equal(packed[..., 3], eager.pred_mask.reshape(3, 5, 4))
    apart = fused.provenance.unpacked({"predictions": packed})
    for name, array in apart.items():
        expected = getattr(eager, name)
        assert array.shape == expected.shape
        assert array.dtype == expected.dtype
    again = post({"pred_score": feeds.get("score"), "anomaly_map": feeds["heat"]})
    assert np.array_equal(again.pred_mask, eager.pred_mask)
    assert again.pred_mask.dtype == bool


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("dtype", MASK_DTYPES)
@pytest.mark.parametrize("opset", [9, 13, 18])
def test_mask_dtypes(dtype: str, opset: int, runtime: str) -> None:
    post = pp.OneClassPostProcessor(STATS, mask_dtype=dtype)  # type: ignore[arg-type]
    fused = pp.fuse(score_and_map(opset=opset), post)
    feeds = {"level": np.array([[0.5], [2.0]], np.float32), "image": raw_values({"heat": [2, 1, 6, 7]})["heat"]}
    found = RUNTIMES[runtime](fused, feeds)
    kind, high = MASK_DTYPES[dtype]
    eager = pp.OneClassPostProcessor(STATS)({"anomaly_map": feeds["image"]})
    assert found["pred_mask"].dtype == kind
    assert np.array_equal(found["pred_mask"], eager.pred_mask.astype(kind) * kind(high))
    assert found["pred_label"].dtype == bool
    assert np.array_equal(post({"anomaly_map": feeds["image"]}).pred_mask, found["pred_mask"])


@pytest.mark.sample(every=3)
@pytest.mark.hypothesis
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_resized(shapes: dict[str, list], runtime: str) -> None:
    @settings(max_examples=5)
    @given(st.integers(1, 13), st.integers(1, 13), st.integers(0, 99), st.sampled_from([11, 13, 18]))
    def check(height: int, width: int, seed: int, opset: int) -> None:
        feeds = raw_values(shapes, seed)
        feeds["heat"] = np.nan_to_num(feeds["heat"], posinf=2, neginf=-2)
        post = pp.OneClassPostProcessor(STATS, map_size=(height, width))
        fused = pp.fuse(identity_model(shapes, opset=opset), post)
        onnx.checker.check_model(fused.to_proto(), full_check=True)
        found = RUNTIMES[runtime](fused, {f"{name}_in": array for name, array in feeds.items()})
        eager = post({"pred_score": feeds.get("score"), "anomaly_map": feeds["heat"]})
        assert found["anomaly_map"].shape == eager.anomaly_map.shape
        assert height in found["pred_mask"].shape
        assert np.allclose(found["anomaly_map"], eager.anomaly_map, atol=2e-6)
        near = np.abs(eager.anomaly_map - 0.5) < 1e-5
        assert np.array_equal(found["pred_mask"][~near], eager.pred_mask[~near])
        # The score is reduced from the original map.
        plain = pp.OneClassPostProcessor(STATS)({"pred_score": feeds.get("score"), "anomaly_map": feeds["heat"]})
        assert np.allclose(found["pred_score"], plain.pred_score, atol=1e-6)

    check()


def test_resizing_is_that_of_torch() -> None:
    torch = pytest.importorskip("torch", reason="compares with torch.nn.functional.interpolate")
    x = raw_values({"heat": [2, 1, 7, 9]})["heat"]
    x = np.nan_to_num(x, posinf=2, neginf=-2)
    for size in ((14, 18), (3, 4), (20, 5)):
        step = pp.OneClassPostProcessor(STATS, normalize=False, map_size=size)
        expected = torch.nn.functional.interpolate(torch.from_numpy(x), size, mode="bilinear", align_corners=False)
        assert np.allclose(step({"anomaly_map": x}).anomaly_map, expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("channels", ["first", "last"])
def test_size_of_the_input(channels: str) -> None:
    shape, order = ("N,1,24,16", "") if channels == "first" else ("N,24,16,1", "<perm=[0,3,1,2]>")
    model = from_text(
        f"""<ir_version: 8, opset_import: ["": 17]>
        raw (float[{shape}] image) => (float[N,1,12,8] heat) {{
            first = {f"Transpose{order}(image)" if order else "Identity(image)"}
            heat = AveragePool<kernel_shape=[2,2], strides=[2,2]>(first)
        }}"""
    )
    fused = pp.fuse(model, pp.OneClassPostProcessor(STATS, map_size="input"))
    assert fused.provenance.parameters["map_size"] == [24, 16]
    x = np.random.default_rng(0).random([2, *map(int, shape.split(",")[1:])], np.float32)
    assert run(fused, {"image": x})["pred_mask"].shape == (2, 1, 24, 16)
    same = pp.fuse(model, pp.OneClassPostProcessor(STATS, map_size=(12, 8)))
    assert "map_size" not in same.provenance.parameters, "there is nothing to resize"


CASES = {
    "packed": {"pack": True},
    "packed, adjustable, resized": {"pack": True, "thresholds": "runtime", "map_size": (37, 51)},
    "resized": {"map_size": (100, 64)},
    "u8 masks": {"mask_dtype": "u8", "outputs": ("pred_label", "pred_mask")},
    "255": {"mask_dtype": "u8_255", "thresholds": "runtime"},
}


@pytest.mark.sample(every=10)
@pytest.mark.parametrize("precision", ["f32", "bf16"])
@pytest.mark.parametrize("settings_", CASES.values(), ids=CASES)
def test_every_form_is_verified(settings_: dict, precision: str, tmp_path: Path) -> None:
    post = pp.OneClassPostProcessor(DEMO_STATS, **settings_)
    fused = pp.fuse(DEMO / "raw.onnx", post)
    artifact = pp.convert(fused, precision="f32" if precision == "f32" else "f16")
    path = artifact.save(tmp_path / "model.xml")
    report = pp.verify(DEMO / "raw.onnx", path, DEMO / "images", inference_precision=precision)
    assert report.postprocessing_exact, report.failures
    assert report.boundary.flips == report.postprocessing_flips == 0
    assert report.boundary.values > 500
    if precision == "f32":
        assert report.drift_flips <= 2
        assert pp.verify(DEMO / "raw.onnx", fused, DEMO / "images").passed
    tuned = pp.retune(pp.open(path), image_sensitivity=0.6, pixel_sensitivity=0.4)
    again = pp.verify(DEMO / "raw.onnx", tuned, DEMO / "images", inference_precision=precision)
    assert again.passed
    assert again.provenance.parameters["pixel_sensitivity"] == 0.4
    pp.strip(fused).save(tmp_path / "raw.onnx")
    assert (tmp_path / "raw.onnx").read_bytes() == (DEMO / "raw.onnx").read_bytes()


def test_a_wrong_resize_is_drift_and_a_wrong_cutoff_is_not(tmp_path: Path) -> None:
    """Rounding of a resize is not an error of the post-processing; a wrong cutoff is."""
    post = pp.OneClassPostProcessor(DEMO_STATS, map_size=(64, 64))
    fused = pp.fuse(DEMO / "raw.onnx", post)
    proto = fused.to_proto()
    cutoff = next(tensor for tensor in proto.graph.initializer if tensor.name.endswith("pred_mask/cutoff"))
    value = onnx.numpy_helper.to_array(cutoff)
    cutoff.CopyFrom(onnx.numpy_helper.from_array(np.nextafter(value, np.float32(np.inf)), cutoff.name))
    onnx.save(proto, tmp_path / "off.onnx")
    report = pp.verify(DEMO / "raw.onnx", tmp_path / "off.onnx", DEMO / "images")
    assert not report.postprocessing_exact
    assert report.boundary.flips > 0


@pytest.mark.slow
def test_cli_changes_the_form_of_a_fused_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fused, xml = tmp_path / "fused.onnx", tmp_path / "model.xml"
    stats = ["--stats", str(DEMO / "stats.json")]
    assert pp_graph(["fuse", str(DEMO / "raw.onnx"), *stats, "-o", str(fused)]) == 0
    form = ["--pack", "--map-size", "64x48", "--thresholds", "runtime"]
    assert pp_graph(["convert", str(fused), "-o", str(xml), *form]) == 0
    capsys.readouterr()
    assert pp_graph(["verify", str(DEMO / "raw.onnx"), str(xml), "--data", str(DEMO / "images"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"]
    artifact = pp.OpenVINOModel.load(xml)
    assert artifact.provenance.parameters["map_size"] == [64, 48]
    assert artifact.provenance.adjustable
    assert [next(iter(port.get_names())) for port in artifact.network.outputs] == ["predictions"]
    whole = tmp_path / "whole.xml"
    assert pp_graph(["convert", str(DEMO / "raw.onnx"), *stats, "-o", str(whole), *form]) == 0
    assert pp.OpenVINOModel.load(whole).provenance.cutoffs == artifact.provenance.cutoffs
    outputs = ["--outputs", "pred_mask", "--mask-dtype", "u8_255"]
    assert pp_graph(["convert", str(fused), "-o", str(tmp_path / "mask.xml"), *outputs]) == 0
    assert len(pp.OpenVINOModel.load(tmp_path / "mask.xml").network.outputs) == 1
    capsys.readouterr()
    for words, message in (
        (["--map-size", "64"], "'64' is not a size, expected height and width such as 256x256, or input"),
        (["--map-size", "0x5"], "--map-size is (0, 5), expected height and width in pixels"),
        (["--pack", "--mask-dtype", "u8"], "--pack is given together with --mask-dtype"),
        (["--pixel-sensitivity", "0.7"], "--pixel-sensitivity applies only when convert fuses a raw MODEL"),
    ):
        assert pp_graph(["convert", str(fused), "-o", str(tmp_path / "bad.xml"), *words]) == 2
        assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())
        assert not (tmp_path / "bad.xml").exists()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"mask_dtype": "i8"}, "mask_dtype is 'i8', expected one of: bool, u8, u8_255, f32"),
        ({"mask_dtype": "u8", "outputs": ("pred_label",)}, "mask_dtype is 'u8', but no pred_mask is written"),
        ({"map_size": (0, 5)}, r"map_size is \(0, 5\), expected height and width in pixels"),
        ({"map_size": "large"}, "map_size is 'large', expected height and width in pixels"),
        ({"map_size": (5, 5.5)}, "map_size is .* expected height and width in pixels"),
        ({"map_size": (5, 5), "outputs": ("pred_label",)}, "map_size is given, but neither map nor mask"),
        ({"pack": True, "outputs": ("pred_label",)}, "pack is given together with outputs"),
        ({"pack": True, "threshold": False}, "pack is given together with threshold=False"),
        ({"pack": "yes"}, "pack is 'yes', expected True or False"),
    ],
)
def test_contradictions(parameters: dict, message: str) -> None:
    with pytest.raises(PostProcessorError, match=message):
        pp.OneClassPostProcessor(STATS, **parameters)


def test_models_that_cannot_take_a_form() -> None:
    scores = identity_model({"score": ["N", 1]})
    with pytest.raises(PostProcessorError, match="pack is given, but the raw model has no map"):
        pp.fuse(scores, pp.OneClassPostProcessor(STATS, pack=True))
    with pytest.raises(PostProcessorError, match="map_size is given, but the raw model has no map"):
        pp.fuse(scores, pp.OneClassPostProcessor(STATS, map_size=(5, 5)))
    with pytest.raises(PostProcessorError, match="height and width of the model's input are not known"):
        pp.fuse(score_and_map(), pp.OneClassPostProcessor(STATS, map_size="input"))
    with pytest.raises(OpsetError, match="opset 9, expected 11 or later to resize its map"):
        pp.fuse(score_and_map(opset=9), pp.OneClassPostProcessor(STATS, map_size=(5, 5)))


@pytest.mark.sample(every=13)
@pytest.mark.parametrize("settings_", [{}, {"pack": True}, {"outputs": ("pred_mask",)}], ids=["all", "packed", "mask"])
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("known", [True, False], ids=["known", "open"])
def test_resizing_is_in_float32_whatever_the_network_runs_in(
    shapes: dict[str, list], settings_: dict, known: bool
) -> None:
    """Also if the map is the model's input, where nothing before it keeps the plugin from rounding."""
    sized = {name: [{"H": 12, "W": 10}.get(size, size) for size in shape] for name, shape in shapes.items()}
    model = identity_model(sized if known else shapes, opset=18)
    artifact = pp.convert(pp.fuse(model, pp.OneClassPostProcessor(STATS, map_size=(37, 51), **settings_)))
    rng = np.random.default_rng(0)
    feeds = {
        f"{name}_in": rng.normal(1, 1, [3 if size == "N" else size for size in shape]).astype(np.float32)
        for name, shape in sized.items()
    }
    for precision in ("f32", "bf16", None):
        report = pp.verify(pp.RawModel.open(model), artifact, feeds, inference_precision=precision)
        assert report.postprocessing_exact, report.failures
        assert set(report.island.values()) <= {"f32", "i32", "u8"}
        assert report.drift_flips == 0


def test_a_wrong_resize_fails(tmp_path: Path) -> None:
    post = pp.OneClassPostProcessor(DEMO_STATS, map_size=(100, 64))
    proto = pp.fuse(DEMO / "raw.onnx", post).to_proto()
    below = next(each for each in proto.graph.initializer if each.name.endswith("resized_map/below_0"))
    places = onnx.numpy_helper.to_array(below)
    below.CopyFrom(onnx.numpy_helper.from_array(np.maximum(places - 1, 0), below.name))
    onnx.save(proto, tmp_path / "off.onnx")
    report = pp.verify(DEMO / "raw.onnx", tmp_path / "off.onnx", DEMO / "images")
    assert any("the post-processing's numbers are off by" in failure for failure in report.failures)


@pytest.mark.parametrize(("name", "message"), [("pred_label", "Channel 2"), ("pred_mask", "Channel 3")])
def test_all_that_is_packed_is_looked_at(name: str, message: str, tmp_path: Path) -> None:
    fused = pp.fuse(DEMO / "raw.onnx", pp.OneClassPostProcessor(DEMO_STATS, pack=True))
    proto = fused.to_proto()
    high = next(each for each in proto.graph.initializer if each.name.endswith(f"{name}/anomalous"))
    high.CopyFrom(onnx.numpy_helper.from_array(np.float32(0.5).reshape(()), high.name))
    onnx.save(proto, tmp_path / "off.onnx")
    with pytest.raises(PostProcessorError, match=f"{message} of 'predictions' holds other numbers than 0 and 1"):
        pp.verify(DEMO / "raw.onnx", tmp_path / "off.onnx", DEMO / "images")
    packed = np.zeros((1, 2, 2, 4), np.float32)
    packed[0, 1, 1, 1] = 0.25
    with pytest.raises(PostProcessorError, match="Channel 1 of 'predictions' holds different values in an image"):
        check_packed(packed, fused.provenance.outputs[0])


def test_a_sensitivity_that_moves_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fused = pp.fuse(DEMO / "raw.onnx", pp.OneClassPostProcessor(DEMO_STATS, outputs=("pred_label",)))
    with pytest.raises(PostProcessorError, match="pixel_sensitivity was given, but the model has no output pred_mask"):
        pp.retune(fused, pixel_sensitivity=0.3)
    words = ["fuse", str(DEMO / "raw.onnx"), "--stats", str(DEMO / "stats.json"), "-o", str(tmp_path / "x.onnx")]
    assert pp_graph([*words, "--outputs", "pred_label", "--pixel-sensitivity", "0.3"]) == 2
    assert "--pixel-sensitivity has no effect, because pred_mask is not written" in capsys.readouterr().err
