"""Steps on sequences: as loops over time in Python, and the same in both runtimes at every opset."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pp_graph.errors import PostProcessorError
from pp_graph.model import NameScope
from pp_graph.steps import (
    BatchFirst,
    CollapseRepeats,
    CountTokens,
    Emitter,
    GatherTimes,
    MeanOfTokens,
    Step,
    ValueType,
)
from tests.models import run, run_openvino

F32 = np.float32


def by_hand(row: list[int], blank: int) -> list[int]:
    """Times at which the tokens begin: the first of each run of a class other than the blank."""
    times = []
    for _, group in itertools.groupby(enumerate(row), key=lambda pair: pair[1]):
        time, label = next(group)
        if label != blank:
            times.append(time)
    return times


def written(times: int | str, opset: int) -> tuple[dict[str, Step], onnx.ModelProto]:
    """All steps from path and probabilities on, in one graph."""
    ir_version = 8 if opset > 9 else 3
    kinds = {"path": ir.DataType.INT64, "probs": ir.DataType.FLOAT}
    values = {
        name: ir.Value(name=name, shape=ir.Shape(["N", times]), type=ir.TensorType(kinds[name])) for name in kinds
    }
    graph = ir.Graph(list(values.values()), [], nodes=[], opset_imports={"": opset}, name="steps")
    op = Emitter(graph, opset=opset, ir_version=ir_version, names=NameScope(graph), prefix="pp_graph")
    sizes = (None, times if isinstance(times, int) else None)
    types = {"path": ValueType("NT", sizes, "int64"), "probs": ValueType("NT", sizes)}
    steps: dict[str, Step] = {}
    for step in (
        CollapseRepeats("path", "places", 2),
        GatherTimes("path", "tokens", "places"),
        GatherTimes("probs", "token_probs", "places"),
        CountTokens("places", "length"),
        MeanOfTokens("token_probs", "mean", "places"),
    ):
        bound = step.bind(*(types[name] for name in step.reads))
        types[step.target] = bound.output_type(*(types[name] for name in step.reads))
        with op.scope(step.target):
            values[step.target] = bound.emit(op, *(values[name] for name in step.reads))
        values[step.target].name = step.target
        graph.outputs.append(values[step.target])
        steps[step.target] = bound
    proto = ir.to_proto(ir.Model(graph, ir_version=ir_version))
    onnx.checker.check_model(proto, full_check=True)
    return steps, proto


@given(st.integers(1, 9).flatmap(lambda n: st.lists(st.lists(st.integers(0, 3), min_size=n, max_size=n), min_size=1)))
def test_tokens_are_the_runs_of_a_class(rows: list[list[int]]) -> None:
    for blank in (0, 3):
        times = CollapseRepeats("path", "times", blank).reference(np.array(rows))
        expected = [by_hand(row, blank) for row in rows]
        assert [[time for time in row if time >= 0] for row in times.tolist()] == expected
        assert CountTokens("times", "length").reference(times).tolist() == list(map(len, expected))
        tokens = GatherTimes("path", "tokens", "times").reference(np.array(rows), times)
        for row, found, wanted in zip(rows, tokens.tolist(), expected, strict=True):
            assert found == [row[time] for time in wanted] + [-1] * (len(row) - len(wanted))


@pytest.mark.sample(every=4)
@pytest.mark.parametrize("opset", [9, 11, 18])
@pytest.mark.parametrize("times", [12, "T"], ids=["fixed", "open"])
def test_twins_agree(opset: int, times: int | str) -> None:
    steps, model = written(times, opset)
    rng = np.random.default_rng(opset)
    for images, count in ((3, 12), (1, 12)) if times == 12 else ((3, 19), (1, 1)):
        path = rng.integers(0, 4, (images, count))
        path[0] = rng.choice([2, 2_000_000, 1], count)
        probs = rng.random((images, count)).astype(F32)
        probs[0, -1] = np.nan
        probs[0, :1] = np.inf
        values = {"path": path, "probs": probs}
        for name, step in steps.items():
            values[name] = step.reference(*(values[each] for each in step.reads))
        feeds = {"path": path, "probs": probs}
        for found in (run(model, feeds), run_openvino(model, feeds), run_openvino(model, feeds, "bf16")):
            for name, step in steps.items():
                assert found[name].dtype == values[name].dtype
                if step.exact:
                    assert np.array_equal(found[name], values[name], equal_nan=found[name].dtype == F32), name
                else:
                    assert np.allclose(found[name], values[name], rtol=1e-2, equal_nan=True), name


def test_the_batch_goes_first() -> None:
    step, x = BatchFirst("x", "y"), np.arange(24, dtype=F32).reshape(4, 2, 3)
    assert np.array_equal(step.reference(x)[1], x[:, 1])
    assert step.output_type(ValueType("TNC", (None, None, 3))) == ValueType("NTC", (None, None, 3))


def test_an_empty_text_has_no_confidence() -> None:
    mean = MeanOfTokens("probs", "mean", "places")
    assert mean.reference(np.zeros((1, 3), F32), np.full((1, 3), -1)).tolist() == [0]


def test_impossible_blank() -> None:
    with pytest.raises(PostProcessorError, match="blank of 'times' is -1, expected a whole number from 0"):
        CollapseRepeats("path", "times", -1)
