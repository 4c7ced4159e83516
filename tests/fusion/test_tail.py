"""Rewritten tails equal the raw ones up to rounding, save time, and are undone by strip."""

from __future__ import annotations

import base64
import zlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import pp_graph as pp
from pp_graph.fusion.tail import NETWORK_SCOPE, RULES, Match, Miss, RewrittenTail, rewrite_tail
from pp_graph.fusion.tail.proof import disprove
from pp_graph.fusion.tail.view import GraphView
from pp_graph.model import NameScope
from pp_graph.openvino.island.float32 import island_constants
from tests.conftest import ROOT, examples
from tests.models import STATS, run, run_openvino

TAILS = sorted((ROOT / "tests" / "assets" / "tails").glob("*.onnx"))
POST = pp.OneClassPostProcessor(STATS)
IMAGES = np.random.default_rng(0).random((3, 3, 96, 96), dtype=np.float32)


def gaussian(size: int) -> np.ndarray:
    x = np.arange(size) - size // 2
    row = np.exp(-(x**2) / (2 * (size / 8) ** 2))
    kernel = np.outer(row, row)
    return (kernel / kernel.sum()).astype(np.float32)[None, None]


def model_of(nodes, constants, shape, outputs=("heat",), opset=17, output_shape=None) -> onnx.ModelProto:
    """Nodes that read `x` and compute `heat`."""
    graph = helper.make_graph(
        nodes,
        "raw",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, output_shape or ["N", 1, "H", "W"])
            for name in outputs
        ],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def blur(shape, size=21, **kwargs) -> onnx.ModelProto:
    side = size // 2
    nodes = [
        helper.make_node("Pad", ["x", "pads"], ["padded"], mode="reflect"),
        helper.make_node("Conv", ["padded", "kernel"], ["heat"]),
    ]
    pads = np.array([0, 0, side, side, 0, 0, side, side], np.int64)
    return model_of(nodes, {"pads": pads, "kernel": gaussian(size)}, shape, **kwargs)


def rewrite(model: onnx.ModelProto | Path) -> tuple[pp.RawModel, RewrittenTail]:
    raw = pp.RawModel.open(model)
    return raw, rewrite_tail(raw, RULES, NameScope(raw.model.graph), "pp_graph")


def applied(rewritten: RewrittenTail) -> list[str]:
    return [rule.name for rule, _, _ in rewritten.applied]


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.sample(every=6)
@pytest.mark.parametrize("path", TAILS, ids=lambda path: path.stem)
def test_real_exports(path: Path, tmp_path: Path) -> None:
    """Tails from both exporters of torch are rewritten, equal the original, verify in OpenVINO, and are undone."""
    fused = pp.fuse(path, POST, keep_raw=True)
    assert "separable linear collapse" in {record.rule for record in fused.provenance.tail}
    operators = [node.op_type for node in fused.network.model.graph]
    assert not {"Resize", "Pad"} & {op for op in operators if "selected" not in path.stem}
    onnx.checker.check_model(fused.to_proto(), full_check=True)
    raw = run(str(path), {"input": IMAGES})
    ours = run(fused, {"input": IMAGES})
    for name in raw:
        assert_close(ours[f"raw_{name}"], raw[name])
    artifact = pp.convert(fused)
    for precision in ("f32", "bf16"):
        report = pp.verify(path, artifact, IMAGES, inference_precision=precision)
        assert report.passed, report.failures
        assert set(report.island.values()) == {"f32"}
    again = pp.strip(fused.save(tmp_path / "fused.onnx")).save(tmp_path / "again.onnx")
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.sample(every=4)
@pytest.mark.parametrize("path", TAILS, ids=lambda path: path.stem)
def test_tail_can_be_left_alone(path: Path) -> None:
    fused = pp.fuse(path, POST, tail=False)
    assert fused.provenance.tail == []
    assert fused.provenance.replaced is None
    raw = [(node.op_type, node.name) for node in pp.RawModel.open(path).model.graph]
    assert [(node.op_type, node.name) for node in fused.network.model.graph][: len(raw)] == raw


@st.composite
def chains(draw: st.DrawFn) -> onnx.ModelProto:
    """Draw random chains of linear operators on a map, some with a branch."""
    height, width = draw(st.integers(3, 12)), draw(st.integers(3, 12))
    shape: list[int | str] = [draw(st.sampled_from(["N", 2])), 1, height, width]
    nodes, constants, value = [], {}, "x"
    values = {"x": (height, width)}
    count = draw(st.integers(2, 5))
    for index in range(count):
        kind = draw(st.sampled_from(["Resize", "Pad", "Conv", "AveragePool", "Slice", "Mul", "Add", "Bias"]))
        name = f"v{index}" if index < count - 1 else "heat"
        if kind == "Resize":
            height, width = draw(st.integers(1, 24)), draw(st.integers(1, 24))
            constants[f"scale{index}"] = np.array(
                [1, 1, height / values[value][0], width / values[value][1]], np.float32
            )
            mode = draw(st.sampled_from(["nearest", "linear", "cubic"]))
            nodes.append(helper.make_node("Resize", [value, "", f"scale{index}"], [name], mode=mode))
            height, width = (
                int(np.floor(np.float32(side) * scale))
                for side, scale in zip(values[value], constants[f"scale{index}"][2:], strict=True)
            )
        elif kind == "Pad":
            pads = draw(st.tuples(*[st.integers(0, 3)] * 4))
            constants[f"pads{index}"] = np.array([0, 0, *pads[:2], 0, 0, *pads[2:]], np.int64)
            mode = draw(st.sampled_from(["constant", "edge", "reflect"]))
            if mode == "reflect" and (max(pads[::2]) >= height or max(pads[1::2]) >= width):
                mode = "edge"
            nodes.append(helper.make_node("Pad", [value, f"pads{index}"], [name], mode=mode))
            height, width = height + pads[0] + pads[2], width + pads[1] + pads[3]
        elif kind == "Conv":
            kernel = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
            rng = np.random.default_rng(index)
            outer = np.outer(rng.normal(size=kernel[0]), rng.normal(size=kernel[1]))
            constants[f"kernel{index}"] = outer.astype(np.float32)[None, None]
            constants[f"bias{index}"] = np.array([0.3], np.float32)
            nodes.append(helper.make_node("Conv", [value, f"kernel{index}", f"bias{index}"], [name], pads=[1, 1, 1, 1]))
            height, width = height + 3 - kernel[0], width + 3 - kernel[1]
        elif kind == "AveragePool":
            nodes.append(helper.make_node("AveragePool", [value], [name], kernel_shape=[2, 2], pads=[1, 0, 0, 1]))
        elif kind == "Slice":
            constants[f"start{index}"], constants[f"end{index}"] = (
                np.array([0, 0]),
                np.array([height, max(1, width - 1)]),
            )
            constants[f"axes{index}"] = np.array([2, 3])
            nodes.append(helper.make_node("Slice", [value, f"start{index}", f"end{index}", f"axes{index}"], [name]))
            width = max(1, width - 1)
        elif kind == "Mul":
            constants[f"factor{index}"] = np.float32(draw(st.sampled_from([-1.5, 0.25])))
            nodes.append(helper.make_node("Mul", [value, f"factor{index}"], [name]))
        elif kind == "Bias":
            constants[f"number{index}"] = np.array([[[[0.7]]]], np.float32)
            nodes.append(helper.make_node("Add", [value, f"number{index}"], [name]))
        else:
            other = draw(st.sampled_from([each for each, size in values.items() if size == (height, width)]))
            nodes.append(helper.make_node("Add", [value, other], [name]))
        values[name] = (height, width)
        value = name
    return model_of(nodes, constants, shape)


@examples(40)
@given(chains())
def test_random_chains(model: onnx.ModelProto) -> None:
    shape = [2 if not dim.dim_value else dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    raw, rewritten = rewrite(model)
    expected = run(model, {"x": x})["heat"]
    found = run(raw.to_proto(), {"x": x})["heat"]
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-5 * max(1, np.abs(expected).max())
    for _, miss in rewritten.missed:
        assert "would" not in miss.why or "µs" in miss.why, miss  # a rule never proposes something wrong


@pytest.mark.slow
def test_collapse_is_chosen_by_cost() -> None:
    """On large maps, matrices along the axes cost more than two one-dimensional convolutions."""
    raw, rewritten = rewrite(blur(["N", 1, 1024, 1024]))
    assert applied(rewritten) == ["separable convolution"]
    raw, rewritten = rewrite(blur(["N", 1, 96, 96]))
    assert applied(rewritten) == ["separable linear collapse"]
    assert [node.op_type for node in raw.model.graph] == ["MatMul", "MatMul"]


def test_open_sizes_get_one_dimensional_convolutions() -> None:
    model = blur(["N", 1, "H", "W"])
    raw, rewritten = rewrite(model)
    assert applied(rewritten) == ["separable convolution"]
    ((_, miss),) = [each for each in rewritten.missed if each[0].name == "separable linear collapse"][:1]
    assert "height and width are not known" in miss.why
    for size in ((40, 50), (64, 33)):
        x = np.random.default_rng(0).random((2, 1, *size), dtype=np.float32)
        assert_close(run(raw.to_proto(), {"x": x})["heat"], run(model, {"x": x})["heat"])
        assert_close(run_openvino(raw.to_proto(), {"x": x})["heat"], run(model, {"x": x})["heat"])


def test_a_kernel_that_is_no_product_stays() -> None:
    model = blur(["N", 1, 96, 96])
    kernel = gaussian(21)
    kernel[0, 0, 3, 4] += 0.01
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(kernel, "kernel"))
    _, rewritten = rewrite(model)
    assert applied(rewritten) == []
    assert any("not the product of a column and a row" in miss.why for _, miss in rewritten.missed)


def test_what_feeds_the_network_is_no_tail() -> None:
    """An image that is resized before the first layer must not pull the whole network into the island."""
    nodes = [
        helper.make_node("Resize", ["x", "", "scale"], ["small"], mode="linear"),
        helper.make_node("Conv", ["small", "weight"], ["heat"]),
    ]
    constants = {
        "scale": np.array([1, 1, 0.5, 0.5], np.float32),
        "weight": np.ones((1, 3, 3, 3), np.float32),
    }
    _, rewritten = rewrite(model_of(nodes, constants, ["N", 3, 256, 256]))
    assert applied(rewritten) == []


def test_a_value_that_others_read_stays() -> None:
    """The map before the blur is also an output: the blur collapses, and the output stays."""
    nodes = [
        helper.make_node("Resize", ["x", "", "scale"], ["sharp"], mode="linear"),
        helper.make_node("Pad", ["sharp", "pads"], ["padded"], mode="reflect"),
        helper.make_node("Conv", ["padded", "kernel"], ["heat"]),
    ]
    constants = {
        "scale": np.array([1, 1, 4, 4], np.float32),
        "pads": np.array([0, 0, 10, 10, 0, 0, 10, 10], np.int64),
        "kernel": gaussian(21),
    }
    model = model_of(nodes, constants, ["N", 1, 24, 24], outputs=("heat", "sharp"))
    raw, rewritten = rewrite(model)
    assert "separable linear collapse" in applied(rewritten)
    x = np.random.default_rng(0).random((2, 1, 24, 24), dtype=np.float32)
    expected, found = run(model, {"x": x}), run(raw.to_proto(), {"x": x})
    for name in expected:
        assert_close(found[name], expected[name])


def test_channel_selection_prunes_the_last_layer() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "first"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["a", "second", "bias"], ["b"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Resize", ["b", "", "scale"], ["up"], mode="nearest"),
        helper.make_node("Concat", ["a", "up"], ["joined"], axis=1),
        helper.make_node("Gather", ["joined", "index"], ["chosen"], axis=1),
        helper.make_node("ReduceSum", ["chosen", "axis"], ["heat"]),
    ]
    rng = np.random.default_rng(0)
    constants = {
        "first": rng.normal(size=(32, 3, 3, 3)).astype(np.float32),
        "second": rng.normal(size=(64, 32, 3, 3)).astype(np.float32),
        "bias": rng.normal(size=64).astype(np.float32),
        "scale": np.array([1, 1, 2, 2], np.float32),
        "index": np.array([70, 3, 40, 31, 95]),
        "axis": np.array([1]),
    }
    model = model_of(nodes, constants, ["N", 3, 64, 64])
    raw, rewritten = rewrite(model)
    assert applied(rewritten) == ["channel selection"]
    assert all(
        (node.name or "").startswith(f"pp_graph/{NETWORK_SCOPE}/")
        for node in raw.model.graph
        if node.op_type == "Resize"
    )
    x = rng.normal(size=(2, 3, 64, 64)).astype(np.float32)
    assert_close(run(raw.to_proto(), {"x": x})["heat"], run(model, {"x": x})["heat"])


def test_rows_are_selected_before_they_are_searched() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "memory"], ["distances"]),
        helper.make_node("ReduceMin", ["distances"], ["nearest"], axes=[1], keepdims=0),
        helper.make_node("ArgMin", ["distances"], ["where"], axis=1, keepdims=0),
        helper.make_node("Reshape", ["nearest", "rows"], ["scores"]),
        helper.make_node("Reshape", ["where", "rows"], ["places"]),
        helper.make_node("ArgMax", ["scores"], ["worst"], axis=1, keepdims=1),
        helper.make_node("Shape", ["scores"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["batch"], axis=0),
        helper.make_node("Range", ["zero", "batch", "one"], ["numbers"]),
        helper.make_node("Unsqueeze", ["numbers", "last"], ["column"]),
        helper.make_node("Concat", ["column", "worst"], ["asked"], axis=1),
        helper.make_node("GatherND", ["places", "asked"], ["found"]),
        helper.make_node("Cast", ["found"], ["heat"], to=TensorProto.FLOAT),
    ]
    rng = np.random.default_rng(0)
    constants = {
        "memory": rng.normal(size=(8, 300)).astype(np.float32),
        "rows": np.array([-1, 64]),
        "zero": np.array(0),
        "one": np.array(1),
        "last": np.array([1]),
    }
    model = model_of(nodes, constants, ["R", 8], output_shape=["N"])
    raw, rewritten = rewrite(model)
    assert applied(rewritten) == ["row selection"]
    x = rng.normal(size=(3 * 64, 8)).astype(np.float32)
    assert np.array_equal(run(raw.to_proto(), {"x": x})["heat"], run(model, {"x": x})["heat"])


@pytest.mark.parametrize("features", [16, 96])
def test_quadratic_form_is_cut_where_reading_takes_the_time(features: int) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "matrices"], ["product"]),
        helper.make_node("Mul", ["product", "x"], ["squares"]),
        helper.make_node("ReduceSum", ["squares", "axis"], ["heat"], keepdims=0),
    ]
    rng = np.random.default_rng(0)
    positions = 1024
    constants = {
        "matrices": rng.normal(size=(positions, features, features)).astype(np.float32),
        "axis": np.array([2]),
    }
    model = model_of(nodes, constants, [positions, "N", features], output_shape=[positions, "N"])
    raw, rewritten = rewrite(model)
    assert applied(rewritten) == (["quadratic form"] if features == 96 else [])
    x = rng.normal(size=(positions, 2, features)).astype(np.float32)
    assert_close(run(raw.to_proto(), {"x": x})["heat"], run(model, {"x": x})["heat"])


@pytest.mark.parametrize("batch", ["N", 2])
def test_channels_are_brought_last_before_flattening(batch: str | int) -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["features"]),
        helper.make_node("Sub", ["features", "mean"], ["centred"]),
        helper.make_node("Transpose", ["centred"], ["heat"], perm=[2, 0, 1]),
    ]
    constants = {"flat": np.array([-1, 40, 32 * 32]), "mean": random(40, 32 * 32)}
    model = model_of(nodes, constants, [batch, 40, 32, 32], output_shape=[32 * 32, "N", 40])
    raw, rewritten = rewrite(model)
    assert applied(rewritten) == ["flattened transpose"]
    x = random(2, 40, 32, 32)
    assert np.array_equal(run(raw.to_proto(), {"x": x})["heat"], run(model, {"x": x})["heat"])
    assert np.array_equal(run_openvino(raw.to_proto(), {"x": x})["heat"], run(model, {"x": x})["heat"])


def test_leftovers_of_exporters() -> None:
    nodes = [
        helper.make_node("Where", ["always", "x", "other"], ["chosen"]),
        helper.make_node("Shape", ["chosen"], ["shape"]),
        helper.make_node("Expand", ["chosen", "shape"], ["expanded"]),
        helper.make_node("Cast", ["expanded"], ["double"], to=TensorProto.DOUBLE),
        helper.make_node("Cast", ["double"], ["single"], to=TensorProto.FLOAT),
        helper.make_node("Relu", ["single"], ["heat"]),
    ]
    constants = {"always": np.array(True), "other": np.zeros(1, np.float32)}
    raw, rewritten = rewrite(model_of(nodes, constants, [2, 1, 8, 8]))
    assert set(applied(rewritten)) == {"exporter leftovers"}
    assert [node.op_type for node in raw.model.graph] == ["Relu"]


def test_every_rule_is_in_the_list_and_named() -> None:
    modules = {path.stem for path in (ROOT / "pp_graph" / "fusion" / "tail").glob("*.py")}
    assert {type(rule).__module__.rsplit(".", 1)[1] for rule in RULES} <= modules
    assert len({rule.name for rule in RULES}) == len(RULES)


def test_a_wrong_rewrite_is_not_kept() -> None:
    """Proposals are tested before they are applied: here one whose matrices are off by a thousandth."""
    raw = pp.RawModel.open(blur(["N", 1, 96, 96]))
    view = GraphView(raw.model)
    match = next(each for each in RULES[0].find(view) if isinstance(each, Match))
    assert disprove(view, raw.model, match) is None

    def wrong(op, at):
        return op.matmul(match.emit(op, at), op.array(np.eye(96) * 1.001, "slightly"))

    import dataclasses

    why = disprove(view, raw.model, dataclasses.replace(match, emit=wrong))
    assert why == "it would be off by 0.001 of the largest number"
    why = disprove(view, raw.model, dataclasses.replace(match, emit=lambda op, at: at(match.reads[0]), exact=True))
    assert why == "it would not give the same numbers"


def test_misses_say_why() -> None:
    raw = pp.RawModel.open(blur(["N", 1, 4096, 4096]))
    misses = [each for each in RULES[0].find(GraphView(raw.model)) if isinstance(each, Miss)]
    assert any("a side of 4096 is above 2048" in miss.why for miss in misses)


def test_the_tail_is_saved_in_f32_and_the_network_is_not() -> None:
    path = next(path for path in TAILS if path.stem == "selected_channels")
    artifact = pp.convert(pp.fuse(path, POST), precision="f16")
    constants = island_constants(artifact.network, artifact.provenance.prefix)
    assert any("/tail/" in name for name in constants)
    assert set(constants.values()) == {"f32"}
    assert artifact.provenance.replaced is None
    session = artifact.session(precision="bf16")
    assert set(session.island.values()) == {"f32"}


def test_names_that_post_processing_needs(tmp_path: Path) -> None:
    """A value that a rewrite removes may have the name of an output."""
    model = blur(["N", 1, 96, 96])
    for node in model.graph.node:
        for field in (node.input, node.output):
            field[:] = ["pred_mask" if name == "padded" else name for name in field]
    onnx.save(model, tmp_path / "raw.onnx")
    fused = pp.fuse(tmp_path / "raw.onnx", POST)
    assert fused.provenance.tail
    again = pp.strip(fused.save(tmp_path / "fused.onnx")).save(tmp_path / "again.onnx")
    assert again.read_bytes() == (tmp_path / "raw.onnx").read_bytes()


def test_fusing_again_takes_the_old_rewrites_out(tmp_path: Path) -> None:
    path = TAILS[0]
    once = pp.fuse(path, POST).save(tmp_path / "once.onnx")
    twice = pp.fuse(once, POST, replace=True)
    assert twice.provenance.tail == pp.FusedModel.load(once).provenance.tail
    assert pp.strip(twice).save(tmp_path / "again.onnx").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("copy", [False, True])
def test_external_weights_survive(tmp_path: Path, copy: bool) -> None:
    model = onnx.load(next(path for path in TAILS if path.stem == "selected_channels"))
    (tmp_path / "a").mkdir()
    raw = tmp_path / "a" / "raw.onnx"
    onnx.save(model, raw, save_as_external_data=True, location="raw.data", size_threshold=128)
    fused = pp.fuse(raw, POST).save(tmp_path / ("b" if copy else "a") / "fused.onnx", copy_weights=copy)
    again = pp.strip(fused).save(fused.with_name("again.onnx"))
    if not copy:
        assert again.read_bytes() == raw.read_bytes()
    expected, found = run(str(raw), {"input": IMAGES}), run(str(again), {"input": IMAGES})
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert pp.verify(raw, fused, IMAGES).passed


def test_damaged_record_is_refused() -> None:
    fused = pp.fuse(TAILS[0], POST)
    proto = fused.to_proto()
    entry = next(each for each in proto.metadata_props if each.key == "pp_graph")
    assert fused.provenance.replaced is not None
    text = entry.value
    entry.value = text.replace(fused.provenance.replaced.graph[:40], "A" * 40)
    with pytest.raises(pp.PPGraphError, match="cannot be read back"):
        pp.strip(proto)
    bomb = base64.b64encode(zlib.compress(bytes(1 << 27), 9)).decode()
    entry.value = text.replace(fused.provenance.replaced.graph, bomb)
    with pytest.raises(pp.PPGraphError, match="cannot be read back: .* bytes hold more than 67,108,864"):
        pp.strip(proto)


def test_inspection_shows_the_tail() -> None:
    found = pp.inspect(TAILS[0], tail=True)
    assert found.tail is not None
    fused = pp.fuse(TAILS[0], POST).provenance.tail
    assert [(each.rule, each.what) for each in found.tail.rewrites] == [(each.rule, each.what) for each in fused]
    assert found.to_dict()["tail"]["rewrites"][0]["rule"] == "separable linear collapse"
    assert pp.inspect(TAILS[0]).tail is None


def tail_behind(first: list[onnx.NodeProto], last: str, constants: dict, shape, **kwargs) -> onnx.ModelProto:
    """Append a resize by 8 and a blur to some operators."""
    nodes = [
        *first,
        helper.make_node("Resize", [last, "", "by8"], ["large"], mode="linear"),
        helper.make_node("Pad", ["large", "pads"], ["padded"], mode="reflect"),
        helper.make_node("Conv", ["padded", "kernel"], ["heat"]),
    ]
    more = {
        "by8": np.array([1, 1, 8, 8], np.float32),
        "pads": np.array([0, 0, 10, 10, 0, 0, 10, 10], np.int64),
        "kernel": gaussian(21),
    }
    return model_of(nodes, {**more, **constants}, shape, **kwargs)


def assert_unchanged(model: onnx.ModelProto, *feeds: dict[str, np.ndarray]) -> RewrittenTail:
    raw, rewritten = rewrite(model)
    for each in feeds:
        expected, found = run(model, each)["heat"], run(raw.to_proto(), each)["heat"]
        assert found.shape == expected.shape
        assert_close(found, expected)
    return rewritten


def random(*shape: int, offset: float = 0.0) -> np.ndarray:
    return np.random.default_rng(0).normal(offset, 1, shape).astype(np.float32)


@pytest.mark.parametrize(
    ("node", "constants", "side"),
    [
        (
            helper.make_node("Resize", ["x", "", "s"], ["y"], mode="nearest"),
            {"s": np.array([1, 1, 1.3, 1.3], np.float32)},
            10,
        ),
        (
            helper.make_node(
                "MaxPool", ["x"], ["y"], kernel_shape=[2, 2], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1
            ),
            {},
            13,
        ),
    ],
    ids=["resize", "pool"],
)
def test_sizes_that_runtimes_round_otherwise_are_not_relied_on(node, constants, side) -> None:
    """onnx infers one size, and onnxruntime computes another."""
    relu = helper.make_node("Relu", ["y"], ["z"])
    assert_unchanged(tail_behind([node, relu], "z", constants, ["N", 1, side, side]), {"x": random(2, 1, side, side)})


def test_defaults_that_a_caller_may_override_prove_nothing() -> None:
    model = tail_behind(
        [
            helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], mode="linear"),
            helper.make_node("Relu", ["y"], ["z"]),
        ],
        "z",
        {"sizes": np.array([1, 1, 16, 16])},
        [1, 1, 8, 8],
    )
    model.graph.input.append(helper.make_tensor_value_info("sizes", TensorProto.INT64, [4]))
    x = random(1, 1, 8, 8)
    assert_unchanged(model, {"x": x}, {"x": x, "sizes": np.array([1, 1, 24, 20])})


@pytest.mark.parametrize("overridable", ["ends", "steps"])
def test_cuts_that_a_caller_may_override(overridable: str) -> None:
    model = tail_behind(
        [helper.make_node("Slice", ["x", "starts", "ends", "axes", "steps"], ["y"])],
        "y",
        {"starts": np.array([0, 0]), "ends": np.array([12, 12]), "axes": np.array([2, 3]), "steps": np.array([1, 1])},
        [1, 1, 16, 16],
    )
    model.graph.input.append(helper.make_tensor_value_info(overridable, TensorProto.INT64, [2]))
    other = {"ends": np.array([16, 14]), "steps": np.array([2, 2])}[overridable]
    assert_unchanged(model, {"x": random(1, 1, 16, 16)}, {"x": random(1, 1, 16, 16), overridable: other})


def test_a_constant_may_widen_the_batch() -> None:
    model = tail_behind(
        [
            helper.make_node("Resize", ["x", "", "by2"], ["y"], mode="linear"),
            helper.make_node("Add", ["y", "c"], ["z"]),
        ],
        "z",
        {"c": np.full((2, 1, 1, 1), 0.5, np.float32), "by2": np.array([1, 1, 2, 2], np.float32)},
        ["N", 1, 8, 8],
    )
    assert_unchanged(model, {"x": random(1, 1, 8, 8)}, {"x": random(2, 1, 8, 8)})


@pytest.mark.parametrize("number", [1000.0, 20.0])
def test_what_cancels_keeps_its_digits(number: float) -> None:
    """Subtracting after the products instead of before them would lose the remaining digits."""
    nodes = [
        helper.make_node("Resize", ["x", "", "by2"], ["y"], mode="linear"),
        helper.make_node("Sub", ["y", "c"], ["z"]),
    ]
    model = tail_behind(
        nodes, "z", {"c": np.float32(number), "by2": np.array([1, 1, 2, 2], np.float32)}, ["N", 1, 8, 8]
    )
    x = (number + np.random.default_rng(0).random((2, 1, 8, 8)) / 10).astype(np.float32)
    raw, _ = rewrite(model)
    expected, found = run(model, {"x": x})["heat"], run(raw.to_proto(), {"x": x})["heat"]
    # Results may differ by the rounding of float32 numbers of this size.
    assert np.abs(found - expected).max() <= 2 * np.spacing(np.float32(number))


def test_several_channels_behind_an_open_batch_run_in_openvino() -> None:
    nodes = [
        helper.make_node("Resize", ["x", "", "by16"], ["y"], mode="linear"),
        helper.make_node("Relu", ["y"], ["z"]),
        helper.make_node("Sub", ["z", "channel"], ["v"]),
        helper.make_node("ReduceMean", ["v"], ["heat"], axes=[1]),
    ]
    constants = {
        "by16": np.array([1, 1, 16, 16], np.float32),
        "channel": np.array([[[0.1]], [[0.2]], [[0.3]]], np.float32),
    }
    for batch in ("N", 2):
        model = model_of(nodes, constants, [batch, 3, 16, 16])
        raw, _ = rewrite(model)
        assert_close(
            run_openvino(raw.to_proto(), {"x": random(2, 3, 16, 16)})["heat"],
            run(model, {"x": random(2, 3, 16, 16)})["heat"],
        )


def test_a_kernel_that_is_not_finite() -> None:
    model = blur(["N", 1, 96, 96])
    kernel = gaussian(21)
    kernel[0, 0, 0, 0] = np.nan
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(kernel, "kernel"))
    _, rewritten = rewrite(model)
    assert any("not finite" in miss.why for _, miss in rewritten.missed)


def test_a_chain_may_end_in_a_size_that_runtimes_round() -> None:
    nodes = [
        helper.make_node("Resize", ["x", "", "by8"], ["y"], mode="linear"),
        helper.make_node("AveragePool", ["y"], ["heat"], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    ]
    model = model_of(nodes, {"by8": np.array([1, 1, 8, 8], np.float32)}, ["N", 1, 16, 16])
    rewritten = assert_unchanged(model, {"x": random(2, 1, 16, 16)})
    assert any("depends on how a runtime rounds" in miss.why for _, miss in rewritten.missed)


def test_what_reaches_no_output_is_left_alone() -> None:
    model = blur(["N", 1, 96, 96])
    model.graph.node.append(helper.make_node("Resize", ["x", "", "by4"], ["dead"], mode="linear"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 1, 4, 4], np.float32), "by4"))
    fused = pp.fuse(model, POST)
    assert [record.target for record in fused.provenance.tail] == ["heat"]
    pp.convert(fused)


def test_a_rewrite_of_what_another_rewrite_reads() -> None:
    first = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT), helper.make_node("Relu", ["y"], ["z"])]
    model = tail_behind(first, "z", {}, ["N", 1, 16, 16])
    fused = pp.fuse(model, POST)
    assert {record.rule for record in fused.provenance.tail} == {"separable linear collapse", "exporter leftovers"}
    assert all(name for record in fused.provenance.tail for name in record.reads)
    assert pp.verify(model_to_raw(model), pp.convert(fused), {"x": random(2, 1, 16, 16)}).passed


def model_to_raw(model: onnx.ModelProto) -> pp.RawModel:
    return pp.RawModel.open(model)


@pytest.mark.sample(every=3)
@pytest.mark.parametrize("outputs", [("pred_label",), ("pred_mask",), ("pred_score", "pred_mask"), ("anomaly_map",)])
@pytest.mark.parametrize("keep_raw", [False, True])
def test_only_what_is_asked_for(tmp_path: Path, outputs: tuple[str, ...], keep_raw: bool) -> None:
    """Only steps that the outputs need are written, decisions are the same, and strip restores the file."""
    path = next(path for path in TAILS if path.stem == "blurred_bilinear")
    whole = run(pp.fuse(path, POST), {"input": IMAGES})
    post = pp.OneClassPostProcessor(STATS, outputs=outputs)
    fused = pp.fuse(path, post, keep_raw=keep_raw)
    assert fused.output_names[: len(outputs)] == outputs
    written = {
        node.name.split("/")[1] for node in fused.network.model.graph if (node.name or "").startswith("pp_graph/")
    }
    assert written - {"tail"} == set(outputs)
    found = run(fused, {"input": IMAGES})
    assert all(np.array_equal(found[name], whole[name]) for name in outputs)
    assert pp.verify(path, pp.convert(fused), IMAGES).passed
    assert pp.verify(path, fused, IMAGES).passed
    again = pp.strip(fused.save(tmp_path / "fused.onnx")).save(tmp_path / "again.onnx")
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"outputs": ("mask",)}, "outputs holds 'mask', expected some of: pred_score"),
        ({"outputs": ()}, "outputs holds 'nothing'"),
        ({"outputs": ("pred_mask",), "threshold": False}, "threshold=False writes none of these"),
    ],
)
def test_outputs_that_make_no_sense(settings: dict, message: str) -> None:
    with pytest.raises(pp.PPGraphError, match=message):
        pp.OneClassPostProcessor(STATS, **settings)


def test_a_mask_needs_a_map() -> None:
    from tests.models import identity_model

    with pytest.raises(pp.PPGraphError, match="the raw model has no map to compute it from"):
        pp.fuse(identity_model({"score": ["N", 1]}), pp.OneClassPostProcessor(STATS, outputs=("pred_mask",)))
