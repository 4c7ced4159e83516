"""Monotone normalisers: they never fall, decisions about them are cutoffs, and they match their sources."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

import pp_graph as pp
from pp_graph.errors import PostProcessorError
from pp_graph.postprocessors import PostProcessor
from pp_graph.program import Signature
from pp_graph.steps import (
    Compare,
    GaussianCDF,
    MonotoneStep,
    PiecewiseLinear,
    PlainMinMax,
    PlattScaling,
    QuantileMap,
    Sigmoid,
    SquareRoot,
    Step,
    Temperature,
    ZScore,
)
from pp_graph.steps.bounded import BoundedStep
from tests.models import conv_model, run, run_openvino
from tests.steps.steps_monotone import MONOTONE_STRATEGIES
from tests.steps.test_steps import SPECIAL, emit

F32 = np.float32
AB = ("a", "b")
STATS = pp.Statistics(
    image=pp.LevelStatistics(threshold=0.9, min=0.1, max=2.5), pixel=pp.LevelStatistics(threshold=0.6, min=-0.5, max=2)
)
OTHER_STATS = pp.Statistics(
    image=pp.LevelStatistics(threshold=1.1, min=0, max=2.6), pixel=pp.LevelStatistics(threshold=0.4, min=-0.6, max=2.2)
)
any_step = st.one_of(list(MONOTONE_STRATEGIES.values()))


def wide(step: MonotoneStep) -> np.ndarray:
    """Sorted numbers without NaN: all over the step, next to each other in float32, and special ones."""
    bends = step.bends or (-1.0, 1.0)
    low, high = min(bends), max(bends)
    points = np.concatenate([bends, np.linspace(2 * low - high, 2 * high - low, 501)]).astype(F32)
    runs = [points]
    for side in (-np.inf, np.inf):
        near = points
        for _ in range(3):
            near = np.nextafter(near, F32(side))
            runs.append(near)
    return np.unique(np.concatenate([*runs, SPECIAL[~np.isnan(SPECIAL)]]))


@given(any_step)
def test_never_falls(step: MonotoneStep) -> None:
    y = step.reference(wide(step))
    assert y.dtype == F32
    assert np.all(y[1:] >= y[:-1])


@given(any_step)
def test_bounds_and_nan(step: MonotoneStep) -> None:
    y = step.reference(np.array([-np.inf, np.nan, np.inf], F32))
    if isinstance(step, ZScore | Temperature):
        assert np.array_equal(y, [-np.inf, np.nan, np.inf], equal_nan=True)
    elif isinstance(step, SquareRoot):
        assert np.array_equal(y, [0, 0, np.inf])
    elif not isinstance(step, BoundedStep):
        assert y[0] <= y[2]
    else:
        low, high = (F32(bound) for bound in step.bounds)
        assert y.tolist() == [low, high if step.on_nan == "anomalous" else low, high]


@given(st.lists(any_step, min_size=1, max_size=3), st.floats(0, 1), st.sampled_from(["anomalous", "normal"]))
def test_decisions_about_any_chain_are_one_cutoff(
    steps: list[MonotoneStep], place: float, on_nan: Literal["anomalous", "normal"]
) -> None:
    x = np.append(wide(steps[0]), F32(np.nan))
    value = x
    for step in steps:
        value = step.reference(value)
    # A level among the numbers that come out, so that there is something to decide.
    finite = np.sort(value[np.isfinite(value)])
    level = float(finite[int(place * (len(finite) - 1))])
    compare = Compare("b", "c", level, None, on_nan)
    for step in reversed(steps):
        compare = compare.pulled_back(step)
    expected = np.where(np.isnan(value), on_nan == "anomalous", value > F32(level))
    assert compare.source == steps[0].source
    assert np.array_equal(compare.reference(x), expected)
    by_cutoff = np.zeros(x.shape, bool) if compare.cutoff is None else ~(x < compare.cutoff)
    assert np.array_equal(np.where(np.isnan(x), compare.on_nan == "anomalous", by_cutoff), expected)


def test_values_of_the_sources() -> None:
    x = np.random.default_rng(0).normal(3, 2, 1000).astype(F32)
    wide_x = x.astype(np.float64)
    close = {"rtol": 1e-7, "atol": 0}
    expected = 1 / (1 + np.exp(-wide_x))
    np.testing.assert_allclose(Sigmoid(*AB).reference(x), expected, **close)
    np.testing.assert_allclose(PlattScaling(*AB, 2.5, -7).reference(x), 1 / (1 + np.exp(-(2.5 * wide_x - 7))), **close)
    np.testing.assert_allclose(GaussianCDF(*AB, 3, 0.7).reference(x), scipy.stats.norm.cdf(wide_x, 3, 0.7), **close)
    assert np.array_equal(ZScore(*AB, 3, 0.7).reference(x), (x - F32(3)) / F32(0.7))
    assert np.array_equal(Temperature(*AB, 1.7).reference(x), x / F32(1.7))
    by_range = np.clip((x - F32(1)) / F32(4.5), 0, 1)
    assert np.array_equal(PlainMinMax(*AB, 1, 5.5).reference(x), by_range)
    knots, values = np.sort(x[:40]), np.sort(wide_x[40:80])
    mapped = PiecewiseLinear(*AB, tuple(knots.tolist()), tuple(values.tolist())).reference(x)
    np.testing.assert_allclose(mapped, np.interp(wide_x, knots, values), rtol=1e-6)
    quantiles = np.quantile(x, np.linspace(0, 1, 101))
    share = QuantileMap(*AB, tuple(quantiles.tolist())).reference(x)
    np.testing.assert_allclose(share, np.interp(x, quantiles, np.linspace(0, 1, 101)), atol=1e-5)
    ecdf = scipy.stats.ecdf(x).cdf
    assert np.abs(share - ecdf.evaluate(x)).max() < 0.012


def test_values_of_scikit_learn() -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    from sklearn.isotonic import IsotonicRegression
    from sklearn.preprocessing import QuantileTransformer

    rng = np.random.default_rng(1)
    scores = rng.normal(0, 1, 400).astype(F32)
    labels = (scores + rng.normal(0, 1, 400) > 0).astype(float)
    isotonic = IsotonicRegression(out_of_bounds="clip").fit(scores, labels)
    step = PiecewiseLinear(*AB, isotonic.X_thresholds_.tolist(), isotonic.y_thresholds_.tolist())
    x = rng.normal(0, 2, 1000).astype(F32)
    np.testing.assert_allclose(step.reference(x), isotonic.predict(x), atol=1e-6)
    transformer = QuantileTransformer(n_quantiles=64).fit(scores[:, None])
    share = QuantileMap(*AB, transformer.quantiles_[:, 0].tolist()).reference(x)
    np.testing.assert_allclose(share, transformer.transform(x[:, None])[:, 0], atol=1e-6)


def test_ties_and_jumps() -> None:
    # Of six zeros and four others, 60 % are at most zero.
    values = np.array([0, 0, 0, 0, 0, 0, 1, 2, 3, 4], F32)
    step = QuantileMap(*AB, tuple(np.quantile(values, np.linspace(0, 1, 10)).tolist()))
    y = step.reference(np.array([-1, 0, 0.5, 1, 4, 5], F32))
    np.testing.assert_allclose(y, [0, 5 / 9, 5.5 / 9, 6 / 9, 1, 1], rtol=1e-6)
    jump = PiecewiseLinear(*AB, (0, 1, 1, 1, 2), (0, 0.2, 0.3, 0.8, 1))
    x = np.array([0.5, np.nextafter(F32(1), F32(0)), 1, 1.5, 2, 9], F32)
    expected = [0.1, 0.2, 0.8, 0.9, 1, 1]
    stairs = PiecewiseLinear(*AB, (1, 1), (3, 4))
    for run_model in (run, run_openvino):
        found = run_model(emit(jump, x.shape, 17, 8), {"x": x})["y"]
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert run_model(emit(stairs, x.shape, 17, 8), {"x": x})["y"].tolist() == [3, 3, 4, 4, 4, 4]
    np.testing.assert_allclose(jump.reference(x), expected, atol=1e-6)
    # Two places that are one in float32.
    near = PiecewiseLinear(*AB, (1.0, 1.0 + 1e-12), (0, 1))
    assert near.reference(np.array([0.9, 1, 1.1], F32)).tolist() == [0, 1, 1]


@pytest.mark.parametrize("execute", [run, run_openvino], ids=["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    ("step", "low", "high"),
    [
        (Sigmoid(*AB), -60, -20),
        (PlattScaling(*AB, 100.0, -100_000.0), 999.5, 999.9),
        (GaussianCDF(*AB, 5000.0, 0.5), 4995, 4998.5),
    ],
)
def test_small_numbers_are_no_noise(
    step: MonotoneStep, low: float, high: float, execute: Callable[..., dict[str, np.ndarray]]
) -> None:
    """A normal map may hold small numbers only, so errors are compared with those."""
    x = np.linspace(low, high, 999, dtype=F32)
    found = execute(emit(step, x.shape, 17, 8), {"x": x})["y"]
    np.testing.assert_allclose(found, step.reference(x), rtol=2e-5)


@pytest.mark.slow
@settings(max_examples=15)
@given(st.floats(-6, 9), st.floats(-6, 5), st.booleans())
def test_far_from_zero_no_digit_is_lost(power: float, width_power: float, negative: bool) -> None:
    center, width = (-1 if negative else 1) * 10.0**power, 10.0**width_power
    # With an intercept above 2**32, even float64 cancels its digits near the center.
    intercept = float(np.clip(-center / width, -(2.0**32), 2.0**32))
    for step in (
        PlattScaling(*AB, 1 / width, intercept),
        GaussianCDF(*AB, center, width),
        ZScore(*AB, center, width),
        PlainMinMax(*AB, center, center + width + 2.0**-20 * abs(center)),
    ):
        x = np.append(wide(step)[3:-3], F32(np.nan))
        expected = step.reference(x)
        for execute in (run, run_openvino):
            found = execute(emit(step, x.shape, 17, 8), {"x": x})["y"]
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PlainMinMax(*AB, 2, 2), "minimum of 'b' is 2, expected a number below the maximum, 2"),
        (lambda: PlainMinMax(*AB, 0, 1e-38), "maximum - minimum of 'b' is .*, expected a number from"),
        (lambda: PlainMinMax(*AB, 0, 1, "ignore"), "on_nan of 'b' is 'ignore', expected 'anomalous' or 'normal'"),
        (lambda: ZScore(*AB, 0, 0), "std of 'b' is 0, expected a number above 0"),
        (lambda: ZScore(*AB, 1e31, 1), "mean of 'b' is 1e.31, expected a magnitude"),
        (lambda: Sigmoid(*AB, "nan"), "on_nan of 'b' is 'nan'"),
        (lambda: Temperature(*AB, -1), "temperature of 'b' is -1, expected a number above 0"),
        (lambda: PlattScaling(*AB, -2, 0), "slope of 'b' is -2, expected a number above 0"),
        (lambda: PlattScaling(*AB, 1e-20, 1e20), "-intercept / slope of 'b' is -1e.40, expected a number that is fin"),
        (lambda: GaussianCDF(*AB, "x", 1), "mean of 'b' is 'x', expected a number"),
        (lambda: PiecewiseLinear(*AB, (0, 1), (0, 1, 2)), "outputs of 'b' holds 3 numbers, expected 2, one for each"),
        (lambda: PiecewiseLinear(*AB, (0, 1), (1, 0)), "outputs of 'b' falls from 1.0 to 0.0 at number 1"),
        (lambda: PiecewiseLinear(*AB, 3, (1, 0)), "inputs of 'b' is 3, expected numbers"),
        (lambda: QuantileMap(*AB, (1,)), "quantiles of 'b' holds 1 numbers, expected 2 to 65,536"),
        (lambda: QuantileMap(*AB, (1, float("nan"))), "Number 1 in quantiles of 'b' is nan"),
    ],
)
def test_impossible_parameters(build: Callable[[], Step], message: str) -> None:
    with pytest.raises(PostProcessorError, match=message):
        build()


def _spread(low: float, high: float, count: int) -> tuple[float, ...]:
    return tuple((low + (high - low) * np.linspace(0, 1, count) ** 2).tolist())


@dataclass(frozen=True)
class Normalised(PostProcessor):
    """Every monotone normaliser on score and map, followed by a decision."""

    statistics: pp.Statistics | None = None
    kind: str = "Sigmoid"

    def steps(self, raw: Signature) -> Sequence[Step]:
        found: list[Step] = []
        for source, value, decision, level in (
            ("raw_score", "pred_score", "pred_label", self.statistics.image),
            ("raw_map", "anomaly_map", "pred_mask", self.statistics.pixel),
        ):
            if source not in raw:
                continue
            low, high, middle = level.min, level.max, level.threshold
            width = high - low
            soft, z = f"{value}_soft", f"{value}_z"
            chains: dict[str, tuple[MonotoneStep, ...]] = {
                "PlainMinMax": (PlainMinMax(source, value, low, high),),
                "ZScore": (ZScore(source, value, middle, width / 50),),
                "Sigmoid": (Temperature(source, soft, 0.3), Sigmoid(soft, value)),
                "PlattScaling": (PlattScaling(source, value, 500, -500 * middle),),
                "GaussianCDF": (ZScore(source, z, middle, width), GaussianCDF(z, value, 0.1, 0.3)),
                "PiecewiseLinear": (PiecewiseLinear(source, value, _spread(low, high, 9), _spread(0, 1, 9)),),
                "QuantileMap": (QuantileMap(source, value, _spread(low, high, 257)),),
            }
            number = np.array([middle], F32)
            for step in chains[self.kind]:
                number = step.reference(number)
            found += [*chains[self.kind], Compare(value, decision, float(number[0]))]
        return found


KINDS = ("PlainMinMax", "ZScore", "Sigmoid", "PlattScaling", "GaussianCDF", "PiecewiseLinear", "QuantileMap")


def network(layout: str) -> onnx.ModelProto:
    """A model with a convolution in front of its map."""
    model = conv_model(channels_last=layout == "NHWC")
    if layout == "NHW":
        axes = helper.make_tensor("one", onnx.TensorProto.INT64, [1], [1])
        model.graph.initializer.append(axes)
        model.graph.node.append(helper.make_node("Squeeze", ["anomaly_map", "one"], ["heat"]))
        del model.graph.output[1]
        shape = ["N", "H", "W"]
        model.graph.output.append(helper.make_tensor_value_info("heat", onnx.TensorProto.FLOAT, shape))
    return model


@pytest.mark.sample(every=7)
@pytest.mark.parametrize("kind", KINDS)
def test_end_to_end(kind: str, tmp_path: Path) -> None:
    images = np.random.default_rng(0).normal(0, 1, (3, 3, 24, 20)).astype(F32)
    raw = tmp_path / "raw.onnx"
    onnx.save(network({"QuantileMap": "NHWC", "GaussianCDF": "NHW"}.get(kind, "NCHW")), raw)
    fused = pp.fuse(raw, Normalised(STATS, kind))
    plain, narrow = pp.convert(fused), pp.convert(fused, precision="f16")
    retuned = pp.retune(plain, OTHER_STATS)
    for artifact, precision in ((plain, None), (plain, "f32"), (narrow, "bf16"), (retuned, "bf16"), (fused, None)):
        report = pp.verify(raw, artifact, images, inference_precision=precision)
        assert report.postprocessing_failures == ()
        assert report.postprocessing_flips == 0
        assert report.postprocessing_error < 2e-6
        assert all(0 < each.positive < each.total for each in report.decisions if each.name == "pred_mask")
    pp.strip(fused).save(tmp_path / "stripped.onnx")
    assert (tmp_path / "stripped.onnx").read_bytes() == raw.read_bytes()
