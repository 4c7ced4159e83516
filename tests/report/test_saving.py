"""`save` of results: JSON or a page by the ending, never over a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import pp_graph as pp
from pp_graph.benchmarking import load_report
from pp_graph.errors import OutputFileError
from tests.conftest import DEMO


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    post = pp.OneClassPostProcessor(pp.Statistics.load(DEMO / "stats.json"))
    artifact = pp.convert(DEMO / "raw.onnx", post=post).save(tmp_path_factory.mktemp("saved") / "model.xml")
    return {
        "verify": pp.verify(DEMO / "raw.onnx", artifact, DEMO / "images" / "grass"),
        "benchmark": pp.benchmark(DEMO / "raw.onnx", [artifact], inference_precisions=["f32"], seconds=0.1),
        "calibrate": pp.calibrate(DEMO / "raw.onnx", DEMO / "images"),
        "inspect": pp.inspect(artifact),
    }


@pytest.mark.parametrize("verb", ["verify", "benchmark", "calibrate", "inspect"])
def test_results_save_themselves_as_json_and_as_a_page(results: dict[str, Any], verb: str, tmp_path: Path) -> None:
    result = results[verb]
    page = result.save(tmp_path / "result.html")
    assert "default-src 'none'" in page.read_text()
    assert isinstance(json.loads(result.save(tmp_path / "new" / "result.JSON").read_text()), dict)
    with pytest.raises(OutputFileError, match="exists already"):
        result.save(page)
    assert result.save(page, overwrite=True) == page
    with pytest.raises(
        OutputFileError, match=r"ends in '.txt', expected '.json' or|ends in '.txt', expected .*'.html'"
    ):
        result.save(tmp_path / "result.txt")
    assert not (tmp_path / "result.txt").exists()


def test_what_is_saved_reads_back(results: dict[str, Any], tmp_path: Path) -> None:
    saved = results["calibrate"].save(tmp_path / "own.json")
    assert pp.Statistics.load(saved) == results["calibrate"].statistics
    assert load_report(results["benchmark"].save(tmp_path / "b.json")) == results["benchmark"]
    assert "<svg" in results["inspect"].save(tmp_path / "end.svg").read_text()


def test_pages_of_verify_and_inspect_hold_the_sketch(results: dict[str, Any], tmp_path: Path) -> None:
    for verb in ("verify", "inspect"):
        assert "pred_label: raw_score ≥ " in results[verb].save(tmp_path / f"{verb}.html").read_text("utf-8")
