"""`pp-graph ci` on the demo's model."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from pp_graph.cli import run
from pp_graph.errors import SettingsError
from pp_graph.release_checks import read_limits
from tests.conftest import ROOT
from tests.project.test_readme import blocks, command_lines

PAGE = (ROOT / "docs" / "release-checks.md").read_text("utf-8")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    assert run(["demo", "-o", str(folder / "demo")]) == 0
    models = folder / "demo" / "inputs"
    assert run(["convert", str(models / "raw.onnx"), "--stats", str(models / "stats.json"), "-o", str(models / "model.xml")]) == 0  # fmt: skip
    return models


def limits(folder: Path, text: str) -> str:
    (folder / "own.yaml").write_text(text)
    return str(folder / "own.yaml")


@pytest.mark.slow
def test_page(inputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(inputs)
    text = blocks("yaml", PAGE)[0]
    Path(text.splitlines()[0].removeprefix("# ")).write_text(text)
    for arguments in command_lines(PAGE):
        assert run([*arguments, "--force"]) == 0, capsys.readouterr().err
    (suite,) = ElementTree.parse("pp-graph.xml").getroot()
    assert suite.attrib == {"name": "model.xml", "tests": "5", "failures": "0", "errors": "0"}
    summary = Path("summary.md").read_text()
    assert summary.startswith("**pp-graph: PASSED: 1 model within the limits.**")
    assert "| model.xml | labels flipped by drift | 0 of 12 | 0 | ok |" in summary


def test_exceeded_limits_and_missing_models(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "step.md"))
    (tmp_path / "step.md").write_text("before\n")
    assert run(["convert", str(inputs / "raw.onnx"), "--stats", str(inputs / "stats.json"), "-o", str(tmp_path / "last.xml")]) == 0  # fmt: skip
    capsys.readouterr()
    model = f"raw: {inputs}/raw.onnx, model: {inputs}/model.xml, data: {inputs}/images"
    slow = f"  - {{{model}, name: slow, release: {tmp_path}/last.xml, seconds: 0.5, limits: {{ratio_to_raw: 0.001, ratio_to_release: 100}}}}"
    drifts = f"  - {{{model}, name: drifts, inference_precision: bf16, limits: {{pixel_flips: 0}}}}"
    assert run(["ci", "--limits", limits(tmp_path, f"checks:\n{slow}\n"), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    found = {each["name"]: each["passed"] for each in report["models"][0]["findings"]}
    assert found == {
        "post-processing": True,
        "labels flipped by drift": True,
        "pixels flipped by drift": True,
        "latency over raw": False,
        "latency over the release": True,
    }
    written = (tmp_path / "step.md").read_text()
    assert written.startswith("before\n**pp-graph: FAILED: 1 of 1 model: slow.**")
    assert re.search(r"\| slow \| latency over raw \| .* \| 0.001 \| exceeded \|", written)

    gone = "  - {raw: gone.onnx, model: m.xml, data: images, name: gone}"
    junit = tmp_path / "out.xml"
    assert run(["ci", "--limits", limits(tmp_path, f"checks:\n{gone}\n{drifts}\n"), "--junit", str(junit)]) == 2
    assert "not checked" in capsys.readouterr().out
    first, second = ElementTree.parse(junit).getroot()
    assert first.attrib["errors"] == "1"
    assert "gone.onnx" in first[0][0].attrib["message"]
    # The others are checked nevertheless.
    assert int(second.attrib["tests"]) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("checks: []", "line 1, field 'checks': Expected array of length >= 1"),
        ("checks:\n  - {raw: a, model: b}", "line 2: Object missing required field data"),
        ("checks:\n  - raw: a\n    model: b\n    data: c\n    limits:\n      flips: 1", r"line 6, field 'flips': is not known, expected some of: label_flips, pixel_flips, ratio_to_raw, ratio_to_release"),
        ("checks:\n  - {raw: a, model: b, data: c, limits: {ratio_to_raw: -1}}", "line 2, field 'ratio_to_raw': Expected float > 0.0"),
        ("checks:\n  - {raw: a, model: b, data: c, limits: {pixel_flips: 200%}}", "line 2, field 'pixel_flips': '200%', expected a number of decisions such as 5, or a share"),
        ("checks:\n  - {raw: a, model: b, data: c, limits: {ratio_to_release: 1}}", "field 'ratio_to_release': needs the last release"),
        ("checks:\n  - {raw: a, model: b, data: c}\n  - {raw: a, model: b, data: d}", "line 3: 'b' is checked twice"),
        ("- a", "expected a mapping with a list 'checks'"),
        ("schema_version: 9\nchecks: []", "line 1, field 'schema_version': is 9, expected 1"),
    ],
)  # fmt: skip
def test_wrong_limits(tmp_path: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = limits(tmp_path, text)
    with pytest.raises(SettingsError, match=message):
        read_limits(path)
    assert run(["ci", "--limits", path]) == 2
    assert "Limits '" in capsys.readouterr().err
