"""Semantics of the one-class post-processor, against the formulas as Anomalib 2.7 writes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pp_graph as pp
import pp_graph.postprocessors
from pp_graph.errors import PostProcessorError, StatisticsError
from pp_graph.one_class_options import OPTIONS, OUTPUT_NAMES
from pp_graph.postprocessors import POST_PROCESSORS, ROLES
from pp_graph.program import Signature
from pp_graph.steps import DECISION_VALUES, Keep, OnNaN
from tests.models import STATS

F32 = np.float32
numbers = st.floats(width=32, min_value=-(2.0**40), max_value=2.0**40)
sensitivities = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.3, 0.5, 1.0, 1e-9]))


def level(threshold: float | None = None, low: float | None = None, high: float | None = None) -> pp.LevelStatistics:
    return pp.LevelStatistics(threshold=threshold, min=low, max=high)


def anomalib_normalize(x: np.ndarray, threshold: float, low: float, high: float) -> np.ndarray:
    """`PostProcessor._normalize` of Anomalib 2.7, transcribed from torch; float32 tensors."""
    t, low32, high32 = F32(threshold), F32(low), F32(high)
    value_range = high32 - low32
    if value_range == 0:
        return np.where(x > t, F32(1), np.where(x < t, F32(0), F32(0.5)))
    with np.errstate(all="ignore"):
        return np.minimum(np.maximum(((x - t) / value_range) + F32(0.5), F32(0)), F32(1))


@given(numbers, numbers, numbers, st.lists(numbers, min_size=1, max_size=20), sensitivities)
def test_scores_and_labels_are_anomalibs(a: float, b: float, threshold: float, raw: list[float], s: float) -> None:
    low, high = sorted((a, b))
    post = pp.OneClassPostProcessor(pp.Statistics(image=level(threshold, low, high)), image_sensitivity=s)
    x = np.array([*raw, threshold, low, high], F32)
    found = post({"pred_score": x})
    expected = anomalib_normalize(x, threshold, low, high)
    assert np.array_equal(found.pred_score, expected)
    # torch subtracts in float32: 1 - 0.3 is not float32(0.7) for every sensitivity
    assert np.array_equal(found.pred_label, expected > F32(1) - F32(s))


def test_sensitivity_is_subtracted_in_float32() -> None:
    sensitivity = 1e-8  # 1 - 1e-8 is below 1 in float64 and 1 in float32
    post = pp.OneClassPostProcessor(STATS, image_sensitivity=sensitivity)
    assert post({"pred_score": [100.0]}).pred_label.tolist() == [False]


def test_sensitivity_ends() -> None:
    raw = {"pred_score": np.array([-1e6, 0.0, 0.2, 1.25, 3.0, 1e6, np.inf], F32)}
    nothing = pp.OneClassPostProcessor(STATS, image_sensitivity=0)(raw)
    assert not nothing.pred_label.any()
    everything = pp.OneClassPostProcessor(STATS, image_sensitivity=1)(raw)
    assert np.array_equal(everything.pred_label, everything.pred_score > 0)


def test_strictly_above_the_threshold() -> None:
    post = pp.OneClassPostProcessor(STATS)
    assert post({"pred_score": [1.25]}).pred_label.tolist() == [False]
    assert post({"pred_score": [1.2501]}).pred_label.tolist() == [True]


def test_both_levels_and_order_of_fields() -> None:
    post = pp.OneClassPostProcessor(STATS)
    found = post({"pred_score": np.array([[0.0], [2.0]]), "anomaly_map": np.arange(8.0).reshape(2, 1, 2, 2)})
    assert [found.pred_score.shape, found.pred_label.shape] == [(2, 1)] * 2
    assert [found.anomaly_map.shape, found.pred_mask.shape] == [(2, 1, 2, 2)] * 2
    assert [found.pred_score.dtype, found.pred_label.dtype] == [np.float32, np.bool_]
    assert [found.anomaly_map.dtype, found.pred_mask.dtype] == [np.float32, np.bool_]
    assert found.pred_label.ravel().tolist() == [False, True]
    assert found.pred_mask.ravel().tolist() == [False, True] + [True] * 6


@pytest.mark.parametrize(
    ("shape", "score_shape"),
    [((2, 3, 4), (2,)), ((2, 1, 3, 4), (2, 1)), ((2, 3, 4, 1), (2, 1)), ((2, 1, 3, 1), (2, 1))],
)
def test_score_from_the_map(shape: tuple[int, ...], score_shape: tuple[int, ...]) -> None:
    raw = np.random.default_rng(0).normal(1, 1, shape).astype(F32)
    post = pp.OneClassPostProcessor(STATS)
    found = post({"anomaly_map": raw})
    assert found.pred_score.shape == score_shape
    maximum = raw.reshape(2, -1).max(axis=1)
    # of the raw map, with the statistics of the image level
    assert np.array_equal(found.pred_score.ravel(), post({"pred_score": maximum}).pred_score)


def test_score_only() -> None:
    found = pp.OneClassPostProcessor(STATS)({"pred_score": [1.0], "anomaly_map": None})
    assert found.anomaly_map is None
    assert found.pred_mask is None


@pytest.mark.parametrize(("on_nan", "label", "value"), [("anomalous", True, 1.0), ("normal", False, 0.0)])
def test_nan(on_nan: str, label: bool, value: float) -> None:
    anomaly_map = np.full((2, 1, 2, 2), 0.1, F32)
    anomaly_map[1, 0, 1, 1] = np.nan
    found = pp.OneClassPostProcessor(STATS, on_nan=on_nan)({"anomaly_map": anomaly_map})
    assert found.pred_label.ravel().tolist() == [False, label]
    assert found.pred_mask[1].ravel().tolist() == [False, False, False, label]
    assert found.anomaly_map[1, 0, 1, 1] == value
    assert not np.isnan(found.pred_score).any()


def test_nan_is_flagged_even_at_sensitivity_zero() -> None:
    post = pp.OneClassPostProcessor(STATS, image_sensitivity=0)
    assert post({"pred_score": [np.nan, 1e9]}).pred_label.tolist() == [True, False]


class TestThresholdMatching:
    image = level(1.0, 0.0, 2.0)
    unknown = level(None, 0.0, 8.0)

    def cutoffs(self, image: pp.LevelStatistics, pixel: pp.LevelStatistics, *, match: bool) -> list[float]:
        post = pp.OneClassPostProcessor(pp.Statistics(image=image, pixel=pixel), match_thresholds=match)
        raw = Signature({role.name: role.example() for role in ROLES})
        return [float(step.cutoff) for step in post.bind(raw).decisions.values()]

    def test_takes_the_other_levels(self) -> None:
        assert self.cutoffs(self.image, self.unknown, match=True) == pytest.approx([1.0, 1.0], rel=1e-5)
        assert self.cutoffs(self.unknown, self.image, match=True) == pytest.approx([1.0, 1.0], rel=1e-5)

    def test_else_the_middle_of_the_range(self) -> None:
        assert self.cutoffs(self.image, self.unknown, match=False) == pytest.approx([1.0, 4.0], rel=1e-5)
        assert self.cutoffs(self.unknown, self.unknown, match=True) == pytest.approx([4.0, 4.0], rel=1e-5)

    def test_nothing_to_take(self) -> None:
        stats = pp.Statistics(image=level(None, 0.0, None))
        with pytest.raises(StatisticsError, match=r"lack 'image\.threshold', and there is neither"):
            pp.OneClassPostProcessor(stats, normalize=False)({"pred_score": [1.0]})


class TestWithoutNormalisation:
    post = pp.OneClassPostProcessor(STATS, normalize=False)

    def test_compares_raw_with_the_raw_threshold(self) -> None:
        threshold = F32(1.25)
        above = np.nextafter(threshold, F32(9))
        found = self.post({"pred_score": np.array([threshold, above])})
        assert np.array_equal(found.pred_score, [threshold, above])
        assert found.pred_label.tolist() == [False, True]

    def test_needs_no_range(self) -> None:
        post = pp.OneClassPostProcessor(pp.Statistics(image=level(1.0)), normalize=False)
        assert post({"pred_score": [0.5, 1.5]}).pred_label.tolist() == [False, True]

    def test_sensitivity_has_no_meaning(self) -> None:
        with pytest.raises(PostProcessorError, match=r"image_sensitivity is 0\.7 with normalize=False, expected 0\.5"):
            pp.OneClassPostProcessor(STATS, image_sensitivity=0.7, normalize=False)


def test_without_thresholds() -> None:
    found = pp.OneClassPostProcessor(STATS, threshold=False)({"pred_score": [1.0]})
    assert found.pred_label is None
    assert found.pred_score is not None
    unchanged = pp.OneClassPostProcessor(normalize=False, threshold=False)({"pred_score": [7.0, np.nan]})
    assert np.array_equal(unchanged.pred_score, [7.0, np.nan], equal_nan=True)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: pp.OneClassPostProcessor()({"pred_score": [1.0]}), StatisticsError, "has no statistics, expected"),
        (
            lambda: pp.OneClassPostProcessor(pp.Statistics(image=level(1.0)))({"pred_score": [1.0]}),
            StatisticsError,
            r"lack 'image\.min' and 'image\.max'.*--no-normalize",
        ),
        (lambda: pp.OneClassPostProcessor(STATS)({}), ValueError, "neither 'pred_score' nor 'anomaly_map'"),
        (
            lambda: pp.OneClassPostProcessor(STATS)({"pred_score": None, "anomaly_map": None}),
            ValueError,
            "neither 'pred_score' nor 'anomaly_map'",
        ),
        (lambda: pp.OneClassPostProcessor(STATS)({"anomaly_maps": [1.0]}), ValueError, "hold 'anomaly_maps', expected"),
        (lambda: pp.OneClassPostProcessor(STATS)({"pred_score": np.zeros((2, 3))}), ValueError, r"shape \(2, 3\)"),
        (lambda: pp.OneClassPostProcessor(STATS)({"pred_score": 1.0}), ValueError, "rank 0"),
        (lambda: pp.OneClassPostProcessor(STATS)({"anomaly_map": np.zeros((2, 3))}), ValueError, "rank 2"),
        (lambda: pp.OneClassPostProcessor(STATS)({"anomaly_map": np.zeros((2, 3, 4, 4))}), ValueError, "rank 4"),
        (lambda: pp.OneClassPostProcessor(STATS)({"anomaly_map": np.zeros((2, 1, 0, 4))}), ValueError, "one pixel"),
        (lambda: pp.OneClassPostProcessor(STATS)({"pred_score": ["a"]}), ValueError, "expected floating-point"),
        (
            lambda: pp.OneClassPostProcessor(STATS)({"pred_score": [1.0], "anomaly_map": np.zeros((2, 1, 2, 2))}),
            ValueError,
            "holds 1 images and 'anomaly_map' 2",
        ),
        (lambda: pp.OneClassPostProcessor(STATS, image_sensitivity=2), PostProcessorError, "image_sensitivity is 2"),
        (lambda: pp.OneClassPostProcessor(STATS, pixel_sensitivity=-0.1), PostProcessorError, "pixel_sensitivity is"),
        (lambda: pp.OneClassPostProcessor(STATS, image_sensitivity=float("nan")), PostProcessorError, "is nan"),
        (lambda: pp.OneClassPostProcessor(STATS, image_sensitivity=True), PostProcessorError, "is True"),
        (lambda: pp.OneClassPostProcessor(STATS, on_nan="ignore"), PostProcessorError, "on_nan is 'ignore', expected"),
        (lambda: pp.OneClassPostProcessor({"image": {}}), PostProcessorError, "statistics is dict, expected"),
    ],
)
def test_errors(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_abstract_base() -> None:
    with pytest.raises(TypeError, match="abstract"):
        pp.PostProcessor()


NEEDED: dict[type[pp.PostProcessor], dict] = {pp.RecipePostProcessor: {"recipe": (Keep("raw_score", "pred_score"),)}}


@pytest.mark.parametrize("kind", POST_PROCESSORS)
def test_builds_again_from_its_parameters(kind: type[pp.PostProcessor]) -> None:
    post = kind(STATS, **NEEDED.get(kind, {}))
    assert kind.from_parameters(STATS, post.parameters()) == post


def test_options_are_those_of_the_dataclass() -> None:
    fields = {field.name: field.default for field in dataclasses.fields(pp.OneClassPostProcessor)}
    assert fields == {"statistics": None} | {name: option.default for name, option in OPTIONS.items()}
    assert OUTPUT_NAMES == pp_graph.postprocessors.OUTPUT_NAMES
    assert OPTIONS["mask_dtype"].choices == tuple(DECISION_VALUES)
    assert OPTIONS["on_nan"].choices == get_args(OnNaN)
    for option in OPTIONS.values():
        assert option.check(option.default) == option.default
