"""Model repositories for OpenVINO Model Server and Triton."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import openvino as ov
import pytest

import pp_graph as pp
from pp_graph.errors import TargetError
from tests.cell_detector import cells, save_scenes
from tests.conftest import DEMO
from tests.models import STATS, conv_model, identity_model
from tests.packaging.conftest import program

IMAGES = DEMO / "images"

# Keys of a model in the schema of OpenVINO Model Server of August 2026 (MODEL_CONFIG_DEFINITION in src/schema.cpp).
OVMS_KEYS = {
    "name": str, "base_path": str, "batch_size": (int, str), "graph_path": str, "subconfig": str,
    "model_version_policy": dict, "shape": (dict, str), "layout": (dict, str), "nireq": int, "target_device": str,
    "allow_cache": bool, "plugin_config": dict, "custom_loader_options": dict,
}  # fmt: skip


def test_openvino_model_server(tmp_path: Path, adjustable_ir: Path) -> None:
    folder = tmp_path / "deploy"
    pp.package(adjustable_ir, folder, IMAGES, target="ovms", name="bottle")
    config = json.loads((folder / "config.json").read_text())
    assert set(config) == {"model_config_list"}
    (entry,) = config["model_config_list"]
    assert set(entry) == {"config"}
    for key, value in entry["config"].items():
        assert isinstance(value, OVMS_KEYS[key]), key
    assert all(isinstance(value, str | bool | int | float) for value in entry["config"]["plugin_config"].values())
    # The README mounts the package at /package, and the server looks for versions below base_path.
    assert '-v "$PWD:/package:ro"' in (folder / "README.md").read_text()
    assert "--config_path /package/config.json" in (folder / "README.md").read_text()
    base = folder / Path(entry["config"]["base_path"]).relative_to("/package")
    assert [each.name for each in base.iterdir()] == ["1"]
    assert sorted(each.name for each in (base / "1").iterdir()) == ["model.bin", "model.xml"]
    # The settings are those that OpenVINO takes.
    settings = entry["config"]
    compiled = ov.Core().compile_model(base / "1" / "model.xml", settings["target_device"], settings["plugin_config"])
    assert compiled.get_property("INFERENCE_PRECISION_HINT") == ov.Type.f32


PARSE = """
import sys
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2
config = text_format.Parse(open(sys.argv[1]).read(), model_config_pb2.ModelConfig())
print(json_format.MessageToJson(config, preserving_proto_field_name=True))
"""


def parsed(config: Path) -> dict:
    """Parse a config.pbtxt with the schema that Triton publishes."""
    python = os.environ.get("PP_GRAPH_TRITON_PYTHON", sys.executable)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([python, "-c", PARSE, config], capture_output=True, text=True, check=False, env=environment)
    if "ModuleNotFoundError" in done.stderr:
        pytest.skip("tritonclient[grpc] is not installed here, nor in the Python that PP_GRAPH_TRITON_PYTHON names")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def checked_by_onnxruntime(config: dict, model: Path) -> None:
    """Check what Triton's onnxruntime backend checks when it loads a model."""
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    batched = config.get("max_batch_size", 0) > 0
    declared = {node.name: node for node in (*session.get_inputs(), *session.get_overridable_initializers())}
    assert {each["name"] for each in config["input"]} == set(declared)
    assert [each["name"] for each in config["input"] if not each.get("optional")] == [
        node.name for node in session.get_inputs()
    ]
    assert not (batched and any(each.get("optional") for each in config["input"]))
    declared |= {node.name: node for node in session.get_outputs()}
    names = {"TYPE_FP32": "tensor(float)", "TYPE_BOOL": "tensor(bool)", "TYPE_INT32": "tensor(int32)"}
    for each in (*config["input"], *config["output"]):
        node = declared[each["name"]]
        assert names[each["data_type"]] == node.type
        # Triton wants one axis at least, and takes it off again.
        dims = [] if "reshape" in each else [int(size) for size in each["dims"]]
        assert dims or (each["dims"], each["reshape"]) == (["1"], {})
        full = [-1, *dims] if batched else dims
        assert len(full) == len(node.shape)
        assert all(not isinstance(size, int) or size == own for size, own in zip(node.shape, full, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("thresholds", ["fixed", "runtime"])
def test_triton_with_onnxruntime(tmp_path: Path, thresholds: str) -> None:
    post = pp.OneClassPostProcessor(pp.Statistics.load(DEMO / "stats.json"), thresholds=thresholds)
    folder = tmp_path / "deploy"
    pp.package(pp.fuse(DEMO / "raw.onnx", post), folder, IMAGES, target="triton", name="bottle")
    config = parsed(folder / "models" / "bottle" / "config.pbtxt")
    assert (config["name"], config["backend"]) == ("bottle", "onnxruntime")
    assert ("dynamic_batching" in config) == (thresholds == "fixed") == (config.get("max_batch_size", 0) > 0)
    assert [each["name"] for each in config["input"] if each.get("optional")] == (
        [] if thresholds == "fixed" else ["pred_label_cutoff", "pred_mask_cutoff"]
    )
    checked_by_onnxruntime(config, folder / "models" / "bottle" / "1" / "model.onnx")
    assert program(folder, "check.py").returncode == 0


@pytest.mark.slow
def test_triton_with_external_weights(tmp_path: Path) -> None:
    raw = tmp_path / "raw.onnx"
    onnx.save(conv_model(), raw, save_as_external_data=True, location="weights.bin", size_threshold=0)
    images = np.random.default_rng(0).random((3, 3, 24, 32), np.float32)
    folder = tmp_path / "deploy"
    pp.package(pp.fuse(raw, pp.OneClassPostProcessor(STATS)), folder, images, target="triton", name="deep")
    assert sorted(each.name for each in (folder / "models/deep/1").iterdir()) == ["model.onnx", "model.onnx.data"]
    moved = folder.rename(tmp_path / "elsewhere")
    raw.with_name("weights.bin").unlink()
    assert program(moved, "check.py").returncode == 0


@pytest.mark.slow
def test_triton_with_a_detector(tmp_path: Path) -> None:
    onnx.save(cells(), tmp_path / "raw.onnx")
    save_scenes(tmp_path / "images", 4)
    fused = pp.fuse(tmp_path / "raw.onnx", pp.DetectionPostProcessor(head="yolov8", confidence=0.5, max_detections=20))
    pp.package(fused, tmp_path / "deploy", tmp_path / "images", target="triton", name="raw")
    config = parsed(tmp_path / "deploy" / "models" / "raw" / "config.pbtxt")
    checked_by_onnxruntime(config, tmp_path / "deploy" / "models" / "raw" / "1" / "model.onnx")
    boxes = next(each for each in config["output"] if each["name"] == "boxes")
    assert [int(size) for size in boxes["dims"]][-1] == 4


@pytest.mark.slow
def test_triton_with_openvino(tmp_path: Path, adjustable_ir: Path) -> None:
    folder = tmp_path / "deploy"
    pp.package(adjustable_ir, folder, IMAGES, target="triton")
    text = (folder / "models" / "model" / "config.pbtxt").read_text()
    assert re.findall(r'name: "(\w+)"', text) == [
        "model",
        "image",
        "pred_score",
        "pred_label",
        "anomaly_map",
        "pred_mask",
    ]
    readme = (folder / "README.md").read_text()
    assert "has no setting for float32" in readme
    assert "Cutoffs are states, which Triton does not set" in readme
    config = parsed(folder / "models" / "model" / "config.pbtxt")
    assert config["backend"] == "openvino"
    assert "max_batch_size" not in config  # 0
    assert config["parameters"]["TARGET_DEVICE"] == {"string_value": "CPU"}
    network = ov.Core().read_model(folder / "models" / "model" / "1" / "model.xml")
    for each, port in zip((*config["input"], *config["output"]), (*network.inputs, *network.outputs), strict=True):
        assert each["name"] in port.get_names()
        sizes = [-1 if size.is_dynamic else size.get_length() for size in port.get_partial_shape()]
        assert [int(size) for size in each["dims"]] == sizes


def test_triton_refuses_scalars_in_openvino(tmp_path: Path) -> None:
    raw = tmp_path / "raw.onnx"
    proto = identity_model({"score": ["N", 1], "heat": ["N", 1, 8, 8], "gain": []})
    onnx.save(proto, raw)
    artifact = pp.convert(pp.fuse(raw, pp.OneClassPostProcessor(pp.Statistics.load(DEMO / "stats.json"))))
    images = {"heat_in": np.ones((3, 1, 8, 8), np.float32), "score_in": np.ones((3, 1), np.float32)}
    with pytest.raises(TargetError, match="Input 'gain_in' has no axes, expected at least one"):
        pp.package(artifact, tmp_path / "deploy", images, target="triton", fixed_inputs={"gain_in": 1.0})
    assert not (tmp_path / "deploy").exists()
