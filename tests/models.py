"""Raw models as ONNX text, small enough to read, and ways to run them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper, parser

import pp_graph as pp

if TYPE_CHECKING:
    import openvino as ov

STATS = pp.Statistics(
    image=pp.LevelStatistics(threshold=1.25, min=0.5, max=3.0),
    pixel=pp.LevelStatistics(threshold=0.75, min=-0.5, max=2.5),
)


def from_text(text: str) -> onnx.ModelProto:
    return parser.parse_model(text)


def score_and_map(opset: int = 17, ir_version: int = 8) -> onnx.ModelProto:
    """Both outputs follow the input directly, so that a test chooses the raw values."""
    return from_text(
        f"""<ir_version: {ir_version}, opset_import: ["": {opset}], producer_name: "tests">
        raw (float[N,1,H,W] image, float[N,1] level) => (float[N,1] score, float[N,1,H,W] heat) {{
            score = Identity(level)
            heat = Identity(image)
        }}"""
    )


def identity_model(shapes: Mapping[str, list], opset: int = 17, ir_version: int = 8, dtype: int = 1) -> onnx.ModelProto:
    """A model that copies `<name>_in` to `<name>` for each shape."""
    nodes = [helper.make_node("Identity", [f"{name}_in"], [name]) for name in shapes]
    graph = helper.make_graph(
        nodes,
        "raw",
        [helper.make_tensor_value_info(f"{name}_in", dtype, shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info(name, dtype, shape) for name, shape in shapes.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def conv_model(opset: int = 17, ir_version: int = 8, seed: int = 0, *, channels_last: bool = False) -> onnx.ModelProto:
    """A small network with weights: image (N,3,H,W) -> pred_score (N,1), anomaly_map (N,1,H,W)."""
    rng = np.random.default_rng(seed)
    w1 = numpy_helper.from_array(rng.normal(0, 0.3, (8, 3, 3, 3)).astype(np.float32), "w1")
    w2 = numpy_helper.from_array(rng.normal(0, 0.3, (1, 8, 3, 3)).astype(np.float32), "w2")
    axes = {"axes": [2, 3], "keepdims": 0} if opset < 18 else {"keepdims": 0}
    inputs = ["anomaly_map"] if opset < 18 else ["anomaly_map", "hw"]
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["h1"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h1"], ["h2"], name="relu"),
        helper.make_node("Conv", ["h2", "w2"], ["anomaly_map"], name="conv2", pads=[1, 1, 1, 1]),
        helper.make_node("ReduceMax", inputs, ["pred_score"], name="max", **axes),
    ]
    outputs = [
        helper.make_tensor_value_info("pred_score", TensorProto.FLOAT, ["N", 1]),
        helper.make_tensor_value_info("anomaly_map", TensorProto.FLOAT, ["N", 1, "H", "W"]),
    ]
    if channels_last:
        nodes.append(helper.make_node("Transpose", ["anomaly_map"], ["map_nhwc"], perm=[0, 2, 3, 1]))
        outputs = [helper.make_tensor_value_info("map_nhwc", TensorProto.FLOAT, ["N", "H", "W", 1])]
    initializers = [w1, w2]
    if opset >= 18:
        initializers.append(helper.make_tensor("hw", TensorProto.INT64, [2], [2, 3]))
    graph = helper.make_graph(
        nodes,
        "raw",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, "H", "W"])],
        outputs,
        initializers,
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version, producer_name="tests"
    )


def _session(source: str | bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


# A model that a test runs again is not compiled again.
_session_of_bytes = functools.lru_cache(8)(_session)


def run(model: onnx.ModelProto | pp.FusedModel | str, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    if isinstance(model, pp.FusedModel):
        model = model.to_proto()
    session = _session(model) if isinstance(model, str) else _session_of_bytes(model.SerializeToString())
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


@functools.lru_cache(8)
def _compiled(model: bytes, precision: str) -> ov.CompiledModel:
    from pp_graph.openvino.core import openvino_core

    core = openvino_core()
    return core.compile_model(core.read_model(model, b""), "CPU", {"INFERENCE_PRECISION_HINT": precision})


def run_openvino(
    model: onnx.ModelProto | pp.FusedModel | bytes, feeds: Mapping[str, np.ndarray], precision: str = "f32"
) -> dict[str, np.ndarray]:
    if isinstance(model, pp.FusedModel):
        model = model.to_proto()
    if isinstance(model, onnx.ModelProto):
        model = model.SerializeToString()
    compiled = _compiled(model, precision)
    outputs = compiled(dict(feeds))
    return {name: outputs[port] for port in compiled.outputs for name in port.get_names()}
