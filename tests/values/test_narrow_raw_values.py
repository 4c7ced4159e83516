"""Raw values of float16 and bfloat16: decisions are about the value that the model returns."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

import pp_graph as pp
from pp_graph.errors import TargetError
from tests.models import run as outputs_of
from tests.models import run_openvino

N = 2000


def raw_model(operator: str, kind: int = onnx.TensorProto.FLOAT16) -> onnx.ModelProto:
    """A score that runtimes without float16 kernels compute in float32."""
    inputs = ["x", "x"] if operator in ("Add", "Mul") else ["x"]
    graph = helper.make_graph(
        [helper.make_node(operator, inputs, ["score"])],
        "g",
        [helper.make_tensor_value_info("x", kind, ["N"])],
        [helper.make_tensor_value_info("score", kind, ["N"])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def levels() -> list[ort.GraphOptimizationLevel]:
    kinds = ort.GraphOptimizationLevel
    return [kinds.ORT_DISABLE_ALL, kinds.ORT_ENABLE_BASIC, kinds.ORT_ENABLE_EXTENDED, kinds.ORT_ENABLE_ALL]


@pytest.mark.parametrize("thresholds", ["fixed", "runtime"])
@pytest.mark.parametrize("operator", ["Sigmoid", "Softplus", "Tan", "Selu", "Exp", "Mul"])
def test_decisions_are_about_the_returned_value(operator: str, thresholds: str) -> None:
    model = raw_model(operator)
    x = np.linspace(0.1, 1.2, N).astype(np.float16)
    returned = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
    values = np.unique(returned)
    # Every value in the middle that occurs, so that some lie where rounding decides.
    for threshold in values[len(values) // 2 - 3 : len(values) // 2 + 4]:
        statistics = pp.Statistics(image=pp.LevelStatistics(threshold=float(threshold), min=0.0, max=3.0))
        post = pp.OneClassPostProcessor(statistics, thresholds=thresholds)
        expected = post.predict({"raw_score": returned.astype(np.float32)}).pred_label
        fused = pp.fuse(model, post, keep_raw=True)
        for level in levels():
            options = ort.SessionOptions()
            options.graph_optimization_level = level
            options.log_severity_level = 3
            session = ort.InferenceSession(fused.to_proto().SerializeToString(), options)
            found = dict(zip([each.name for each in session.get_outputs()], session.run(None, {"x": x}), strict=True))
            assert np.array_equal(found["score"], returned)
            assert np.array_equal(found["pred_label"], expected), level
        found = run_openvino(fused, {"x": x})
        own = post.predict({"raw_score": found["score"].astype(np.float32)}).pred_label
        assert np.array_equal(found["pred_label"], own), "OpenVINO, about its own value"


def test_verify_passes_and_the_record_survives() -> None:
    model = raw_model("Softplus")
    statistics = pp.Statistics(image=pp.LevelStatistics(threshold=1.0, min=0.0, max=3.0))
    fused = pp.fuse(model, pp.OneClassPostProcessor(statistics))
    assert fused.provenance.signature.narrow == {"raw_score": "float16"}
    assert fused.provenance.bind().cutoffs == fused.provenance.cutoffs
    report = pp.verify(pp.RawModel.open(model), fused, {"x": np.linspace(0.1, 1.2, N).astype(np.float16)})
    assert report.passed, report.failures
    assert report.tolerance > 1e-5
    wide = pp.fuse(raw_model("Softplus", onnx.TensorProto.FLOAT), pp.OneClassPostProcessor(statistics))
    assert wide.provenance.signature.narrow == {}
    cutoff = np.float32(fused.provenance.cutoffs["pred_label"])
    assert np.float16(cutoff) > 1
    assert np.float16(np.nextafter(cutoff, np.float32(0))) == 1


def test_the_cutoff_of_bfloat16_lies_where_rounding_does() -> None:
    statistics = pp.Statistics(image=pp.LevelStatistics(threshold=1.0, min=0.0, max=3.0))
    fused = pp.fuse(raw_model("Relu", onnx.TensorProto.BFLOAT16), pp.OneClassPostProcessor(statistics))
    # Halfway between 1 and the next bfloat16; ties go to even, which is 1.
    assert fused.provenance.cutoffs["pred_label"] == float(np.nextafter(np.float32(1 + 2**-8), np.float32(2)))


def test_the_maximum_of_a_map_that_openvino_does_not_round() -> None:
    """It drops the casts to float16 and back, so that the maximum is not rounded when it is compared."""
    graph = helper.make_graph(
        [helper.make_node("Cast", ["x"], ["heat"], to=onnx.TensorProto.FLOAT16)],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 2, 2])],
        [helper.make_tensor_value_info("heat", onnx.TensorProto.FLOAT16, ["N", 2, 2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    level = pp.LevelStatistics(threshold=1.0, min=0.0, max=3.0)
    fused = pp.fuse(model, pp.OneClassPostProcessor(pp.Statistics(image=level, pixel=level)), keep_raw=True)
    x = np.linspace(0.998, 1.002, N, dtype=np.float32)[:, None, None] - np.float32([[0, 1], [1, 2]])
    for found in (outputs_of(fused, {"x": x}), run_openvino(fused, {"x": x})):
        largest = found["heat"].astype(np.float32).max((1, 2))
        assert np.array_equal(found["pred_label"], largest > 1)


def test_onnxruntime_cannot_return_bfloat16() -> None:
    statistics = pp.Statistics(image=pp.LevelStatistics(threshold=1.0, min=0.0, max=3.0))
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Cast", ["x"], ["score"], to=onnx.TensorProto.BFLOAT16)],
            "g",
            [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N"])],
            [helper.make_tensor_value_info("score", onnx.TensorProto.BFLOAT16, ["N"])],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    fused = pp.fuse(model, pp.OneClassPostProcessor(statistics))
    with pytest.raises(TargetError, match="is bfloat16, .* Cast the raw model's output to float32"):
        pp.verify(pp.RawModel.open(model), fused, {"x": np.ones(3, np.float32)})
