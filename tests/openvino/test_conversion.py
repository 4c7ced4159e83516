"""OpenVINO: names and batch kept, the post-processing in float32 through f16 saving and bf16 execution."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import onnx
import pytest

import pp_graph as pp
from pp_graph.errors import AlreadyFusedError, OutputFileError, ProvenanceError, TargetError
from pp_graph.openvino.island.float32 import island_constants
from pp_graph.postprocessors import OUTPUT_NAMES
from tests.conftest import DEMO
from tests.model.test_saving import external
from tests.models import STATS, conv_model, from_text, identity_model, run

POST = pp.OneClassPostProcessor(STATS)
IMAGE = np.random.default_rng(0).normal(0, 1, (2, 3, 9, 11)).astype(np.float32)


@pytest.mark.parametrize("precision", ["f32", "f16"])
def test_constants_of_the_post_processing_are_saved_in_f32(
    tmp_path: Path, demo_fused_path: Path, precision: str, demo_post: pp.OneClassPostProcessor
) -> None:
    path = pp.convert(demo_fused_path, precision=precision).save(tmp_path / "model.xml")
    import openvino as ov

    saved = ov.Core().read_model(path)
    constants = island_constants(saved, "pp_graph")
    assert len(constants) >= 8
    assert set(constants.values()) == {"f32"}
    sizes = {kind: (tmp_path / f"model.{kind}").stat().st_size for kind in ("xml", "bin")}
    weights = pp.inspect(DEMO / "raw.onnx").weight_bytes
    assert (sizes["bin"] < 0.6 * weights) == (precision == "f16"), "only the network is compressed"
    # the cutoff that ships, read from the saved bytes, is the one that was compiled
    by_name = {node.get_friendly_name(): node for node in saved.get_ops() if node.get_type_name() == "Constant"}
    for name, step in pp.open(path).program.decisions.items():
        assert by_name[f"pp_graph/{name}/cutoff"].data.ravel()[0] == step.cutoff


@pytest.mark.sample(every=2)
@pytest.mark.parametrize("weights", ["f32", "f16"])
@pytest.mark.parametrize("execution", ["f32", "bf16", "f16"])
def test_post_processing_runs_in_f32_and_flips_nothing(
    tmp_path: Path, demo_fused_path: Path, demo_images: np.ndarray, weights: str, execution: str
) -> None:
    path = pp.convert(demo_fused_path, precision=weights).save(tmp_path / "model.xml")
    session = pp.OpenVINOModel.load(path).session(precision=execution)
    assert session.island
    assert set(session.island.values()) == {"f32"}
    report = pp.verify(DEMO / "raw.onnx", path, demo_images, inference_precision=execution)
    assert report.postprocessing_flips == 0
    assert all(error.max_abs < 1e-6 for error in report.postprocessing_errors)
    assert report.island == session.island


def test_names_and_dynamic_batch_are_kept(demo_ir_path: Path, demo_images: np.ndarray) -> None:
    session = pp.OpenVINOModel.load(demo_ir_path).session()
    assert [(each.name, each.shape) for each in session.inputs] == [("image", (None, 3, 256, 256))]
    for count in (1, 3):
        outputs = session.run({"image": demo_images[:count]})
        assert {name: array.shape for name, array in outputs.items()} == {
            "pred_score": (count, 1),
            "pred_label": (count, 1),
            "anomaly_map": (count, 1, 256, 256),
            "pred_mask": (count, 1, 256, 256),
        }
        assert outputs["pred_label"].dtype == bool
        assert outputs["pred_mask"].dtype == bool
    model = pp.OpenVINOModel.load(demo_ir_path).network
    assert [next(iter(port.get_names())) for port in model.outputs] == list(OUTPUT_NAMES)


def test_awkward_output_names(tmp_path: Path) -> None:
    fused = pp.fuse(identity_model({"Identity:0": ["N", 1], "537": ["N", 1, "H", "W"]}), POST, keep_raw=True)
    path = pp.convert(fused).save(tmp_path / "model.xml")
    outputs = [port.get_names() for port in pp.OpenVINOModel.load(path).network.outputs]
    assert [names & {*OUTPUT_NAMES, "Identity:0", "537"} for names in outputs] == [
        {name} for name in (*OUTPUT_NAMES, "Identity:0", "537")
    ]


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_element_types(dtype: type) -> None:
    onnx_dtype = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    model = identity_model({"s": ["N", 1], "m": ["N", 1, "H", "W"]}, dtype=onnx_dtype)
    rng = np.random.default_rng(3)
    feeds = {"s_in": rng.normal(1, 1, (50, 1)).astype(dtype), "m_in": rng.normal(1, 1, (50, 1, 8, 8)).astype(dtype)}
    for precision in ("f32", "bf16"):
        report = pp.verify(
            pp.RawModel.open(model), pp.convert(pp.fuse(model, POST)), feeds, inference_precision=precision
        )
        assert report.postprocessing_flips == 0


@pytest.mark.sample(every=9)
@pytest.mark.parametrize("settings", [{"normalize": False}, {"threshold": False}, {"on_nan": "normal"}], ids=str)
@pytest.mark.parametrize("shapes", [{"s": ["N"]}, {"m": ["N", "H", "W"]}, {"m": ["N", "H", "W", 1]}], ids=str)
def test_every_form_converts(settings: dict, shapes: dict) -> None:
    model = identity_model(shapes)
    rng = np.random.default_rng(4)
    feeds = {
        f"{name}_in": rng.normal(1, 1, [20, 6, 5, 1][: len(shape)]).astype(np.float32) for name, shape in shapes.items()
    }
    for array in feeds.values():
        array.ravel()[3] = np.nan
    artifact = pp.convert(pp.fuse(model, pp.OneClassPostProcessor(STATS, **settings)), precision="f16")
    for precision in ("f32", "bf16"):
        report = pp.verify(pp.RawModel.open(model), artifact, feeds, inference_precision=precision)
        assert report.passed
        assert report.drift_flips == 0, "nothing but post-processing is in this model"


def test_an_input_that_nothing_reads_stays(tmp_path: Path) -> None:
    model = identity_model({"raw_score": ["N"]})
    model.graph.input.append(onnx.helper.make_tensor_value_info("spare", onnx.TensorProto.FLOAT, ["N", 2]))
    onnx.save(model, tmp_path / "raw.onnx")
    path = pp.convert(tmp_path / "raw.onnx", post=POST).save(tmp_path / "model.xml")
    session = pp.open(path).session()
    assert [each.name for each in session.inputs] == ["raw_score_in", "spare"]
    x = np.float32([STATS.image.threshold - 1, STATS.image.threshold + 1])
    assert session.run({"raw_score_in": x, "spare": np.zeros((2, 2), np.float32)})["pred_label"].tolist() == [
        False,
        True,
    ]


def test_external_weights_of_a_model_that_is_not_saved(tmp_path: Path) -> None:
    raw = external(tmp_path)
    artifact = pp.convert(pp.fuse(raw, POST))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["raw.onnx", "weights.bin"]
    (tmp_path / "weights.bin").rename(tmp_path / "real.bin")
    (tmp_path / "weights.bin").symlink_to(tmp_path / "real.bin")
    assert pp.verify(raw, pp.convert(pp.fuse(raw, POST)), IMAGE).passed
    assert sorted(file.name for file in tmp_path.iterdir()) == ["raw.onnx", "real.bin", "weights.bin"]
    (tmp_path / "weights.bin").unlink()
    (tmp_path / "real.bin").rename(tmp_path / "weights.bin")
    assert pp.verify(raw, artifact, IMAGE).passed
    # the weights were mapped from a file that is gone by now
    assert pp.verify(raw, artifact.save(tmp_path / "ir" / "model.xml"), IMAGE).passed


def test_the_bin_never_overwrites_the_raw_weights(tmp_path: Path) -> None:
    model = conv_model()
    raw = tmp_path / "model.onnx"
    onnx.save(model, raw, save_as_external_data=True, location="model.bin", size_threshold=0)
    before = (tmp_path / "model.bin").read_bytes()
    with pytest.raises(OutputFileError, match=r"model\.bin' is an input of this command"):
        pp.convert(pp.fuse(raw, POST)).save(tmp_path / "model.xml", overwrite=True)
    assert (tmp_path / "model.bin").read_bytes() == before
    assert not (tmp_path / "model.xml").exists()


def test_saving_refuses(tmp_path: Path, demo_ir_path: Path) -> None:
    artifact = pp.convert(pp.fuse(conv_model(), POST))
    with pytest.raises(TargetError, match=r"ends in '\.onnx', expected '\.xml'"):
        artifact.save(tmp_path / "model.onnx")
    (tmp_path / "model.bin").write_text("precious")
    with pytest.raises(OutputFileError, match="exists already"):
        artifact.save(tmp_path / "model.xml", overwrite=False)
    assert (tmp_path / "model.bin").read_text() == "precious"
    with pytest.raises(OutputFileError, match="is an input"):
        pp.OpenVINOModel.load(demo_ir_path).save(demo_ir_path)


def test_provenance_travels(demo_ir_path: Path, demo_fused_path: Path) -> None:
    found = pp.OpenVINOModel.load(demo_ir_path).provenance
    fused = pp.FusedModel.load(demo_fused_path).provenance
    assert found.raw == fused.raw
    assert found.statistics == fused.statistics
    assert found.cutoffs == fused.cutoffs
    assert found.conversion["device"] == "CPU"
    assert found.conversion["precision"] == "f32"
    assert fused.conversion is None


class TestShapes:
    fused = pp.fuse(conv_model(), POST)

    def test_fixed(self) -> None:
        artifact = pp.convert(self.fused, device="NPU", input_shape=[1, 3, 32, 48])
        assert list(artifact.network.input("image").shape) == [1, 3, 32, 48]
        assert list(artifact.network.output("pred_mask").shape) == [1, 1, 32, 48]

    def test_partly_open(self) -> None:
        artifact = pp.convert(self.fused, input_shape={"image": [None, 3, 32, 48]})
        assert str(artifact.network.output("pred_mask").partial_shape) == "[?,1,32,48]"

    def test_npu_needs_all_of_them(self) -> None:
        with pytest.raises(TargetError, match=r"'image' has the dynamic shape .*--input-shape"):
            pp.convert(self.fused, device="NPU")
        # An open batch alone becomes 1.
        artifact = pp.convert(self.fused, device="NPU", input_shape=[None, 3, 32, 48])
        assert artifact.network.input("image").partial_shape.to_shape() == [1, 3, 32, 48]

    @pytest.mark.parametrize(
        ("shape", "message"),
        [
            ([1, 3, 32], r"\(1, 3, 32\) for 'image' has 3 sizes, expected 4"),
            ([1, 5, 32, 32], r"cannot take the input shape image \(1, 5, 32, 32\)"),
            ([0, 3, 32, 32], "has a size below 1"),
            ({"img": [1, 3, 32, 32]}, "Input 'img' does not exist. The inputs are: image"),
        ],
    )
    def test_bad(self, shape: list, message: str) -> None:
        with pytest.raises(TargetError, match=message):
            pp.convert(self.fused, input_shape=shape)

    def test_several_inputs(self) -> None:
        fused = pp.fuse(identity_model({"s": ["N"], "m": ["N", "H", "W"]}), POST)
        with pytest.raises(TargetError, match="the model has 2 inputs: s_in, m_in"):
            pp.convert(fused, input_shape=[1])
        artifact = pp.convert(fused, device="NPU", input_shape={"s_in": [1], "m_in": [1, 4, 5]})
        assert list(artifact.network.output("anomaly_map").shape) == [1, 4, 5]


def test_unknown_choices() -> None:
    fused = pp.fuse(conv_model(), POST)
    with pytest.raises(TargetError, match="Precision 'int4' is not known, expected one of: f32, f16"):
        pp.convert(fused, precision="int4")
    with pytest.raises(TargetError, match="Inference precision 'f64' is not known"):
        pp.convert(fused).session(precision="f64")


def test_raw_models(tmp_path: Path) -> None:
    raw = tmp_path / "raw.onnx"
    onnx.save(conv_model(), raw)
    with pytest.raises(
        ProvenanceError, match=r"raw\.onnx' has no post-processing by pp_graph.*Fuse or convert it first"
    ):
        pp.convert(raw)
    artifact = pp.convert(raw, post=POST)
    assert pp.verify(raw, artifact, IMAGE).passed
    with pytest.raises(AlreadyFusedError):
        pp.convert(pp.fuse(raw, POST).save(tmp_path / "fused.onnx"), post=POST)


def test_operators_that_openvino_lacks() -> None:
    model = conv_model()
    model.opset_import.add(domain="com.example", version=1)
    model.graph.node.add(op_type="Mystery", domain="com.example", input=["image"], output=["extra"])
    model.graph.output.append(onnx.helper.make_tensor_value_info("extra", 1, ["N", 7]))
    with pytest.raises(TargetError, match="OpenVINO cannot read the model: .*Mystery"):
        pp.convert(pp.fuse(model, POST))


def test_files_that_are_no_ir(tmp_path: Path, demo_ir_path: Path) -> None:
    with pytest.raises(TargetError, match=r"nowhere\.xml' does not exist"):
        pp.OpenVINOModel.load(tmp_path / "nowhere.xml")
    (tmp_path / "model.xml").write_text("<html/>")
    with pytest.raises(TargetError, match=r"model\.bin' does not exist"):
        pp.OpenVINOModel.load(tmp_path / "model.xml")
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(TargetError, match="is not an OpenVINO IR"):
        pp.OpenVINOModel.load(tmp_path / "model.xml")
    import openvino as ov

    ov.save_model(ov.Core().read_model(demo_ir_path.parent / "model.xml").clone(), tmp_path / "other.xml")
    tree = ElementTree.parse(tmp_path / "other.xml")
    info = tree.getroot().find("rt_info")
    info.remove(info.find("pp_graph"))
    tree.write(tmp_path / "other.xml")
    with pytest.raises(
        ProvenanceError, match="has no post-processing by pp_graph, expected one written by pp-graph convert"
    ):
        pp.OpenVINOModel.load(tmp_path / "other.xml")


def quantized(score: bool) -> onnx.ModelProto:
    """A convolution without bias in int8, after which OpenVINO on CPU loses the scale for all consumers but one."""
    rng = np.random.default_rng(5)
    outputs = "float[N,1,16,16] m" + (", float[N,1] s" if score else "")
    reduce = "s = ReduceMax <axes = [2, 3], keepdims = 0> (m)" if score else ""
    model = from_text(
        f"""<ir_version: 8, opset_import: ["": 17]> g (float[N,3,16,16] x) => ({outputs})
        <float sx = {{0.02}}, uint8 zx = {{128}}, float sw = {{0.003}}, int8 zw = {{0}}> {{
            xq = QuantizeLinear(x, sx, zx)
            xd = DequantizeLinear(xq, sx, zx)
            wd = DequantizeLinear(wq, sw, zw)
            m = Conv <pads = [1, 1, 1, 1]> (xd, wd)
            {reduce}
        }}"""
    )
    weights = rng.integers(-100, 100, (1, 3, 3, 3)).astype(np.int8)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "wq"))
    return model


def test_quantized_tail() -> None:
    model = quantized(score=False)
    x = np.random.default_rng(0).normal(0, 1, (6, 3, 16, 16)).astype(np.float32)
    report = pp.verify(pp.RawModel.open(model), pp.convert(pp.fuse(model, POST)), {"x": x})
    assert report.passed, report.failures
    assert report.postprocessing_error < 1e-6


def test_island_is_f32_without_a_score_too(tmp_path: Path) -> None:
    raw = conv_model()
    del raw.graph.output[0], raw.graph.node[3]
    path = pp.convert(pp.fuse(raw, POST), precision="f16").save(tmp_path / "model.xml")
    session = pp.OpenVINOModel.load(path).session(precision="bf16")
    assert {kind for kind in session.island.values() if kind.startswith(("f", "bf"))} == {"f32"}
    assert session.island["pp_graph/raw_score/Where"] == "f32"


def test_one_record_of_provenance(demo_ir_path: Path) -> None:
    text = demo_ir_path.read_text()
    assert text.count("post_processor") == 1


def test_fused_onnx_and_ir_agree(demo_fused_path: Path, demo_ir_path: Path, demo_images: np.ndarray) -> None:
    by_onnx = run(str(demo_fused_path), {"image": demo_images[:2]})
    by_openvino = pp.OpenVINOModel.load(demo_ir_path).session().run({"image": demo_images[:2]})
    for name in ("pred_score", "anomaly_map"):
        np.testing.assert_allclose(by_openvino[name], by_onnx[name], atol=1e-5)
    assert np.array_equal(by_openvino["pred_label"], by_onnx["pred_label"])


def test_functions_of_another_opset_are_refused() -> None:
    model = from_text("""<ir_version: 8, opset_import: ["" : 17, "c" : 1]>
        g (float[N,1,4,5] x) => (float[N,1,4,5] anomaly_map) { anomaly_map = c.F(x) }
        <domain: "c", opset_import: ["" : 13]>
        F (a) => (b) { b = Neg(a) }""")
    with pytest.raises(TargetError, match=r"cannot be inlined: .*version 13.*convert_version=True\) and fuse again"):
        pp.convert(pp.fuse(model, pp.OneClassPostProcessor(STATS)))
