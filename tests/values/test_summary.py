"""Tables as text of a width, whole without one, and as HTML."""

from __future__ import annotations

import numpy as np
import pytest

import pp_graph as pp
from pp_graph.calibration import calibrate_classifier
from pp_graph.summary import Block, Fields, Line, Remark, Table, html_of, lines_of, text_of
from tests.classifiers import classifier, images
from tests.conftest import DEMO

LONG = Table(
    "Metrics", ("level", "F1", "precision and more", "recall"), [("image", "1.0 (0.9–1.0)" * 3, "0.5" * 9, "1")]
)


def test_a_table_that_fits_is_aligned() -> None:
    lines = text_of([Table("Numbers", ("name", "n"), [("a", "1"), ("longer", "22")])], 80).splitlines()
    assert lines == ["Numbers", " name     n", " ───────────", " a        1", " longer   22"]


def test_cells_of_a_wide_table_break_between_words() -> None:
    lines = text_of([Table("Decisions", ("output", "by post-processing", "why"), [("a", "0", "word " * 9)])], 40)
    assert lines.splitlines() == [
        "Decisions",
        " output  by               why",
        "         post-processing",
        " ──────────────────────────────────────",
        " a       0                word word",
        "                          word word",
        "                          word word",
        "                          word word",
        "                          word",
    ]


@pytest.mark.parametrize("width", [50, 40])
def test_a_wide_table_is_stacked(width: int) -> None:
    lines = text_of([LONG], width).splitlines()
    assert all(len(line) <= max(width, 68) for line in lines)
    assert lines[1] == " image"
    assert "   precision and more  " + "0.5" * 9 in lines


def test_pipes_get_whole_lines() -> None:
    blocks: list[Block] = [LONG, Fields("Model", {"path": "/a folder/" + "x" * 300, "why": "word " * 80})]
    lines = text_of(blocks, None).splitlines()
    assert max(map(len, lines)) > 300
    assert len(lines) == 4 + 1 + 3


def test_fields_are_wrapped_between_words() -> None:
    lines = lines_of(Fields("Model", {"why": "word " * 40, "n": "1"}), 80)
    assert all(len(line.text) <= 80 for line in lines)
    assert lines[2].text.startswith("       word")


def test_lines_are_wrapped_and_commands_are_not() -> None:
    command = "    pp-graph convert " + "option " * 20
    lines = [line.text for line in lines_of(Line(f"  A model: {'word ' * 30}\n{command}"), 60)]
    assert lines[-1] == command
    assert all(len(line) <= 60 and line.startswith("  ") for line in lines[:-1])
    assert [line.text for line in lines_of(Line("a" * 100), None)] == ["a" * 100]


def test_html_is_escaped() -> None:
    blocks: list[Block] = [Table("<b>", ("a<", "b"), [("<script>", "&")]), Line("x\ny", bold=True), Remark("Note: <i>")]
    page = html_of(blocks)
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "<b>x<br>y</b>" in page


def test_results_print_as_tables_and_have_short_reprs() -> None:
    statistics = pp.Statistics.load(DEMO / "stats.json")
    result = pp.calibrate(DEMO / "raw.onnx", DEMO / "images", resamples=0)
    fused = pp.fuse(DEMO / "raw.onnx", pp.OneClassPostProcessor(statistics))
    report = pp.verify(DEMO / "raw.onnx", fused, DEMO / "images")
    for each, part in (
        (statistics, "threshold"),
        (result, "Metrics at this threshold"),
        (report, "PASSED"),
        (pp.inspect(DEMO / "raw.onnx"), "anomaly_map"),
    ):
        assert part in str(each)
        assert part in each._repr_html_()
        assert len(repr(each)) < 250
        assert "\n" not in repr(each)
    assert repr(report) == "<VerificationReport passed: 12 images, 0 flips by post-processing, 0 by drift>"


def test_objects_of_many_fields_have_short_reprs() -> None:
    raw = pp.RawModel.open(DEMO / "raw.onnx")
    labels = tuple(f"class number {place}" for place in range(80))
    fused = pp.fuse(raw, pp.OneClassPostProcessor(pp.Statistics.load(DEMO / "stats.json")))
    report = pp.verify(raw, fused, DEMO / "images")
    for each in (
        raw,
        fused,
        fused.program,
        fused.provenance,
        fused.program.post,
        report.decisions[0],
        pp.ClassificationPostProcessor(labels=labels),
        pp.Quantization(np.zeros((9, 3, 64, 64), np.float32)),
        calibrate_classifier(classifier(), {"image": images(), "label": np.zeros(12, int)}),
    ):
        assert len(repr(each)) <= 300
        assert "\n" not in repr(each)
    assert "images=float32[9, 3, 64, 64]" in repr(pp.Quantization(np.zeros((9, 3, 64, 64), np.float32)))
    assert repr(pp.ClassificationPostProcessor(top=5)) == "ClassificationPostProcessor(top=5)"
    assert "image statistics" in str(fused)
    assert "image statistics" in fused._repr_html_()
