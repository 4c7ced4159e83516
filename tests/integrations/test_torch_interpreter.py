"""The fused graph of each step, run in torch, computes the same as its reference."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="torch is not installed; it is optional")

import pp_graph as pp  # noqa: E402
from pp_graph.errors import TargetError  # noqa: E402
from pp_graph.integrations.torch.interpreter import OPSET, TorchGraph  # noqa: E402
from pp_graph.steps import STEPS, Step  # noqa: E402
from tests.conftest import examples  # noqa: E402
from tests.models import run  # noqa: E402
from tests.steps import steps_detection, test_mask_steps, test_steps  # noqa: E402
from tests.steps.steps_classes import ELSEWHERE  # noqa: E402
from tests.steps.steps_detection import DETECTION_STEPS  # noqa: E402
from tests.steps.steps_masks import MASK_STEPS, OPEN_SIZES, mask_inputs  # noqa: E402


def torch_graph(step: Step, shape: tuple[int, ...]) -> TorchGraph:
    return TorchGraph(ir.from_proto(test_steps.emit(step, shape, OPSET, ir_version=8)).graph)


def test_every_step_is_tested() -> None:
    assert set(test_steps.STRATEGIES) | set(MASK_STEPS) | ELSEWHERE | set(DETECTION_STEPS) == set(STEPS)


@pytest.mark.parametrize("kind", MASK_STEPS, ids=lambda kind: kind.__name__)
def test_torch_decides_about_masks_as_the_reference_does(kind: type[Step]) -> None:
    rng = np.random.default_rng(0)
    for axes in OPEN_SIZES:
        for fields in MASK_STEPS[kind]:
            step = kind(source="a", target="t", axes=axes, **fields)
            inputs = mask_inputs(step, rng.random((3, 19, 23)) < 0.4, rng)
            graph = TorchGraph(ir.from_proto(test_mask_steps.graph_of(step, OPSET)).graph)
            names = [value.name for value in test_mask_steps.graph_of(step, OPSET).graph.input]
            found = graph({name: torch.from_numpy(array) for name, array in zip(names, inputs, strict=True)})
            assert np.array_equal(next(iter(found.values())).numpy(), step.reference(*inputs))


@pytest.mark.hypothesis
@pytest.mark.parametrize("kind", DETECTION_STEPS, ids=lambda kind: kind.__name__)
def test_torch_finds_boxes_as_the_reference_does(kind: type[Step]) -> None:
    @examples(4)
    @given(st.data(), st.integers(0, 2**32 - 1))
    def check(data: st.DataObject, seed: int) -> None:
        step, arrays = DETECTION_STEPS[kind](data, np.random.default_rng(seed))
        graph = TorchGraph(ir.from_proto(steps_detection.emit(step, arrays, OPSET)).graph)
        found = graph({f"x{place}": torch.from_numpy(array) for place, array in enumerate(arrays)})["y"].numpy()
        steps_detection.assert_agrees(step, arrays, found)

    check()


@pytest.mark.hypothesis
@pytest.mark.parametrize("kind", test_steps.STRATEGIES, ids=lambda kind: kind.__name__)
def test_torch_computes_what_the_reference_does(kind: type[Step]) -> None:
    @examples(9)
    @given(test_steps.STRATEGIES[kind], st.integers(0, 2**32 - 1))
    def check(step: Step, seed: int) -> None:
        x = test_steps.inputs_of(step, np.random.default_rng(seed))
        found = torch_graph(step, x.shape)({"x": torch.from_numpy(x)})["y"].numpy()
        # Only decisions of a monotone step must be exact, but plain float32 arithmetic is exact here as well.
        assert test_steps.same(found, step.reference(x), exact=kind.exact or kind is test_steps.MinMaxNormalize)

    check()


F32 = np.float32
RNG = np.random.default_rng(0)
MAP = RNG.normal(0, 3, (2, 1, 5, 6)).astype(F32)
HOLED = np.where(RNG.random(MAP.shape) < 0.1, F32(np.nan), MAP)
HEAD = f'<ir_version: 9, opset_import: ["": {OPSET}]> g (float[N,1,H,W] x) => (y)'

OPERATORS = {
    "shape arithmetic": """{
        s = Shape(x)
        n = Slice(s, zero, one, zero)
        hw = Constant<value_ints=[1, 30]>()
        wanted = Concat<axis=0>(n, hw)
        y = Reshape(x, wanted)
    }""",
    "shape from the end": """{
        s = Shape<start=2>(x)
        h = Gather<axis=0>(s, first)
        w = Gather<axis=0>(s, second)
        hw = Mul(h, w)
        axis = Constant<value_ints=[0]>()
        flat = Unsqueeze(hw, axis)
        rest = Constant<value_ints=[-1]>()
        wanted = Concat<axis=0>(rest, flat)
        y = Reshape(x, wanted)
    }""",
    "unary": """{
        a = Abs(x)
        b = Sqrt(a)
        c = Exp(b)
        d = Log(c)
        e = Sigmoid(d)
        f = Erf(e)
        g = Tanh(f)
        h = Neg(g)
        i = Reciprocal(h)
        j = Softplus(i)
        y = Relu(j)
    }""",
    "rounding": """{
        a = Floor(x)
        b = Ceil(x)
        c = Round(x)
        d = Sign(x)
        y = Sum(a, b, c, d)
    }""",
    "max and min": "{ a = Max(x, half) \n b = Min(a, x) \n y = Pow(b, two) }",
    "mod": "{ a = Mod<fmod=1>(x, two) \n y = Div(a, two) }",
    "comparisons": """{
        a = Greater(x, half)
        b = GreaterOrEqual(x, half)
        c = LessOrEqual(x, half)
        d = Equal(x, half)
        e = IsInf<detect_negative=0>(x)
        f = Or(c, d)
        g = Xor(a, f)
        h = And(g, b)
        i = Or(h, e)
        y = Cast<to=1>(i)
    }""",
    "softmax": "{ y = Softmax<axis=3>(x) }",
    "mean": "{ axes = Constant<value_ints=[2, 3]>() \n y = ReduceMean<keepdims=0>(x, axes) }",
    "min": "{ axes = Constant<value_ints=[-1]>() \n y = ReduceMin(x, axes) }",
    "sum of all": "{ y = ReduceSum<keepdims=0>(x) }",
    "cumulative": "{ axis = Constant<value_int=2>() \n y = CumSum<reverse=1, exclusive=1>(x, axis) }",
    "top values": """{
        k = Constant<value_ints=[3]>()
        v, i = TopK<axis=3>(x, k)
        y = Identity(v)
    }""",
    "top places": """{
        k = Constant<value_ints=[3]>()
        v, i = TopK<axis=3, largest=0>(x, k)
        y = GatherElements<axis=3>(x, i)
    }""",
    "argmax": "{ a = ArgMax<axis=3, keepdims=0>(x) \n y = Cast<to=1>(a) }",
    "pool": "{ y = MaxPool<kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[1, 1]>(x) }",
    "lopsided pool": "{ y = MaxPool<kernel_shape=[2, 3], pads=[1, 0, 0, 2], strides=[2, 1]>(x) }",
    "wide pool": "{ y = MaxPool<kernel_shape=[3, 3], pads=[2, 2, 2, 2]>(x) }",
    "average": "{ y = AveragePool<kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1>(x) }",
    "convolution": "{ y = Conv<pads=[1, 0, 2, 1], dilations=[1, 2]>(x, kernel) }",
    "constant pad": "{ p = Constant<value_ints=[0, 0, 1, 2, 0, 0, 3, 0]>() \n y = Pad(x, p, half) }",
    "reflection": """{ p = Constant<value_ints=[0, 0, 1, 2, 0, 0, 3, 0]>() \n y = Pad<mode="reflect">(x, p) }""",
    "edge": """{
        p = Constant<value_ints=[2, 1, 0, 3]>()
        axes = Constant<value_ints=[2, 3]>()
        none = Constant<value_float=0.0>()
        y = Pad<mode="edge">(x, p, none, axes)
    }""",
    "slices": """{
        starts = Constant<value_ints=[-1, 1]>()
        ends = Constant<value_ints=[-9223372036854775807, 5]>()
        axes = Constant<value_ints=[2, 3]>()
        steps = Constant<value_ints=[-2, 2]>()
        y = Slice(x, starts, ends, axes, steps)
    }""",
    "split": "{ n = Constant<value_ints=[2, 3]>() \n a, b = Split<axis=2>(x, n) \n y = Concat<axis=2>(b, a) }",
    "spread": """{
        axes = Constant<value_ints=[2, 3]>()
        m = ReduceMax(x, axes)
        s = Shape(x)
        e = Expand(m, s)
        ones = Constant<value_ints=[1, 1, 1, 1]>()
        y = Expand(e, ones)
    }""",
    "scatter": """{
        i = Constant<value=int64[2,1,1,2] {0, 4, -1, 1}>()
        u = Constant<value=float[2,1,1,2] {1, 2, 3, 4}>()
        a = ScatterElements<axis=3>(x, i, u)
        y = ScatterElements<axis=3, reduction="add">(a, i, u)
    }""",
    "filled": "{ s = Shape(x) \n z = ConstantOfShape<value=float[1] {2.5}>(s) \n y = Add(x, z) }",
    "nearest": """{
        n = Constant<value_floats=[1.0, 1.0, 2.0, 2.0]>()
        y = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">(x, , n)
    }""",
    "loop": """{
        n = Constant<value_int=4>()
        y = Loop(n, , x) <body = b (int64 i, bool go, float[N,1,H,W] m) => (bool more, float[N,1,H,W] out) {
            out = MaxPool<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(m)
            top = ReduceMax<keepdims=0>(out)
            more = Less(top, big)
        }>
    }""",
}
CONSTANTS = """<float half = {0.5}, float two = {2.0}, float big = {1e9}, int64[1] zero = {0}, int64[1] one = {1}, int64 first = {0},
    int64 second = {1}, float[1,1,3,2] kernel = {0.1, 0.2, -0.3, 0.4, 0.5, 0.6}>"""


# Runtimes disagree about NaN in the other operators, so steps remove it first.
TREAT_NAN_ALIKE = (
    "comparisons", "convolution", "constant pad", "cumulative", "edge", "mean", "reflection", "shape arithmetic", "slices",
    "split", "softmax", "sum of all",
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "x"),
    [*((name, MAP) for name in OPERATORS), *((name, HOLED) for name in TREAT_NAN_ALIKE)],
    ids=[*OPERATORS, *(f"{name} with NaN" for name in TREAT_NAN_ALIKE)],
)
def test_operators_compute_what_onnxruntime_does(name: str, x: np.ndarray) -> None:
    model = ir.from_onnx_text(f"{HEAD} {CONSTANTS} {OPERATORS[name]}")
    model.graph.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    expected = run(ir.to_proto(model), {"x": x})["y"]
    found = TorchGraph(model.graph)({"x": torch.from_numpy(x)})["y"].numpy()
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("{ y = Det(x) }", "operator Det is not implemented in torch"),
        ('{ y = Resize<mode="cubic">(x, , two4) }', "operator Resize uses mode cubic"),
        ('{ y = MaxPool<kernel_shape=[3, 3], auto_pad="SAME_UPPER">(x) }', "uses auto_pad SAME_UPPER"),
        ("{ y = Floor<axis=1>(x) }", "operator Floor has the attribute 'axis', expected only none, as of opset 18"),
    ],
)
def test_what_is_not_written_for_torch(body: str, message: str) -> None:
    model = ir.from_onnx_text(f"{HEAD} <float[4] two4 = {{1, 1, 2, 2}}> {body}")
    with pytest.raises(TargetError, match=message):
        TorchGraph(model.graph)({"x": torch.from_numpy(MAP)})


def test_a_missing_operator_is_named_with_its_step(monkeypatch: pytest.MonkeyPatch) -> None:
    from pp_graph.integrations.torch.interpreter import compile_post_processor, graph
    from pp_graph.postprocessors import ROLES
    from tests.models import STATS

    kept = {name: function for name, function in graph.OPERATORS.items() if name != "Less"}
    monkeypatch.setattr(graph, "OPERATORS", kept)
    program = pp.OneClassPostProcessor(STATS).bind(pp.Signature.of_shapes({"raw_score": (None,)}, ROLES))
    with pytest.raises(TargetError, match=r"Step 'pred_score', operator Less is not implemented.*torch\.export\(model"):
        compile_post_processor(program)
