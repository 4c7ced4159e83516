"""`drift`: on a real model, on logs of every kind, and as often wrong as its level says."""

from __future__ import annotations

import json
import pickle
import re
import tracemalloc
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import pp_graph as pp
from pp_graph.calibration.histogram import histogram_of
from pp_graph.calibration.score_counts import ScoreCounts
from pp_graph.cli import run
from pp_graph.data import open_images
from pp_graph.errors import DataError, SettingsError, StatisticsError
from pp_graph.model import RawModel
from pp_graph.monitoring.reference import reference_of
from pp_graph.statistics import ScoreHistogram
from tests.conftest import DEMO, examples
from tests.models import conv_model


def statistics_of(normal: np.ndarray, anomalous: np.ndarray | None = None) -> pp.Statistics:
    """Statistics with a threshold above all normal scores."""
    scores = np.concatenate([normal, [] if anomalous is None else anomalous]).astype(np.float32)
    flags = np.arange(len(scores)) >= len(normal)
    counts = ScoreCounts.of(scores, flags, np.ones(len(scores), bool))
    top = float(np.float32(normal.max()))
    level = pp.LevelStatistics(threshold=top, min=float(scores.min()), max=float(scores.max()))
    cutoff = np.nextafter(np.float32(top), np.float32(np.inf))
    return pp.Statistics(image=level, histogram=histogram_of(counts, float(cutoff)))


@pytest.fixture(scope="module")
def calibrated() -> pp.Statistics:
    rng = np.random.default_rng(0)
    return statistics_of(rng.gamma(20, 0.5, 400), rng.gamma(60, 0.5, 60))


# --- a real model -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def turned() -> tuple[np.ndarray, np.ndarray]:
    """Good photographs in all eight orientations, in two halves."""
    images = open_images(DEMO / "images" / "good")
    plain = images.read(0, len(images), RawModel.open(DEMO / "raw.onnx").inputs)["image"]
    turns = [np.rot90(plain, turn, axes=(2, 3)) for turn in range(4)]
    every = np.ascontiguousarray(np.concatenate([*turns, *(each[..., ::-1] for each in turns)]), np.float32)
    order = np.random.default_rng(0).permutation(len(every))
    return every[order[:24]], every[order[24:]]


def test_darker_images_are_drift_and_others_of_the_same_kind_are_not(
    turned: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    first, second = turned
    labels = np.zeros(len(first), np.int64)
    statistics = pp.calibrate(
        DEMO / "raw.onnx", {"image": first, "label": labels}, image="max-normal", pixel="max-normal", resamples=0
    ).statistics
    fused = tmp_path / "fused.onnx"
    pp.fuse(DEMO / "raw.onnx", pp.OneClassPostProcessor(statistics), tail=False).save(fused)
    runner = pp.load(fused)
    monitor = pp.DriftMonitor(fused)
    monitor.update(runner(second).pred_score)
    same = monitor.report()
    assert not same.drifted
    assert same.scale == "normalized"
    dark = pp.drift(fused, runner(second * np.float32(0.5)).pred_score)
    assert dark.drifted
    assert dark.verdict.startswith("DRIFT: scores are")
    opened = pp.drift(pp.open(fused), runner(second).pred_score)
    assert (opened.found, opened.shape) == (same.found, same.shape)


# --- how often it is wrong --------------------------------------------------------------------------------------------


def test_false_drift_is_as_rare_as_the_level_says() -> None:
    rng = np.random.default_rng(7)
    level, trials = 0.2, 200
    drifted, shifted, alarmed = 0, 0, 0
    for _ in range(trials):
        report = pp.DriftMonitor(statistics_of(rng.gamma(20, 0.5, 120)))
        report.update(rng.gamma(20, 0.5, 150))
        found = report.report(level=level)
        drifted, shifted, alarmed = drifted + found.drifted, shifted + found.shifted, alarmed + found.more_alarms
    spread = 3 * np.sqrt(level * (1 - level) / trials)
    assert level / 2 - spread < drifted / trials < level + spread
    for each in (shifted, alarmed):
        assert level / 10 < each / trials < level / 2 + spread


def test_shifts_and_alarms_are_found() -> None:
    rng = np.random.default_rng(8)
    statistics = statistics_of(rng.gamma(20, 0.5, 400))
    higher = pp.drift(statistics, rng.gamma(20, 0.5, 400) + 1)
    assert (higher.shifted, higher.shape.higher) == (True, True)
    lower = pp.drift(statistics, rng.gamma(20, 0.5, 400) * 0.8)
    assert (lower.shifted, lower.shape.higher, lower.more_alarms) == (True, False, False)
    assert "may be missed" in lower.advice
    some = np.append(rng.gamma(20, 0.5, 970), np.full(30, 40))  # 3 % far above: too few to shift the distribution
    alarms = pp.drift(statistics, some)
    assert (alarms.shifted, alarms.more_alarms) == (False, True)
    assert "defect rate" in alarms.advice
    assert not pp.drift(statistics, some, defect_rate=0.04).drifted


def test_intervals_hide_no_more_of_a_difference_than_they_hold() -> None:
    rng = np.random.default_rng(9)
    for size, shift in ((60, 0.0), (500, 0.3), (5000, 0.1)):
        normal, new = (rng.gamma(20, 0.5, size) + move for move in (0.0, shift))
        monitor = pp.DriftMonitor(statistics_of(normal))
        monitor.update(new)
        single = stats.ks_2samp(normal.astype(np.float32), new.astype(np.float32)).statistic
        shares = np.maximum(monitor._reference.counts / size, monitor._counts / size)
        assert single - shares.max() <= monitor.report().shape.statistic <= single + 1e-12


# --- scales -----------------------------------------------------------------------------------------------------------


@examples(8)
@given(st.integers(0, 1000), st.floats(0.5, 8), st.sampled_from([(0.05, 0.9), (0.4, 1.1), (0.7, 1.0)]))
def test_normalised_scores_are_compared_as_raw_ones_are(seed: int, shape: float, place: tuple[float, float]) -> None:
    rng = np.random.default_rng(seed)
    plain = statistics_of(rng.gamma(shape, 2, 150))
    low, high = plain.histogram.ends[0], plain.histogram.ends[-1]
    # Thresholds so low or high that many normalised scores are 0 or 1.
    threshold, width = low + place[0] * (high - low), place[1] * (high - low)
    level = pp.LevelStatistics(threshold=threshold, min=low, max=low + width)
    statistics = pp.Statistics(image=level, histogram=plain.histogram)
    new = rng.gamma(shape, 2.2, 200).astype(np.float32)
    normalised = pp.OneClassPostProcessor(statistics)({"pred_score": new[:, None]}).pred_score
    raw, found = pp.drift(statistics, new), pp.drift(statistics, normalised, scale="normalized")
    assert found.found == raw.found
    assert found.calibration == raw.calibration
    assert found.shape.statistic <= raw.shape.statistic + 1e-12
    if (normalised > 0).all() and (normalised < 1).all():
        assert found.shape.statistic == raw.shape.statistic
        assert found.shape.p_value == pytest.approx(raw.shape.p_value)


def test_a_cutoff_between_two_ends_bounds_the_alarms_of_the_calibration() -> None:
    rng = np.random.default_rng(1)
    scores = rng.gamma(20, 0.5, 5000).astype(np.float32)
    histogram = statistics_of(scores).histogram
    level = pp.LevelStatistics(threshold=11.0, min=2.0, max=30.0)
    found = pp.drift(pp.Statistics(image=level, histogram=histogram), scores)
    assert found.calibration.least <= int((scores > 11).sum()) <= found.calibration.alarms
    assert found.calibration.alarms - found.calibration.least <= 50
    assert found.found.alarms == int((scores > 11).sum())
    assert f"{found.calibration.least:,} to {found.calibration.alarms:,} of 5,000" in str(found)


def test_raw_and_normalised_scores_are_not_mixed_up(calibrated: pp.Statistics) -> None:
    with pytest.raises(DataError, match="A score is 12.*returns normalised ones.*--scale raw"):
        pp.drift(calibrated, [0.5, 12.0], scale="normalized")
    (warning,) = [each for each in pp.drift(calibrated, np.full(30, 0.4)).warnings if "normalised" in each]
    assert "--scale normalized" in warning


# --- counting ---------------------------------------------------------------------------------------------------------


@examples(8)
@given(st.lists(st.lists(st.one_of(st.floats(width=32), st.floats(0, 20, width=32)), max_size=30), max_size=6))
def test_merging_is_exact_in_any_order(parts: list[list[float]]) -> None:
    statistics = statistics_of(np.arange(5, 15))
    parts = [[10.0], *parts]
    whole = pp.DriftMonitor(statistics)
    whole.update(np.concatenate([np.array(part, np.float32) for part in parts]))
    merged = pp.DriftMonitor(statistics)
    for part in reversed(parts):
        other = pp.DriftMonitor(statistics)
        other.update(np.array(part, np.float32))
        merged.merge(pickle.loads(pickle.dumps(other)))
    assert merged.report() == whole.report()


def test_monitors_of_other_models_do_not_merge(calibrated: pp.Statistics) -> None:
    monitor = pp.DriftMonitor(calibrated)
    for other in (monitor, pp.DriftMonitor(calibrated, against="all"), pp.DriftMonitor(statistics_of(np.arange(9)))):
        with pytest.raises(DataError, match="differ in model, scale or against"):
            monitor.merge(other)


def test_labelled_anomalies_and_scores_that_are_not_finite_are_counted(calibrated: pp.Statistics) -> None:
    scores = [10.0] * 30 + [np.nan, np.inf, 25.0, 26.0]
    labels = [0] * 32 + [1, 1]
    found = pp.drift(calibrated, scores, labels=labels)
    assert (found.found.scores, found.not_finite, found.left_out) == (30, 2, 2)
    assert "2 new scores missing, NaN or infinite" in found.warnings[0]
    assert "2 new scores of images labelled anomalous left out" in found.warnings[1]
    everything = pp.drift(calibrated, scores, labels=labels, against="all")
    assert (everything.found.scores, everything.left_out, everything.calibration.scores) == (32, 0, 460)


def test_wrong_arguments(calibrated: pp.Statistics) -> None:
    with pytest.raises(StatisticsError, match=r"holds no histogram.*Calibrate again: pp-graph calibrate RAW.onnx"):
        pp.drift(DEMO / "stats.json", [1.0])
    unlabelled = pp.Statistics(image=calibrated.image, histogram=ScoreHistogram(ends=(1.0,), unlabelled=(3,)))
    assert pp.DriftMonitor(unlabelled)._reference.against == "all"
    with pytest.raises(StatisticsError, match="without normal scores.*--against all"):
        pp.DriftMonitor(unlabelled, against="normal")
    with pytest.raises(DataError, match="There is no score to compare.*2 are not finite"):
        pp.drift(calibrated, [np.nan, np.inf])
    with pytest.raises(DataError, match="of type <U1, expected numbers"):
        pp.drift(calibrated, np.array(["a"]))
    with pytest.raises(DataError, match="one for each score"):
        pp.drift(calibrated, [1.0, 2.0], labels=[True])
    with pytest.raises(SettingsError, match=r"level is 0, expected a number above 0"):
        pp.drift(calibrated, [1.0], level=0)
    with pytest.raises(SettingsError, match=r"defect_rate is 1\.5, expected a number from 0"):
        pp.drift(calibrated, [1.0], defect_rate=1.5)
    with pytest.raises(SettingsError, match="scale is 'nonsense', expected one of: raw, normalized"):
        pp.drift(calibrated, [1.0], scale="nonsense")


# --- logs -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calibrated: pp.Statistics) -> Path:
    monkeypatch.chdir(tmp_path)
    calibrated.save("stats.json")
    return tmp_path


def test_every_kind_of_file_gives_the_same(logs: Path, calibrated: pp.Statistics) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    rng = np.random.default_rng(3)
    scores = rng.gamma(21, 0.5, 70_000).astype(np.float32)  # several batches
    labels = rng.random(len(scores)) < 0.01
    scores[7] = np.nan
    np.savez("a.npz", pred_score=scores[:, None], label=labels)
    cells = [None if np.isnan(score) else float(str(score)) for score in scores]
    parquet.write_table(pa.table({"frame": range(len(scores)), "score": cells, "label": labels}), "a.parquet")
    lines = [
        f"{index},{'' if cell is None else cell},{str(flag).lower()}"
        for index, (cell, flag) in enumerate(zip(cells, labels, strict=True))
    ]
    Path("a.csv").write_text("image,pred_score,label\n" + "\n".join(lines) + "\n\n")
    expected = pp.drift(calibrated, scores, labels=labels)
    assert expected.left_out == labels.sum()
    for name in ("a.npz", "a.parquet", "a.csv"):
        assert pp.drift(calibrated, name) == expected
    assert pp.drift(calibrated, "a.csv", labels=False) == pp.drift(calibrated, scores)
    halves = [Path("b1.csv"), Path("b2.csv")]
    for place, half in enumerate(halves):
        half.write_text("\n".join(["image,pred_score,label", *lines[place * 35_000 : (place + 1) * 35_000]]))
    assert pp.drift(calibrated, halves) == pp.drift(calibrated, "b*.csv") == expected


@pytest.mark.slow
def test_memory_does_not_follow_the_size_of_a_file(logs: Path, calibrated: pp.Statistics) -> None:
    peaks = []
    for rows in (140_000, 280_000):
        Path("a.csv").write_text("score\n" + "10.25\n" * rows)
        tracemalloc.start()
        pp.drift(calibrated, "a.csv")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_verb(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(4)
    for name, scores in (("same", rng.gamma(20, 0.5, 300)), ("high", rng.gamma(20, 0.5, 300) + 2)):
        Path(f"{name}.csv").write_text("raw_score,pred_score\n" + "".join(f"{score},x\n" for score in scores))
    assert run(["drift", "stats.json", "--scores", "same.csv", "--column", "raw_score"]) == 0
    assert "NO DRIFT found in 300 new scores." in capsys.readouterr().out
    line = ["drift", "stats.json", "--scores", "high.csv", "--column", "raw_score", "--report", "drift.html"]
    assert run(line) == 1
    out = capsys.readouterr().out
    assert "DRIFT: scores are higher (PSI " in out
    assert "calibrate on recent labelled images" in out
    page = Path("drift.html").read_text()
    assert "DRIFT: scores are higher" in page
    assert "Kolmogorov-Smirnov" in page
    assert page.count('class="bar"') == 10
    # Each line is at the calibration's share, on the scale of the longest bar.
    report = pp.drift("stats.json", "high.csv", column="raw_score")
    shares = [part.calibration / report.calibration.scores for part in report.parts]
    longest = max(*shares, *(part.scores / report.found.scores for part in report.parts))
    lines = [float(at) for at in re.findall(r'<u style="left:([0-9.]+)%', page)]
    assert lines == pytest.approx([100 * share / longest for share in shares], abs=0.01)
    assert run(line) == 2
    assert "exists already" in capsys.readouterr().err
    assert run(["drift", "stats.json", "same.csv", "high.csv", "--column", "raw_score", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["found"]["scores"] == 600
    assert sum(part["scores"] for part in found["parts"]) == 600


BAD = [
    ("stats.json", "There are no scores"),
    ("stats.json missing.csv", "'missing.csv' does not exist, expected a .csv"),
    ("stats.json .", "'.' is a folder, expected a .csv"),
    ("stats.json a.txt", "'a.txt' is a '.txt' file, expected .csv, .jsonl, .parquet or .npz"),
    ("stats.json other.csv", "'other.csv' holds 'time', 'value', expected scores under one of the names pred_score"),
    ("stats.json other.csv --column nothing", "expected scores under the name nothing"),
    ("stats.json other.csv --column time", "'other.csv', row 1: 'time' is 'now', expected a number"),
    ("stats.json other.csv other.csv --column value", "'other.csv' is given twice"),
    ("stats.json empty.csv", "There is no score to compare"),
    ("stats.json nothing.csv", "holds nothing, expected scores"),
    ("stats.json two.csv", "holds 'score' and 'pred_score', expected one score"),
    ("stats.json short.csv", "'short.csv', row 2: found 1 field, expected 2"),
    ("stats.json words.csv", "the label is 'maybe', expected 0 or 1"),
    ("stats.json damaged.parquet", "'damaged.parquet' cannot be read"),
    ("stats.json damaged.npz", "'damaged.npz'"),
    ("stats.json map.npz", "has shape (4, 3, 3), expected one number per image"),
    ("stats.json other.csv --column value --scale normalized", "'other.csv': A score is 3, and "),
    ("stats.json other.csv --column value --level 2", "--level is 2"),
    ("stats.json other.csv --column value --defect-rate -1", "--defect-rate is -1"),
    ("stats.json other.csv --column value --report page.pdf", "expected '.html'"),
    ("old.json other.csv", "holds no histogram"),
    ("other.csv stats.json", "has no known format"),
]


@pytest.mark.parametrize(("line", "message"), BAD, ids=lambda value: value)
def test_bad_input(line: str, message: str, logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("old.json").write_bytes((DEMO / "stats.json").read_bytes())
    Path("a.txt").write_text("1")
    Path("other.csv").write_text("time,value\nnow,3\n")
    Path("empty.csv").write_text("score\n")
    Path("nothing.csv").write_text("")
    Path("two.csv").write_text("score,pred_score\n1,2\n")
    Path("short.csv").write_text("image,score\na,1\nb\n")
    Path("words.csv").write_text("score,label\n1,maybe\n")
    Path("damaged.parquet").write_bytes(b"PAR1 nothing")
    Path("damaged.npz").write_bytes(b"PK nothing")
    np.savez("map.npz", score=np.zeros((4, 3, 3)))
    before = set(logs.iterdir())
    assert run(["drift", *line.split()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "defect in pp_graph" not in error
    assert set(logs.iterdir()) == before


def test_report_shows_itself(calibrated: pp.Statistics, tmp_path: Path) -> None:
    report = pp.drift(calibrated, np.full(30, 11.0))
    assert repr(report).startswith("<DriftReport, DRIFT: scores are ")
    assert "Scores called anomalous" in report._repr_html_()
    assert json.loads(report.save(tmp_path / "drift.json").read_text())["drifted"] is True
    assert report.save(tmp_path / "drift.html").read_text().startswith("<!DOCTYPE html>")
    assert repr(pp.DriftMonitor(calibrated)) == "<DriftMonitor of statistics: 0 scores>"


# --- maps, and logs of videos -----------------------------------------------------------------------------------------


def test_largest_values_of_maps_are_compared_as_the_model_treats_pixels(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    maps = rng.gamma(9, 1, (60, 8, 8)).astype(np.float32)
    labels, masks = np.arange(60) < 10, np.zeros((60, 8, 8), np.bool_)
    maps[:10, 2:4, 2:4] += 30
    masks[:10, 2:4, 2:4] = True
    calibrator = pp.Calibrator()
    calibrator.update(scores=maps.mean((1, 2)), maps=maps, labels=labels, masks=list(masks))
    statistics = calibrator.result(resamples=0).statistics
    assert statistics.map_histogram is not None
    assert (statistics.map_histogram.total("normal"), statistics.map_histogram.total("anomalous")) == (50, 10)
    statistics.save(tmp_path / "stats.json")
    assert pp.Statistics.load(tmp_path / "stats.json") == statistics
    raw = tmp_path / "raw.onnx"
    onnx.save(conv_model(), raw)
    fused = pp.fuse(raw, pp.OneClassPostProcessor(statistics, pixel_sensitivity=0.6))
    reference = reference_of(fused, of="maps")
    assert reference.scale == "normalized"
    # The smallest normalised value of a pixel that the model calls anomalous.
    cutoff = np.array([fused.provenance.cutoffs["pred_mask"]], np.float32)
    values = {"raw_score": np.zeros((1, 1), np.float32), "raw_map": cutoff.reshape(1, 1, 1, 1)}
    found = fused.program.predictions(fused.program.run(values))
    assert found.anomaly_map.ravel()[0] == np.float32(reference.cutoff)
    assert found.pred_mask.all()
    same = pp.drift(statistics, maps[10:].max((1, 2)), of="maps")
    assert (same.psi, same.drifted, same.of) == (0, False, "maps")
    higher = pp.drift(statistics, maps[10:].max((1, 2)) * 1.5, of="maps")
    assert higher.verdict.startswith("DRIFT: largest values of maps are higher")
    assert "Maps with anomalous pixels" in str(same)
    without = msgspec.structs.replace(statistics, map_histogram=None)
    with pytest.raises(StatisticsError, match="holds no histogram of the maps it was calibrated with"):
        pp.drift(without, [1.0], of="maps")
    resized = pp.fuse(raw, pp.OneClassPostProcessor(statistics, map_size=(4, 4)))
    with pytest.raises(SettingsError, match="resizes its maps"):
        pp.drift(resized, [1.0], of="maps")


def test_logs_of_videos(tmp_path: Path, calibrated: pp.Statistics, capsys: pytest.CaptureFixture[str]) -> None:
    calibrated.save(tmp_path / "stats.json")
    scores = np.random.default_rng(1).gamma(20, 0.5, 60).astype(np.float32)
    lines = [json.dumps({"source": "a.mp4", "frame": at, "time": at / 25, "pred_score": float(score), "map_max": None})
             for at, score in enumerate(scores)]  # fmt: skip
    log = tmp_path / "frames.jsonl"
    log.write_text("\n".join([*lines, ""]))
    expected = pp.drift(calibrated, scores)
    found = pp.drift(tmp_path / "stats.json", log)
    assert (found.shape, found.found, found.parts) == (expected.shape, expected.found, expected.parts)
    log.write_text("\n".join([*lines, '{"source": "a.mp4", "fra']))
    assert run(["drift", str(tmp_path / "stats.json"), "--scores", str(log)]) == 2
    assert f"'{log}', line 61: it is no JSON object" in " ".join(capsys.readouterr().err.split())
    log.write_text("\n".join([*lines, "{}"]))
    with pytest.raises(DataError, match="line 61: there is no 'pred_score', which the first line has"):
        pp.drift(tmp_path / "stats.json", log)
    log.write_text("")
    with pytest.raises(DataError, match="holds nothing, expected scores"):
        pp.drift(tmp_path / "stats.json", log)
