"""Thresholds and ranges from streamed counts equal those of the sorted scores, bit for bit."""

from __future__ import annotations

import pickle
import re
import sys
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from pp_graph.calibration import RANGES, THRESHOLDS, Calibrator, range_estimator, threshold_estimator
from pp_graph.calibration.counting import FinerPass, FirstPass
from pp_graph.calibration.level import LevelPlan, decision_cutoff, estimate_level, place
from pp_graph.calibration.score_counts import ScoreCounts
from pp_graph.calibration.sketches import TAIL_SIZE, LargestScores, Moments, Sketch
from pp_graph.calibration.thresholds.per_region_overlap import RegionOverlap
from pp_graph.errors import CalibrationError, DataError, ExtraError
from tests.conftest import examples

GOOD = np.ones((2, 4, 4), np.float32)
PARAMETERS = {
    "f1": [{}],
    "fbeta": [{"beta": 2.0}, {"beta": 0.5}],
    "youden": [{}],
    "fpr": [{"rate": 0.0}, {"rate": 0.1}, {"rate": 0.5}],
    "recall": [{"recall": 1.0}, {"recall": 0.5}],
    "precision": [{"precision": 1.0}, {"precision": 0.6}],
    "quantile": [{"q": 0.5}, {"q": 0.97, "factor": 1.1}],
    "sigma": [{"k": 3.0}, {"k": 2.0, "robust": True}],
    "max-normal": [{}],
    "evt": [{"rate": 0.6, "tail": 0.5}],
    "pro": [{"rate": 0.0}, {"rate": 0.3}],
}
RANGE_PARAMETERS = {"minmax": [{}], "percentile": [{"low": 5.0, "high": 95.0}]}


def cases() -> list[tuple[str, dict]]:
    return [(kind.name, parameters) for kind in THRESHOLDS for parameters in PARAMETERS[kind.name]]


# --- definitions, on sorted scores ---------------------------------------------------------------------------------


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
    """The observed threshold, by its definition."""
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
        case "precision":
            reached = np.minimum(found / (found + false), parameters["precision"])
            return float(distinct[np.argmax(reached)])
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
            # If the rate is not smaller than the tail, the threshold is a quantile of the data.
            return float(np.float32(np.quantile(normal, 1 - parameters["rate"])))
        case "pro":
            fitting = distinct[(false / negatives <= parameters["rate"]) & np.isin(distinct, scores[labels])]
            return float(fitting[0] if len(fitting) else distinct[-1])
    raise AssertionError(name)


# --- difficult scores ------------------------------------------------------------------------------------------------

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
    plan: LevelPlan, scores: np.ndarray, labels: np.ndarray, *, cuts: list[int] | None = None
) -> tuple[ScoreCounts, Sketch | None, int]:
    """Count in batches and in two states that are merged, until no further pass is needed."""
    sketch = plan.threshold.new_sketch()
    parts = np.split(np.arange(len(scores)), sorted(cuts or []))

    def run(passes: list) -> ScoreCounts:
        for index, part in enumerate(parts):
            passes[index % 2].update(scores[part], labels[part])
        passes[0].merge(passes[1])
        return passes[0].counts()

    counts = run([FirstPass(), FirstPass()])
    for part in parts if sketch is not None else ():
        sketch.update(scores[part][~labels[part]])
    taken = 1
    while (estimate := estimate_level(plan, counts, sketch)).to_refine.any():
        assert taken < 6, "passes must come to an end"
        counts = run([FinerPass(counts, estimate.to_refine), FinerPass(counts, estimate.to_refine)])
        taken += 1
    return counts, sketch, taken


@pytest.mark.sample(every=13)
@pytest.mark.parametrize(("name", "parameters"), cases(), ids=str)
@examples(20)
@given(data=labelled_scores(), cuts=st.lists(st.integers(0, 60), max_size=4))
@example(data=(np.array([1.5], np.float32), np.array([True])), cuts=[])
@example(data=(np.full(7, 2.5, np.float32), np.array([True, False] * 3 + [True])), cuts=[3])
def test_streamed_equals_sorted(name: str, parameters: dict, data: tuple, cuts: list[int]) -> None:
    scores, labels = data
    assume(labels.any() and not labels.all())
    assume(float(scores.max()) - float(scores.min()) < 1e38)
    plan = LevelPlan(threshold_estimator(name, parameters), range_estimator("minmax"), "observed")
    counts, sketch, _ = streamed(plan, scores, labels, cuts=[min(cut, len(scores)) for cut in cuts])
    found = estimate_level(plan, counts, sketch)
    expected = defined(name, parameters, scores, labels)
    if name == "sigma" and not parameters.get("robust"):
        # The sums of the definition round.
        assert found.threshold == pytest.approx(expected, rel=1e-6, abs=1e-44 + float(np.abs(scores).max()) * 1e-6)
    else:
        assert found.threshold == expected
    assert (found.minimum, found.maximum) == (float(scores.min()), float(scores.max()))
    exact = estimate_level(plan, ScoreCounts.of(scores, labels, np.ones(len(scores), bool)), sketch)
    assert exact.threshold == found.threshold


@pytest.mark.sample(every=14)
@pytest.mark.parametrize(("name", "parameters"), cases(), ids=str)
@examples(13)
@given(data=labelled_scores())
def test_one_pass_bound_holds(name: str, parameters: dict, data: tuple) -> None:
    scores, labels = data
    assume(labels.any() and not labels.all())
    assume(float(scores.max()) - float(scores.min()) < 1e38)
    plan = LevelPlan(threshold_estimator(name, parameters), range_estimator("percentile"), "midpoint")
    first = FirstPass()
    first.update(scores, labels)
    sketch = plan.threshold.sketch_of(scores[~labels])
    coarse = estimate_level(plan, first.counts(), sketch)
    exact = estimate_level(plan, ScoreCounts.of(scores, labels, np.ones(len(scores), bool)), sketch)
    assert exact.exact
    low, high = coarse.threshold_bound
    assert low <= coarse.threshold <= high
    assert low <= exact.threshold <= high
    if coarse.exact:
        assert coarse.threshold == exact.threshold


@examples(33)
@given(data=labelled_scores())
def test_midpoint_decides_like_the_metric(data: tuple) -> None:
    scores, labels = data
    assume(labels.any())
    assume(float(scores.max()) - float(scores.min()) < 1e38)
    counts = ScoreCounts.of(scores, labels, np.ones(len(scores), bool))
    plan = LevelPlan(threshold_estimator("f1"), range_estimator("minmax"), "midpoint")
    observed = estimate_level(LevelPlan(plan.threshold, plan.range, "observed"), counts, None)
    found = estimate_level(plan, counts, None)
    flagged = scores >= np.float32(found.cutoff)
    below = scores[scores < np.float32(observed.threshold)]
    # Normalisation in float32 cannot separate scores that are too close.
    if len(below) and decision_cutoff(float(below.max()), (found.minimum, found.maximum)) > observed.threshold:
        return
    assert np.array_equal(flagged, scores >= np.float32(observed.threshold))


@examples(20)
@given(
    below=st.floats(-100, 100, width=32), steps=st.integers(1, 50), low=st.floats(-1000, 0), span=st.floats(1e-3, 1e6)
)
def test_placed_threshold_separates_after_normalising(below: float, steps: int, low: float, span: float) -> None:
    """For very close scores and very wide ranges."""
    score = np.float32(below)
    for _ in range(steps):
        score = np.nextafter(score, np.float32(np.inf))
    normalization = (float(np.float32(low)), float(np.float32(low + span)))
    threshold = place("midpoint", np.float32(below), score, normalization)
    cutoff = decision_cutoff(float(threshold), normalization)
    assert cutoff <= score
    assert threshold < score
    # It is below the next lower score only if no higher threshold separates the two.
    if threshold < np.float32(below):
        assert decision_cutoff(below, normalization) > score
    else:
        assert cutoff > below


def test_midpoint_lies_halfway() -> None:
    assert place("midpoint", np.float32(1), np.float32(2), None) == 1.5
    assert place("observed", np.float32(1), np.float32(2), None) == 2
    assert place("midpoint", np.float32(1), np.nextafter(np.float32(1), np.float32(2)), None) == 1
    lowest = place("midpoint", None, np.float32(2), (0.0, 4.0))
    assert decision_cutoff(float(lowest), (0.0, 4.0)) <= 2


PRO_CASE = (np.array([[[1.0] * 10 + [1 + 2.0**-20, 2.0]]], np.float32), np.arange(12)[None, None] == 10)


@pytest.mark.parametrize("placement", ["observed", "midpoint"])
def test_bound_where_the_rate_is_crossed_within_an_interval(placement: str) -> None:
    """After one pass no interval is within the rate. The only score that is lies in the interval that crosses it."""
    maps, masks = PRO_CASE
    estimator = threshold_estimator("pro", {"rate": 0.1})
    first = Calibrator(pixel=estimator, placement=placement)
    first.update(maps=maps, masks=masks)
    coarse = first.result(resamples=0).pixel
    last, _ = run(Calibrator(pixel=estimator, placement=placement), maps, masks)
    exact = last.result(resamples=0).pixel
    low, high = coarse.record.threshold_bound
    assert low <= exact.statistics.threshold <= high
    assert exact.statistics.threshold == np.float32(1 + 2.0 ** (-20 if placement == "observed" else -21))
    assert not any("flags nothing" in warning for warning in coarse.warnings)
    assert exact.metrics.pro == (0.0 if placement == "observed" else 1.0)


@pytest.mark.slow
def test_bound_includes_the_rounding_of_normalisation() -> None:
    """Adjacent float32 scores in a range so wide that the threshold must be lowered to separate them."""
    generator = np.random.default_rng(1)
    estimators = [("f1", {}), ("youden", {}), ("fpr", {"rate": 0.3}), ("recall", {"recall": 0.6})]
    for index in range(60):
        base = np.float32(generator.normal())
        close = base + np.arange(generator.integers(2, 30)) * np.spacing(base)
        scores = np.append(close, 10.0 ** generator.integers(2, 7)).astype(np.float32)
        labels = np.arange(len(scores)) % 2 == index % 2
        plan = LevelPlan(threshold_estimator(*estimators[index % 4]), range_estimator("percentile"))
        first = FirstPass()
        first.update(scores, labels)
        low, high = estimate_level(plan, first.counts(), None).threshold_bound
        exact = estimate_level(plan, ScoreCounts.of(scores, labels, np.ones(len(scores), bool)), None).threshold
        assert low <= exact <= high, scores


def test_metrics_need_a_second_pass_if_only_the_threshold_is_exact() -> None:
    """Mean and standard deviation are exact after one pass, but the cutoff lies within an interval."""
    maps, masks, _ = images(20, size=64)
    first = Calibrator(pixel=threshold_estimator("sigma", {"k": 0.1}))
    first.update(maps=maps, masks=masks)
    coarse = first.result(resamples=0).pixel
    assert coarse.record.exact
    assert coarse.record.threshold_bound is None
    assert not coarse.metrics.exact
    assert not first.settled
    last, passes = run(Calibrator(pixel=threshold_estimator("sigma", {"k": 0.1})), maps, masks)
    assert passes == 2
    exact = last.result(resamples=0).pixel
    assert exact.statistics == coarse.statistics
    assert exact.metrics.true_positives == ((maps >= np.float32(exact.cutoff)) & masks).sum()
    assert exact.metrics.exact


def test_regions_touch_at_corners_and_count_at_the_cutoff() -> None:
    mask = np.zeros((6, 6), bool)
    mask[0, 0] = mask[1, 1] = True
    mask[4:, 4:] = True
    anomaly_map = np.zeros((6, 6), np.float32)
    anomaly_map[1, 1], anomaly_map[4, 4] = 2.0, 3.0
    overlap = RegionOverlap(2.0)
    overlap.update(anomaly_map, mask)
    assert overlap.regions == 2
    assert overlap.mean == (1 / 2 + 1 / 4) / 2


def test_unlabelled_scores_count_for_percentiles() -> None:
    calibrator = Calibrator(image_range=range_estimator("percentile", {"low": 0, "high": 50}))
    calibrator.update(scores=[1.0, 2.0], labels=[0, 1])
    calibrator.update(scores=[3.0, 4.0, 5.0])
    assert calibrator.result().image.statistics.max == 3


def test_dropped_values_merge() -> None:
    states = [Calibrator(ignore_nonfinite=True) for _ in range(2)]
    for state in states:
        state.update(maps=np.array([[[1.0, np.nan]]], np.float32), labels=[0])
    states[0].merge(states[1])
    with pytest.raises(CalibrationError, match="No image score is finite"):
        states[0].result()
    assert states[0]._dropped == {"image": 2, "pixel": 2}


# --- ranges ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", RANGES, ids=lambda kind: kind.name)
@examples(13)
@given(data=labelled_scores())
def test_range_streamed_equals_sorted(kind: type, data: tuple) -> None:
    scores, labels = data
    assume(float(scores.max()) - float(scores.min()) < 1e38)
    for parameters in RANGE_PARAMETERS[kind.name]:
        plan = LevelPlan(threshold_estimator("fpr"), range_estimator(kind.name, parameters))
        counts, _, _ = streamed(plan, scores, labels, cuts=[len(scores) // 2])
        (low, lowest), (highest, high) = plan.range.bounds(counts)
        wide = scores.astype(np.float64)
        expected = np.percentile(wide, [parameters.get("low", 0), parameters.get("high", 100)])
        assert (low, high) == tuple(expected)
        assert (low, high) == (lowest, highest)


# --- sketches --------------------------------------------------------------------------------------------------------


@examples(20)
@given(scores=numbers.map(lambda values: np.array(values, np.float32)), cut=st.integers(0, 60))
def test_moments_do_not_depend_on_order_or_batches(scores: np.ndarray, cut: int) -> None:
    whole, parts, more = Moments(), Moments(), Moments()
    whole.update(scores)
    parts.update(scores[::-1][: min(cut, len(scores))])
    more.update(scores[::-1][min(cut, len(scores)) :])
    parts.merge(more)
    assert (whole.mean, whole.std) == (parts.mean, parts.std)
    mean = sum(map(Fraction, map(float, scores))) / len(scores)
    assert whole.mean == float(mean)
    variance = sum((Fraction(float(score)) - mean) ** 2 for score in scores) / len(scores)
    assert Fraction(whole.std) ** 2 == pytest.approx(variance, rel=1e-15, abs=0)


def test_largest_scores_are_kept() -> None:
    scores = np.random.default_rng(0).normal(size=60_000).astype(np.float32)
    first, second = LargestScores(), LargestScores()
    for part in np.split(scores[:40_000], 10):
        first.update(part)
    second.update(scores[40_000:])
    first.merge(second)
    assert np.array_equal(first.largest(7), np.sort(scores)[-7:])
    assert np.array_equal(first.largest(TAIL_SIZE), np.sort(scores)[-TAIL_SIZE:])


def test_evt_finds_the_rate_of_a_known_tail() -> None:
    pytest.importorskip("scipy", reason="the extra 'calibration' is not installed")
    generator = np.random.default_rng(3)
    estimator = threshold_estimator("evt", {"rate": 1e-4, "tail": 0.05})
    sketch = LargestScores()
    scores = generator.exponential(size=20_000).astype(np.float32)
    sketch.update(scores)
    counts = ScoreCounts.of(scores, np.zeros(len(scores), bool), np.ones(len(scores), bool))
    found, again = estimator.bounds(counts, sketch)
    assert found == again
    # exp(-x) = 1e-4; a tail of 1,000 scores gives it within a few tenths.
    assert found == pytest.approx(-np.log(1e-4), abs=1.0)
    for unit in (1e-30, 1e30):
        scaled = LargestScores()
        scaled.update((scores * unit).astype(np.float32))
        assert estimator.bounds(counts, scaled)[0] == pytest.approx(found * unit, rel=1e-3)
    rare, _ = threshold_estimator("evt", {"rate": 1e-5, "tail": 0.05}).bounds(counts, sketch)
    assert rare > found


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        (np.arange(30, dtype=np.float32), "The tail has 3 of 30 normal scores, expected at least 10"),
        (np.ones(1000, np.float32), "Of the 101 largest normal scores 101 are 1, expected distinct scores"),
        (np.minimum(np.random.default_rng(0).gamma(4, 1, 5000), 8), "which flags .* of 5,000 normal scores, expected"),
        (np.repeat([1.0, 2.0], [90, 10]), "The tail of the scores is not smooth"),
    ],
)
def test_evt_errors(scores: np.ndarray, expected: str) -> None:
    calibrator = Calibrator(image="evt")
    calibrator.update(scores=scores, labels=np.zeros(len(scores)))
    with pytest.raises(CalibrationError, match=expected):
        calibrator.result()


# --- the calibrator --------------------------------------------------------------------------------------------------


def images(count: int, size: int = 24, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    maps = generator.gamma(4, 1, (count, size, size)).astype(np.float32)
    masks = np.zeros(maps.shape, bool)
    masks[1::2, 3:9, 4:12] = True
    masks[3::4, 15:18, 15:20] = True
    maps[masks] += generator.gamma(3, 2, int(masks.sum())).astype(np.float32)
    return maps, masks, masks.any(axis=(1, 2))


def run(calibrator: Calibrator, maps: np.ndarray, masks: np.ndarray, size: int = 4) -> tuple[Calibrator, int]:
    passes = 0
    current: Calibrator | None = calibrator
    while current is not None:
        passes += 1
        for start in range(0, len(maps), size):
            current.update(maps=maps[start : start + size], masks=masks[start : start + size])
        calibrator, current = current, current.refine()
    return calibrator, passes


@pytest.mark.parametrize("method", [kind.name for kind in THRESHOLDS if kind.name != "evt"])
def test_pixels_of_many_maps_equal_all_sorted(method: str) -> None:
    maps, masks, _ = images(12)
    last, passes = run(Calibrator(pixel=method, placement="observed"), maps, masks)
    result = last.result(resamples=0)
    assert passes <= 3
    assert result.exact
    parameters = threshold_estimator(method).parameters()
    expected = defined(method, parameters, maps.ravel(), masks.ravel())
    assert result.pixel.statistics.threshold == pytest.approx(expected, rel=1e-7 if method == "sigma" else 0)
    assert (result.pixel.record.normal, result.pixel.record.anomalous) == ((~masks).sum(), masks.sum())
    flagged = maps >= np.float32(result.pixel.cutoff)
    metrics = result.pixel.metrics
    assert metrics.exact
    assert metrics.true_positives == (flagged & masks).sum()
    assert metrics.false_positives == (flagged & ~masks).sum()
    # Without scores, the score is the largest value of the map.
    assert result.image.statistics.max == maps.max()
    if method == "pro":
        from scipy import ndimage

        overlaps = []
        for each, mask in zip(flagged, masks, strict=True):
            regions, count = ndimage.label(mask, structure=np.ones((3, 3)))
            overlaps += [each[regions == index + 1].mean() for index in range(count)]
        assert metrics.pro == pytest.approx(np.mean(overlaps), abs=1e-12)
        assert metrics.regions == len(overlaps)


def test_one_pass_comes_with_a_bound() -> None:
    maps, masks, _ = images(40, size=64)
    exact = run(Calibrator(), maps, masks)[0].result(resamples=0)
    first = Calibrator()
    first.update(maps=maps, masks=masks)
    assert not first.settled
    coarse = first.result(resamples=0)
    assert not coarse.exact
    low, high = coarse.pixel.record.threshold_bound
    assert low <= exact.pixel.statistics.threshold <= high
    assert high - low < 0.2
    assert coarse.pixel.statistics.min == exact.pixel.statistics.min
    low, high = coarse.pixel.metrics.auroc_bound
    ranks = maps.ravel().argsort().argsort() + 1.0
    positives = masks.sum()
    area = (ranks[masks.ravel()].sum() - positives * (positives + 1) / 2) / (positives * (masks.size - positives))
    assert low <= area <= high
    assert high - low < 1e-3


def test_processes_merge_in_any_order() -> None:
    maps, masks, labels = images(16)
    whole = run(Calibrator(pixel="sigma"), maps, masks)[0].result(resamples=50)
    states = [Calibrator(pixel="sigma") for _ in range(3)]
    for index in range(16):
        states[index % 3].update(maps=maps[index : index + 1], masks=masks[index : index + 1])
    first = states[2]
    for other in states[:2]:
        first.merge(pickle.loads(pickle.dumps(other)))
    merged = first.result(resamples=50)
    assert merged.pixel.statistics == whole.pixel.statistics
    assert merged.image.statistics == whole.image.statistics
    assert merged.record.anomalous_images == labels.sum()
    with pytest.raises(DataError, match="differ in their settings or in their pass, expected two of the same kind"):
        first.merge(Calibrator(pixel="f1"))


def test_second_passes_merge() -> None:
    maps, masks, _ = images(16)
    exact = run(Calibrator(), maps, masks)[0].result(resamples=0)
    first = Calibrator()
    first.update(maps=maps, masks=masks)
    one, other = first.refine(), first.refine()
    one.update(maps=maps[:5], masks=masks[:5])
    other.update(maps=maps[5:], masks=masks[5:])
    one.merge(other)
    assert one.settled
    assert one.result(resamples=0).pixel.statistics == exact.pixel.statistics


def test_other_data_in_a_second_pass_is_refused() -> None:
    maps, masks, _ = images(8)
    first = Calibrator()
    first.update(maps=maps, masks=masks)
    second = first.refine()
    second.update(maps=maps + np.float32(0.01), masks=masks)
    with pytest.raises(DataError, match="A later pass found .* expected the same data in every pass"):
        second.result()
    second = first.refine()
    second.update(maps=maps[:3], masks=masks[:3])
    with pytest.raises(DataError, match="A later pass saw 1,728 pixels and the first 4,608"):
        second.result()


def test_memory_stays_bounded() -> None:
    maps, masks, _ = images(2, size=512)
    calibrator: Calibrator | None = Calibrator()
    tracemalloc.start()
    try:
        while calibrator is not None:
            for index in range(200):
                calibrator.update(maps=maps * np.float32(1 + index / 1000), masks=masks)
            last, calibrator = calibrator, calibrator.refine()
        result = last.result(resamples=0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert result.exact
    assert result.pixel.record.normal + result.pixel.record.anomalous == 200 * maps.size
    assert peak < 150 * 2**20, "104 million pixels are 400 MiB"


@pytest.mark.slow
def test_memory_stays_bounded_with_scores_of_all_magnitudes() -> None:
    """The worst case of a first pass: scores in all intervals."""
    generator = np.random.default_rng(0)
    bits = generator.integers(0, 2**32, 1 << 22, dtype=np.uint64).astype(np.uint32)
    scores = bits.view(np.float32)
    scores = scores[np.isfinite(scores) & (np.abs(scores) < 1e37)]
    labels = generator.random(len(scores)) < 0.3
    tracemalloc.start()
    try:
        last, _ = run(Calibrator(placement="observed"), scores[None, None, :], labels[None, None, :], size=1)
        result = last.result(resamples=0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200 * 2**20
    assert result.pixel.statistics.threshold == f1_of_torchmetrics(scores, labels)


def test_batches_may_share_a_buffer() -> None:
    buffer = np.zeros(2, np.float32)
    calibrator = Calibrator()
    for number in (1.0, 2.0):
        buffer[:] = number
        calibrator.update(scores=buffer, labels=[0, 1])
    assert calibrator.image_scores[0].tolist() == [1, 1, 2, 2]


def test_an_empty_further_pass_is_an_error() -> None:
    """For example, from a generator that is exhausted."""
    maps, masks, _ = images(8)
    batches = iter([(maps, masks)])
    calibrator = Calibrator()
    for batch, mask in batches:
        calibrator.update(maps=batch, masks=mask)
    further = calibrator.refine()
    for batch, mask in batches:
        further.update(maps=batch, masks=mask)
    with pytest.raises(DataError, match="A later pass saw 0 pixels and the first 4,608"):
        further.refine()
    with pytest.raises(DataError, match="A later pass saw 0 pixels"):
        further.result()


def test_empty_batches_count_nothing() -> None:
    calibrator = Calibrator()
    calibrator.update(scores=[], labels=[])
    calibrator.update(maps=np.zeros((0, 4, 4), np.float32))
    calibrator.update(scores=[1.0], labels=[0])
    assert calibrator.result().record.images == 1


@pytest.mark.parametrize("other", [3, "itself", Calibrator(ignore_nonfinite=True), Calibrator(placement="observed")])
def test_incompatible_calibrators_do_not_merge(other: object) -> None:
    calibrator = Calibrator()
    with pytest.raises(DataError, match="expected two of the same kind"):
        calibrator.merge(calibrator if other == "itself" else other)


def test_sigma_is_exact_after_one_pass() -> None:
    calibrator = Calibrator(pixel="sigma")
    calibrator.update(maps=np.array([[[1.0, 2.0, 4.0]]], np.float32), masks=np.array([[[0, 0, 1]]]))
    threshold = calibrator.result(resamples=0).pixel.statistics.threshold
    assert threshold == np.float32(1.5 + 3 * 0.5)


# --- one class, one value --------------------------------------------------------------------------------------------


def result_of(scores: list[float], labels: list[int] | None, **settings: object) -> object:
    calibrator = Calibrator(**settings)
    calibrator.update(scores=np.array(scores, np.float32), labels=labels)
    return calibrator.result(resamples=20)


@pytest.mark.parametrize("placement", ["observed", "midpoint"])
def test_all_normal_gives_the_maximum_with_a_warning(placement: str) -> None:
    result = result_of([3.0, 1.0, 2.0], [0, 0, 0], placement=placement)
    assert result.image.statistics.threshold == 3
    assert "no score is anomalous, and 'f1' needs some: the threshold is the largest score" in result.image.warnings
    assert result.image.metrics.false_positives == 0


def test_all_anomalous_gives_the_minimum() -> None:
    result = result_of([3.0, 1.0, 2.0], [1, 1, 1], placement="observed")
    assert result.image.statistics.threshold == 1
    assert "no score is normal: how often normal ones are flagged cannot be told" in result.image.warnings
    # The midpoint is below the smallest score, so all are found.
    result = result_of([3.0, 1.0, 2.0], [1, 1, 1])
    assert result.image.statistics.threshold < 1
    assert result.image.metrics.recall == 1


def test_no_labels_give_a_range_only() -> None:
    result = result_of([3.0, 1.0, 2.0], None)
    assert (result.image.statistics.threshold, result.image.statistics.min, result.image.statistics.max) == (None, 1, 3)
    assert result.image.metrics is None
    assert result.image.warnings == ("no score has a label: there is no threshold",)


def test_single_value() -> None:
    result = result_of([2.0] * 4, [0, 1, 0, 1], placement="observed")
    assert result.image.statistics.threshold == 2
    assert "all scores are 2: nothing tells them apart" in result.image.warnings
    assert result.image.metrics.auroc == 0.5


def test_anomalies_without_masks_count_for_the_range_only() -> None:
    maps, masks, labels = images(6)
    given: list = [None if label else mask for mask, label in zip(masks, labels, strict=True)]
    calibrator = Calibrator()
    calibrator.update(maps=maps, masks=given, labels=labels)
    result = calibrator.result(resamples=0)
    assert result.pixel.statistics.max == maps.max()
    assert result.pixel.record.anomalous == 0
    assert any("images without a mask: 3; " in warning for warning in result.pixel.warnings)
    only_range = Calibrator()
    only_range.update(maps=maps)
    assert only_range.result(resamples=0).pixel.statistics.threshold is None


def test_masks_without_anomalous_pixels_are_mentioned() -> None:
    calibrator = Calibrator()
    calibrator.update(maps=GOOD, masks=np.stack([np.eye(4), np.zeros((4, 4))]), labels=[1, 1])
    warnings = calibrator.result(resamples=0).pixel.warnings
    assert "anomalous images with nothing in their mask: 1; all their pixels count as normal" in warnings


def test_value_estimators_need_normal_scores() -> None:
    with pytest.raises(
        CalibrationError, match="Estimator 'sigma' needs normal scores, but all 2 labelled scores are anomalous"
    ):
        result_of([1.0, 2.0], [1, 1], image="sigma")


def test_nothing_meets_the_rate() -> None:
    result = result_of([1.0, 2.0, 3.0, 9.0], [1, 1, 0, 0], image="fpr")
    assert result.image.statistics.threshold == 9
    assert any("no threshold meets 'fpr'" in warning for warning in result.image.warnings)


# --- warnings and intervals ------------------------------------------------------------------------------------------


def test_warns_of_few_images_and_steep_thresholds() -> None:
    crowd = np.linspace(4.99, 5.01, 60)
    scores = np.concatenate([np.linspace(0, 10, 40), crowd])
    labels = np.concatenate([np.zeros(20), np.ones(20), np.arange(60) % 2])
    result = result_of(list(scores), list(labels.astype(int)))
    (steep,) = (warning for warning in result.image.warnings if "cliff" in warning)
    flips, flagged = map(int, re.search(r"flips (\d+) decisions, where (\d+) of 100", steep).groups())
    assert flips > flagged / 20
    below = np.concatenate([np.linspace(0, 10, 40), np.linspace(4.95, 4.99, 60)])
    steep = result_of(list(below), [int(score >= 5) for score in below], image="recall", image_range="minmax")
    assert any("cliff" in warning for warning in steep.image.warnings), "to the lower side only"
    crowded = Calibrator(image="max-normal")
    crowded.update(scores=np.linspace(0, 1, 2000), labels=np.zeros(2000))
    assert not any("cliff" in warning for warning in crowded.result(resamples=0).image.warnings), "20 of 2,000"
    calm = result_of([1.0, 2.0, 8.0, 9.0], [0, 0, 1, 1])
    assert not any("cliff" in warning for warning in calm.image.warnings)
    assert "only 2 normal images, and figures of fewer than 20 say little" in calm.image.warnings


def test_intervals_need_both_classes_left_out() -> None:
    """A single normal image is in every draw, so no normal image is left out."""
    metrics = result_of([5.0, *range(30)], [0, *[1] * 30]).image.metrics
    assert not {"precision", "recall", "f1"} & set(metrics.intervals)
    assert "threshold" in metrics.intervals


def test_intervals_cover_the_true_values() -> None:
    generator = np.random.default_rng(5)
    scores = np.concatenate([generator.normal(0, 1, 300), generator.normal(2, 1, 300)]).astype(np.float32)
    calibrator = Calibrator()
    calibrator.update(scores=scores, labels=np.arange(600) >= 300)
    metrics = calibrator.result(resamples=400).image.metrics
    assert set(metrics.intervals) == {"threshold", "f1", "precision", "recall", "auroc"}
    for name in ("f1", "precision", "recall", "auroc"):
        low, high = metrics.intervals[name]
        assert low <= getattr(metrics, name) <= high
        assert 0 < high - low < 0.2
    # Two normal distributions, two standard deviations apart: AUROC is Phi(2 / sqrt 2) = 0.9214.
    low, high = metrics.intervals["auroc"]
    assert low < 0.9214 < high
    again = calibrator.result(resamples=400).image.metrics
    assert again == metrics, "the seed is fixed"


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "Neither scores nor maps were given"),
        ({"scores": np.ones((2, 3))}, r"Scores have shape \(2, 3\), expected \(N,\) or \(N,1\)"),
        ({"scores": ["a", "b"]}, "Scores hold <U1, expected floating-point numbers"),
        ({"maps": np.ones((2, 3, 4, 4))}, r"Maps have shape \(2, 3, 4, 4\), expected \(N,H,W\)"),
        ({"maps": GOOD, "scores": [1.0]}, "There are 1 scores and 2 maps"),
        ({"scores": [1.0, 2.0], "labels": [1]}, "There are 2 images and 1 labels"),
        ({"scores": [1.0, 2.0], "labels": [[1, 0]]}, r"Labels have shape \(1, 2\), expected \(N,\)"),
        ({"scores": [1.0, 2.0], "labels": [1, -1]}, "Labels: found -1, expected bool, or 0 for normal and 1 for anomalous"),
        ({"scores": [1.0, 2.0], "labels": [0.9, 0.1]}, "Labels: found 0.9, expected bool"),
        ({"scores": [[1.0, 2.0], [1.0]]}, "Scores cannot be read as an array"),
        ({"maps": GOOD, "masks": [-GOOD[0], None]}, "The mask of 'image 0': found negative numbers or NaN"),
        ({"scores": [1.0], "labels": [np.nan]}, "Labels: found nan, expected bool"),
        ({"maps": GOOD, "masks": np.ones((2, 3, 3))}, r"The mask of 'image 0' has shape \(3, 3\), expected \(4, 4\)"),
        ({"maps": GOOD, "masks": [None]}, "There are 2 images and 1 masks"),
        ({"maps": GOOD, "masks": GOOD, "labels": [0, 1], "names": ["a", "b"]},
         "'a' is labelled normal, but its mask has anomalous pixels .16."),
        ({"scores": [1.0], "names": ["a", "b"]}, "There are 1 images and 2 names"),
    ],
)  # fmt: skip
def test_bad_batches(given: dict, expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        Calibrator().update(**given)


def test_values_that_are_not_finite_are_counted_and_named() -> None:
    maps, masks, labels = images(4)
    maps[2, 0, :3] = np.nan
    maps[2, 1, 0] = np.inf
    with pytest.raises(
        DataError, match=r"The map of 'c' has 4 of 576 values that are not finite \(3 NaN, 1 infinite\)"
    ):
        Calibrator().update(maps=maps, masks=masks, names=list("abcd"))
    with pytest.raises(DataError, match="The score of 'image 1' has 1 of 1 values that are not finite"):
        Calibrator().update(scores=[1.0, np.nan])
    # Finite numbers with an infinite sum.
    Calibrator().update(scores=np.array([3e38, 3e38], np.float32))
    lenient, _ = run(Calibrator(ignore_nonfinite=True), maps, masks)
    result = lenient.result(resamples=0)
    assert result.pixel.record.dropped == 4
    assert any("4 values that are not finite were left out" in warning for warning in result.pixel.warnings)
    kept = np.isfinite(maps)
    assert result.pixel.statistics.max == maps[kept].max()
    assert result.pixel.record.normal + result.pixel.record.anomalous == kept.sum()
    # The score of 'c' is the largest value of its map, NaN, which inference calls anomalous.
    assert result.image.record.dropped == 1
    assert result.image.record.normal + result.image.record.anomalous == 3
    assert any("do not count what inference decides about them" in warning for warning in result.image.warnings)
    lost = Calibrator(ignore_nonfinite=True)
    lost.update(scores=[np.nan, np.inf])
    with pytest.raises(CalibrationError, match="No image score is finite"):
        lost.result()
    assert labels.any()


def test_nothing_to_calibrate_with() -> None:
    with pytest.raises(CalibrationError, match="There were no images"):
        Calibrator().result()


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda: Calibrator(image="best"), "Threshold estimator 'best' is not known, expected one of: f1, fbeta"),
        (lambda: Calibrator(pixel_range="all"), "Range estimator 'all' is not known, expected one of: minmax"),
        (lambda: Calibrator(placement="middle"), "Placement is 'middle', expected 'midpoint' or 'observed'"),
        (lambda: Calibrator(image="pro"), "Estimator 'pro' was given for images, expected pixels"),
        (lambda: threshold_estimator("f1", {"rate": 1}), "'f1' has no parameter 'rate', expected none"),
        (lambda: threshold_estimator("fpr", {"k": 1}), "'fpr' has no parameter 'k', expected one of: rate"),
        (lambda: threshold_estimator("fpr", {"rate": 1.0}), r"Parameter 'rate' is 1.0, expected a number in \[0, 1\)"),
        (lambda: threshold_estimator("recall", {"recall": 0}), r"Parameter 'recall' is 0, expected a number in \(0, 1\]"),
        (lambda: threshold_estimator("sigma", {"k": np.nan}), r"Parameter 'k' is nan, expected a number in \(0, 1e"),
        (lambda: threshold_estimator("sigma", {"robust": 1.0}), "Parameter 'robust' is 1.0, expected True or False"),
        (lambda: threshold_estimator("fbeta", {"beta": 1e200}), "Parameter 'beta' is 1e.200, expected .* 1e.06"),
        (lambda: Calibrator(image=3), "Threshold estimator '3' is not known"),
        (lambda: Calibrator().result(resamples=-1), "resamples is -1, expected at least 0"),
        (lambda: result_of([1e38, 3e38], [0, 0], image="sigma", image_range="percentile"), "expected a number within"),
        (lambda: range_estimator("percentile", {"low": 60, "high": 50}), "Percentiles are 60 and 50, expected low below"),
    ],
)  # fmt: skip
def test_bad_settings(build: object, expected: str) -> None:
    with pytest.raises(CalibrationError, match=expected):
        build()


def test_missing_extra_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    for settings_ in ({"image": "evt"}, {"pixel": "pro"}):
        with pytest.raises(ExtraError, match=r"estimator needs scipy, .* pip install 'pp_graph\[calibration\]'"):
            Calibrator(**settings_)
