"""Sorts order only the values that are used, and order-preserving operators move after a reduction."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tests.conftest import examples
from tests.fusion.test_row_selection import rewrite, searched
from tests.models import run, run_openvino


def model_of(nodes, constants, shape, output=TensorProto.FLOAT, opset=18) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "raw",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", output, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def applied(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str], list[str]]:
    """Return the rewritten model, the rules applied, and the reasons of the others."""
    ours, rewritten = rewrite(model)
    return ours, [rule.name for rule, _, _ in rewritten.applied], [miss.why for _, miss in rewritten.missed]


def assert_equal(ours: onnx.ModelProto, model: onnx.ModelProto, x: np.ndarray) -> None:
    for runtime in (run, run_openvino):
        np.testing.assert_array_equal(runtime(ours, {"x": x})["y"], runtime(model, {"x": x})["y"])


def without_nan(x: np.ndarray) -> np.ndarray:
    """Where NaN is ordered depends on the runtime and the number of results."""
    return np.nan_to_num(x, nan=0.25, posinf=np.inf, neginf=-np.inf)


@examples(6)
@given(st.integers(1, 900), st.sampled_from([0, 1]), st.sampled_from(["N", 3]), st.integers(0, 99))
def test_a_sort_of_which_the_first_are_read(stop: int, largest: int, batch: str | int, seed: int) -> None:
    nodes = [
        helper.make_node("TopK", ["x", "all"], ["values", "places"], axis=1, largest=largest),
        helper.make_node("Slice", ["values", "zero", "stop", "one"], ["y"]),
    ]
    constants = {"all": np.array([9000]), "zero": np.array([0]), "stop": np.array([stop]), "one": np.array([1])}
    model = model_of(nodes, constants, [batch, 9000])
    ours, rules, _ = applied(model)
    assert "shorter order" in rules
    x = searched(np.random.default_rng(seed), (3, 9000))
    assert_equal(ours, model, without_nan(x))
    np.testing.assert_array_equal(run(ours, {"x": x})["y"], run(model, {"x": x})["y"])


@pytest.mark.parametrize(
    ("start", "stop", "axis", "why"),
    [
        (2, 9, 1, "it does not keep the first numbers"),
        (-9, 9000, 1, "it does not keep the first numbers"),
        (0, 1, 0, "it does not slice the sorted axis"),
    ],
)
def test_other_cuts(start: int, stop: int, axis: int, why: str) -> None:
    nodes = [
        helper.make_node("TopK", ["x", "all"], ["values", "places"], axis=1),
        helper.make_node("Slice", ["values", "start", "stop", "axis"], ["y"]),
    ]
    bounds = {"start": np.array([start]), "stop": np.array([stop]), "axis": np.array([axis])}
    _, rules, whys = applied(model_of(nodes, {"all": np.array([9000]), **bounds}, [2, 9000]))
    assert rules == []
    assert why in whys


@examples(6)
@given(st.integers(1, 4), st.booleans(), st.integers(0, 99))
def test_groups_hold_the_least(count: int, flat: bool, seed: int) -> None:
    node = helper.make_node("TopK", ["x", "k"], ["y", "places"], axis=-1, largest=0)
    shape = [400, 4096] if flat else [2, 200, 4096]
    model = model_of([node], {"k": np.array([count])}, shape)
    ours, rules, whys = applied(model)
    assert rules == ["groups before order"], whys
    x = searched(np.random.default_rng(seed), tuple(shape))
    assert_equal(ours, model, without_nan(x))
    np.testing.assert_array_equal(run(ours, {"x": x})["y"], run(model, {"x": x})["y"])


@pytest.mark.parametrize(
    ("settings", "why"), [({"largest": 1}, "it finds the largest"), ({"sorted": 0, "largest": 0}, "not sorted")]
)
def test_orders_that_stay(settings: dict[str, int], why: str) -> None:
    node = helper.make_node("TopK", ["x", "k"], ["y", "places"], axis=-1, **settings)
    _, rules, whys = applied(model_of([node], {"k": np.array([3])}, [400, 4096]))
    assert rules == []
    assert why in whys[0]


def test_places_keep_the_order() -> None:
    node = helper.make_node("TopK", ["x", "k"], ["values", "y"], axis=-1)
    _, rules, whys = applied(model_of([node], {"k": np.array([3])}, [400, 4096], TensorProto.INT64))
    assert rules == []
    assert whys == ["the indices are used too, and may differ where numbers are equal"]


def test_a_row_that_cannot_be_cut() -> None:
    node = helper.make_node("TopK", ["x", "k"], ["y", "places"], axis=-1, largest=0)
    _, rules, whys = applied(model_of([node], {"k": np.array([3])}, [400, 4093]))
    assert rules == []
    assert whys == ["a row of 4093 cannot be cut into equal groups"]


FUNCTIONS = {
    "clip": helper.make_node("Clip", ["?", "c0"], ["!"]),
    "upper": helper.make_node("Clip", ["?", "", "c2"], ["!"]),
    "relu": helper.make_node("Relu", ["?"], ["!"]),
    "floor": helper.make_node("Floor", ["?"], ["!"]),
    "scale": helper.make_node("Mul", ["c2", "?"], ["!"]),
    "divide": helper.make_node("Div", ["?", "c3"], ["!"]),
    "shift": helper.make_node("Add", ["?", "c2"], ["!"]),
    "back": helper.make_node("Sub", ["?", "c3"], ["!"]),
}
NUMBERS = {"c0": np.float32(0), "c2": np.float32(0.1), "c3": np.float32(0.3)}


def chain(names: list[str], last: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    nodes, value = [], "x"
    for index, name in enumerate(names):
        node = onnx.NodeProto()
        node.CopyFrom(FUNCTIONS[name] if name in FUNCTIONS else helper.make_node(name, ["?"], ["!"]))
        node.input[:] = [value if each == "?" else each for each in node.input]
        value = node.output[0] = f"f{index}"
        nodes.append(node)
    last[0].input[0] = value
    return [*nodes, *last]


@examples(10)
@given(
    st.lists(st.sampled_from(list(FUNCTIONS)), min_size=1, max_size=3),
    st.booleans(),
    st.sampled_from(["ReduceMin", "ReduceMax"]),
    st.integers(0, 99),
)
def test_what_keeps_the_order_moves(names: list[str], root: bool, kind: str, seed: int) -> None:
    names = [*names, "relu", "Sqrt"] if root else names
    nodes = chain(names, [helper.make_node(kind, ["?", "axis"], ["y"], keepdims=0)])
    model = model_of(nodes, {**NUMBERS, "axis": np.array([1])}, [200, 1000])
    ours, rules, whys = applied(model)
    assert rules == ["monotone reduction"], whys
    assert ours.graph.node[0].op_type == kind
    x = searched(np.random.default_rng(seed), (200, 1000))
    x *= np.random.default_rng(seed).random(x.shape, dtype=np.float32)
    rows = without_nan(x)
    rows[7] = np.nan  # a whole row of NaN, as a patch that is not finite has
    for numbers in (without_nan(x), rows):
        np.testing.assert_array_equal(run(ours, {"x": numbers})["y"], run(model, {"x": numbers})["y"])
        found, expected = (run_openvino(each, {"x": numbers})["y"] for each in (ours, model))
        # OpenVINO rounds a product and a sum once or twice.
        np.testing.assert_allclose(found, expected, rtol=1e-6 if {"scale", "divide"} & {*names} else 0, atol=1e-7)


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["Sqrt"], "its numbers may be negative"),
        (["Abs"], "it does not keep the order"),
        (["negative"], "its constant is not positive"),
        (["endless"], "its constant is not finite"),
    ],
)
def test_what_may_not_keep_the_order(names: list[str], why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FUNCTIONS, "negative", helper.make_node("Mul", ["?", "minus"], ["!"]))
    monkeypatch.setitem(FUNCTIONS, "endless", helper.make_node("Add", ["?", "endless"], ["!"]))
    nodes = chain(names, [helper.make_node("ReduceMin", ["?", "axis"], ["y"], keepdims=0)])
    constants = {"axis": np.array([1]), "minus": np.float32(-2), "endless": np.float32(np.inf)}
    _, rules, whys = applied(model_of(nodes, constants, [200, 1000]))
    assert rules == []
    assert whys == [why]


def test_an_index_is_not_moved() -> None:
    """Numbers that differ may have the same root, and the first of them is found."""
    nodes = chain(["relu", "Sqrt"], [helper.make_node("TopK", ["?", "k"], ["values", "y"], axis=1)])
    _, rules, whys = applied(model_of(nodes, {"k": np.array([1])}, [200, 1000], TensorProto.INT64))
    assert rules == []
    assert "its indices are used, and may differ where numbers become equal" in whys
