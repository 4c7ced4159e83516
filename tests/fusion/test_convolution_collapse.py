"""What is linear in the channels of feature maps becomes convolutions, with the same results in both runtimes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import pp_graph as pp
from pp_graph.fusion.tail import RewrittenTail, rewrite_tail
from pp_graph.fusion.tail.convolution_collapse import ConvolutionCollapse
from pp_graph.fusion.tail.rule import Miss
from pp_graph.fusion.tail.view import GraphView
from pp_graph.model import NameScope
from tests.conftest import examples
from tests.models import STATS, run, run_openvino

CHANNELS = 4


@dataclass
class Chain:
    """Writes operators that exporters write, on maps of some batch."""

    batch: int | str
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    inputs: dict[str, tuple[int, int, int]] = field(default_factory=dict)

    def map(self, channels: int, height: int, width: int) -> str:
        name = f"x{len(self.inputs)}"
        self.inputs[name] = (channels, height, width)
        return name

    def add(self, kind: str, *inputs: str | np.ndarray, **attributes: Any) -> str:
        names = []
        for each in inputs:
            name = each if isinstance(each, str) else f"c{len(self.constants)}"
            if not isinstance(each, str):
                self.constants[name] = each
            names.append(name)
        self.nodes.append(helper.make_node(kind, names, [f"v{len(self.nodes)}"], **attributes))
        return self.nodes[-1].output[0]

    def reshape(self, value: str, *sizes: int) -> str:
        return self.add("Reshape", value, np.array(sizes, np.int64))

    def random(self, *shape: int) -> np.ndarray:
        return self.rng.normal(size=shape).astype(np.float32)

    def pad(self, value: str, places: int) -> str:
        return self.add("Pad", value, np.array([0, 0, places, places] * 2, np.int64))

    def unfold(self, value: str, sizes: tuple[int, int], kernel: int, stride: int = 1, dilation: int = 1, pad: int = 1):
        """Write `torch.nn.Unfold` as torch's exporters do; returns (N, C, kernel, kernel, H, W) and its sizes."""
        value = self.pad(value, pad)
        index = []
        for size in sizes:
            count = (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
            index.append(dilation * np.arange(kernel)[:, None] + stride * np.arange(count))
        value = self.add("Gather", self.add("Gather", value, index[0], axis=2), index[1], axis=4)
        value = self.add("Transpose", value, perm=[0, 1, 2, 4, 3, 5])
        return value, (index[0].shape[1], index[1].shape[1])

    def shifted(self, value: str, sizes: tuple[int, int], kernel: int):
        """Write a stack of shifted maps, (N, kernel * kernel * C, H, W)."""
        value = self.pad(value, kernel // 2)
        parts = []
        for row in range(kernel):
            for column in range(kernel):
                bounds = [np.array([row, column]), np.array([row + sizes[0], column + sizes[1]]), np.array([2, 3])]
                parts.append(self.add("Slice", value, *bounds))
        return self.add("Concat", *parts, axis=1)

    def resize(self, value: str, sizes: tuple[int, int], mode: str = "linear") -> str:
        kept = self.add("Slice", self.add("Shape", value), np.array([0]), np.array([2]), np.array([0]))
        wanted = self.add("Concat", kept, np.array(sizes), axis=0)
        return self.add("Resize", value, "", "", wanted, mode=mode, coordinate_transformation_mode="half_pixel")

    def model(self, value: str, shape: list[int | str], opset: int = 18) -> onnx.ModelProto:
        self.nodes[-1].output[0] = "out"
        graph = helper.make_graph(
            self.nodes,
            "raw",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, [self.batch, *sizes])
             for name, sizes in self.inputs.items()],
            [helper.make_tensor_value_info("out", TensorProto.FLOAT, shape)],
            [numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )  # fmt: skip
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)

    def feeds(self, batch: int = 2) -> dict[str, np.ndarray]:
        count = self.batch if isinstance(self.batch, int) else batch
        return {name: self.random(count, *sizes) for name, sizes in self.inputs.items()}


def rewrite(model: onnx.ModelProto) -> tuple[onnx.ModelProto, RewrittenTail]:
    raw = pp.RawModel.open(model)
    rewritten = rewrite_tail(raw, [ConvolutionCollapse()], NameScope(raw.model.graph), "pp_graph")
    return raw.to_proto(), rewritten


def misses(model: onnx.ModelProto) -> list[str]:
    found = ConvolutionCollapse().find(GraphView(pp.RawModel.open(model).model))
    return [each.why for each in found if isinstance(each, Miss)]


def assert_same(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> onnx.ModelProto:
    """Rewrite a model, and compare its results in both runtimes. Returns the rewritten model."""
    found, rewritten = rewrite(model)
    onnx.checker.check_model(found, full_check=True)
    assert [rule.name for rule, _, _ in rewritten.applied] == ["convolution collapse"], rewritten.missed
    expected = run(model, feeds)["out"]
    for result in (run(found, feeds)["out"], run_openvino(found, feeds)["out"]):
        assert result.shape == expected.shape
        assert np.abs(result - expected).max() <= 1e-5 * np.abs(expected).max()
    return found


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@st.composite
def chains(draw: st.DrawFn) -> tuple[Chain, str, list[int | str]]:
    """Draw patches of one or two maps, resized to a grid, changed along their features, joined and projected."""
    chain = Chain(draw(st.sampled_from([1, 2, "N"])))
    grid, joined, counts = None, [], []
    for _ in range(draw(st.integers(1, 2))):
        channels, sizes = draw(st.integers(1, 5)), (draw(st.integers(5, 8)), draw(st.integers(5, 8)))
        value = chain.map(channels, *sizes)
        if draw(st.booleans()):
            value = chain.add("AveragePool", value, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)
        how = draw(st.sampled_from(["none", "unfold", "shifted"]))
        features = channels
        if how == "unfold":
            kernel, stride, dilation = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 2))
            value, sizes = chain.unfold(value, sizes, kernel, stride, dilation, draw(st.integers(0, 2)))
            features *= kernel * kernel
            value = chain.reshape(value, -1, features, sizes[0] * sizes[1])
        elif how == "shifted":
            value, features = chain.shifted(value, sizes, 3), 9 * channels
        # Shape inference does not know the size of places if two sizes of a Reshape are open.
        grid = grid or sizes
        if sizes != grid:
            folded = draw(st.booleans())
            value = chain.reshape(value, *((-1, 1) if folded else (-1, features)), *sizes)
            value = chain.resize(value, grid, draw(st.sampled_from(["linear", "nearest"])))
        value = chain.reshape(value, -1, features, grid[0] * grid[1])
        value = chain.reshape(chain.add("Transpose", value, perm=[0, 2, 1]), -1, 1, features)
        for kind in draw(st.lists(st.sampled_from(["Gather", "Mul", "Sum", "Pool", "MatMul", "Slice"]), max_size=3)):
            if kind == "Gather":
                index = chain.rng.integers(-features, features, draw(st.integers(1, 12)))
                value, features = chain.add("Gather", value, index, axis=2), len(index)
            elif kind == "Mul":
                value = chain.add(draw(st.sampled_from(["Mul", "Div"])), value, chain.random(features) + 3)
            elif kind == "Sum" and features % 2 == 0:
                axis = draw(st.integers(1, 2))
                value = chain.reshape(value, -1, 2, features // 2)
                value = chain.add(
                    draw(st.sampled_from(["ReduceSum", "ReduceMean"])), value, np.array([axis]), keepdims=0
                )
                features = features // 2 if axis == 1 else 2
                value = chain.reshape(value, -1, 1, features)
            elif kind == "Pool" and features > 3:
                value, features = (
                    chain.add("AveragePool", value, kernel_shape=[3], strides=[2]),
                    (features - 3) // 2 + 1,
                )
            elif kind == "MatMul":
                count = draw(st.integers(1, 7))
                value, features = chain.add("MatMul", value, chain.random(features, count)), count
            elif kind == "Slice" and features > 2:
                value = chain.add("Slice", value, np.array([1]), np.array([2**31]), np.array([-1]))
                features -= 1
        joined.append(value)
        counts.append(features)
    value, features = joined[0], sum(counts)
    if len(joined) > 1:
        value = chain.add("Concat", *joined, axis=2)
    outputs = draw(st.integers(1, 5))
    value = chain.add("MatMul", chain.reshape(value, -1, features), chain.random(features, outputs))
    value = chain.reshape(value, -1, *grid, outputs)
    if draw(st.booleans()):
        value = chain.add("Transpose", value, perm=[0, 3, 1, 2])
    return chain, value, [chain.batch, None, None, None]


@examples(10)
@given(chains())
def test_random_chains(drawn: tuple[Chain, str, list[int | str]]) -> None:
    chain, value, shape = drawn
    model = chain.model(value, shape)
    _, rewritten = rewrite(model)
    if rewritten.applied:
        assert_same(model, chain.feeds())
    assert all("µs" in miss.why or "cannot come first" in miss.why for _, miss in rewritten.missed), rewritten.missed


def pooled_patches(batch: int | str, channels: int, outputs: int, side: int = 16) -> tuple[Chain, str]:
    """Average each channel's patch of 3×3 with a flattened axis of channels and offsets, and project."""
    chain = Chain(batch)
    value, _ = chain.unfold(chain.map(channels, side, side), (side, side), 3)
    value = chain.add("Transpose", chain.reshape(value, -1, 9 * channels, side * side), perm=[0, 2, 1])
    value = chain.add("AveragePool", chain.reshape(value, -1, 1, 9 * channels), kernel_shape=[9], strides=[9])
    value = chain.add("MatMul", chain.reshape(value, -1, channels), chain.random(channels, outputs))
    return chain, value


@pytest.mark.parametrize("batch", [1, 2, "N"])
def test_unfolded_maps_of_two_sizes(batch: int | str) -> None:
    """The second map's patches are upsampled plane by plane, all features at once."""
    chain = Chain(batch)
    first, sizes = chain.unfold(chain.map(6, 12, 10), (12, 10), 3)
    first = chain.reshape(first, -1, 54, 120)
    second, small = chain.unfold(chain.map(8, 6, 5), (6, 5), 3)
    second = chain.resize(chain.reshape(chain.reshape(second, -1, 72, 30), -1, 1, *small), sizes)
    second = chain.reshape(second, -1, 72, 120)
    joined = chain.add("Transpose", chain.add("Concat", first, second, axis=1), perm=[0, 2, 1])
    index = chain.rng.integers(0, 126, 80)
    chosen = chain.reshape(chain.add("Gather", joined, index, axis=2), -1, 40, 2)
    summed = chain.add("ReduceSum", chain.add("Mul", chosen, chain.random(40, 2)), np.array([2]), keepdims=0)
    value = chain.add("MatMul", summed, chain.random(40, 7))
    found = operators(assert_same(chain.model(value, [None, 7]), chain.feeds(3)))
    assert found.count("Conv") == 2
    assert found.count("Resize") == 1
    assert not {"Gather", "Pad", "MatMul", "Mul", "ReduceSum"} & set(found)


def test_weights_of_rank_one_are_split() -> None:
    chain, value = pooled_patches("N", 256, 64)
    found = assert_same(chain.model(value, [None, 64]), chain.feeds())
    kernels = [tuple(each.dims) for each in found.graph.initializer if len(each.dims) == 4]
    assert sorted(kernels) == [(64, 256, 1, 1), (256, 1, 3, 3)]


def test_the_product_of_channels_first() -> None:
    chain = Chain("N")
    value, _ = chain.unfold(chain.map(4, 9, 9), (9, 9), 2, stride=2, dilation=3, pad=0)
    value = chain.add("MatMul", chain.random(5, 16), chain.reshape(value, -1, 16, 9))
    found = assert_same(chain.model(chain.reshape(value, -1, 5, 3, 3), ["N", 5, 3, 3]), chain.feeds())
    assert operators(found) == ["Conv"]


def test_weights_that_take_too_much_memory() -> None:
    chain, value = pooled_patches("N", 700, 700, side=4)
    reason = "the convolutions would have 4,410,000 weights, expected at most 4,194,304"
    assert set(misses(chain.model(value, [None, 700]))) == {reason}


def test_what_is_not_the_same_at_all_places_stays() -> None:
    chain = Chain("N")
    value, _ = chain.unfold(chain.map(4, 8, 8), (8, 8), 3)
    value = chain.add("Mul", chain.reshape(value, -1, 36, 64), chain.random(64))
    value = chain.add("MatMul", chain.random(5, 36), value)
    model = chain.model(value, [None, 5, 64])
    assert not rewrite(model)[1].applied


def test_zeros_around_a_pooled_map_are_not_pooled() -> None:
    """Padding comes after the average, so the convolution reads the average."""
    chain = Chain(2)
    value = chain.add("AveragePool", chain.map(3, 8, 8), kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    value, _ = chain.unfold(value, (8, 8), 3)
    value = chain.add("MatMul", chain.random(5, 27), chain.reshape(value, -1, 27, 64))
    found = operators(assert_same(chain.model(value, [None, 5, 64]), chain.feeds()))
    assert found[0] == "AveragePool"


def test_a_projection_to_more_channels_comes_after_the_upsampling() -> None:
    chain = Chain(2)
    value = chain.resize(chain.map(2, 16, 16), (64, 64))
    value = chain.add("Transpose", chain.reshape(value, -1, 2, 64 * 64), perm=[0, 2, 1])
    value = chain.add("MatMul", value, chain.random(2, 256))
    found, _ = rewrite(chain.model(value, [None, 64 * 64, 256]))
    later = operators(found)
    assert "Conv" not in later[: later.index("Resize")]


def test_a_mean_of_channels_is_no_convolution() -> None:
    chain = Chain(2)
    value = chain.add("ReduceMean", chain.map(64, 32, 32), np.array([1]))
    assert not rewrite(chain.model(value, [2, 1, 32, 32]))[1].applied


def test_int8_keeps_projections_in_float32() -> None:
    pytest.importorskip("nncf")
    chain = Chain(1)
    image = chain.map(3, 32, 32)
    value = chain.add("Relu", chain.add("Conv", image, chain.random(16, 3, 3, 3), pads=[1, 1, 1, 1]))
    value, _ = chain.unfold(value, (32, 32), 3)
    value = chain.add("Transpose", chain.reshape(value, -1, 144, 1024), perm=[0, 2, 1])
    value = chain.add("MatMul", chain.add("MatMul", value, chain.random(144, 12)), chain.random(12, 50))
    value = chain.add("ReduceMin", value, np.array([2]), keepdims=0)
    chain.reshape(value, -1, 1, 32, 32)
    model = chain.model(chain.nodes[-1].output[0], [1, 1, 32, 32])
    fused = pp.fuse(model, pp.OneClassPostProcessor(STATS))
    assert "convolution collapse" in {record.rule for record in fused.provenance.tail}
    images = chain.random(2, 3, 32, 32)
    artifact = pp.convert(fused, precision="int8", quantization=pp.Quantization(images))
    assert artifact.conversion["quantization"]["layers"] == "1 of 1 in int8"
