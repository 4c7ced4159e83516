"""Models that ship with onnx: fused, run in both runtimes, and stripped to the byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sweeps.conformance import Stage, node_cases, shipped_case, shipped_names, sweep, table, try_case

_SAMPLE = (
    "simple/test_single_relu_model",
    "simple/test_expand_shape_model4",
    "pytorch-operator/test_operator_conv",
    "simple/test_sign_model",
)


@pytest.mark.parametrize("name", _SAMPLE)
def test_sample_of_the_models(name: str, tmp_path: Path) -> None:
    records = list(try_case(shipped_case(name), tmp_path, Stage(printed=False)))
    assert {record["kind"] for record in records} <= {"right", "refused"}
    assert any(record["kind"] == "right" for record in records)


@pytest.mark.sweep
def test_every_model() -> None:
    records = sweep([*node_cases(), *shipped_names()])
    print(table(records))
    assert [record for record in records if record["kind"] in ("wrong", "crashed")] == []
