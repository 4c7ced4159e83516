"""Models that ship with onnx: fused, run in both runtimes, and stripped to the byte."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.sweeps.conformance import Stage, try_case
from tests.sweeps.conformance_run import sweep, table
from tests.sweeps.onnx_cases import Case, case_names, find_case, version_cases

_SAMPLE = (
    "simple/test_single_relu_model",
    "simple/test_expand_shape_model4",
    "pytorch-operator/test_operator_conv",
    "simple/test_sign_model",
    "version/opset 7, IR 3",
    "version/opset 13, IR 7",
    "version/opset 21, IR 10",
)


@pytest.mark.sample(every=2)
@pytest.mark.parametrize("name", _SAMPLE)
def test_sample_of_the_models(name: str, tmp_path: Path) -> None:
    records = list(try_case(find_case(name), tmp_path, Stage(printed=False)))
    assert {record["kind"] for record in records} <= {"right", "refused"}
    assert any(record["kind"] == "right" for record in records)


def test_what_a_runtime_does_to_an_output_is_told_from_a_wrong_result(tmp_path: Path) -> None:
    # OpenVINO clips float64 where it is an output, but not where an operator reads it.
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.DOUBLE)],
        "cast",
        [value("x", TensorProto.FLOAT, [3, 2])],
        [value("y", TensorProto.DOUBLE, [3, 2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    case = Case(
        "cast", onnx.shape_inference.infer_shapes(model), {"x": np.float32([[1, np.inf], [2, 3], [4, -np.inf]])}
    )
    records = list(try_case(case, tmp_path, Stage(printed=False)))
    assert {record["kind"] for record in records} == {"right", "runtime"}
    assert {record["runtime"] for record in records if record["kind"] == "runtime"} == {"openvino"}


def test_versions_reach_from_the_oldest_to_the_newest() -> None:
    models = [case.model for case in version_cases().values()]
    newest = onnx.defs.onnx_opset_version()
    assert {model.opset_import[0].version for model in models} >= {*range(7, newest)}
    assert {model.ir_version for model in models} == {*range(3, onnx.IR_VERSION + 1)}


@pytest.mark.sweep
@pytest.mark.parametrize("part", range(16), ids="part{:02}".format)
def test_every_model(part: int) -> None:
    records = sweep(case_names()[part::16], workers=1)
    print(table(records))
    assert [record for record in records if record["kind"] in ("wrong", "crashed")] == []
