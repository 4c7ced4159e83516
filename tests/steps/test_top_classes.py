"""Steps that choose classes: as NumPy with ties, NaN and infinities, for one class and for a thousand."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pp_graph.errors import PostProcessorError
from pp_graph.model import NameScope
from pp_graph.steps import ArgMax, Emitter, GatherClasses, Step, TopClasses, TopMargin, ValueType
from tests.models import run, run_openvino
from tests.steps.test_steps import emit

F32 = np.float32
floats = st.sampled_from([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 3.4028235e38, -3.4028235e38])


def bound(step: Step, classes: int) -> Step:
    return step.bind(ValueType("NC", (None, classes)))


@given(st.lists(st.lists(floats, min_size=4, max_size=4), min_size=1, max_size=8))
def test_references_are_those_of_numpy(rows: list[list[float]]) -> None:
    x = np.array(rows, F32)
    best = bound(ArgMax("x", "y"), 4).reference(x)
    assert np.array_equal(best, x.argmax(1))
    order = bound(TopClasses("x", "y", 4), 4).reference(x)
    assert np.array_equal(order[:, 0], best)
    assert np.array_equal(np.sort(order, 1), np.tile(np.arange(4), (len(x), 1)))
    numbers = ~np.isnan(x).any(1)
    assert np.array_equal(order[numbers], np.argsort(-x[numbers], axis=1, kind="stable"))


@pytest.mark.parametrize("classes", [1, 2, 1000])
def test_ties_choose_as_the_reference_in_both_runtimes(classes: int) -> None:
    rng = np.random.default_rng(classes)
    x = rng.integers(-2, 3, (40, classes)).astype(F32)
    x[:10] = rng.choice(np.array([np.nan, np.inf, -np.inf, 0], F32), (10, classes))
    x[10], x[11] = -np.inf, np.nan
    for each in (ArgMax("x", "y"), TopClasses("x", "y", min(classes, 5))):
        step = bound(each, classes)
        model, expected = emit(step, ("N", classes), 17, 8), step.reference(x)  # type: ignore[arg-type]
        for images in (1, 3, 40):
            for found in (run(model, {"x": x[:images]})["y"], run_openvino(model, {"x": x[:images]}, "bf16")["y"]):
                assert found.dtype == np.int64
                assert np.array_equal(found, expected[:images])


@pytest.mark.parametrize("opset", [9, 13])
def test_gathers_the_numbers_of_listed_classes(opset: int) -> None:
    step = GatherClasses("x", "y", "classes").bind(ValueType("NC", (None, 3)), ValueType("NK", (None, 2), "int64"))
    x = np.array([[1, np.nan, -np.inf], [0, 2, np.inf]], F32)
    classes = np.array([[2, 1], [0, 2]])
    values = [
        ir.Value(name="x", shape=ir.Shape(("N", 3)), type=ir.TensorType(ir.DataType.FLOAT)),
        ir.Value(name="c", shape=ir.Shape(("N", 2)), type=ir.TensorType(ir.DataType.INT64)),
    ]
    graph = ir.Graph(values, [], nodes=[], opset_imports={"": opset}, name="step")
    op = Emitter(graph, opset=opset, ir_version=8, names=NameScope(graph), prefix="pp_graph")
    graph.outputs.append(step.emit(op, *values))
    graph.outputs[0].name = "y"
    model = ir.to_proto(ir.Model(graph, ir_version=8))
    expected = step.reference(x, classes)
    assert np.array_equal(expected, [[-np.inf, np.nan], [0, np.inf]], equal_nan=True)
    for runtime in (run, run_openvino):
        assert np.array_equal(runtime(model, {"x": x, "c": classes})["y"], expected, equal_nan=True)


def test_margins_say_how_clear_a_choice_is() -> None:
    x = np.array([[3, 1, 3], [0, 5, 2]], F32)
    numbers, margins = bound(ArgMax("x", "y"), 3).margins(x)  # type: ignore[attr-defined]
    assert numbers.tolist() == [3, 5]
    assert margins.tolist() == [0, 3]
    _, margins = bound(TopClasses("x", "y", 3), 3).margins(x)  # type: ignore[attr-defined]
    assert margins.tolist() == [[0, 0, 2], [3, 2, 2]]


@pytest.mark.parametrize(
    ("step", "value", "message"),
    [
        (TopClasses("x", "y", 4), ValueType("NC", (None, 3)), "k is 4, and float32 .N,3. has 3 classes"),
        (TopMargin("x", "y"), ValueType("NC", (None, 1)), "has one class, expected at least two"),
        (ArgMax("x", "y"), ValueType("NC"), "number of classes of float32 .N,C. is open"),
    ],
)
def test_inputs_that_do_not_fit(step: Step, value: ValueType, message: str) -> None:
    with pytest.raises(PostProcessorError, match=message):
        step.bind(value)
