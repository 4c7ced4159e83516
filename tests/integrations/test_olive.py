"""A real workflow of Olive: convert a torch model, write post-processing into it, and go on."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import pp_graph as pp
from pp_graph.cli import run

olive = importlib.util.find_spec("olive")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(olive is None, reason="Olive is not installed: pip install 'pp_graph[olive]'"),
]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    assert run(["demo", "-o", str(folder / "demo")]) == 0
    return folder / "demo" / "inputs"


def follow(work: Path, raw: Path, passes: dict[str, object]) -> Path:
    """Run a workflow as a user does, and return the folder of what came out."""
    (work / "workflow.json").write_text(json.dumps({
        "input_model": {"type": "ONNXModel", "model_path": str(raw)},
        "systems": {"here": {"type": "LocalSystem", "accelerators": [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}]}},
        "passes": passes,
        "host": "here",
        "target": "here",
        "output_dir": str(work / "out"),
        "cache_dir": str(work / "cache"),
    }))  # fmt: skip
    subprocess.run([sys.executable, "-m", "pp_graph.integrations.olive", str(work / "passes.json")], check=True)
    command = [sys.executable, "-m", "olive", "run", "--config", "workflow.json", "--package-config", "passes.json"]
    found = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-3000:]
    return work / "out"


def test_fused_then_dynamically_quantised(inputs: Path, tmp_path: Path) -> None:
    """Between a pass that cleans the graph and one that quantises."""
    out = follow(tmp_path, inputs / "raw.onnx", {
        "clean": {"type": "OnnxPeepholeOptimizer"},
        "decide": {"type": "PPGraph", "statistics": str(inputs / "stats.json"), "images": str(inputs / "images")},
        "f16": {"type": "OnnxFloatToFloat16", "keep_io_types": True},
    })  # fmt: skip
    (model,) = out.rglob("*.onnx")
    names = [output.name for output in onnx.load(model).graph.output]
    assert {"pred_score", "pred_label", "anomaly_map", "pred_mask"} <= set(names)


def test_to_openvino(inputs: Path, tmp_path: Path) -> None:
    out = follow(tmp_path, inputs / "raw.onnx", {
        "decide": {
            "type": "PPGraph", "statistics": str(inputs / "stats.json"), "output": "openvino",
            "parameters": {"image_sensitivity": 0.6}, "images": str(inputs / "images"),
        },
    })  # fmt: skip
    (model,) = out.rglob("*.xml")
    assert pp.verify(inputs / "raw.onnx", model, inputs / "images").passed
    assert pp.open(model).provenance.parameters["image_sensitivity"] == pytest.approx(0.6)


def test_wrong_settings(inputs: Path) -> None:
    from olive.hardware import DEFAULT_CPU_ACCELERATOR
    from olive.model import ONNXModelHandler

    from pp_graph.integrations.olive import PPGraph

    handler = ONNXModelHandler(model_path=str(inputs / "raw.onnx"))
    for settings, message in (
        ({"post_processor": "Nothing"}, "expected one of: .*OneClassPostProcessor"),
        ({"parameters": {"colour": 1}}, "unexpected keyword argument 'colour'"),
        ({"output": "tflite"}, "expected onnx or openvino"),
    ):
        made = PPGraph(DEFAULT_CPU_ACCELERATOR, PPGraph.generate_config(DEFAULT_CPU_ACCELERATOR, settings), True)
        with pytest.raises(ValueError, match=message):
            made.run(handler, str(inputs / "unused"))
    assert np.all([not (inputs / "unused").exists()])
