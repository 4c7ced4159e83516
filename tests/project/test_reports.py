"""Predictions as a table and as a file; every report can be printed, shown and saved."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import pp_graph as pp
from pp_graph.errors import OutputFileError
from pp_graph.fleet import FleetDifference, FleetReport, RetunedFleet
from pp_graph.packaging.packaging import Package
from pp_graph.packaging.remote import RemoteBenchmark
from pp_graph.program import Predictions
from pp_graph.release_checks.report import ReleaseReport
from pp_graph.summary import Summarised


def test_predictions_are_saved_bit_for_bit(tmp_path: Path) -> None:
    values = {"pred_score": np.array([0.25, np.nan], np.float32), "file": np.array([True, False])}
    predictions = Predictions(values)
    assert predictions.save(tmp_path / "found.npz") == tmp_path / "found.npz"
    read = np.load(tmp_path / "found.npz")
    assert list(read) == list(values)
    for name, array in values.items():
        np.testing.assert_array_equal(read[name], array)
        assert read[name].dtype == array.dtype
    assert "pred_score" in str(predictions)
    assert "0.25" in str(predictions)
    assert "<table>" in predictions._repr_html_()
    with pytest.raises(OutputFileError, match="expected '.npz'. Name it found.npz"):
        predictions.save(tmp_path / "found.csv")
    with pytest.raises(OutputFileError):
        predictions.save(tmp_path / "found.npz")


@pytest.mark.parametrize(
    "report",
    [
        FleetReport(Path("out"), ()),
        FleetDifference((), (), (), 0),
        RetunedFleet(Path("out"), ("cam/CPU-f32",), {"iou": 0.5}, {}, written=True),
        Package(Path("p"), "python", "model.xml", (), (), 1, ()),
        RemoteBenchmark(()),
        ReleaseReport(()),
    ],
    ids=lambda report: type(report).__name__,
)
def test_reports_are_saved_by_ending(report: Summarised, tmp_path: Path) -> None:
    json_file, page = report.save(tmp_path / "r.json"), report.save(tmp_path / "r.html")  # type: ignore[attr-defined]
    assert json.loads(json_file.read_text()) == json.loads(json.dumps(report.to_dict()))  # type: ignore[attr-defined]
    assert "<h1>" in page.read_text()
    assert str(report).strip() or isinstance(report, RemoteBenchmark)
    with pytest.raises(OutputFileError, match=r"expected '\.json' or '\.html'"):
        report.save(tmp_path / "r.txt")  # type: ignore[attr-defined]


def test_every_report_of_the_package_has_save() -> None:
    assert pp.__version__
    kinds = {Summarised}
    found = set()
    while kinds:
        kind = kinds.pop()
        found.add(kind)
        kinds |= set(kind.__subclasses__()) - found
    # Those that are abstract are no reports.
    reports = [kind for kind in found if not getattr(kind, "__abstractmethods__", None)]
    assert len(reports) >= 6
    assert [kind.__name__ for kind in reports if not hasattr(kind, "save")] == []
