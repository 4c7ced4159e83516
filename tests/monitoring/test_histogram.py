"""The histogram of a calibration is exact at its ends, small, and travels with the statistics."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pp_graph as pp
from pp_graph.calibration.histogram import PARTS
from pp_graph.errors import StatisticsError
from pp_graph.statistics import ScoreHistogram
from tests.conftest import DEMO, examples

SCORES = st.floats(-(2.0**90), 2.0**90, width=32)


def calibrated(scores: np.ndarray, labels: np.ndarray | None = None) -> pp.CalibrationResult:
    calibrator = pp.Calibrator(image="max-normal")
    calibrator.update(scores=np.asarray(scores, np.float32), labels=labels)
    return calibrator.result(resamples=0)


@examples(13)
@given(st.lists(st.tuples(SCORES, st.booleans()), min_size=1, max_size=400))
def test_counts_are_exact_at_every_end_and_at_the_cutoff(rows: list[tuple[float, bool]]) -> None:
    scores, labels = np.array([row[0] for row in rows], np.float32), np.array([row[1] for row in rows])
    labels[0] = False
    result = calibrated(scores, labels)
    histogram = pp.Statistics.from_json(result.statistics.to_json()).histogram
    assert histogram is not None
    ends = np.array(histogram.ends, np.float32)
    assert (np.diff(ends) > 0).all()
    for kind, members in (("normal", scores[~labels]), ("anomalous", scores[labels])):
        counts = getattr(histogram, kind) or (0,) * len(ends)
        assert np.cumsum(counts).tolist() == [int((members <= end).sum()) for end in ends]
        for low, high, count in zip([-np.inf, *ends[:-1]], ends, counts, strict=True):
            inside = members[(members > low) & (members <= high)]
            assert count <= np.ceil(len(members) / PARTS) or len(np.unique(inside)) == 1
    assert result.image is not None
    assert result.image.metrics is not None
    reference = pp.DriftMonitor(result.statistics)._reference
    assert reference.alarms == (result.image.metrics.false_positives,) * 2


def test_many_scores_take_a_few_kb() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(100_000) < 0.1
    text = calibrated(rng.gamma(4, 3, 100_000), labels).statistics.to_json()
    assert len(text) < 6_000
    assert len(text.splitlines()[-2]) > 2_000  # one line, below the six numbers


def test_earlier_files_load_and_stay_as_they_were() -> None:
    earlier = pp.Statistics.load(DEMO / "stats.json")
    assert earlier.histogram is None
    assert "histogram" not in earlier.to_json()
    fused = pp.fuse(DEMO / "raw.onnx", pp.OneClassPostProcessor(earlier), tail=False)
    assert "histogram" not in fused.provenance.to_json()


@pytest.mark.parametrize(
    ("histogram", "message"),
    [
        ('{"ends": [], "normal": []}', "'ends' holds 0 numbers, expected 1 to"),
        ('{"ends": [2, 1], "normal": [1, 1]}', "'ends' does not ascend"),
        ('{"ends": [1, 2], "normal": [1]}', "'normal' holds 1 count, expected 2"),
        ('{"ends": [1, 2], "normal": [1, -1]}', "a count that is negative"),
        ('{"ends": [1, 2]}', "it counts no score"),
        ('{"ends": [1, 2], "normal": [1, 1.5]}', "normal"),
        ('{"ends": [1, 2], "norml": [1, 1]}', "unknown field 'histogram.norml'"),
        ("[1, 2]", "field 'histogram' holds a list"),
    ],
)
def test_damaged_histograms_are_refused(histogram: str, message: str) -> None:
    with pytest.raises(StatisticsError, match=message):
        pp.Statistics.from_json(f'{{"image": {{"threshold": 1}}, "histogram": {histogram}}}')


def test_histogram_travels_with_the_model(tmp_path: Path) -> None:
    statistics = pp.calibrate(DEMO / "raw.onnx", DEMO / "images", resamples=0).statistics
    assert statistics.histogram is not None
    assert (statistics.histogram.total("normal"), statistics.histogram.total("anomalous")) == (6, 6)
    raw, fused, tuned, back = (tmp_path / name for name in ("raw.onnx", "fused.onnx", "tuned.onnx", "back.onnx"))
    raw.write_bytes((DEMO / "raw.onnx").read_bytes())
    pp.fuse(raw, pp.OneClassPostProcessor(statistics), tail=False).save(fused)
    # The same decisions and operators as without.
    plain = pp.fuse(raw, pp.OneClassPostProcessor(without(statistics)), tail=False)
    with_histogram = pp.open(fused)
    assert with_histogram.provenance.cutoffs == plain.provenance.cutoffs
    assert with_histogram.provenance.emission == plain.provenance.emission
    pp.retune(fused, output=tuned, image_sensitivity=0.6)
    for file in (fused, tuned):
        assert pp.open(file).provenance.statistics.histogram == statistics.histogram
        assert pp.Statistics.load(file).histogram == statistics.histogram
        assert "12 scores (6 normal, 6 anomalous) in " in str(pp.inspect(file))
    pp.strip(tuned).save(back)
    assert back.read_bytes() == raw.read_bytes()


def without(statistics: pp.Statistics) -> pp.Statistics:
    return pp.Statistics.from_json(
        json.dumps({name: value for name, value in json.loads(statistics.to_json()).items() if name != "histogram"})
    )


@pytest.mark.slow
def test_histogram_travels_with_the_ir(tmp_path: Path) -> None:
    statistics = pp.calibrate(DEMO / "raw.onnx", DEMO / "images", resamples=0).statistics
    ir = tmp_path / "model.xml"
    pp.convert(pp.fuse(DEMO / "raw.onnx", pp.OneClassPostProcessor(statistics))).save(ir)
    pp.retune(ir, pixel_sensitivity=0.4)
    assert pp.open(ir).provenance.statistics.histogram == statistics.histogram
    assert pp.Statistics.load(ir).histogram == statistics.histogram


def test_options_on_top_of_a_file_keep_it(tmp_path: Path) -> None:
    from pp_graph.cli.numbers import with_numbers

    statistics = calibrated(np.arange(10)).statistics
    changed = with_numbers(statistics, {"image_threshold": 5.5})
    assert changed is not None
    assert changed.image.threshold == 5.5
    assert changed.histogram == statistics.histogram
    assert isinstance(changed.histogram, ScoreHistogram)
