"""Searches of rows of which few are read run on these rows only, and find the same."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import pp_graph as pp
from pp_graph.fusion.tail import RULES, RewrittenTail, rewrite_tail
from pp_graph.model import NameScope
from tests.conftest import ROOT, examples
from tests.models import STATS, run, run_openvino

COLUMNS = 700
CASE = ROOT.parent / "shared" / "cases" / "brick_patchcore" / "raw.onnx"


def model_of(nodes, constants, inputs, output=TensorProto.FLOAT, opset=17) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "raw",
        [helper.make_tensor_value_info(name, dtype, shape) for name, (dtype, shape) in inputs.items()],
        [helper.make_tensor_value_info("found", output, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def rewrite(model: onnx.ModelProto) -> tuple[onnx.ModelProto, RewrittenTail]:
    raw = pp.RawModel.open(model)
    rewritten = rewrite_tail(raw, RULES, NameScope(raw.model.graph), "pp_graph")
    return raw.to_proto(), rewritten


def searched(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers with ties, infinities, negative zeros, and rows of NaN or with one NaN."""
    table = rng.integers(-3, 4, shape).astype(np.float32) * np.float32(0.5)
    table[table == 0] *= -1
    special = rng.random(shape)
    table[special < 0.002] = np.inf
    table[special > 0.998] = -np.inf
    rows = table.reshape(-1, shape[-1])
    rows[rng.integers(len(rows)), rng.integers(shape[-1])] = np.nan
    rows[rng.integers(len(rows))] = np.nan
    return table


SEARCHES = {
    "ArgMin": {"axis": -1, "keepdims": 0},
    "ArgMax": {"axis": -1, "keepdims": 1, "select_last_index": 1},
    "TopK": {"axis": -1, "largest": 0},
}


@st.composite
def selections(draw: st.DrawFn) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Draw tables, a search of each, a mixture of operators that move what it finds, and a selection."""
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    kind = draw(st.sampled_from(list(SEARCHES)))
    tables = draw(st.integers(1, 3))
    nodes, parts, total = [], [], 0
    constants: dict[str, np.ndarray] = {"k": np.array([1]), "flat": np.array([-1]), "zero": np.float32(0)}
    feeds, inputs = {}, {}
    for index in range(tables):
        rows = draw(st.sampled_from([48, 96]))
        table = searched(rng, (rows, COLUMNS))
        feeds[f"x{index}"] = table
        inputs[f"x{index}"] = (TensorProto.FLOAT, feeds[f"x{index}"].shape)
        source, result = f"x{index}", f"r{index}"
        if draw(st.booleans()):
            nodes.append(helper.make_node("Relu", [source], [f"relu{index}"]))
            source = f"relu{index}"
        outputs = (
            draw(st.sampled_from([[result, "unread"], ["unread", result]])) if kind == "TopK" and tables == 1 else None
        )
        outputs = outputs or ([f"unread{index}", result] if kind == "TopK" else [result])
        nodes.append(helper.make_node(kind, [source, "k"][: 1 + (kind == "TopK")], outputs, **SEARCHES[kind]))
        nodes.append(helper.make_node("Reshape", [result, "flat"], [f"f{index}"]))
        parts.append(f"f{index}")
        total += rows
    values = kind == "TopK" and outputs[0] == "r0"
    value = parts[0]
    if tables > 1:
        nodes.append(helper.make_node("Concat", parts, ["joined"], axis=0))
        value = "joined"
    if draw(st.booleans()) and not values:
        nodes.append(helper.make_node("Cast", [value], ["int"], to=TensorProto.INT32))
        value = "int"
    shape = [total // 48, 48]
    if draw(st.booleans()):
        shape.reverse()
    constants["images"] = np.array(shape)
    nodes.append(helper.make_node("Reshape", [value, "images"], ["images_"]))
    value = "images_"
    if draw(st.booleans()):
        nodes.append(helper.make_node("Transpose", [value], ["turned"], perm=[1, 0]))
        value, shape = "turned", shape[::-1]
    if draw(st.booleans()) and shape[1] > 1:
        constants |= {"from": np.array([1]), "to": np.array([shape[1]]), "axis": np.array([1])}
        nodes.append(helper.make_node("Slice", [value, "from", "to", "axis"], ["cut"]))
        value, shape = "cut", [shape[0], shape[1] - 1]
    how = draw(st.sampled_from(["Gather", "GatherElements", "GatherND"]))
    if how == "Gather":
        asked = rng.integers(-shape[0], shape[0], 1)
        constants |= {"first": np.array([0, shape[1] - 1])}
        nodes += [
            helper.make_node("Gather", [value, "asked"], ["row"], axis=0),
            helper.make_node("Gather", ["row", "first"], ["chosen"], axis=1),
        ]
    elif how == "GatherElements":
        asked = rng.integers(0, shape[1], (shape[0], 1))
        nodes.append(helper.make_node(how, [value, "asked"], ["chosen"], axis=1))
    else:
        asked = np.stack([rng.integers(0, size, 3) for size in shape], 1)
        nodes.append(helper.make_node(how, [value, "asked"], ["chosen"]))
    feeds["asked"] = asked
    inputs["asked"] = (TensorProto.INT64, asked.shape)
    nodes.append(helper.make_node("Cast", ["chosen"], ["found"], to=TensorProto.FLOAT))
    return model_of(nodes, constants, inputs), feeds


@examples(13)
@given(selections())
def test_the_same_is_found(drawn: tuple[onnx.ModelProto, dict[str, np.ndarray]]) -> None:
    model, feeds = drawn
    ours, rewritten = rewrite(model)
    missed = [miss.why for rule, miss in rewritten.missed if rule.name == "row selection"]
    if feeds["asked"].size < 10:  # else there is little to save
        assert "row selection" in {rule.name for rule, _, _ in rewritten.applied}, missed
    for runtime in (run, run_openvino):
        np.testing.assert_array_equal(runtime(ours, feeds)["found"], runtime(model, feeds)["found"])


def chunks() -> tuple[list[onnx.NodeProto], dict[str, np.ndarray], dict]:
    """Two chunks that are searched, joined, and selected from."""
    nodes = [
        helper.make_node("ArgMin", ["a"], ["p"], axis=1, keepdims=0),
        helper.make_node("ArgMin", ["b"], ["q"], axis=1, keepdims=0),
        helper.make_node("Concat", ["p", "q"], ["joined"], axis=0),
        helper.make_node("Gather", ["joined", "asked"], ["chosen"]),
        helper.make_node("Cast", ["chosen"], ["found"], to=TensorProto.FLOAT),
    ]
    inputs = {
        "a": (TensorProto.FLOAT, [400, COLUMNS]),
        "b": (TensorProto.FLOAT, [400, COLUMNS]),
        "asked": (TensorProto.INT64, [2]),
    }
    return nodes, {}, inputs


def misses(nodes, constants, inputs, **settings) -> list[str]:
    _, rewritten = rewrite(model_of(nodes, constants, inputs, **settings))
    assert not [rule.name for rule, _, _ in rewritten.applied if rule.name == "row selection"]
    return [miss.why for rule, miss in rewritten.missed if rule.name == "row selection"]


def test_rows_that_others_read_are_searched() -> None:
    nodes, constants, inputs = chunks()
    nodes[-1] = helper.make_node("ReduceMax", ["p"], ["most"], keepdims=0)
    nodes.append(helper.make_node("Add", ["chosen", "most"], ["found"]))
    assert misses(nodes, constants, inputs, output=TensorProto.INT64) == [
        "all results of the search are read by ReduceMax"
    ]


def test_parts_that_no_search_finds() -> None:
    nodes, _, inputs = chunks()
    nodes[2] = helper.make_node("Concat", ["p", "q", "more"], ["joined"], axis=0)
    assert misses(nodes, {"more": np.array([5])}, inputs) == ["search results are concatenated with other values"]


def test_parts_that_are_searched_differently() -> None:
    nodes, constants, inputs = chunks()
    nodes[1].op_type = "ArgMax"
    assert misses(nodes, constants, inputs) == ["the concatenated parts are searched differently"]


def test_another_axis() -> None:
    nodes, constants, inputs = chunks()
    for node in nodes[:2]:
        node.attribute[0].i = 0
    (why,) = misses(nodes, constants, inputs)
    assert why.startswith("axis 0 is searched, not the last")


def test_an_index_that_is_rounded() -> None:
    nodes, constants, inputs = chunks()
    nodes[3:] = [
        helper.make_node("Cast", ["joined"], ["rounded"], to=TensorProto.FLOAT16),
        helper.make_node("Gather", ["rounded", "asked"], ["found"]),
    ]
    found = misses(nodes, constants, inputs, output=TensorProto.FLOAT16)
    assert found == ["a Cast to FLOAT16 may round the results"]


def test_cuts_that_are_computed() -> None:
    nodes, _, inputs = chunks()
    nodes[3] = helper.make_node("Slice", ["joined", "asked", "end"], ["chosen"])
    inputs["asked"] = (TensorProto.INT64, [1])
    assert misses(nodes, {"end": np.array([3])}, inputs) == ["Slice has inputs that are computed and not indices"]


def test_an_old_opset() -> None:
    assert misses(*chunks(), opset=11) == ["opset 11 is below 12"]


@pytest.mark.parametrize("batch", ["N", 3])
def test_shapes_are_read_of_the_numbers(batch: str | int) -> None:
    """TorchScript reads the shape of what was found to compute which place of the flattened values is asked for."""
    nodes = [
        helper.make_node("Shape", ["x"], ["sizes"]),
        helper.make_node("Gather", ["sizes", "first"], ["images"]),
        helper.make_node("Reshape", ["x", "rows"], ["table"]),
        helper.make_node("ArgMin", ["table"], ["p"], axis=1, keepdims=0),
        helper.make_node("Concat", ["images", "rest"], ["shape"], axis=0),
        helper.make_node("Reshape", ["p", "shape"], ["places"]),
        helper.make_node("Shape", ["places"], ["places_shape"]),
        helper.make_node("Gather", ["places_shape", "second"], ["width"]),
        helper.make_node("Range", ["start", "count", "step"], ["numbers"]),
        helper.make_node("Mul", ["numbers", "width"], ["offset"]),
        helper.make_node("Add", ["asked", "offset"], ["place"]),
        helper.make_node("Flatten", ["places"], ["column"], axis=2),
        helper.make_node("Gather", ["column", "place"], ["chosen"]),
        helper.make_node("Shape", ["place"], ["place_shape"]),
        helper.make_node("Reshape", ["chosen", "place_shape"], ["again"]),
        helper.make_node("Cast", ["again"], ["found"], to=TensorProto.FLOAT),
        helper.make_node("Squeeze", ["images"], ["count"]),
    ]
    nodes.insert(2, nodes.pop())
    constants = {
        "first": np.array([0]), "second": np.array([1]), "rest": np.array([-1]), "rows": np.array([-1, COLUMNS]),
        "start": np.array(0), "step": np.array(1),
    }  # fmt: skip
    model = model_of(
        nodes, constants, {"x": (TensorProto.FLOAT, [batch, 100, COLUMNS]), "asked": (TensorProto.INT64, [batch])}
    )
    ours, rewritten = rewrite(model)
    assert {rule.name for rule, _, _ in rewritten.applied} >= {"row selection"}
    assert not [node for node in ours.graph.node if node.op_type == "ArgMin" and not node.name.startswith("pp_graph")]
    feeds = {"x": searched(np.random.default_rng(0), (3, 100, COLUMNS)), "asked": np.array([7, 99, 0])}
    for runtime in (run, run_openvino):
        np.testing.assert_array_equal(runtime(ours, feeds)["found"], runtime(model, feeds)["found"])


@pytest.mark.skipif(not CASE.exists(), reason="the real cases are not beside the project")
def test_a_real_export() -> None:
    """PatchCore for two images: each chunk is searched by itself."""
    fused = pp.fuse(CASE, pp.OneClassPostProcessor(STATS), keep_raw=True)
    assert "row selection" in {record.rule for record in fused.provenance.tail}
    images = np.random.default_rng(0).random((2, 3, 256, 256), dtype=np.float32)
    raw = run(str(CASE), {"input": images})
    np.testing.assert_array_equal(run(fused, {"input": images})["raw_pred_score"], raw["pred_score"])
    assert pp.strip(fused).to_proto().SerializeToString() == CASE.read_bytes()
