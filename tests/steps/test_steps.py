"""The graph of each step computes the same as its reference, at every opset and in both runtimes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

import pp_graph.steps
from pp_graph.errors import OpsetError, PostProcessorError
from pp_graph.model import NameScope
from pp_graph.steps import (
    DECISION_VALUES,
    STEPS,
    Compare,
    DecidingStep,
    Emitter,
    EncodeDecision,
    Keep,
    MaxOverMap,
    MinMaxNormalize,
    MonotoneStep,
    ResizeMap,
    Step,
    find_cutoff,
    is_subnormal,
)
from tests.conftest import examples
from tests.models import run, run_openvino
from tests.steps.steps_classes import CLASS_INPUTS, CLASS_STRATEGIES, ELSEWHERE, TINY, promised
from tests.steps.steps_detection import DETECTION_STEPS
from tests.steps.steps_masks import MASK_STEPS
from tests.steps.steps_monotone import MONOTONE_STRATEGIES
from tests.steps.steps_spatial import SPATIAL_INPUTS, SPATIAL_STRATEGIES

OPSETS = (9, 11, 13, 17, 18, 21)
RUNTIMES = {"onnxruntime": run, "openvino": run_openvino}
F32 = np.float32
SPECIAL = np.array(
    [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-45, 1.1754942e-38, 3.4028235e38, -3.4028235e38, 1.0, -1.0], F32
)

numbers = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**60), max_value=2.0**60)
on_nan = st.sampled_from(["anomalous", "normal"])


@st.composite
def normalizers(draw: st.DrawFn) -> MinMaxNormalize:
    low, high = sorted((draw(numbers) + 0.0, draw(numbers) + 0.0))
    if draw(st.integers(0, 4)) == 0:
        high = low
    threshold = draw(st.one_of(numbers, st.floats(low + 0.0, high + 0.0, width=32)))
    return MinMaxNormalize("raw_score", "pred_score", threshold, low, high, draw(on_nan))


@st.composite
def compares(draw: st.DrawFn) -> Compare:
    normalizer = draw(st.none() | normalizers())
    level = draw(st.floats(0, 1, width=32) if normalizer else numbers | st.sampled_from(TINY))
    dtype = draw(st.sampled_from(list(DECISION_VALUES)))
    return Compare("raw_score", "pred_label", level, normalizer, draw(on_nan), dtype, draw(st.booleans()))


AXES = {"NHW": (3, 5, 6), "NCHW": (3, 1, 5, 6), "NHWC": (3, 5, 6, 1)}


STRATEGIES: dict[type[Step], st.SearchStrategy[Step]] = (
    {
        MinMaxNormalize: normalizers(),
        Compare: compares(),
        Keep: st.just(Keep("raw_score", "pred_score")),
        EncodeDecision: st.builds(
            EncodeDecision, st.just("above"), st.just("pred_mask"), st.sampled_from(["u8", "u8_255", "f32"])
        ),
        ResizeMap: st.builds(
            ResizeMap,
            st.just("raw_map"),
            st.just("resized_map"),
            st.integers(1, 17),
            st.integers(1, 17),
            st.sampled_from(list(AXES)),
        ),
        MaxOverMap: st.builds(MaxOverMap, st.just("raw_map"), st.just("raw_score"), st.sampled_from(list(AXES))),
    }
    | MONOTONE_STRATEGIES
    | SPATIAL_STRATEGIES
    | CLASS_STRATEGIES
)


def values_around(step: Step, rng: np.random.Generator) -> np.ndarray:
    """Numbers at which a step could fail: special ones, and the neighbours of its bends."""
    points: list[float] = []
    normalizer = step.normalizer if isinstance(step, Compare) else step
    if isinstance(normalizer, MinMaxNormalize):
        points += [normalizer.threshold, normalizer.minimum, normalizer.maximum, float(normalizer._saturation)]
    elif isinstance(normalizer, MonotoneStep) and normalizer.bends:
        points += [*normalizer.bends, *np.linspace(2 * min(normalizer.bends), 2 * max(normalizer.bends), 65)]
    if isinstance(step, Compare):
        points += [step.level] + ([float(step.cutoff)] if step.cutoff is not None else [])
    near = [F32(point) for point in points]
    near += [np.nextafter(point, F32(side)) for point in near for side in (-np.inf, np.inf)]
    wide = rng.normal(0, 1, 40) * 10.0 ** rng.uniform(-6, 6, 40)
    return np.concatenate([SPECIAL, np.array(near, F32), wide.astype(F32)]).astype(F32)


def emit(step: Step, shape: tuple[int, ...], opset: int, ir_version: int) -> onnx.ModelProto:
    reads = ir.DataType.FLOAT if "float32" in step.accepts[0].dtypes else ir.DataType.BOOL
    source = ir.Value(name="x", shape=ir.Shape(shape), type=ir.TensorType(reads))
    graph = ir.Graph([source], [], nodes=[], opset_imports={"": opset}, name="step")
    names = NameScope(graph)
    op = Emitter(graph, opset=opset, ir_version=ir_version, names=names, prefix="pp_graph")
    with op.scope(step.target):
        value = step.emit(op, source)
    graph.outputs.append(value)
    value.name = "y"
    proto = ir.to_proto(ir.Model(graph, ir_version=ir_version))
    onnx.checker.check_model(proto, full_check=True)
    return proto


def has_subnormals(step: Step) -> bool:
    """True if a constant of the graph is subnormal; cutoffs never are."""
    return isinstance(step, MinMaxNormalize) and bool(is_subnormal([step.threshold, step.range]).any())


def inputs_of(step: Step, rng: np.random.Generator) -> np.ndarray:
    if isinstance(step, EncodeDecision):
        return rng.random((3, 1, 4, 5)) < 0.5
    if type(step) in SPATIAL_INPUTS:
        return SPATIAL_INPUTS[type(step)](step, rng)
    if type(step) in CLASS_INPUTS:
        return CLASS_INPUTS[type(step)](step, rng)
    if isinstance(step, ResizeMap):
        return rng.normal(0, 3, AXES[step.axes]).astype(F32)
    if not isinstance(step, MaxOverMap):
        x = values_around(step, rng).reshape(-1, 1)
        return promised(step, x) if isinstance(step, DecidingStep) else x
    shape = {"NHW": (4, 5, 6), "NCHW": (4, 1, 5, 6), "NHWC": (4, 5, 6, 1)}[step.axes]
    x = rng.normal(0, 3, shape).astype(F32)
    x[1].ravel()[7] = np.nan
    x[2].ravel()[3] = np.inf
    x[3] = -np.inf
    return x


def same(found: np.ndarray, expected: np.ndarray, *, exact: bool) -> bool:
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    if exact:
        return np.array_equal(found, expected, equal_nan=found.dtype.kind == "f")
    scale = np.maximum(1, np.abs(np.nan_to_num(expected, nan=1, posinf=1, neginf=1)))
    both_nan = np.isnan(found) & np.isnan(expected)
    with np.errstate(invalid="ignore"):
        return bool(np.all((np.abs(found - expected) <= 5e-6 * scale) | (found == expected) | both_nan))


def test_every_step_is_tested() -> None:
    # The latter: test_mask_steps.py, test_detection_steps.py
    tested = set(STRATEGIES) | set(MASK_STEPS) | ELSEWHERE | set(DETECTION_STEPS)
    untested = sorted(kind.__name__ for kind in set(STEPS) - tested)
    assert not untested, f"{untested} have no parameters in STRATEGIES, or in a file that it is put together from"
    assert tested == set(STEPS)
    assert not {kind.__name__ for kind in STEPS} - set(pp_graph.steps.__all__)


@pytest.mark.sample(every=11)
@pytest.mark.hypothesis
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("kind", STRATEGIES, ids=lambda kind: kind.__name__)
def test_twins_agree(kind: type[Step], opset: int, runtime: str) -> None:
    execute: Callable[..., dict[str, np.ndarray]] = RUNTIMES[runtime]

    @examples(12 if runtime == "onnxruntime" else 6)
    @given(STRATEGIES[kind], st.integers(0, 2**32 - 1))
    def check(step: Step, seed: int) -> None:
        assume(runtime == "onnxruntime" or not has_subnormals(step))  # see docs/semantics.md
        if kind is ResizeMap and opset < 11:
            with pytest.raises(OpsetError, match=f"opset {opset}, expected 11 or later to resize"):
                emit(step, inputs_of(step, np.random.default_rng(seed)).shape, opset, ir_version=8)
            return
        x = inputs_of(step, np.random.default_rng(seed))
        model = emit(step, x.shape, opset, ir_version=3 if opset == 9 else 8)
        found = execute(model, {"x": x})["y"]
        expected = step.reference(x)
        if runtime == "openvino" and kind is MaxOverMap:
            expected = np.where(np.isneginf(expected), F32(-3.4028235e38), expected)  # see MaxOverMap.emit
        # OpenVINO divides by multiplying with the reciprocal; only decisions are promised to the bit.
        assert same(found, expected, exact=kind.exact and (runtime == "onnxruntime" or kind is not MinMaxNormalize))

    check()


@given(compares())
@example(Compare("raw_score", "pred_label", 0.5, MinMaxNormalize("raw_score", "pred_score", 0.0, 0.0, 0.0)))
@example(Compare("raw_score", "pred_label", 1.0, MinMaxNormalize("raw_score", "pred_score", 0.5, 0.0, 1.0)))
def test_cutoff_decides_as_the_arithmetic_does(step: Compare) -> None:
    x = values_around(step, np.random.default_rng(0))
    x = x[~np.isnan(x)]
    value = x if step.normalizer is None else step.normalizer.reference(x)
    by_arithmetic = value > F32(step.level)
    by_cutoff = np.zeros(x.shape, bool) if step.cutoff is None else ~(x < step.cutoff)
    assert np.array_equal(by_cutoff, by_arithmetic)


@given(st.floats(width=32, allow_nan=False))
def test_bisection_finds_any_float32(point: float) -> None:
    assert find_cutoff(lambda x: x >= F32(point)) == F32(point)


def test_bisection_at_the_ends() -> None:
    assert find_cutoff(lambda x: np.zeros(x.shape, bool)) is None
    assert find_cutoff(lambda x: np.ones(x.shape, bool)) == -np.inf
    assert find_cutoff(lambda x: x > F32(3.4028235e38)) == np.inf


@given(normalizers())
def test_normalizer_is_monotone_and_bounded(step: MinMaxNormalize) -> None:
    x = np.sort(values_around(step, np.random.default_rng(1)))
    y = step.reference(x[~np.isnan(x)])
    assert np.all(np.diff(y) >= 0)
    assert y.min() >= 0
    assert y.max() <= 1


def test_zero_range() -> None:
    step = MinMaxNormalize("raw_score", "pred_score", 2.0, 5.0, 5.0)
    assert step.reference(np.array([1.9, 2.0, 2.1, np.nan], F32)).tolist() == [0.0, 0.5, 1.0, 1.0]


def test_nan_counts_as_asked() -> None:
    nan = np.array([np.nan], F32)
    for choice, value in (("anomalous", 1.0), ("normal", 0.0)):
        normalizer = MinMaxNormalize("raw_score", "pred_score", 0.5, 0.0, 1.0, choice)
        assert normalizer.reference(nan)[0] == value
        for level in (0.0, 0.5, 1.0):
            step = Compare("raw_score", "pred_label", level, normalizer, choice)
            assert step.reference(nan)[0] == bool(value)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MinMaxNormalize("a", "b", float("nan"), 0, 1), "threshold of 'b' is nan"),
        (lambda: MinMaxNormalize("a", "b", 0, 2, 1), "minimum of 'b' is 2, expected at most the maximum, 1"),
        (lambda: MinMaxNormalize("a", "b", 0, -3e38, 3e38), "maximum - minimum of 'b' is inf"),
        (lambda: Compare("a", "b", float("inf")), "level of 'b' is inf"),
        (lambda: Compare("a", "b", 0, dtype="i8"), "dtype of 'b' is 'i8', expected one of: bool, u8, u8_255, f32"),
        (lambda: ResizeMap("a", "b", 0, 5), "height of 'b' is 0, expected a whole number from 1"),
    ],
)
def test_impossible_parameters(build: Callable[[], Step], message: str) -> None:
    with pytest.raises(PostProcessorError, match=message):
        build()


def test_opset_below_the_minimum() -> None:
    with pytest.raises(OpsetError, match="opset 8, expected 9 or later"):
        emit(Keep("raw_score", "pred_score"), (2, 1), 8, 3)


def test_constants_are_nodes_where_initializers_would_be_inputs() -> None:
    step = Compare("raw_score", "pred_label", 0.5)
    old, new = (emit(step, (2, 1), 9, ir_version) for ir_version in (3, 4))
    assert [node.op_type for node in old.graph.node] == ["Constant", "Less", "Not"]
    assert not old.graph.initializer
    assert [node.op_type for node in new.graph.node] == ["Less", "Not"]
    assert len(new.graph.initializer) == 1
