"""Cutoffs below the smallest normal number, which runtimes take for zero, decide as the reference does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import pp_graph as pp
from pp_graph.steps import (
    Compare,
    ComparePerClass,
    ComparePerPixel,
    DecidingStep,
    MinMaxNormalize,
    PiecewiseLinear,
    QuantileMap,
    is_subnormal,
)
from tests.models import identity_model
from tests.steps.test_steps import RUNTIMES, emit

F32 = np.float32
SMALLEST, MIDDLE, LARGEST, NORMAL = F32(1e-45), F32(5e-39), F32(1.1754942e-38), F32(1.1754944e-38)
CUTOFFS = [SMALLEST, MIDDLE, LARGEST, -SMALLEST, -MIDDLE, -LARGEST]
"""The last is that of the level -1.1754944e-38."""
ABOVE = F32(1.1754945e-38)
RAW = np.array([0, -0.0, NORMAL, -NORMAL, ABOVE, -ABOVE, 1, -1, np.inf, -np.inf, np.nan], F32)
SUBNORMAL = np.array([*CUTOFFS, *(np.nextafter(each, F32(side)) for each in CUTOFFS for side in (-1, 1))], F32)


def level_of(cutoff: np.float32) -> float:
    return float(np.nextafter(cutoff, F32(-np.inf)))


def scalar(cutoff: np.float32, on_nan: str) -> Compare:
    return Compare("x", "y", level_of(cutoff), on_nan=on_nan)


def behind_a_normalizer(cutoff: np.float32, on_nan: str) -> Compare:
    return Compare("x", "y", 0.5, MinMaxNormalize("x", "n", level_of(cutoff), 0.0, 0.0), on_nan)


def adjustable(cutoff: np.float32, on_nan: str) -> Compare:
    return Compare("x", "y", level_of(cutoff), on_nan=on_nan, dtype="u8", runtime=True)


def per_class(cutoff: np.float32, on_nan: str) -> ComparePerClass:
    return ComparePerClass("x", "y", (level_of(cutoff), 0.5, -0.5), on_nan=on_nan, axes="NC")


def per_pixel(cutoff: np.float32, on_nan: str) -> ComparePerPixel:
    return ComparePerPixel("x", "y", ((0.5, level_of(cutoff)), (0.0, -0.5)), on_nan=on_nan, axes="NHW")


SHAPES = {scalar: (1,), behind_a_normalizer: (1,), adjustable: (1,), per_class: (3,), per_pixel: (2, 2)}
PLACES = {per_class: (..., 0), per_pixel: (..., 0, 1)}


def inputs(values: np.ndarray, build: object) -> np.ndarray:
    """Each number at every place."""
    shape = SHAPES[build]
    return np.broadcast_to(values.reshape(-1, *[1] * len(shape)), (len(values), *shape)).copy()


@pytest.mark.sample(every=7)
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("build", SHAPES, ids=lambda build: build.__name__)
@pytest.mark.parametrize("cutoff", CUTOFFS, ids=str)
def test_every_other_raw_value_is_decided_about_exactly(cutoff: np.float32, build, runtime: str) -> None:
    for on_nan in ("anomalous", "normal"):
        step: DecidingStep = build(cutoff, on_nan)
        assert step.cutoffs[PLACES.get(build, ())] == cutoff
        x = inputs(RAW, build)
        for opset, ir_version in ((9, 3), (13, 8), (21, 8)):
            found = RUNTIMES[runtime](emit(step, x.shape, opset, ir_version), {"x": x})["y"]
            assert np.array_equal(found, step.reference(x)), (on_nan, opset)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("build", SHAPES, ids=lambda build: build.__name__)
@pytest.mark.parametrize("cutoff", CUTOFFS, ids=str)
def test_subnormal_raw_values_are_decided_about_as_documented(cutoff: np.float32, build, runtime: str) -> None:
    step: DecidingStep = build(cutoff, "anomalous")
    x = inputs(SUBNORMAL, build)
    found = RUNTIMES[runtime](emit(step, x.shape, 18, 8), {"x": x})["y"]
    place = PLACES.get(build, ...)
    if build is adjustable:
        expected = x >= (NORMAL if cutoff > 0 else 0)
    else:
        expected = x > (0 if cutoff > 0 else -NORMAL)
        if cutoff in (SMALLEST, -LARGEST):
            assert np.array_equal(expected[place], step.reference(x)[place]), "exact: nothing lies between"
    assert np.array_equal(found[place], expected[place])
    # A cutoff that is subnormal changes nothing at the other places.
    others = step.cutoffs != cutoff
    if others.any():
        assert np.array_equal(found[:, others], step.reference(x)[:, others])


@pytest.mark.parametrize("build", SHAPES, ids=lambda build: build.__name__)
@pytest.mark.parametrize("cutoff", CUTOFFS, ids=str)
def test_no_subnormal_number_is_written(cutoff: np.float32, build) -> None:
    for ir_version in (3, 8):
        graph = emit(build(cutoff, "anomalous"), (2, *SHAPES[build]), 9, ir_version).graph
        nodes = [node.attribute[0].t for node in graph.node if node.op_type == "Constant"]
        written = [numpy_helper.to_array(each) for each in (*nodes, *graph.initializer)]
        assert written
        assert not any(is_subnormal(each).any() for each in written if each.dtype == F32)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("cutoff", CUTOFFS, ids=str)
def test_functions_through_such_knots_are_the_same_everywhere(cutoff: np.float32, runtime: str) -> None:
    place = float(cutoff)
    for step in (
        QuantileMap("x", "y", (place, place, 5.375, 5.742)),
        PiecewiseLinear("x", "y", (-1.0, min(place, 0.0), max(place, 0.0), 1.0), (0.0, 0.25, 0.5, 1.0)),
    ):
        for opset, ir_version in ((9, 3), (18, 8)):
            model = emit(step, RAW.shape, opset, ir_version)
            written = [numpy_helper.to_array(each) for each in model.graph.initializer]
            assert not any(is_subnormal(each).any() for each in written if each.dtype == F32)
            np.testing.assert_allclose(RUNTIMES[runtime](model, {"x": RAW})["y"], step.reference(RAW), atol=1e-6)


@pytest.mark.sample(every=5)
@pytest.mark.parametrize("thresholds", ["constant", "runtime"])
@pytest.mark.parametrize("cutoff", CUTOFFS, ids=str)
def test_models_with_such_a_cutoff_pass_verification(cutoff: np.float32, thresholds: str, tmp_path: Path) -> None:
    level = pp.LevelStatistics(threshold=level_of(cutoff))
    settings = {"thresholds": "runtime"} if thresholds == "runtime" else {}
    post = pp.OneClassPostProcessor(pp.Statistics(image=level, pixel=level), normalize=False, **settings)
    raw = identity_model({"score": ["N", 1], "heat": ["N", 1, 2, 2]})
    onnx.save(raw, tmp_path / "raw.onnx")
    fused = pp.fuse(raw, post)
    data = {"score_in": RAW[:-1, None], "heat_in": np.broadcast_to(RAW[:-1, None, None, None], (len(RAW) - 1, 1, 2, 2))}
    np.savez(tmp_path / "data.npz", **data)
    for artifact in (fused, pp.convert(fused)):
        report = pp.verify(tmp_path / "raw.onnx", artifact, tmp_path / "data.npz", inference_precision="f32")
        assert report.passed, report.failures
        assert report.boundary.flips == report.postprocessing_flips == report.drift_flips == 0
