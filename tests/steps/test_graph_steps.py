"""Steps that come as a model: onnxscript functions and torch modules, in raw models of many opsets."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import pp_graph as pp
from pp_graph.errors import OpsetError, PostProcessorError
from pp_graph.integrations.onnxscript import OnnxScriptStep
from pp_graph.integrations.torch.module_step import ModuleStep
from pp_graph.program import Signature
from pp_graph.steps import Array, Compare, GraphStep, Keep, MaxOverMap, MinMaxNormalize, Step, ValueType
from pp_graph.steps.opset_adaptation import _difference
from tests.conftest import ROOT
from tests.models import STATS, conv_model, from_text, run, score_and_map

script = pytest.importorskip("onnxscript", reason="onnxscript is not installed").script
from onnxscript import opset18 as op  # noqa: E402

try:
    import torch
    from torch import nn
except ImportError:
    torch = nn = None
needs_torch = pytest.mark.skipif(torch is None, reason="torch is not installed")

F32 = np.float32
IMAGES = np.random.default_rng(0).normal(0, 1, (3, 3, 24, 20)).astype(F32)


@script()
def _squared(x):
    return op.Mul(x, x)


@script()
def branching(x, score, knee: float = 1.0):
    """A body with a constant, a captured value and a function."""
    mean = op.ReduceMean(x, op.Constant(value_ints=[1, 2, 3]), keepdims=1)
    if op.ReduceMax(score, keepdims=0) > 1.0:  # noqa: SIM108 - onnxscript knows no such expression
        y = _squared(x) * knee + op.Softmax(x)
    else:
        y = x - mean * 2.0
    return op.Clip(y, -10.0, 10.0)


@script()
def above(x, level: float):
    return op.Less(level, x)


@script()
def above_or_nan(x, level: float):
    return op.Greater(x, level)


@script()
def number(x):
    return op.Size(x)


@script()
def two(x):
    return op.Neg(x), op.Abs(x)


@script()
def averaged(x):
    return op.ReduceMean(x, op.Constant(value_ints=[1, 2, 3]), keepdims=0)


if torch is not None:

    class Blur(nn.Module):
        """Convolution, reduction, shapes and choice, of two values."""

        def __init__(self, factor: float) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 5, padding=2, bias=False)
            nn.init.constant_(self.conv.weight, 1 / 25)
            self.factor = factor
            self.dropout = nn.Dropout()

        def forward(self, x: torch.Tensor, score: torch.Tensor) -> torch.Tensor:
            y = self.dropout(self.conv(x))
            y = torch.sigmoid((y - y.mean(dim=(1, 2, 3), keepdim=True)) * self.factor)
            y = torch.softmax(y.flatten(1), 1).reshape(y.shape) * 100
            return torch.where(score[:, :, None, None] > 0, y, y * 0.3).clamp(0, 1)


@dataclass(frozen=True)
class Calming(pp.PostProcessor):
    statistics: pp.Statistics | None = None
    kind: str = "script"
    pixel_sensitivity: float = 0.5

    def steps(self, raw: Signature) -> list[Step]:
        pixel = self.statistics.pixel
        step: Step
        if self.kind == "script":
            step = OnnxScriptStep("raw_map", "calm", branching, {"knee": pixel.threshold}, others=("raw_score",))
        else:
            step = ModuleStep("raw_map", "calm", Blur(pixel.threshold), others=("raw_score",))
        return [
            step,
            MinMaxNormalize("calm", "anomaly_map", pixel.threshold, pixel.min, pixel.max),
            Compare("anomaly_map", "pred_mask", 1 - self.pixel_sensitivity),
            Keep("raw_score", "pred_score"),
            Compare("raw_score", "pred_label", 0.8),
        ]


KINDS = ["script", pytest.param("module", marks=needs_torch)]


@pytest.mark.sample(every=8)
@pytest.mark.parametrize(("opset", "raised"), [(9, 18), (11, 18), (17, 20), (18, None), (20, None), (24, None)])
@pytest.mark.parametrize("kind", KINDS)
def test_fused_at_any_opset(kind: str, opset: int, raised: int | None) -> None:
    raw = conv_model(opset, 8 if opset < 21 else 10)
    fused = pp.fuse(raw, Calming(STATS, kind), raise_opset=raised)
    proto = fused.to_proto()
    onnx.checker.check_model(proto, full_check=True)
    assert [each.version for each in proto.opset_import] == [raised or opset]
    report = pp.verify(raw, fused, {"image": IMAGES})
    assert report.postprocessing_exact
    assert "calm" in {error.name for error in report.postprocessing_errors}
    assert len(pp.strip(fused).to_proto().graph.node) == len(raw.graph.node)


@pytest.mark.sample(every=3)
@pytest.mark.parametrize(
    ("kind", "opset"), [("script", 18), ("script", 20), pytest.param("module", 18, marks=needs_torch)]
)
def test_converted_in_any_precision(kind: str, opset: int) -> None:
    raw = conv_model(opset)
    fused = pp.fuse(raw, Calming(STATS, kind))
    for weights, inference in (("f32", "bf16"), ("f16", "f32")):
        artifact = pp.convert(fused, precision=weights)
        report = pp.verify(raw, artifact, {"image": IMAGES}, inference_precision=inference)
        assert report.postprocessing_exact, (weights, inference, report.island)
        assert {decision.postprocessing.image.size for decision in report.decisions} == {0}


@pytest.mark.sample(every=2)
@pytest.mark.parametrize("kind", KINDS)
def test_retuned_files(kind: str, tmp_path: Path) -> None:
    raw = conv_model(18)
    fused = pp.fuse(raw, Calming(STATS, kind))
    other = msgspec.structs.replace(STATS, pixel=pp.LevelStatistics(threshold=0.6, min=-1.0, max=2.0))
    for path in (fused.save(tmp_path / "fused.onnx"), pp.convert(fused).save(tmp_path / "model.xml")):
        assert pp.retune(path, pixel_sensitivity=0.3).way == "constants"
        assert pp.verify(raw, path, {"image": IMAGES}).passed
        # The number of a body is part of the operators, so the model is written anew.
        ways = {"script": {"rewritten"}, "module": {"constants", "rewritten"}}
        assert pp.retune(path, other).way in ways[kind]
        report = pp.verify(raw, path, {"image": IMAGES})
        assert report.postprocessing_exact
        assert report.provenance.statistics == other


def test_names_that_the_raw_model_has() -> None:
    raw = from_text(
        """<ir_version: 8, opset_import: ["": 18]>
        raw (float[N,1,H,W] x, float[N,1] score_in) => (float[N,1] score, float[N,1,H,W] heat)
        <float[1] mean = {2.0}> {
            y = Mul(x, mean)
            ["pp_graph/calm/ReduceMean"] tmp = Identity(y)
            heat = Identity(tmp)
            score = Identity(score_in)
        }"""
    )
    fused = pp.fuse(raw, Calming(STATS))
    values = [name for node in fused.to_proto().graph.node for name in node.output]
    assert len(values) == len(set(values))
    assert fused.provenance.prefix == "pp_graph_1"
    x = np.random.default_rng(1).normal(0, 1, (2, 1, 5, 6)).astype(F32)
    score = np.array([[2.0], [0.0]], F32)
    found = run(fused, {"x": x, "score_in": score})
    expected = Calming(STATS)({"pred_score": score, "anomaly_map": 2 * x})
    np.testing.assert_allclose(found["anomaly_map"], expected.anomaly_map, atol=1e-6)
    assert np.array_equal(found["pred_mask"], expected.pred_mask)


@pytest.mark.parametrize("shape", [("N", "H", "W"), ("N", 1, "H", "W"), ("N", 7, 6, 1), (2, 1, 7, 6)])
def test_maps_of_any_layout(shape: tuple) -> None:
    @dataclass(frozen=True)
    class Masked(pp.PostProcessor):
        statistics: pp.Statistics | None = None

        def steps(self, raw: Signature) -> list[Step]:
            return [
                OnnxScriptStep("raw_map", "pred_mask", above, {"level": 0.5}),
                MaxOverMap("raw_map", "pred_score"),
            ]

    rank = len(shape)
    raw = helper.make_model(
        helper.make_graph(
            [helper.make_node("Identity", ["x"], ["heat"])],
            "raw",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("heat", TensorProto.FLOAT, shape)],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=8,
    )
    x = np.random.default_rng(0).normal(
        0, 1, [2, 7, 6] if rank == 3 else [2, *(shape[1:] if shape[1] == 7 else (1, 7, 6))]
    )
    x = x.astype(F32)
    assert np.array_equal(run(pp.fuse(raw, Masked()), {"x": x})["pred_mask"], x > F32(0.5))
    assert pp.verify(raw, pp.convert(pp.fuse(raw, Masked())), {"x": x}).passed


def test_a_step_that_runtimes_decide_differently_is_found() -> None:
    @dataclass(frozen=True)
    class Careless(pp.PostProcessor):
        statistics: pp.Statistics | None = None

        def steps(self, raw: Signature) -> list[Step]:
            return [
                OnnxScriptStep("raw_map", "pred_mask", above_or_nan, {"level": 0.5}),
                Keep("raw_score", "pred_score"),
            ]

    # In OpenVINO on CPU, NaN is greater than any number; the images have no NaN to show it.
    raw = conv_model(18)
    report = pp.verify(raw, pp.convert(pp.fuse(raw, Careless())), {"image": IMAGES})
    assert report.boundary.flips > 0
    assert not report.postprocessing_exact


@needs_torch
def test_a_decision_that_another_step_reads() -> None:
    class Grown(nn.Module):
        def forward(self, mask: torch.Tensor) -> torch.Tensor:
            return nn.functional.max_pool2d(mask.float(), 3, 1, 1) > 0.5

    @dataclass(frozen=True)
    class GrownMask(pp.PostProcessor):
        statistics: pp.Statistics | None = None

        def steps(self, raw: Signature) -> list[Step]:
            return [
                OnnxScriptStep("raw_map", "hot", above, {"level": 0.5}),
                ModuleStep("hot", "pred_mask", Grown()),
                Keep("raw_score", "pred_score"),
            ]

    raw = conv_model(18)
    report = pp.verify(raw, pp.convert(pp.fuse(raw, GrownMask())), {"image": IMAGES}, inference_precision="bf16")
    assert report.postprocessing_exact
    assert [decision.name for decision in report.decisions] == ["pred_mask"]


MAP = ValueType("NCHW", (None, 1, 8, 8))
SCORE = ValueType("NC", (None, 1))


@pytest.mark.parametrize(
    ("build", "types", "message"),
    [
        (lambda: OnnxScriptStep("a", "b", above), (MAP,), "attributes of 'b' lack 'level', which the function needs"),
        (lambda: OnnxScriptStep("a", "b", above, {"cut": 1}), (MAP,), "'cut', expected some of: level"),
        (lambda: OnnxScriptStep("a", "b", print), (MAP,), "expected an onnxscript function. Decorate it"),
        (lambda: OnnxScriptStep("a", "b", branching), (MAP,), "takes 2 inputs \\(x, score\\), expected 1"),
        (lambda: OnnxScriptStep("a", "b", number), (MAP,), "returns int64 \\(\\) for .*expected float32 or bool"),
        (lambda: OnnxScriptStep("a", "b", two), (MAP,), "returns 2 values, expected one"),
        (lambda: OnnxScriptStep("a", "b", averaged), (SCORE,), "its reference fails on float32 \\(1, 1\\)"),
        (lambda: OnnxScriptStep(1, "b", averaged), (SCORE,), "has 1 among its names, expected strings"),
        (lambda: ModuleStep("a", "b", print), (MAP,), "expected a torch.nn.Module. Pass an instance"),
    ],
)
def test_what_does_not_fit(build: Callable[[], GraphStep], types: tuple, message: str) -> None:
    with pytest.raises(PostProcessorError, match=message):
        build().bind(*types)


def test_errors_name_the_step() -> None:
    @dataclass(frozen=True)
    class Bad(pp.PostProcessor):
        statistics: pp.Statistics | None = None
        source: str = "raw_map"

        def steps(self, raw: Signature) -> list[Step]:
            return [OnnxScriptStep(self.source, "pred_score", number)]

    with pytest.raises(
        PostProcessorError, match=r"Step 'pred_score' \(OnnxScriptStep\) does not fit .*: its reference"
    ):
        pp.fuse(score_and_map(), Bad())
    with pytest.raises(PostProcessorError, match=r"Step 'pred_score' \(OnnxScriptStep\) reads 'nothing', which is not"):
        pp.fuse(score_and_map(), Bad(source="nothing"))


@pytest.mark.parametrize("opset", [9, 17])
@pytest.mark.parametrize("kind", KINDS)
def test_a_raw_model_of_an_earlier_opset(kind: str, opset: int) -> None:
    message = (
        rf"Step 'calm' .* is written at opset 18, expected at most {opset}, the raw model's. "
        r"Raise the raw model with raise_opset=18 \(--raise-opset 18\)"
    )
    with pytest.raises(OpsetError, match=message):
        pp.fuse(conv_model(opset), Calming(STATS, kind))


def test_a_conversion_that_computes_something_else() -> None:
    header = """<ir_version: 8, opset_import: ["": 13]> f (float[N,1,H,W] x) => (float[N,1,H,W] y)"""
    softmax, log_softmax = (from_text(f"{header} {{ y = {kind}<axis=-1>(x) }}") for kind in ("Softmax", "LogSoftmax"))
    trials = [(np.ones((2, 1, 3, 3), F32),)]
    assert _difference(softmax, softmax, trials) is None
    assert _difference(softmax, log_softmax, trials) == "it would compute other numbers (its operators: Softmax)"


@dataclass(frozen=True)
class Own(GraphStep):
    """A model from elsewhere."""

    text: str = ""

    def model(self, types: Any, example: Any) -> onnx.ModelProto:
        return from_text(self.text)

    def reference(self, array: Array) -> Array:
        return np.asarray(array, F32) * F32(2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('["": 17] > f (float[N,1,8,8] x) => (float[N,1,8,8] y) { y = Add(x, x) }', None),
        ('["": 17] > f (float[2,1,8,8] x) => (float[2,1,8,8] y) { y = Add(x, x) }', None),
        (
            '["": 17] > f (float[N,1,8,8] x) => (float y) { y = ReduceSum<keepdims=0>(x) }',
            "expected float32 \\(1, 1, 8",
        ),
        ('["": 17, "my": 1] > f (float[N,1,8,8] x) => (float[N,1,8,8] y) { y = my.Twice(x) }', "operator my::Twice"),
        ('["": 17] > f (double[N,1,8,8] x) => (double[N,1,8,8] y) { y = Add(x, x) }', "takes DOUBLE for 'x', expected"),
        ('["": 17] > f (float[N] x, float[N] z) => (float[N] y) { y = Add(x, z) }', "has 2 inputs and 1 outputs"),
    ],
)
def test_a_model_from_elsewhere(text: str, message: str | None) -> None:
    step = Own("a", "b", text=f"<ir_version: 8, opset_import: {text.replace('] >', ']>', 1)}")
    if message is None:
        assert step.bind(MAP).output_type(MAP) == MAP
        return
    with pytest.raises(PostProcessorError, match=message):
        step.bind(MAP)


@needs_torch
def test_modules_that_do_not_fit() -> None:
    class Squeezed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.amax((2, 3)).squeeze()

    class Listed(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x, x

    class Whole(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.reshape(1, -1)

    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.mean() > 0 else -x

    for module, message in (
        (Squeezed(), "its reference returns .*, expected"),
        (Listed(), "module Listed returns tuple, expected one tensor"),
        (Whole(), "expected a score .* with N=3"),
        (Branching(), "torch.onnx.export refuses module Branching"),
    ):
        with pytest.raises(PostProcessorError, match=message):
            ModuleStep("a", "b", module).bind(MAP)


@pytest.mark.slow
@needs_torch
def test_modules_are_exported_once_and_never_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    exported: list[int] = []
    export = torch.onnx.export
    monkeypatch.setattr(torch.onnx, "export", lambda *args, **kwargs: exported.append(1) or export(*args, **kwargs))
    large = ValueType("NCHW", (None, 1, 11, 9))
    first = Blur(0.123)
    same = Blur(0.123)
    steps = [ModuleStep("a", "b", each, others=("c",)).bind(large, SCORE) for each in (first, first, same)]
    assert len(exported) == 1
    assert first.training
    with torch.no_grad():
        first.conv.weight.mul_(2)
    changed = ModuleStep("a", "b", first, others=("c",)).bind(large, SCORE)
    assert len(exported) == 2
    x, score = np.ones((1, 1, 11, 9), F32), np.ones((1, 1), F32)
    assert not np.array_equal(changed.reference(x, score), steps[2].reference(x, score))


@pytest.mark.slow
@needs_torch
def test_names_are_the_same_in_every_process() -> None:
    code = (
        "from tests.steps.test_graph_steps import *\n"
        "proto = pp.fuse(conv_model(18), Calming(STATS, 'module')).to_proto()\n"
        "names = sorted(t.name for t in proto.graph.initializer) + [n.name for n in proto.graph.node]\n"
        "print(repr(names))"
    )
    proto = pp.fuse(conv_model(18), Calming(STATS, "module")).to_proto()
    names = sorted(tensor.name for tensor in proto.graph.initializer) + [node.name for node in proto.graph.node]
    run_there = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    assert run_there.stdout.strip() == repr(names)


def test_onnxscript_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(pp.PPGraphError, match=r"needs onnxscript, which is not installed.*pp_graph\[onnxscript\]"):
        OnnxScriptStep("a", "b", above, {"level": 0.5})
