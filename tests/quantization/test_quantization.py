"""Layers are quantised to int8; distances and decisions stay float32."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import pp_graph as pp
from pp_graph.cli import run as run_cli
from pp_graph.data import open_labelled
from pp_graph.errors import AccuracyError, DataError, ExtraError, ProvenanceError, TargetError
from pp_graph.openvino.island.float32 import island_constants
from pp_graph.quantization.decisions import ImageDecisions, judge, rates, worst_drop
from pp_graph.raw_values import open_raw_values
from tests.conftest import DEMO
from tests.models import STATS, conv_model, from_text, identity_model
from tests.openvino.test_conversion import quantized

POST = pp.OneClassPostProcessor(STATS)
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(0, 1, (6, 3, 32, 32)).astype(np.float32)


def with_weights(text: str, **weights: tuple[int, ...]) -> onnx.ModelProto:
    model = from_text(text)
    rng = np.random.default_rng(1)
    for name, shape in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(rng.normal(0, 0.3, shape).astype(np.float32), name))
    return model


def distance_model(size: int | str = "H", *, features: bool = False) -> onnx.ModelProto:
    """Build two convolutions without bias, and the distance of their features from a mean."""
    more = ", float[N,8,H,W] features" if features else ""
    return with_weights(
        f"""<ir_version: 8, opset_import: ["": 17]>
        g (float[N,3,{size},{size}] image) => (float[N,1] score, float[N,1,{size},{size}] heat{more}) {{
            a = Conv <pads = [1, 1, 1, 1]> (image, w1)
            b = Relu (a)
            features = Conv <pads = [1, 1, 1, 1]> (b, w2)
            d = Sub (features, mean)
            dd = Mul (d, d)
            s = ReduceSum <keepdims = 1> (dd, axis)
            heat = Sqrt (s)
            score = ReduceMax <axes = [2, 3], keepdims = 0> (heat)
        }}""".replace("ReduceSum <keepdims = 1> (dd, axis)", "ReduceMean <axes = [1], keepdims = 1> (dd)"),
        w1=(8, 3, 3, 3),
        w2=(8, 8, 3, 3),
        mean=(1, 8, 1, 1),
    )


def neighbour_model() -> onnx.ModelProto:
    """Build two convolutions, and the distance of their features to the nearest of 20 stored ones."""
    return with_weights(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[N,3,16,16] image) => (float[N,1,16,16] heat)
        <int64[3] rows = {0, 8, 256}, int64[4] map = {-1, 1, 16, 16}, float two = {2.0}> {
            a = Conv <pads = [1, 1, 1, 1]> (image, w1)
            b = Relu (a)
            c = Conv <pads = [1, 1, 1, 1]> (b, w2)
            r = Reshape (c, rows)
            x = Transpose <perm = [0, 2, 1]> (r)
            xx = Mul (x, x)
            x2 = ReduceMean <axes = [2], keepdims = 1> (xx)
            xm = MatMul (x, memory)
            xm2 = Mul (xm, two)
            p = Sub (x2, xm2)
            q = Add (p, lengths)
            least = ReduceMin <axes = [2], keepdims = 0> (q)
            heat = Reshape (least, map)
        }""",
        w1=(8, 3, 3, 3),
        w2=(8, 8, 3, 3),
        memory=(8, 20),
        lengths=(20,),
    )


def token_model() -> onnx.ModelProto:
    """Build two linear layers over tokens, as in a transformer, and the distance of their result from a mean."""
    return with_weights(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[N,64,12] tokens) => (float[N,1,8,8] heat) <int64[4] map = {-1, 1, 8, 8}> {
            a = MatMul (tokens, w1)
            b = Add (a, b1)
            c = Relu (b)
            d = MatMul (c, w2)
            e = Add (d, b2)
            f = Sub (e, mean)
            g2 = Mul (f, f)
            h = ReduceMean <axes = [2], keepdims = 0> (g2)
            heat = Reshape (h, map)
        }""",
        w1=(12, 24),
        b1=(24,),
        w2=(24, 12),
        b2=(12,),
        mean=(12,),
    )


def int8(model: onnx.ModelProto | pp.FusedModel, data: object = IMAGES, **settings: object) -> pp.OpenVINOModel:
    fused = model if isinstance(model, pp.FusedModel) else pp.fuse(model, POST)
    return pp.convert(fused, precision="int8", quantization=pp.Quantization(data, **settings))


_PASSED_ON = ("Multiply", "Subtract", "Convert", "Reshape", "Transpose")


def weight_type(node: object) -> str | None:
    """Return the element type of a layer's stored weights; None if they are not constant."""
    source = node.input_value(1).get_node()
    while source.get_type_name() in _PASSED_ON:
        source = source.input_value(0).get_node()
    return source.get_element_type().get_type_name() if source.get_type_name() == "Constant" else None


def layers(artifact: pp.OpenVINOModel) -> dict[str, bool]:
    """Map type and weight sizes of every layer before the island to True if the weights are integers."""
    found = {}
    for node in artifact.network.get_ordered_ops():
        if node.get_type_name() in ("Convolution", "GroupConvolution", "MatMul") and weight_type(node):
            sizes = sorted(size for size in node.input_value(1).get_shape())
            found[f"{node.get_type_name()} {sizes}"] = weight_type(node) in ("i8", "u8")
    return found


def quantizers_behind_the_layers(artifact: pp.OpenVINOModel) -> list[str]:
    """Return the FakeQuantize operators that lead to no layer with integer weights."""
    before_layer, found = set(), []
    for node in reversed(artifact.network.get_ordered_ops()):
        kind, own = node.get_type_name(), node.get_instance_id()
        layer = kind in ("Convolution", "GroupConvolution", "MatMul") and weight_type(node) in ("i8", "u8")
        if layer or own in before_layer:
            before_layer |= {value.get_node().get_instance_id() for value in node.input_values()}
        elif kind == "FakeQuantize":
            found.append(node.get_friendly_name())
    return found


def map_values(artifact: pp.OpenVINOModel, images: np.ndarray, precision: str = "f32") -> list[int]:
    """Count the distinct values of the raw map that the comparison reads, for each image."""
    opened = open_raw_values(artifact, inference_precision=precision)
    name = opened.inputs[0].name
    return [len(np.unique(opened.run({name: images[at : at + 1]})["raw_map"])) for at in range(len(images))]


def plainly(fused: pp.FusedModel, images: np.ndarray) -> list[int]:
    """Count the same with NNCF's default, which quantises the whole model."""
    import openvino as ov
    from openvino import opset13 as ops
    from openvino._offline_transformations import apply_moc_transformations

    from pp_graph.quantization.nncf import _quietly, open_nncf

    nncf = open_nncf()
    model = pp.convert(fused).network
    apply_moc_transformations(model, cf=False)
    with _quietly():
        feeds = nncf.Dataset([{0: image[None]} for image in images])
        model = nncf.quantize(model, feeds, subset_size=len(images))
    compare = next(node for node in model.get_ops() if node.get_friendly_name().endswith("pred_mask/Less"))
    count = len(model.outputs)
    model.add_results([ops.result(compare.input_value(0))])
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return [len(np.unique(compiled(image[None])[count])) for image in images]


class TestWhatIsQuantised:
    def test_layers_only(self) -> None:
        artifact = int8(distance_model())
        assert layers(artifact) == {"Convolution [3, 3, 3, 8]": True, "Convolution [3, 3, 8, 8]": True}
        assert quantizers_behind_the_layers(artifact) == []
        assert artifact.precision == "int8"
        report = pp.verify(pp.RawModel.open(distance_model()), artifact, IMAGES)
        assert report.postprocessing_exact, report.failures
        assert report.postprocessing_flips == 0
        errors = {error.name: error for error in report.errors}
        assert 1e-4 < errors["raw_map"].mean_abs < 0.05, "int8, but not another model"

    def test_a_layer_without_bias_that_is_read_twice(self) -> None:
        """OpenVINO on CPU may apply the scale of such a layer for one reader only."""
        raw = distance_model(features=True)
        artifact = int8(pp.fuse(raw, POST, keep_raw=True))
        expected = pp.convert(pp.fuse(raw, POST, keep_raw=True)).session().run({"image": IMAGES})
        found = artifact.session().run({"image": IMAGES})
        assert {"features", "heat", "score", "pred_mask"} <= set(found)
        for name in ("features", "heat", "score"):
            scale = np.abs(expected[name]).mean()
            assert np.abs(found[name] - expected[name]).mean() < 0.05 * scale, name

    def test_the_nearest_neighbour_is_sought_in_float32(self) -> None:
        images = RNG.normal(0, 1, (5, 3, 16, 16)).astype(np.float32)
        artifact = int8(neighbour_model(), images)
        assert layers(artifact) == {
            "Convolution [3, 3, 3, 8]": True,
            "Convolution [3, 3, 8, 8]": True,
            "MatMul [8, 20]": False,
        }
        assert quantizers_behind_the_layers(artifact) == []
        report = pp.verify(pp.RawModel.open(neighbour_model()), artifact, images)
        assert report.postprocessing_exact, report.failures
        assert report.errors[0].mean_abs < 0.1, "distances are about 1.7"

    def test_layers_of_a_transformer(self) -> None:
        tokens = RNG.normal(0, 1, (5, 64, 12)).astype(np.float32)
        artifact = int8(token_model(), {"tokens": tokens})
        assert layers(artifact) == {"MatMul [12, 24]": True}
        assert quantizers_behind_the_layers(artifact) == []
        assert pp.verify(pp.RawModel.open(token_model()), artifact, {"tokens": tokens}).postprocessing_exact

    def test_a_matrix_for_each_position_is_no_layer(self, demo_fused_path: Path, demo_images: np.ndarray) -> None:
        artifact = int8(pp.FusedModel.load(demo_fused_path), demo_images, subset_size=3)
        products = {name: quantised for name, quantised in layers(artifact).items() if name.startswith("MatMul")}
        assert products
        assert not any(products.values())
        assert quantizers_behind_the_layers(artifact) == []

    def test_from_a_tensor_on(self) -> None:
        artifact = int8(distance_model(), float_from=("b",))
        assert layers(artifact) == {"Convolution [3, 3, 3, 8]": True, "Convolution [3, 3, 8, 8]": False}
        assert artifact.conversion["quantization"]["float_from"] == ["b"]
        further = int8(distance_model(), float_from=("s",))
        assert quantizers_behind_the_layers(further), "distances in int8, as was asked"
        assert pp.verify(pp.RawModel.open(distance_model()), further, IMAGES).postprocessing_flips == 0

    @pytest.mark.parametrize(("name", "message"), [
        ("nowhere", "Tensor 'nowhere' is not in the converted model, expected a tensor of the raw model"),
        ("pred_score", "Tensor 'pred_score' is part of the post-processing"),
        ("image", "has nothing to quantise"),
    ])  # fmt: skip
    def test_from_a_tensor_that_will_not_do(self, name: str, message: str) -> None:
        with pytest.raises(TargetError, match=message):
            int8(distance_model(), float_from=(name,))


class TestDistinctValues:
    """Eight bits represent 256 values; a map of 256 x 256 pixels has up to 65,536."""

    def test_of_a_model_that_ends_in_a_distance(self) -> None:
        images = RNG.normal(0, 1, (2, 3, 256, 256)).astype(np.float32)
        fused = pp.fuse(distance_model(256), POST)
        assert max(plainly(fused, images)) <= 256
        assert min(map_values(int8(fused, images), images)) > 10_000

    @pytest.mark.sample(every=2)
    @pytest.mark.parametrize("precision", ["f32", "bf16"])
    def test_of_the_demo(self, demo_fused_path: Path, demo_images: np.ndarray, precision: str) -> None:
        artifact = int8(pp.FusedModel.load(demo_fused_path), demo_images, subset_size=4)
        assert min(map_values(artifact, demo_images[:4], precision)) > 10_000

    @pytest.mark.slow
    def test_of_a_real_model(self, brick: Path) -> None:
        images = np.load(brick / "images.npz")["image"]
        fused = pp.fuse(brick / "raw.onnx", pp.OneClassPostProcessor(pp.Statistics.load(brick / "stats.json")))
        artifact = int8(fused, images, subset_size=16)
        shown = images[::20].astype(np.float32) / np.float32(255)
        assert min(map_values(artifact, shown)) > 10_000
        assert quantizers_behind_the_layers(artifact) == []
        report = pp.verify(brick / "raw.onnx", artifact, images[::8])
        assert report.postprocessing_exact, report.failures
        assert report.postprocessing_flips == 0
        assert next(each for each in report.decisions if each.name == "pred_label").flips <= 1


@pytest.fixture(scope="module")
def saved(demo_fused_path: Path, demo_images: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    artifact = int8(pp.FusedModel.load(demo_fused_path), DEMO / "images", subset_size=6)
    return artifact.save(tmp_path_factory.mktemp("int8") / "model.xml")


class TestArtifact:
    def test_is_saved_and_loaded(self, saved: Path, demo_ir_path: Path) -> None:
        loaded = pp.OpenVINOModel.load(saved)
        assert loaded.precision == "int8"
        record = loaded.conversion["quantization"]
        assert record["preset"] == "performance"
        assert record["images"] == 6
        assert record["data"] == "images"
        assert len(record["data_sha256"]) == 64
        assert record["layers"] == "15 of 15 in int8"
        assert record["nncf"].startswith("3.")
        assert "quantization" in loaded.provenance.summary()
        constants = island_constants(loaded.network, "pp_graph")
        assert constants
        assert set(constants.values()) == {"f32"}
        assert saved.with_suffix(".bin").stat().st_size < demo_ir_path.with_suffix(".bin").stat().st_size

    @pytest.mark.sample(every=3)
    @pytest.mark.parametrize("execution", ["f32", "bf16", "f16"])
    def test_island_runs_in_f32_and_flips_nothing(self, saved: Path, demo_images: np.ndarray, execution: str) -> None:
        report = pp.verify(DEMO / "raw.onnx", saved, demo_images, inference_precision=execution)
        assert report.postprocessing_exact, report.failures
        assert report.postprocessing_flips == 0
        assert set(report.island.values()) == {"f32"}
        labels = next(each for each in report.decisions if each.name == "pred_label")
        assert labels.flips == 0

    def test_layers_really_run_in_int8(self, saved: Path) -> None:
        import openvino as ov

        compiled = ov.Core().compile_model(pp.OpenVINOModel.load(saved).network, "CPU")
        precisions = [
            str(node.get_rt_info()["runtimePrecision"].value)
            for node in compiled.get_runtime_model().get_ordered_ops()
            if str(node.get_rt_info()["layerType"].value) == "Convolution"
        ]
        assert sum(precision in ("u8", "i8") for precision in precisions) >= 14

    def test_is_retuned(self, saved: Path, demo_images: np.ndarray, tmp_path: Path) -> None:
        retuned = pp.retune(pp.open(saved), pixel_sensitivity=0.6)
        assert isinstance(retuned, pp.OpenVINOModel)
        path = retuned.save(tmp_path / "retuned.xml")
        assert quantizers_behind_the_layers(pp.OpenVINOModel.load(path)) == []
        raw = [open_raw_values(each).run({"image": demo_images[:3]})["raw_map"] for each in (saved, path)]
        assert np.array_equal(*raw)
        report = pp.verify(DEMO / "raw.onnx", path, demo_images)
        assert report.postprocessing_exact, report.failures
        assert report.postprocessing_flips == 0
        assert pp.OpenVINOModel.load(path).conversion["quantization"]["images"] == 6

    @pytest.mark.slow
    def test_verbs(self, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run_cli(["inspect", str(saved)]) == 0
        assert "int8" in capsys.readouterr().out
        tuned = tmp_path / "tuned.xml"
        assert run_cli(["calibrate", str(saved), "--data", str(DEMO / "images"), "--bootstrap", "0",
                        "--retune", str(tuned)]) == 0  # fmt: skip
        assert pp.OpenVINOModel.load(tuned).precision == "int8"
        assert run_cli(["benchmark", str(DEMO / "raw.onnx"), str(saved), "--seconds", "0.2"]) == 0


class TestData:
    def test_taken_evenly(self) -> None:
        artifact = int8(distance_model(), IMAGES, subset_size=3)
        assert artifact.conversion["quantization"]["images"] == 3
        assert (
            artifact.conversion["quantization"]
            == int8(distance_model(), IMAGES[[0, 2, 5]], subset_size=3).conversion["quantization"]
        ), "first, middle and last: the same hash"

    def test_u8_is_scaled_as_verify_does(self) -> None:
        pixels = RNG.integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
        scaled = pixels.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
        hashes = [int8(distance_model(), each).conversion["quantization"]["data_sha256"] for each in (pixels, scaled)]
        assert hashes[0] == hashes[1]

    @pytest.mark.parametrize("batch", [1, 4])
    def test_fixed_batch(self, batch: int) -> None:
        fused = pp.fuse(distance_model(), POST)
        done = []
        settings = pp.Quantization(IMAGES, progress=done.append)
        artifact = pp.convert(fused, precision="int8", input_shape=[batch, 3, 32, 32], quantization=settings)
        assert sum(done) == len(IMAGES)
        assert artifact.conversion["quantization"]["images"] == len(IMAGES)
        assert pp.verify(pp.RawModel.open(distance_model()), artifact, IMAGES).passed

    def test_several_inputs(self, tmp_path: Path) -> None:
        """No layer reads one of the inputs."""
        model = from_text(
            """<ir_version: 8, opset_import: ["": 17]>
            g (float[N,3,16,16] left, float[N,3,16,16] right, float[N,1,1,1] gain) => (float[N,1,16,16] heat) {
                a = Conv <pads = [1, 1, 1, 1]> (left, w)
                b = Conv <pads = [1, 1, 1, 1]> (right, w)
                c = Sub (a, b)
                d = Mul (c, c)
                e = ReduceMean <axes = [1], keepdims = 1> (d)
                heat = Mul (e, gain)
            }"""
        )
        weights = RNG.normal(0, 0.3, (8, 3, 3, 3)).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
        arrays = {
            "left": RNG.normal(0, 1, (4, 3, 16, 16)).astype(np.float32),
            "right": RNG.normal(0, 1, (4, 3, 16, 16)).astype(np.float32),
            "gain": RNG.uniform(0.5, 2, (4, 1, 1, 1)).astype(np.float32),
        }
        np.savez(tmp_path / "data.npz", **arrays)
        artifact = int8(model, tmp_path / "data.npz")
        assert artifact.conversion["quantization"]["data"] == "data.npz"
        assert all(layers(artifact).values())
        assert pp.verify(pp.RawModel.open(model), artifact, tmp_path / "data.npz").passed
        with pytest.raises(DataError, match="Found arrays 'image' in the data, expected an array for each input"):
            int8(model, {"image": arrays["left"]})

    @pytest.mark.parametrize(("data", "message"), [
        (IMAGES[:0], "No images in the data"),
        (IMAGES[:, :2], r"Images have shape \(1, 2, 32, 32\), expected"),
        (np.where(np.arange(32) == 5, np.nan, IMAGES), "hold NaN or infinite numbers, expected finite ones"),
        ("nowhere", "'nowhere' does not exist"),
    ])  # fmt: skip
    def test_bad(self, data: object, message: str) -> None:
        with pytest.raises(DataError, match=message):
            int8(distance_model(), data)


class TestRefusals:
    @pytest.mark.parametrize(("settings", "message"), [
        ({"preset": "fast"}, "Preset 'fast' is not known, expected one of: performance, mixed"),
        ({"subset_size": 0}, "subset_size is 0, expected at least 1"),
        ({"max_drop": 0.1}, "max_drop was given without labelled images"),
        ({"labelled": "images"}, "Labelled images were given without max_drop"),
        ({"max_drop": -0.1, "labelled": "images"}, "max_drop is -0.1, expected at least 0 and below 1"),
        ({"max_drop": float("nan"), "labelled": "images"}, "max_drop is nan, expected"),
    ])  # fmt: skip
    def test_settings(self, settings: dict, message: str) -> None:
        with pytest.raises(TargetError, match=message):
            pp.Quantization(IMAGES, **settings)

    def test_data_and_precision_belong_together(self) -> None:
        fused = pp.fuse(distance_model(), POST)
        with pytest.raises(TargetError, match="int8 was requested without calibration data"):
            pp.convert(fused, precision="int8")
        with pytest.raises(TargetError, match="Calibration data were given with precision f16, expected int8"):
            pp.convert(fused, precision="f16", quantization=pp.Quantization(IMAGES))

    def test_nothing_to_quantise(self) -> None:
        model = identity_model({"s": ["N", 1], "m": ["N", 1, "H", "W"]})
        feeds = {"s_in": np.ones((2, 1), np.float32), "m_in": np.ones((2, 1, 4, 4), np.float32)}
        with pytest.raises(TargetError, match="The network has nothing to quantise, expected convolutions"):
            int8(model, feeds)

    def test_other_precisions(self) -> None:
        x = RNG.normal(0, 1, (2, 3, 16, 16)).astype(np.float32)
        with pytest.raises(TargetError, match="The network is quantised already"):
            int8(quantized(score=False), x)
        half = conv_model()
        for tensor in half.graph.initializer:
            if tensor.data_type == onnx.TensorProto.FLOAT:
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
        for value in (*half.graph.input, *half.graph.output):
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
        with pytest.raises(TargetError, match="The network computes in f16 .*expected f32 to quantise from"):
            int8(half, x)

    def test_without_nncf(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "nncf", None)
        with pytest.raises(ExtraError, match=r"needs nncf, which is not installed.*pp_graph\[quantize\]"):
            int8(distance_model())


@pytest.mark.filterwarnings("ignore")
def test_an_ir_that_nncf_quantised_is_not_retuned(tmp_path: Path) -> None:
    """It quantised the post-processing too, which constants do not show."""
    import nncf
    import openvino as ov

    path = pp.convert(pp.fuse(conv_model(), POST)).save(tmp_path / "model.xml")
    whole = nncf.quantize(ov.Core().read_model(path), nncf.Dataset([{"image": IMAGES}]))
    ov.save_model(whole, tmp_path / "whole.xml", compress_to_fp16=False)
    before = (tmp_path / "whole.xml").read_bytes()
    with pytest.raises(ProvenanceError, match=r"quantised by NNCF after it was converted.*convert --precision int8"):
        pp.retune(tmp_path / "whole.xml", image_sensitivity=0.6)
    assert (tmp_path / "whole.xml").read_bytes() == before


@pytest.mark.slow
def test_nncf_is_silent_and_tells_nobody(tmp_path: Path) -> None:
    """Run in a separate process, because NNCF disables its telemetry under pytest."""
    onnx.save(pp.fuse(distance_model(), POST).to_proto(), tmp_path / "fused.onnx")
    np.savez(tmp_path / "data.npz", image=IMAGES)
    code = f"""
import sys, socket, importlib.util
def refuse(*a, **k):
    raise AssertionError("the network was used")
socket.socket.connect = refuse
import pp_graph as pp
pp.convert({str(tmp_path / "fused.onnx")!r}, precision="int8",
           quantization=pp.Quantization({str(tmp_path / "data.npz")!r}))
import nncf
assert "Mock" in type(nncf.telemetry.telemetry).__name__, type(nncf.telemetry.telemetry)
assert sys.modules.get("openvino_telemetry") is None
import nncf.telemetry.decorator as tracking
class Loud:
    def __getattr__(self, name):
        raise AssertionError("telemetry " + name)
tracking.telemetry = Loud()
pp.convert({str(tmp_path / "fused.onnx")!r}, precision="int8",
           quantization=pp.Quantization({str(tmp_path / "data.npz")!r}))
"""
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=False,
        text=True,
        env={"HOME": str(home), "PYTHONPATH": ":".join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert not [path for path in home.rglob("*") if path.is_file() and "intel" in str(path).lower()]


def labelled(count: int = 8) -> dict[str, np.ndarray]:
    """Images, every other one with a bright square, and masks of the squares."""
    rng = np.random.default_rng(7)
    images = rng.normal(0, 0.2, (count, 3, 32, 32)).astype(np.float32)
    masks = np.zeros((count, 32, 32), bool)
    masks[1::2, 8:16, 8:16] = True
    images += masks[:, None] * np.float32(3)
    return {"image": images, "label": masks.any(axis=(1, 2)), "mask": masks}


def tuned(model: onnx.ModelProto, data: dict[str, np.ndarray]) -> pp.FusedModel:
    """A model fused with statistics that fit the data."""
    return pp.fuse(model, pp.OneClassPostProcessor(pp.calibrate(pp.RawModel.open(model), data, resamples=0).statistics))


class TestMaxDrop:
    def test_kept(self) -> None:
        data = labelled()
        fused = tuned(distance_model(), data)
        artifact = int8(fused, data["image"], max_drop=0.05, labelled=data)
        record = artifact.conversion["quantization"]
        assert record["max_drop"] == 0.05
        assert set(record["rates_f32"]) == set(record["rates_int8"]) == {"label_balanced_accuracy", "mask_f1"}
        assert record["drop"] <= 0.05
        assert any(layers(artifact).values())
        # Compute the same rates from the artifact's own decisions.
        found = artifact.session().run({"image": data["image"]})
        right = [(found["pred_label"].ravel() == data["label"])[data["label"] == kind].mean() for kind in (True, False)]
        assert record["rates_int8"]["label_balanced_accuracy"] == pytest.approx(np.mean(right))
        mask, truth = found["pred_mask"][:, 0], data["mask"]
        f1 = 2 * (mask & truth).sum() / (mask.sum() + truth.sum())
        assert record["rates_int8"]["mask_f1"] == pytest.approx(f1)

    def test_layers_stay_float32_for_it(self) -> None:
        """The decision depends on the sum of small channels next to a huge one, which eight bits lose."""
        model, data = hard_to_quantise()
        fused = tuned(model, data)
        free = int8(fused, data["image"]).session().run({"image": data["image"]})
        mask, truth = free["pred_mask"][:, 0], data["mask"]
        lost = 2 * (mask & truth).sum() / (mask.sum() + truth.sum())
        artifact = int8(fused, data["image"], max_drop=0.02, labelled=data)
        record = artifact.conversion["quantization"]
        assert record["rates_f32"]["mask_f1"] - lost > 0.02
        assert record["drop"] <= 0.02
        assert record["layers"] == "1 of 2 in int8"

    def test_cannot_be_kept(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        model, data = hard_to_quantise(layers=1)
        fused = tuned(model, data)
        with pytest.raises(
            AccuracyError,
            match=r"max_drop 0.001 is kept only with all 1 layers|falls from .* by .*expected 0.001 at most",
        ):
            int8(fused, data["image"], max_drop=0.001, labelled=data)
        onnx.save(fused.to_proto(), tmp_path / "fused.onnx")
        np.savez(tmp_path / "data.npz", **data)
        status = run_cli(["convert", str(tmp_path / "fused.onnx"), "-o", str(tmp_path / "model.xml"), "--json",
                          "--precision", "int8", "--calibration-data", str(tmp_path / "data.npz"),
                          "--max-drop", "0.001", "--labels", str(tmp_path / "data.npz")])  # fmt: skip
        assert status == 1
        assert json.loads(capsys.readouterr().out)["error"]["type"] == "AccuracyError"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["data.npz", "fused.onnx"]

    def test_labels_that_measure_nothing(self) -> None:
        data = labelled()
        fused = pp.fuse(distance_model(), pp.OneClassPostProcessor(STATS, outputs=("pred_mask",)))
        with pytest.raises(DataError, match="The labelled data leave nothing to measure"):
            int8(fused, data["image"], max_drop=0.1, labelled={"image": IMAGES, "label": np.zeros(len(IMAGES), bool)})

    def test_rates(self) -> None:
        def one(label: list[int], mask: list[int]) -> ImageDecisions:
            return ImageDecisions(np.array(label), np.array(mask))

        decisions = [one([1, 0, 0, 0], [3, 1, 5, 1]), one([0, 0, 0, 1], [0, 0, 10, 0]), one([0, 0, 1, 0], [0, 0, 0, 0])]
        assert rates(decisions) == {"label_balanced_accuracy": 0.75, "mask_f1": 0.75}
        assert rates(decisions[2:]) == {"label_balanced_accuracy": 1.0}
        assert decisions[0].right == pytest.approx(0.9)
        assert worst_drop({"a": 0.9, "b": 0.5}, {"a": 0.95, "b": 0.4}) == pytest.approx(0.1)


def hard_to_quantise(*, layers: int = 2) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Build a layer whose input has a range of 1000, of which the anomaly takes 1."""
    first = "x = Conv (image, w1)\n" if layers == 2 else "x = Identity (image)\n"
    model = from_text(
        f"""<ir_version: 8, opset_import: ["": 17]>
        g (float[N,3,32,32] image) => (float[N,1,32,32] heat) {{
            {first}
            heat = Conv (x, w2)
        }}"""
    )
    eye = np.eye(3, dtype=np.float32)[:, :, None, None]
    if layers == 2:
        model.graph.initializer.append(
            numpy_helper.from_array(eye * np.float32([1, 1, 1000])[:, None, None, None], "w1")
        )
    weights = np.float32([1, 1, 1e-9]).reshape(1, 3, 1, 1)
    model.graph.initializer.append(numpy_helper.from_array(weights, "w2"))
    data = labelled()
    if layers == 1:
        data["image"][:, 2] *= 1000
    return model, data


class TestCommandLine:
    def test_converts(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        output = tmp_path / "model.xml"
        arguments = ["convert", str(DEMO / "raw.onnx"), "--stats", str(DEMO / "stats.json"), "-o", str(output),
                     "--precision", "int8", "--calibration-data", str(DEMO / "images"), "--subset-size", "4"]  # fmt: skip
        assert run_cli([*arguments, "--json"]) == 0
        printed = capsys.readouterr()
        result = json.loads(printed.out)
        assert result["precision"] == "int8"
        assert result["quantization"]["images"] == 4
        assert pp.OpenVINOModel.load(output).precision == "int8"
        assert run_cli(arguments) == 2, "the output exists, and nothing was computed to find that out"
        assert "exists already" in capsys.readouterr().err
        assert run_cli([*arguments, "--force", "--max-drop", "0.1", "--labels", str(DEMO / "images")]) == 0
        shown = capsys.readouterr().out
        assert "15 of 15 layers, preset performance, ranges from 4 images" in shown
        assert "label balanced accuracy 1.0000 in float32" in shown

    @pytest.mark.parametrize(("arguments", "message"), [
        (["--precision", "int8"], "needs images to set its ranges. Give --data"),
        (["--precision", "int8", "--data", "images", "--calibration-data", "images"], "expected one of them"),
        (["--calibration-data", "images"], "--calibration-data applies only to --precision int8"),
        (["--precision", "f16", "--preset", "performance"], "--preset applies only to --precision int8"),
        (["--precision", "int8", "--calibration-data", "nowhere"], "'nowhere' does not exist"),
        (["--precision", "int8", "--calibration-data", "empty"], "holds no images"),
        (["--precision", "int8", "--calibration-data", "nowhere", "--subset-size", "0"], "--subset-size is 0"),
        (["--precision", "int8", "--calibration-data", "nowhere", "--max-drop", "0.1"], "without labelled images"),
        (["--precision", "int8", "--calibration-data", "nowhere", "--labels", "x"], "without --max-drop"),
        (["--precision", "int8", "--calibration-data", "nowhere", "--preset", "fast"], "'fast' is not one of"),
    ])  # fmt: skip
    def test_bad_input(
        self,
        demo_fused_path: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        arguments: list[str],
        message: str,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "empty").mkdir()
        assert run_cli(["convert", str(demo_fused_path), "-o", "model.xml", *arguments]) == 2
        assert message in capsys.readouterr().err
        assert [path.name for path in tmp_path.iterdir()] == ["empty"]


# --- one tensor, several readers ---


def ends_in_a_layer(second: str) -> onnx.ModelProto:
    """Build a network whose map is a convolution without bias that another operator reads, too."""
    more, outputs = ("two = Concat<axis = 1>(heat, heat)", ", float[N,2,H,W] two") if second else ("", "")
    return with_weights(
        f"""<ir_version: 8, opset_import: ["": 17]>
        g (float[N,3,H,W] image) => (float[N,1,H,W] heat{outputs}) {{
            a = Conv <pads = [1, 1, 1, 1]> (image, w1)
            b = Relu (a)
            heat = Conv <pads = [1, 1, 1, 1]> (b, w2)
            {more}
        }}""",
        w1=(4, 3, 3, 3),
        w2=(1, 4, 3, 3),
    )


@pytest.mark.sample(every=3)
@pytest.mark.parametrize("precision", ["f32", "bf16"])
@pytest.mark.parametrize(("keep_raw", "second"), [(False, ""), (True, ""), (False, "two")])
def test_decisions_follow_from_the_raw_value_whoever_reads_it_too(
    keep_raw: bool, second: str, precision: str, tmp_path: Path
) -> None:
    model = ends_in_a_layer(second)
    artifact = int8(pp.fuse(model, POST, keep_raw=keep_raw))
    path = artifact.save(tmp_path / "model.xml")
    for tuned in (artifact, pp.retune(pp.open(path), image_sensitivity=0.0)):
        report = pp.verify(pp.RawModel.open(model), tuned, IMAGES, inference_precision=precision)
        assert report.postprocessing_exact, report.failures
        assert report.postprocessing_flips == report.boundary.flips == 0
        assert 0 < report.decisions[1].positive < report.decisions[1].total
        if keep_raw:
            found = tuned.session(precision=precision).run({"image": IMAGES})
            assert np.array_equal(found["pred_mask"], POST({"anomaly_map": found["heat"]}).pred_mask)


def test_masks_of_numbers_are_judged_alike() -> None:
    maps = RNG.normal(0.7, 1, (6, 1, 8, 8)).astype(np.float32)
    images = {"image": IMAGES, "label": np.arange(6) % 2 > 0, "mask": RNG.random((6, 8, 8)) > 0.5}
    images["mask"] &= images["label"][:, None, None]
    labelled_ = open_labelled(images)
    signature = pp.Signature.of_values({"raw_map": maps}, pp.OneClassPostProcessor.roles)
    counts = [
        judge(pp.OneClassPostProcessor(STATS, mask_dtype=dtype).bind(signature), {"raw_map": maps}, labelled_, range(6))
        for dtype in ("bool", "u8", "u8_255", "f32")
    ]
    for others in counts[1:]:
        for own, other in zip(counts[0], others, strict=True):
            assert np.array_equal(own.label, other.label)
            assert np.array_equal(own.mask, other.mask)
