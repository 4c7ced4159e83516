"""Fusion on graphs as they are published: odd names, old formats, functions, subgraphs, wrong declarations."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

import pp_graph as pp
from pp_graph.errors import AlreadyFusedError, FusionError, ModelError, OpsetError, OutputRoleError, ProvenanceError
from pp_graph.fusion import METADATA_KEY
from tests.conftest import DEMO
from tests.models import STATS, conv_model, from_text, identity_model, run, run_openvino, score_and_map

POST = pp.OneClassPostProcessor(STATS)
OUTPUTS = ["pred_score", "pred_label", "anomaly_map", "pred_mask"]
RNG = np.random.default_rng(0)
IMAGE = RNG.normal(0, 1, (2, 3, 9, 11)).astype(np.float32)
LEVELS = {
    "level": np.array([[1.0], [1.25], [np.nan]], np.float32),
    "image": RNG.normal(0.7, 1, (3, 1, 5, 7)).astype(np.float32),
}
LEVELS["image"][0, 0, 2, 3] = np.nan
LEVELS["image"][1, 0, 0, 0] = 0.75
FINITE = np.nan_to_num(LEVELS["image"], nan=0.3)


def checked(model: onnx.ModelProto) -> bool:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return False
    return True


def assert_fuses(
    raw: onnx.ModelProto,
    feeds: dict[str, np.ndarray],
    score: str | None = None,
    anomaly_map: str | None = None,
    *,
    openvino: bool = True,
    post: pp.PostProcessor = POST,
    **options: str,
) -> pp.FusedModel:
    """Fuse, compare with the reference in both runtimes, check, and strip back to exactly the raw model."""
    before = copy.deepcopy(raw)
    fused = pp.fuse(raw, post, **options)
    assert raw == before, "the raw model was modified"
    raw_outputs = run(raw, feeds)
    expected = post(
        {
            "pred_score": None if score is None else raw_outputs[score],
            "anomaly_map": None if anomaly_map is None else raw_outputs[anomaly_map],
        }
    )
    proto = fused.to_proto()
    for execute in (run, run_openvino) if openvino else (run,):
        found = execute(proto, feeds)
        for name in OUTPUTS:
            wanted = getattr(expected, name)
            if wanted is None:
                assert name not in found
                continue
            assert found[name].shape == wanted.shape
            if wanted.dtype == bool and execute is run:
                assert np.array_equal(found[name], wanted)
            elif wanted.dtype == np.float32:
                np.testing.assert_allclose(found[name], wanted, atol=1e-6 if execute is run else 1e-5)
    if checked(raw):
        onnx.checker.check_model(proto, full_check=True)
    assert proto.ir_version == raw.ir_version
    assert list(proto.functions) == list(raw.functions)
    assert proto.producer_name == raw.producer_name
    stripped = pp.strip(proto).model
    restored = ir.to_proto(stripped)
    assert_same(pp.strip(proto), raw)
    assert restored.graph.output == raw.graph.output
    return fused


def assert_same(stripped: pp.RawModel, raw: onnx.ModelProto) -> None:
    found = stripped.to_proto()
    for field in ("ir_version", "producer_name", "producer_version", "domain", "model_version", "doc_string"):
        assert getattr(found, field) == getattr(raw, field)
    for field in ("opset_import", "metadata_props", "functions"):
        assert list(getattr(found, field)) == list(getattr(raw, field))
    for field in ("node", "initializer", "input", "output", "value_info", "name", "doc_string"):
        assert getattr(found.graph, field) == getattr(raw.graph, field), field


@pytest.mark.sample(every=4)
@pytest.mark.parametrize("opset", [9, 10, 11, 12, 13, 15, 17, 18, 19, 20, 21, 22])
def test_every_opset(opset: int) -> None:
    ir_version = {9: 4, 10: 5, 11: 6, 12: 7}.get(opset, 8 if opset < 19 else 10)
    fused = assert_fuses(score_and_map(opset, ir_version), LEVELS, "score", "heat")
    assert fused.to_proto().opset_import[0].version == opset
    assert_fuses(conv_model(opset, ir_version), {"image": IMAGE}, "pred_score", "anomaly_map")


def test_opset_too_old() -> None:
    model = identity_model({"score": ["N"]}, opset=8, ir_version=3)
    with pytest.raises(OpsetError, match="opset 8, expected 9 or later.*opset_version=9"):
        pp.fuse(model, POST)


@pytest.mark.sample(every=3)
@pytest.mark.parametrize("score", [["N"], ["N", 1], [3], [3, 1]], ids=str)
@pytest.mark.parametrize("anomaly_map", [["N", "H", "W"], ["N", 1, "H", "W"], ["N", "H", "W", 1], [3, 5, 7]], ids=str)
def test_shape_conventions(score: list, anomaly_map: list) -> None:
    model = identity_model({"s": score, "m": anomaly_map})
    sizes = {"N": 3, "H": 5, "W": 7}
    feeds = {
        f"{name}_in": RNG.normal(0.7, 1, [sizes.get(size, size) for size in shape]).astype(np.float32)
        for name, shape in (("s", score), ("m", anomaly_map))
    }
    fused = assert_fuses(model, feeds, "s", "m")
    assert list(fused.output_names) == OUTPUTS
    declared = {
        output.name: [size.dim_param or size.dim_value for size in output.type.tensor_type.shape.dim]
        for output in fused.to_proto().graph.output
    }
    assert declared == {"pred_score": score, "pred_label": score, "anomaly_map": anomaly_map, "pred_mask": anomaly_map}


@pytest.mark.parametrize("shape", [["N", "H", "W"], ["N", 1, "H", "W"], ["N", "H", "W", 1]], ids=str)
@pytest.mark.parametrize("on_nan", ["anomalous", "normal"])
def test_score_from_the_map(shape: list, on_nan: str) -> None:
    model = identity_model({"m": shape})
    sizes = {"N": 3, "H": 5, "W": 7}
    x = RNG.normal(0.0, 0.4, [sizes.get(size, size) for size in shape]).astype(np.float32)
    x[1].ravel()[5] = np.nan
    fused = assert_fuses(model, {"m_in": x}, None, "m", post=pp.OneClassPostProcessor(STATS, on_nan=on_nan))
    assert list(fused.provenance.raw.read) == ["raw_map"]


def test_score_only() -> None:
    fused = assert_fuses(identity_model({"s": ["N", 1]}), {"s_in": LEVELS["level"]}, "s")
    assert list(fused.output_names) == ["pred_score", "pred_label"]


def test_normal_nan_at_both_levels() -> None:
    post = pp.OneClassPostProcessor(STATS, on_nan="normal", image_sensitivity=0.0, pixel_sensitivity=0.9)
    assert_fuses(score_and_map(), LEVELS, "score", "heat", post=post)


def test_without_normalisation_and_thresholds() -> None:
    for settings in ({"normalize": False}, {"threshold": False}, {"normalize": False, "threshold": False}):
        feeds = {name: np.nan_to_num(array) for name, array in LEVELS.items()}
        assert_fuses(score_and_map(), feeds, "score", "heat", post=pp.OneClassPostProcessor(STATS, **settings))


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floating_types(dtype: type) -> None:
    onnx_dtype = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    model = identity_model({"s": ["N", 1], "m": ["N", 1, "H", "W"]}, dtype=onnx_dtype)
    feeds = {"s_in": LEVELS["level"].astype(dtype), "m_in": LEVELS["image"].astype(dtype)}
    assert_fuses(model, feeds, "s", "m")


def test_bfloat16() -> None:
    model = identity_model({"s": ["N", 1]}, dtype=TensorProto.BFLOAT16)
    proto = pp.fuse(model, POST).to_proto()
    onnx.checker.check_model(proto, full_check=True)
    assert [node.op_type for node in proto.graph.node][1] == "Cast"


@pytest.mark.parametrize(
    "names", [("Identity:0", "Identity_1:0"), ("537", "542"), ("output.1", "a b/c"), ("x" * 200, "ü")]
)
def test_output_names(names: tuple[str, str]) -> None:
    score, anomaly_map = names
    model = identity_model({score: ["N", 1], anomaly_map: ["N", 1, "H", "W"]})
    feeds = {f"{score}_in": LEVELS["level"], f"{anomaly_map}_in": LEVELS["image"]}
    fused = assert_fuses(model, feeds, score, anomaly_map)
    assert fused.provenance.raw.read["raw_score"].tensor == score, "a name that nobody needs is kept"


def test_names_of_the_raw_model_are_neither_reused_nor_replaced() -> None:
    """Inner values, initializers and nodes have names that post-processing would use."""
    model = from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[N,1,H,W] image) => (float[N,1,H,W] anomaly_map)
        <float pred_mask = {2.0}, float "pp_graph/pred_mask/cutoff" = {3.0}, float raw_anomaly_map = {0.5}> {
            [pred_label] pred_score = Mul(image, pred_mask)
            ["pp_graph/pred_score/Sub"] pred_label = Add(pred_score, "pp_graph/pred_mask/cutoff")
            [anomaly_map] anomaly_map = Mul(pred_label, raw_anomaly_map)
        }"""
    )
    feeds = {"image": LEVELS["image"] - 3}
    fused = assert_fuses(model, feeds, None, "anomaly_map")
    assert fused.provenance.prefix == "pp_graph_1"
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in fused.to_proto().graph.initializer}
    assert weights["pp_graph/pred_mask/cutoff"] == 3.0
    assert weights["raw_pred_mask"] == 2.0
    assert weights["raw_anomaly_map"] == 0.5


def test_an_input_in_the_way() -> None:
    model = from_text(
        """<ir_version: 8, opset_import: ["": 17]> g (float[N,1] pred_label) => (float[N,1] s) { s = Relu(pred_label) }"""
    )
    with pytest.raises(FusionError, match="Input 'pred_label' has the name of a post-processed output"):
        pp.fuse(model, POST)


def test_an_output_that_is_an_input_or_a_weight() -> None:
    model = from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[N,1,H,W] x) => (float[N,1,H,W] x, float[N,1] s) { f = Flatten(x)
        s = ReduceMax <axes = [1], keepdims = 1> (f) }"""
    )
    assert_fuses(model, {"x": LEVELS["image"][1:]}, "s", "x", openvino=False)


def test_initializers_listed_as_inputs() -> None:
    model = conv_model(opset=9, ir_version=3)
    model.graph.input.extend(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims) for tensor in model.graph.initializer
    )
    onnx.checker.check_model(model, full_check=True)
    fused = assert_fuses(model, {"image": IMAGE}, "pred_score", "anomaly_map")
    assert [value.name for value in fused.to_proto().graph.input] == ["image", "w1", "w2"]


def test_weights_in_constant_nodes() -> None:
    model = conv_model()
    constants = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in model.graph.initializer]
    nodes = [*constants, *model.graph.node]
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.node.extend(nodes)
    assert_fuses(model, {"image": IMAGE}, "pred_score", "anomaly_map")


def test_not_topologically_sorted() -> None:
    model = conv_model()
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    assert not checked(model)
    assert_fuses(model, {"image": IMAGE}, "pred_score", "anomaly_map")


@pytest.mark.parametrize("shape", [None, [-1, 1, -1, -1], [None] * 4, [1, 1, 64, 64], ["N", 7], [0, 0, 0, 0]], ids=str)
def test_wrong_and_missing_shapes(shape: list | None) -> None:
    model = conv_model()
    model.graph.output[1].CopyFrom(helper.make_tensor_value_info("anomaly_map", TensorProto.FLOAT, shape))
    fused = assert_fuses(model, {"image": IMAGE}, "pred_score", "anomaly_map")
    wrong = shape in ([1, 1, 64, 64], ["N", 7])
    assert ["declared as" in each for each in fused.notes] == [True] * wrong


def test_input_with_negative_sizes() -> None:
    model = conv_model()
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("image", TensorProto.FLOAT, [-1, 3, -1, -1]))
    for output, shape in zip(model.graph.output, ([-1, 1], [-1, 1, -1, -1]), strict=True):
        output.CopyFrom(helper.make_tensor_value_info(output.name, TensorProto.FLOAT, shape))
    assert_fuses(model, {"image": IMAGE}, "pred_score", "anomaly_map")


def test_local_functions_and_custom_domains() -> None:
    model = from_text(
        """<ir_version: 8, opset_import: ["": 17, "local": 1, "com.example.unused": 3], producer_name: "vendor",
            metadata_props: ["key": "value"]>
        g (float[N,1,H,W] image) => (float[N,1,H,W] heat) { heat = local.twice(image) }
        <domain: "local", opset_import: ["": 17]> twice (x) => (y) {
            pred_score = Constant <value = float {2.0}> ()
            y = Mul(x, pred_score)
        }"""
    )
    # OpenVINO does not support local functions; `convert` inlines them.
    fused = assert_fuses(model, {"image": FINITE}, None, "heat", openvino=False)
    assert not pp.verify(pp.RawModel.open(model), pp.convert(fused), {"image": FINITE}).postprocessing_flips
    proto = fused.to_proto()
    assert {entry.domain: entry.version for entry in proto.opset_import} == {
        "": 17,
        "local": 1,
        "com.example.unused": 3,
    }
    assert {entry.key for entry in proto.metadata_props} == {"key", METADATA_KEY}


def test_operators_of_onnxruntime() -> None:
    model = from_text(
        """<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>
        g (float[N,1,H,W] image) => (float[N,1,H,W] heat) { heat = com.microsoft.Gelu(image) }"""
    )
    assert_fuses(model, {"image": LEVELS["image"]}, None, "heat", openvino=False)


def test_only_custom_domains() -> None:
    model = from_text(
        """<ir_version: 8, opset_import: ["com.microsoft": 1]>
        g (float[N,1,H,W] image) => (float[N,1,H,W] heat) { heat = com.microsoft.Gelu(image) }"""
    )
    assert_fuses(model, {"image": LEVELS["image"]}, None, "heat", openvino=False)


def test_subgraph_that_reads_the_raw_output() -> None:
    model = from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[N,1,H,W] image, bool flag) => (float[N,1,H,W] anomaly_map, float[N,1] pred_score)
        <int64[2] hw = {2, 3}> {
            anomaly_map = Relu(image)
            pred_score = If (flag) <
                then_branch = a () => (float[N,1] pred_label) {
                    pred_label = ReduceMax <axes = [2, 3], keepdims = 0> (anomaly_map)
                },
                else_branch = b () => (float[N,1] other) {
                    other = ReduceMin <axes = [2, 3], keepdims = 0> (anomaly_map)
                }>
        }"""
    )
    for flag in (True, False):
        feeds = {"image": LEVELS["image"][1:], "flag": np.array(flag)}
        assert_fuses(model, feeds, "pred_score", "anomaly_map", openvino=False)


def test_other_outputs_follow_untouched() -> None:
    model = from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[N,1,H,W] image) => (float[N,64] embedding, float[N,1,H,W] heat, int64[4] size) {
            heat = Relu(image)
            size = Shape(image)
            e = ReduceMean <axes = [2, 3], keepdims = 0> (image)
            one = Constant <value_ints = [1, 64]> ()
            embedding = Expand(e, one)
        }"""
    )
    fused = assert_fuses(model, {"image": FINITE}, None, "heat")
    assert list(fused.output_names) == [*OUTPUTS, "embedding", "size"]


def test_keep_raw() -> None:
    fused = pp.fuse(conv_model(), POST, keep_raw=True)
    assert list(fused.output_names) == [*OUTPUTS, "raw_pred_score", "raw_anomaly_map"]
    found, raw = run(fused, {"image": IMAGE}), run(conv_model(), {"image": IMAGE})
    assert np.array_equal(found["raw_anomaly_map"], raw["anomaly_map"])
    assert np.array_equal(found["raw_pred_score"], raw["pred_score"])
    kept = pp.fuse(score_and_map(), POST, keep_raw=True)
    assert list(kept.output_names) == [*OUTPUTS, "score", "heat"]
    assert_same(pp.strip(fused), conv_model())


def test_choice_between_outputs() -> None:
    model = identity_model({"a": ["N", 1, "H", "W"], "b": ["N", 1, "H", "W"]})
    with pytest.raises(OutputRoleError, match="2 outputs can be read as the map"):
        pp.fuse(model, POST)
    feeds = {"a_in": LEVELS["image"], "b_in": LEVELS["image"] * 2}
    fused = assert_fuses(model, feeds, None, "b", map_output="b")
    assert list(fused.output_names) == [*OUTPUTS, "a"]


def test_unknown_rank_named_by_the_caller() -> None:
    model = from_text(
        """<ir_version: 8, opset_import: ["": 17, "com.example": 1]>
        g (float[N,1,H,W] image) => (float heat, float[N,1] s) { heat, s = com.example.Mystery(image) }"""
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    fused = pp.fuse(model, POST, map_output="heat")
    assert list(fused.output_names) == OUTPUTS
    del model.graph.output[1]
    with pytest.raises(OutputRoleError, match="Output 'heat' has no known rank, expected 3"):
        pp.fuse(model, POST, map_output="heat")


def test_a_model_with_its_own_decisions_is_refused() -> None:
    model = identity_model({"pred_score": ["N", 1], "pred_label": ["N", 1]})
    with pytest.raises(AlreadyFusedError, match="has an output 'pred_label'.*Export the model raw"):
        pp.fuse(model, POST)


def test_without_statistics() -> None:
    with pytest.raises(pp.PPGraphError, match="has no statistics, expected calibrated numbers"):
        pp.fuse(conv_model(), pp.OneClassPostProcessor())


def test_fusing_twice() -> None:
    fused = pp.fuse(conv_model(), POST).to_proto()
    with pytest.raises(AlreadyFusedError, match="carries a pp_graph post-processing already.*--replace"):
        pp.fuse(fused, POST)
    other = pp.OneClassPostProcessor(STATS, image_sensitivity=0.8)
    again = pp.fuse(fused, other, replace=True)
    assert again.to_proto().graph == pp.fuse(conv_model(), other).to_proto().graph
    assert again.provenance.parameters["image_sensitivity"] == 0.8
    assert_same(pp.strip(again), conv_model())


def test_provenance() -> None:
    fused = pp.fuse(DEMO / "raw.onnx", POST)
    text = {entry.key: entry.value for entry in fused.to_proto().metadata_props}[METADATA_KEY]
    read = pp.Provenance.from_json(text)
    assert read == fused.provenance
    assert read.statistics == STATS
    assert read.pp_graph_version == pp.__version__
    assert read.raw.file == "raw.onnx"
    assert read.raw.sha256 == pp.RawModel.open(DEMO / "raw.onnx").sha256
    program = read.bind()
    assert program.post == POST
    for name, step in program.decisions.items():
        assert np.float32(read.cutoffs[name]) == step.cutoff


def test_nodes_form_one_block() -> None:
    proto = pp.fuse(conv_model(), POST).to_proto()
    names = [node.name for node in proto.graph.node]
    assert names[:4] == ["conv1", "relu", "conv2", "max"]
    assert all(name.startswith("pp_graph/") for name in names[4:])
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("{}", "schema version 0, expected at most 4"),
        ("nonsense", "is not pp_graph's provenance"),
        ('{"schema_version": 99}', "schema version 99, expected at most 4. Upgrade pp_graph"),
        ('{"schema_version": 4, "raw": ' + '{"a":' * 9000, "is not pp_graph's provenance: maximum recursion depth"),
    ],
    ids=lambda text: text[:30],
)
def test_broken_provenance(metadata: str, message: str) -> None:
    model = conv_model()
    model.metadata_props.add(key=METADATA_KEY, value=metadata)
    with pytest.raises(ProvenanceError, match=message):
        pp.strip(model)


def test_strip_needs_a_fused_model() -> None:
    with pytest.raises(ProvenanceError, match="has no post-processing by pp_graph.*nothing to strip"):
        pp.strip(conv_model())


def _sparse(model: onnx.ModelProto) -> None:
    values = helper.make_tensor("sparse", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("sparse_at", TensorProto.INT64, [1], [0])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [3]))


def _undefined(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = "nowhere"


def _opset_beyond_int32(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 2**31


def _untyped(model: onnx.ModelProto) -> None:
    model.graph.initializer.add(name="w", dims=[1])


def _twice(model: onnx.ModelProto) -> None:
    model.graph.node.add().CopyFrom(model.graph.node[0])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_sparse, "1 weights as sparse tensors"),
        (_undefined, "lists output 'nowhere', which no node produces"),
        (_opset_beyond_int32, "imports version 2147483648 of the domain 'ai.onnx', expected a number from 1"),
        (_untyped, "stores weight 'w' without an element type"),
        (_twice, "is not valid ONNX: .*redeclared"),
        (lambda model: model.training_info.add(), "has training_info"),
        (lambda model: model.graph.ClearField("node"), "has 0 nodes and 2 outputs"),
    ],
)
def test_models_that_cannot_be_kept_intact(spoil: Callable[[onnx.ModelProto], None], message: str) -> None:
    model = conv_model()
    spoil(model)
    with pytest.raises(ModelError, match=message):
        pp.fuse(model, POST)


def test_models_in_memory() -> None:
    proto = conv_model()
    as_ir = ir.from_proto(proto)
    assert pp.fuse(as_ir, POST).to_proto().graph.node == pp.fuse(proto, POST).to_proto().graph.node
    assert as_ir.graph.outputs[0].name == "pred_score"
    assert len(as_ir.graph) == 4


def test_one_name_for_two_sizes() -> None:
    """`dynamic_axes={"in": {2: "H"}, "out": {2: "H"}}` on a model that scales: onnxruntime reuses memory by name."""
    model = from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[N,1,H,W] x) => (float[N,1,H,W] m) <float[4] scales = {1, 1, 2, 2}> {
            b = Relu(x)
            m = Resize(b, , scales)
        }"""
    )
    feeds = {"x": FINITE}
    for post in (POST, pp.OneClassPostProcessor(STATS, normalize=False)):
        assert_fuses(model, feeds, None, "m", post=post)
        kept = pp.fuse(model, post, keep_raw=True)
        assert np.array_equal(run(kept, feeds)["m"], run(model, feeds)["m"])
        assert_same(pp.strip(kept), model)


@pytest.mark.sample(every=5)
@pytest.mark.parametrize("settings", [{"normalize": False}, {"image_sensitivity": 0.3}, {}], ids=str)
@pytest.mark.parametrize("on_nan", ["anomalous", "normal"])
@pytest.mark.parametrize("numbers", [(0.0, 0.0, 1.0), (0.0, 0.0, 0.0), (0.0, 3.0, 3.0), (-0.0, -1.0, 1.0)], ids=str)
def test_threshold_zero_in_both_runtimes(settings: dict, on_nan: str, numbers: tuple[float, float, float]) -> None:
    """A cutoff may be the smallest subnormal, which OpenVINO flushes to zero, and ReLU returns many zeros."""
    threshold, low, high = numbers
    level = pp.LevelStatistics(threshold=threshold, min=low, max=high)
    post = pp.OneClassPostProcessor(pp.Statistics(image=level, pixel=level), on_nan=on_nan, **settings)
    model = identity_model({"s": ["N", 1]})
    x = np.array([0.0, -0.0, 1e-30, -1e-30, 1.2e-38, -1.2e-38, 1.0, -1.0, np.inf, -np.inf], np.float32)[:, None]
    x = x if settings.get("normalize") is False else np.concatenate([x, np.full((1, 1), np.nan, np.float32)])
    expected = post({"pred_score": x})
    proto = pp.fuse(model, post).to_proto()
    for execute in (run, run_openvino):
        found = execute(proto, {"s_in": x})
        assert np.array_equal(found["pred_label"], expected.pred_label), execute
        np.testing.assert_allclose(found["pred_score"], expected.pred_score, atol=1e-6)


@pytest.mark.parametrize("kind", [helper.make_sequence_type_proto, helper.make_optional_type_proto])
def test_only_tensors_have_roles(kind: Callable[[onnx.TypeProto], onnx.TypeProto]) -> None:
    model = identity_model({"s": ["N", 1]})
    tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, ["N"])
    operator = "SequenceConstruct" if kind is helper.make_sequence_type_proto else "Optional"
    model.graph.node.append(helper.make_node(operator, ["s_in"], ["extra"]))
    model.graph.output.append(helper.make_value_info("extra", kind(tensor)))
    fused = pp.fuse(model, POST)
    assert list(fused.output_names) == ["pred_score", "pred_label", "extra"]
    assert pp.inspect(model).outputs[1].dtype in ("sequence", "optional")
    with pytest.raises(OutputRoleError, match="Output 'extra' holds (SEQUENCE|OPTIONAL), expected floating-point"):
        pp.fuse(model, POST, score_output="extra")


def test_default_domain_agrees_with_local_functions() -> None:
    model = from_text(
        """<ir_version: 8, opset_import: ["local": 1]>
        g (float[N,1,H,W] x) => (float[N,1,H,W] m) { m = local.f(x) }
        <domain: "local", opset_import: ["": 13]> f (x) => (m) { k = Relu(x) m = Relu(k) }"""
    )
    fused = assert_fuses(model, {"x": FINITE}, None, "m", openvino=False)
    assert fused.network.opset == 13


@pytest.mark.parametrize("shape", [(3, 1, 5, 7), (3, 5, 7, 1)], ids=str)
def test_open_channel_in_either_place(shape: tuple[int, ...]) -> None:
    model = identity_model({"m": ["N", "A", "B", "C"]})
    fused = assert_fuses(model, {"m_in": RNG.normal(0.5, 1, shape).astype(np.float32)}, None, "m")
    assert fused.notes == ("Output 'm' (N, A, B, C) is taken for the map: rank 4; size 2 is open and taken as 1.",)


def test_strip_keeps_every_declaration() -> None:
    model = from_text(
        """<ir_version: 8, opset_import: ["": 17], metadata_props: ["z": "1", "a": "2"]>
        g (float[N,1] x, bool flag) => (float[N,1] s) <float c = {1.0}> {
            h = ai.onnx.Relu(x)
            s = If (flag) <
                then_branch = a () => (float[N,1] y) <float w = {2.0}> { y = Mul(h, w) },
                else_branch = b () => (float[N,1] z) { z = Mul(h, c) }>
        }"""
    )
    model.graph.node[0].domain = "ai.onnx"
    for name, shape in (("s", ["N", 1]), ("c", []), ("h", ["N", 1]), ("x", ["N", 1]), ("nobody", [3])):
        model.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    fused = pp.FusedModel.load(_saved(pp.fuse(model, POST)))
    assert pp.strip(fused).to_proto() == model


def _saved(fused: pp.FusedModel) -> str:
    import tempfile

    return str(fused.save(f"{tempfile.mkdtemp()}/fused.onnx"))


class TestStripAfterChanges:
    def test_node_names_lost(self) -> None:
        proto = pp.fuse(conv_model(), POST).to_proto()
        for node in proto.graph.node:
            node.name = ""
        stripped = pp.strip(proto).to_proto()
        assert len(stripped.graph.node) == 4
        onnx.checker.check_model(stripped, full_check=True)

    def test_an_output_lost(self) -> None:
        proto = pp.fuse(conv_model(), POST).to_proto()
        del proto.graph.output[0]
        assert_same(pp.strip(proto), conv_model())

    def test_something_reads_the_post_processing(self) -> None:
        proto = pp.fuse(conv_model(), POST).to_proto()
        proto.graph.node.add(op_type="Neg", input=["pred_score"], output=["more"], name="more")
        with pytest.raises(ProvenanceError, match="changed after it was fused, .*: operator 'more' reads 'pred_score'"):
            pp.strip(proto)


def test_objects_of_the_wrong_kind() -> None:
    with pytest.raises(pp.PPGraphError, match="The post-processor is NoneType, expected a PostProcessor"):
        pp.fuse(conv_model(), None)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="Model is of type int, expected a path"):
        pp.fuse(42, POST)  # type: ignore[arg-type]
    with pytest.raises(pp.PPGraphError, match="normalize is 'no', expected True or False"):
        pp.OneClassPostProcessor(STATS, normalize="no")  # type: ignore[arg-type]


def test_a_fused_model_in_memory_can_be_looked_at_and_fused_again() -> None:
    fused = pp.fuse(conv_model(), POST)
    assert pp.inspect(fused).kind == "fused ONNX"
    other = pp.OneClassPostProcessor(STATS, on_nan="normal")
    assert pp.fuse(fused, other, replace=True).provenance.parameters["on_nan"] == "normal"
