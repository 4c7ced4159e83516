from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pp_graph.calibration import CalibrationResult, Calibrator
from pp_graph.calibration.score_counts import ScoreCounts
from pp_graph.errors import ExtraError, OutputFileError
from pp_graph.report import write_calibration_report
from pp_graph.report.curves import f1_over_threshold, precision_recall, score_histogram
from pp_graph.report.panels import COLORS, GRID, INK

pytest.importorskip("matplotlib")

VOID = {"meta", "br", "img", "link", "input", "hr"}


def anomaly_maps(images: int = 24, offset: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Maps, labels and masks; every second image has a defect."""
    generator = np.random.default_rng(0)
    maps = generator.gamma(3, 1, (images, 24, 24)) + offset
    masks = np.zeros(maps.shape, np.bool_)
    masks[1::2, 8:14, 6:15] = True
    maps[masks] += 4
    return maps.astype(np.float32), np.arange(images) % 2, masks


def calibrate(*batches: dict, passes: int = 9, **settings: str) -> CalibrationResult:
    calibrator: Calibrator | None = Calibrator(**settings)
    for _ in range(passes):
        if calibrator is None:
            break
        for batch in batches:
            calibrator.update(**batch)
        last, calibrator = calibrator, calibrator.refine()
    return last.result(resamples=50)


def labelled(**settings: object) -> CalibrationResult:
    passes = settings.pop("passes", 9)
    maps, labels, masks = anomaly_maps(**settings)
    return calibrate({"maps": maps, "labels": labels, "masks": masks}, passes=passes)


def unlabelled() -> CalibrationResult:
    return calibrate({"maps": anomaly_maps()[0]})


def partly_labelled() -> CalibrationResult:
    maps, labels, masks = anomaly_maps()
    return calibrate({"maps": maps[:16], "labels": labels[:16], "masks": masks[:16]}, {"maps": maps[16:]})


def all_normal(method: str = "f1") -> CalibrationResult:
    maps, labels, _ = anomaly_maps()
    return calibrate({"maps": maps[::2], "labels": labels[::2]}, image=method, pixel=method)


def scores_of(*scores: float, labels: list[int]) -> CalibrationResult:
    return calibrate({"scores": np.array(scores, np.float32), "labels": labels})


CASES = {
    "both levels": labelled,
    "one pass, few intervals": lambda: labelled(offset=3000.0, passes=1),
    "negative": lambda: labelled(offset=-20.0),
    "all normal": all_normal,
    "threshold beyond the scores": lambda: all_normal("sigma"),
    "unlabelled": unlabelled,
    "partly labelled": partly_labelled,
    "all anomalous": lambda: scores_of(1, 2, 3, labels=[1, 1, 1]),
    "constant": lambda: scores_of(*[3.0] * 10, labels=[0, 1] * 5),
    "constant zero": lambda: scores_of(0, 0, labels=[0, 1]),
    "one image": lambda: scores_of(2.5, labels=[0]),
    "huge": lambda: scores_of(*np.linspace(-1.6e38, 1.6e38, 40), labels=[0] * 20 + [1] * 20),
    "subnormal": lambda: scores_of(*np.linspace(0, 1e-42, 40), labels=[0] * 20 + [1] * 20),
    "neighbours": lambda: scores_of(13.6, np.nextafter(np.float32(13.6), np.float32(14)), labels=[0, 1]),
}


@pytest.fixture(params=CASES)
def result(request: pytest.FixtureRequest) -> CalibrationResult:
    return CASES[request.param]()


class Page(HTMLParser):
    """Text and attributes of a page whose tags must be balanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words += data + "\n"


def page_of(result: CalibrationResult, folder: Path, **options: object) -> tuple[str, Page]:
    text = write_calibration_report(result, folder / "report.html", **options).read_text(encoding="utf-8")
    return text, Page(text)


@pytest.mark.sample(every=18)
def test_png_of_every_kind_of_result(result: CalibrationResult, tmp_path: Path) -> None:
    path = write_calibration_report(result, tmp_path / "report.png")
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.width == 2250
        assert picture.height == pytest.approx(60 + 615 * len(result.levels), abs=1)
        colors = len(picture.convert("RGB").resize((300, 100)).getcolors(30_000))
    assert colors > 50
    assert [each.name for each in tmp_path.iterdir()] == ["report.png"]


@pytest.mark.sample(every=15)
def test_html_of_every_kind_of_result(result: CalibrationResult, tmp_path: Path) -> None:
    text, page = page_of(result, tmp_path)
    assert page.tags.count("svg") == 3 * len(result.levels)
    for name, level in result.levels.items():
        assert f"{name.capitalize()} level" in page.words
        for value in (level.statistics.threshold, level.statistics.min, level.statistics.max, level.cutoff):
            assert ("none" if value is None else str(np.float32(value))) in page.words
        for warning in level.warnings:
            assert warning in page.words
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    # References stay within the page, colours follow it, and no number was lost on the way.
    assert all(value in {f"#{each}" for each in ids} for name, value in page.attributes if name.endswith("href"))
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(ids)
    body = text[text.index("<body>") :]
    assert not [color for color in (INK, GRID, *COLORS.values()) if color in body]
    assert "nan" not in "".join(value or "" for name, value in page.attributes if name == "d").lower()


def test_html_needs_nothing_else(tmp_path: Path) -> None:
    text, page = page_of(labelled(), tmp_path)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base"} & set(page.tags)
    assert not any(name in ("src", "srcset", "action") for name, _ in page.attributes)
    assert "@import" not in text
    assert "@font-face" not in text
    assert not re.findall(r"url\((?!#)", text)
    namespaces = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert set(re.findall(r"[a-z]+://[^\s\"'<>]+", text)) <= namespaces
    assert "prefers-color-scheme: dark" in text
    assert len(text) < 500_000


def test_html_holds_the_numbers(tmp_path: Path) -> None:
    result = labelled().with_record(
        model="model.onnx", model_sha256="ab" * 32, runtime="OpenVINO", device="CPU", precision="f32", data="images"
    )
    _, page = page_of(result, tmp_path)
    assert result.image is not None
    metrics = result.image.metrics
    assert metrics is not None
    assert metrics.intervals is not None
    for name in ("f1", "precision", "recall", "auroc"):
        low, high = metrics.intervals[name]
        assert f"{getattr(metrics, name):.4f}" in page.words
        assert f"{low:.4f} to {high:.4f}" in page.words
    assert " to ".join(str(np.float32(each)) for each in metrics.intervals["threshold"]) in page.words
    assert f"{result.pixel.metrics.true_negatives:,}" in page.words
    for each in ("24, 12 of them anomalous", "model.onnx", "ab" * 32, "OpenVINO", "CPU", "f32", "images", "midpoint"):
        assert each in page.words
    assert "Calibration of model.onnx" in page.words


def test_html_says_what_is_not_exact(tmp_path: Path) -> None:
    result = labelled(offset=3000.0, passes=1)
    _, page = page_of(result, tmp_path)
    assert result.pixel is not None
    bound = " to ".join(str(np.float32(each)) for each in result.pixel.record.threshold_bound)
    assert f"exact threshold lies within\n{bound}" in page.words
    assert "AUROC is known to" in page.words
    assert "no, within the bound above" in page.words


def test_html_shows_per_region_overlap(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    maps, labels, masks = anomaly_maps()
    result = calibrate({"maps": maps, "labels": labels, "masks": masks}, pixel="pro")
    _, page = page_of(result, tmp_path)
    assert "PRO, mean over 12 regions" in page.words
    assert f"{result.pixel.metrics.pro:.4f}" in page.words


def test_html_is_the_same_in_every_run(tmp_path: Path) -> None:
    result = labelled()
    first, _ = page_of(result, tmp_path)
    assert page_of(result, tmp_path, overwrite=True)[0] == first


HOSTILE = "<script>alert('x')</script> & \"$x^{$ \udcff \u30e2"


def test_names_are_escaped(tmp_path: Path) -> None:
    result = scores_of(1, 2, labels=[0, 1]).with_record(model=HOSTILE, data="<b>", runtime="</table>")
    text, page = page_of(result, tmp_path)
    assert "<script" not in text
    assert "<b>" not in text
    assert "script" not in page.tags
    assert f"Calibration of {HOSTILE}".replace("\udcff", "?") in page.words


@pytest.mark.sample(every=4)
@pytest.mark.parametrize("title", [HOSTILE, "a\nb\x00", "word " * 60, ""])
def test_any_title_can_be_drawn(title: str, tmp_path: Path) -> None:
    write_calibration_report(scores_of(1, 2, labels=[0, 1]), tmp_path / "report.png", title=title)


def test_wrong_ending(tmp_path: Path) -> None:
    with pytest.raises(OutputFileError, match=r"'.*report\.pdf' ends in '\.pdf', expected '\.html' or '\.png'"):
        write_calibration_report(scores_of(1, 2, labels=[0, 1]), tmp_path / "report.pdf")


@pytest.mark.parametrize("name", ["report.png", "REPORT.HTML"])
def test_nothing_is_overwritten_unasked(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text("mine")
    result = scores_of(1, 2, labels=[0, 1])
    with pytest.raises(OutputFileError, match="exists already"):
        write_calibration_report(result, path)
    with pytest.raises(OutputFileError, match="is an input"):
        write_calibration_report(result, path, overwrite=True, inputs=[path])
    assert path.read_text() == "mine"
    assert write_calibration_report(result, str(path), overwrite=True) == path
    assert path.stat().st_size > 10_000


@pytest.mark.parametrize("name", ["report.png", "report.html"])
def test_missing_matplotlib(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [each for each in sys.modules if each.split(".")[0] == "matplotlib"] or ["matplotlib"]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ExtraError, match=r"A calibration report needs matplotlib.*'pp_graph\[report\]'"):
        write_calibration_report(scores_of(1, 2, labels=[0, 1]), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_settings_of_matplotlib_stay(tmp_path: Path) -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    pyplot = "matplotlib.pyplot" in sys.modules
    write_calibration_report(labelled(), tmp_path / "report.png")
    assert dict(mpl.rcParams) == before
    assert ("matplotlib.pyplot" in sys.modules) == pyplot


@pytest.fixture(params=range(6))
def raw(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    """Raw scores and labels; with ties, some negative, and in the last ones a few without label."""
    generator = np.random.default_rng(request.param)
    scores = generator.normal(0, 3, 400).astype(np.float32)
    labels = generator.integers(-1 if request.param > 3 else 0, 2, 400)
    scores[labels == 1] += 2
    return (np.round(scores, 1) if request.param % 2 else scores), labels


def counted(scores: np.ndarray, labels: np.ndarray) -> ScoreCounts:
    return ScoreCounts.of(scores, labels == 1, labels >= 0)


def flagged_at(scores: np.ndarray, labels: np.ndarray, threshold: float) -> tuple[int, int, int]:
    """True positives, false positives and all anomalies, by looking at every score."""
    flagged = scores >= threshold
    return int((flagged & (labels == 1)).sum()), int((flagged & (labels == 0)).sum()), int((labels == 1).sum())


def test_precision_and_recall_are_those_of_every_score(raw: tuple[np.ndarray, np.ndarray]) -> None:
    found = [flagged_at(*raw, threshold) for threshold in np.unique(raw[0])]
    expected = [(true / anomalies, true / (true + false)) for true, false, anomalies in found if true + false]
    curve = precision_recall(counted(*raw))
    np.testing.assert_array_equal(np.stack([curve.x, curve.y], 1), expected)


def test_f1_is_that_of_every_score(raw: tuple[np.ndarray, np.ndarray]) -> None:
    scores, labels = raw

    def f1(threshold: float) -> float:
        true, false, anomalies = flagged_at(scores, labels, threshold)
        return 2 * true / (true + false + anomalies)

    thresholds = np.unique(scores)
    curve = f1_over_threshold(counted(scores, labels))
    np.testing.assert_array_equal(curve.x, np.repeat(thresholds, 2))
    np.testing.assert_allclose(curve.y[::2], [f1(each) for each in thresholds], rtol=1e-15)
    np.testing.assert_allclose(
        curve.y[1::2], [f1(np.nextafter(each, np.float32(np.inf))) for each in thresholds], rtol=1e-15
    )
    assert curve.y[curve.best] == max(curve.y)
    assert f1(curve.x[curve.best]) == pytest.approx(max(curve.y), rel=1e-15)


@pytest.mark.parametrize("bins", [None, 1, 80])
def test_histogram_is_that_of_every_score(raw: tuple[np.ndarray, np.ndarray], bins: int | None) -> None:
    scores, labels = raw
    histogram = score_histogram(counted(scores, labels), bins)
    assert len(histogram.edges) == (bins or 40) + 1
    names = {"normal": 0, "anomalous": 1, "unlabelled": -1}
    assert set(histogram.shares) == {name for name, label in names.items() if label in labels}
    for name, shares in histogram.shares.items():
        chosen = scores[labels == names[name]].astype(np.float64)
        expected, _ = np.histogram(chosen, histogram.edges)
        np.testing.assert_allclose(shares, expected / len(chosen), atol=1e-12)


def test_coarse_counts_are_spread_within_their_intervals() -> None:
    maps, _, masks = anomaly_maps(offset=3000.0)
    result = labelled(offset=3000.0, passes=1)
    assert result.pixel is not None
    counts = result.pixel.counts
    assert 3 < len(counts) < 60
    assert not counts.exact.all()
    normal = np.sort(maps[~masks].astype(np.float64))
    histogram = score_histogram(counts)
    below = np.concatenate([[0], np.cumsum(histogram.shares["normal"])])
    for edge, share in zip(histogram.edges, below, strict=True):
        inside = (counts.lower <= edge) & (edge <= counts.upper)
        slack = counts.normal[inside].sum() / len(normal)
        assert share == pytest.approx(np.searchsorted(normal, edge) / len(normal), abs=slack + 1e-12)
    assert below[-1] == pytest.approx(1)
    # The ends of coarse intervals are known exactly.
    flat, marked = maps.reshape(-1), masks.reshape(-1).astype(np.int64)
    found = [flagged_at(flat, marked, each) for each in counts.lower]
    curve = precision_recall(counts)
    np.testing.assert_array_equal(curve.x, [true / anomalies for true, _, anomalies in found])
    np.testing.assert_array_equal(curve.y, [true / (true + false) for true, false, _ in found])
    f1 = f1_over_threshold(counts)
    np.testing.assert_allclose(f1.y[::2], [2 * t / (t + f + a) for t, f, a in found])
    assert f1.y[-1] == 0


def test_constant_scores_stand_in_the_middle() -> None:
    histogram = score_histogram(counted(np.full(8, -3, np.float32), np.zeros(8)))
    middle = len(histogram.edges) // 2
    assert histogram.edges[0] < -3 < histogram.edges[-1]
    assert histogram.shares["normal"][[middle - 1, middle]].sum() == 1


def test_thinned_curves_keep_their_ends_and_their_best() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 200_000)
    counts = counted(generator.normal(labels, 1).astype(np.float32), labels)
    for curve in (precision_recall(counts), f1_over_threshold(counts)):
        thinned = curve.thinned(500)
        assert 250 < len(thinned.x) <= 503
        for end in (0, -1):
            assert (thinned.x[end], thinned.y[end]) == (curve.x[end], curve.y[end])
        assert thinned.y.max() == curve.y.max()
        # No part of the way is left out: every point lies within a step of one that is kept.
        spans = np.ptp(curve.x), np.ptp(curve.y)
        way = sum(np.abs(np.diff(each)).sum() / span for each, span in zip((curve.x, curve.y), spans, strict=True))
        far = np.abs(curve.x[::50, None] - thinned.x) / spans[0] + np.abs(curve.y[::50, None] - thinned.y) / spans[1]
        assert far.min(axis=1).max() <= way / 500
    assert curve.thinned(len(curve.x)) is curve
