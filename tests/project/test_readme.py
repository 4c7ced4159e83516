"""The README's code runs as it stands, on the model that comes with the package."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import pp_graph as pp
from pp_graph.cli import COMMANDS, run
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of inputs that `pp-graph demo` lays out, as the README says."""
    assert "cd pp_graph_demo/inputs" in README
    monkeypatch.chdir(tmp_path)
    assert run(["demo"]) == 0
    monkeypatch.chdir(tmp_path / "pp_graph_demo" / "inputs")
    for code in blocks("yaml"):
        Path(code.splitlines()[0].removeprefix("# ")).write_text(code)
    return tmp_path / "pp_graph_demo" / "inputs"


def blocks(language: str) -> list[str]:
    return [code for kind, code in BLOCKS if kind == language]


def test_commands(work: Path) -> None:
    lines = [line for code in blocks("bash") for line in code.splitlines() if line.startswith("pp-graph")]
    assert {shlex.split(line)[1] for line in lines} == {command.name for command in COMMANDS} - {"demo"}
    for line in lines:
        assert run(shlex.split(line)[1:]) == 0, line
    assert (work / "raw_again.onnx").read_bytes() == (work / "raw.onnx").read_bytes()


def test_python(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for code in blocks("python"):
        exec(compile(code, "README.md", "exec"), names)
    assert names["report"].passed
    assert names["predictions"].pred_label.tolist() == [[False], [True]]
    assert bool(names["results"]["pred_label"][0, 0])
    assert "[[False]" in capsys.readouterr().out


def test_json() -> None:
    (text,) = blocks("json")
    assert pp.Statistics.from_json(text).image.threshold == 14.97


def test_exactly_two_commands_set_up() -> None:
    setup = [line for code in blocks("bash") for line in code.splitlines() if "pip install" in line]
    assert setup == ["pip install . && pp-graph demo", 'pip install -e ".[test]" && pytest']
    ci = (ROOT / ".ci" / "run").read_text()
    assert setup[1].replace("pip install", "pip install --quiet") in ci


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_nothing_of_one_machine_is_in_the_project() -> None:
    files = [file for folder in ("pp_graph", "docs", "examples", "benchmarks") for file in (ROOT / folder).rglob("*")]
    texts = [file for file in files if file.suffix in (".py", ".md", ".json", ".toml")]
    for file in [*texts, ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "pyproject.toml"]:
        assert not re.search(r"/(root|home|work|tmp)/", file.read_text(encoding="utf-8")), file
