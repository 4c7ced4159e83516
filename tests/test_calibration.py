"""Thresholds and ranges: streamed and counted, they are those of all scores sorted, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from pp_graph.calibration import THRESHOLDS, range_estimator, threshold_estimator
from pp_graph.calibration.counting import FinerPass, FirstPass
from pp_graph.calibration.level import LevelPlan, settle
from pp_graph.calibration.placement import decision_cutoff
from pp_graph.calibration.score_counts import ScoreCounts

PARAMETERS = {
    "f1": [{}],
    "fbeta": [{"beta": 2.0}, {"beta": 0.5}],
    "youden": [{}],
    "fpr": [{"rate": 0.0}, {"rate": 0.1}, {"rate": 0.5}],
    "recall": [{"recall": 1.0}, {"recall": 0.5}],
    "quantile": [{"q": 0.5}, {"q": 0.97, "factor": 1.1}],
    "sigma": [{"k": 3.0}, {"k": 2.0, "robust": True}],
    "max-normal": [{}],
    "evt": [{"rate": 0.6, "tail": 0.5}],
    "pro": [{"rate": 0.0}, {"rate": 0.3}],
}
RANGE_PARAMETERS = {"minmax": [{}], "percentile": [{"low": 5.0, "high": 95.0}]}


def cases() -> list[tuple[str, dict]]:
    return [(kind.name, parameters) for kind in THRESHOLDS for parameters in PARAMETERS[kind.name]]


# --- the definitions, on sorted scores -------------------------------------------------------------------------------


def f1_of_torchmetrics(scores: np.ndarray, labels: np.ndarray) -> np.float32:
    """Anomalib's F1AdaptiveThreshold on torchmetrics' exact curve, operation by operation, in NumPy."""
    order = np.argsort(-scores.astype(np.float64), kind="stable")
    scores, labels = scores[order], labels[order]
    ends = np.flatnonzero(np.append(np.diff(scores.astype(np.float64)) != 0, True))
    tps = np.cumsum(labels.astype(np.float64))[ends].astype(np.float32)
    fps = (1 + ends).astype(np.float32) - tps
    precision = np.append((tps / (tps + fps))[::-1], np.float32(1))
    recall = np.append((tps / tps[-1])[::-1], np.float32(0))
    with np.errstate(invalid="ignore"):
        f1 = np.nan_to_num((2 * precision * recall) / (precision + recall + np.float32(1e-10)), nan=0.0)
    assert f1.dtype == np.float32
    return scores[ends][::-1][np.argmax(f1)]


def curve(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    distinct = np.unique(scores)
    found = np.array([(labels & (scores >= cut)).sum() for cut in distinct])
    false = np.array([(~labels & (scores >= cut)).sum() for cut in distinct])
    return distinct, found, false


def defined(name: str, parameters: dict, scores: np.ndarray, labels: np.ndarray) -> float:
    """The observed threshold, by the textbook."""
    normal = np.sort(scores[~labels]).astype(np.float64)
    distinct, found, false = curve(scores, labels)
    positives, negatives = int(labels.sum()), int((~labels).sum())
    match name:
        case "f1":
            return float(f1_of_torchmetrics(scores, labels))
        case "fbeta":
            weight = parameters["beta"] ** 2
            value = (1 + weight) * found / ((1 + weight) * found + weight * (positives - found) + false)
            return float(distinct[np.argmax(value)])
        case "youden":
            return float(distinct[np.argmax(found / positives - false / negatives)])
        case "fpr":
            fitting = distinct[false / negatives <= parameters["rate"]]
            return float(fitting[0] if len(fitting) else distinct[-1])
        case "recall":
            return float(distinct[found / positives >= parameters["recall"]][-1])
        case "quantile":
            return float(np.float32(parameters.get("factor", 1.0) * np.quantile(normal, parameters["q"])))
        case "sigma" if parameters.get("robust"):
            middle = np.quantile(normal, 0.5)
            return float(np.float32(middle + parameters["k"] * 1.4826 * np.quantile(np.abs(normal - middle), 0.5)))
        case "sigma":
            return float(np.float32(normal.mean() + parameters["k"] * normal.std()))
        case "max-normal":
            return float(normal[-1])
        case "evt":
            # A rate that is not rarer than the tail is answered by the data.
            return float(np.float32(np.quantile(normal, 1 - parameters["rate"])))
        case "pro":
            fitting = distinct[(false / negatives <= parameters["rate"]) & np.isin(distinct, scores[labels])]
            return float(fitting[0] if len(fitting) else distinct[-1])
    raise AssertionError(name)


# --- scores that make it hard ----------------------------------------------------------------------------------------

finite = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**100), max_value=2.0**100)
close = st.integers(0, 40).map(lambda steps: float(np.float32(1) + np.float32(steps) * np.float32(2.0**-23)))
tiny = st.integers(-20, 20).map(lambda steps: steps * 2.0**-149)
few = st.sampled_from([-3.0, -0.0, 0.0, 0.5, 1.0, 7.25])
numbers = st.one_of(*(st.lists(each, min_size=1, max_size=60) for each in (finite, close, tiny, few)))


@st.composite
def labelled_scores(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    scores = np.array(draw(numbers), np.float32) + np.float32(0)
    labels = np.array(draw(st.lists(st.booleans(), min_size=len(scores), max_size=len(scores))))
    return scores, labels


def streamed(
    plan: LevelPlan, scores: np.ndarray, labels: np.ndarray, *, cuts: list[int] | None = None, bits: int | None = None
) -> tuple[ScoreCounts, dict, int]:
    """Count in batches, pass after pass, in two states that merge."""
    sketches = {kind: kind() for kind in plan.threshold.sketches()}
    parts = np.split(np.arange(len(scores)), sorted(cuts or []))

    def run(passes: list) -> ScoreCounts:
        for index, part in enumerate(parts):
            passes[index % 2].update(scores[part], labels[part])
        passes[0].merge(passes[1])
        return passes[0].counts()

    counts = run([FirstPass(), FirstPass()])
    for sketch in sketches.values():
        for part in parts:
            sketch.update(scores[part][~labels[part]])
    taken = 1
    while (settlement := settle(plan, counts, sketches)).unsettled.any():
        assert taken < 6, "passes must come to an end"
        counts = run([FinerPass(counts, settlement.unsettled), FinerPass(counts, settlement.unsettled)])
        taken += 1
    return counts, sketches, taken


@pytest.mark.parametrize(("name", "parameters"), cases(), ids=str)
@settings(deadline=None, max_examples=120, suppress_health_check=[HealthCheck.too_slow])
@given(data=labelled_scores(), cuts=st.lists(st.integers(0, 60), max_size=4))
@example(data=(np.array([1.5], np.float32), np.array([True])), cuts=[])
@example(data=(np.full(7, 2.5, np.float32), np.array([True, False] * 3 + [True])), cuts=[3])
def test_streamed_equals_sorted(name: str, parameters: dict, data: tuple, cuts: list[int]) -> None:
    scores, labels = data
    assume(labels.any() and not labels.all())
    assume(float(scores.max()) - float(scores.min()) < 1e38)
    plan = LevelPlan(threshold_estimator(name, parameters), range_estimator("minmax"), "observed")
    counts, sketches, _ = streamed(plan, scores, labels, cuts=[min(cut, len(scores)) for cut in cuts])
    found = settle(plan, counts, sketches)
    expected = defined(name, parameters, scores, labels)
    if name == "sigma" and not parameters.get("robust"):
        # The definition's own sums round; ours do not.
        assert found.threshold == pytest.approx(expected, rel=1e-6, abs=1e-44 + float(np.abs(scores).max()) * 1e-6)
    else:
        assert found.threshold == expected
    assert (found.minimum, found.maximum) == (float(scores.min()), float(scores.max()))
    exact = settle(plan, ScoreCounts.of(scores, labels, np.ones(len(scores), bool)), sketches)
    assert exact.threshold == found.threshold


@pytest.mark.parametrize(("name", "parameters"), cases(), ids=str)
@settings(deadline=None, max_examples=60)
@given(data=labelled_scores())
def test_one_pass_bound_holds(name: str, parameters: dict, data: tuple) -> None:
    scores, labels = data
    assume(labels.any() and not labels.all())
    assume(float(scores.max()) - float(scores.min()) < 1e38)
    plan = LevelPlan(threshold_estimator(name, parameters), range_estimator("percentile"), "midpoint")
    first = FirstPass()
    first.update(scores, labels)
    sketches = {kind: kind() for kind in plan.threshold.sketches()}
    for sketch in sketches.values():
        sketch.update(scores[~labels])
    coarse = settle(plan, first.counts(), sketches)
    exact = settle(plan, ScoreCounts.of(scores, labels, np.ones(len(scores), bool)), sketches)
    assert exact.exact
    low, high = coarse.threshold_bound
    assert low <= coarse.threshold <= high
    # Where inference rounds, the placed threshold is lowered by a hair of the range, which is not the estimator's.
    hair = (coarse.maximum - coarse.minimum) * 2.0**-23
    assert low - hair <= exact.threshold <= high
    if coarse.exact:
        assert coarse.threshold == exact.threshold


@settings(deadline=None, max_examples=150)
@given(data=labelled_scores())
def test_midpoint_decides_as_the_metric_counted(data: tuple) -> None:
    scores, labels = data
    assume(labels.any())
    assume(float(scores.max()) - float(scores.min()) < 1e38)
    counts = ScoreCounts.of(scores, labels, np.ones(len(scores), bool))
    plan = LevelPlan(threshold_estimator("f1"), range_estimator("minmax"), "midpoint")
    observed = settle(LevelPlan(plan.threshold, plan.range, "observed"), counts, {})
    found = settle(plan, counts, {})
    flagged = scores >= np.float32(found.cutoff)
    below = scores[scores < np.float32(observed.threshold)]
    # Scores that differ by less than float32 can normalise are told apart as far as the threshold's own digits go.
    if len(below) and decision_cutoff(float(below.max()), (found.minimum, found.maximum)) > observed.threshold:
        return
    assert np.array_equal(flagged, scores >= np.float32(observed.threshold))
