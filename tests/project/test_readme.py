"""The code of the README and of the docs runs as it stands, on the model that comes with the package."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

import pp_graph as pp
from pp_graph.cli import COMMANDS, run
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {
    name: (ROOT / "docs" / f"{name}.md").read_text("utf-8")
    for name in ("command-line", "python", "own-post-processing", "drift")
}


def blocks(language: str, *texts: str) -> list[str]:
    found = [each for text in texts for each in re.findall(r"```(\w+)\n(.*?)```", text, flags=re.DOTALL)]
    return [code for kind, code in found if kind == language]


def command_lines(*texts: str) -> list[list[str]]:
    lines = [line for code in blocks("bash", *texts) for line in code.splitlines() if line.startswith("pp-graph")]
    return [shlex.split(line)[1:] for line in lines]


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of inputs that `pp-graph demo` lays out."""
    folder = tmp_path_factory.mktemp("demo")
    assert run(["demo", "-o", str(folder / "pp_graph_demo")]) == 0
    return folder / "pp_graph_demo" / "inputs"


@pytest.fixture
def work(laid_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder to work in, as the README says."""
    assert "cd pp_graph_demo/inputs" in README
    folder = shutil.copytree(laid_out, tmp_path / "pp_graph_demo" / "inputs")
    monkeypatch.chdir(folder)
    return folder


def test_readme(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    for arguments in command_lines(README):
        assert run(arguments) == 0, arguments
    printed = [re.sub(r"\s+", " ", line).strip() for line in capsys.readouterr().out.splitlines()]
    for code in blocks("text", README)[1:]:
        for line in code.splitlines():
            shown = re.sub(r"\s+", " ", line).strip()
            # Numbers depend on the processor in their last digits.
            beginning = re.split(r"\d\.\d{3}", shown)[0]
            assert any(each.startswith(beginning) for each in printed), line
    names: dict[str, object] = {}
    for code in blocks("python", README):
        exec(compile(code, "README.md", "exec"), names)
    assert names["report"].passed


def test_commands_of_the_table_exist() -> None:
    rows = re.findall(r"^\| .* \| `([^`]+)` \|$", README, flags=re.MULTILINE)
    assert (
        len(re.findall(r"^\| .* \| .* \|$", README.split("## I want to")[1].split("## ")[0], flags=re.MULTILINE)) == 23
    )
    for row in rows:
        verb = next(command for command in COMMANDS if command.name == row.split()[0])
        known = {flag for parameter in verb.params for flag in parameter.opts}
        for flag in re.findall(r"--[a-z-]+", row):
            assert flag in known, row


def test_readme_is_short() -> None:
    assert len(README.split()) <= 1000


@pytest.mark.slow
def test_command_line_page(work: Path) -> None:
    lines = command_lines(PAGES["command-line"])
    assert {each[0] for each in lines} == {command.name for command in COMMANDS} - {"demo", "ci", "fleet"}
    for arguments in lines:
        assert run(arguments) == 0, arguments
    assert (work / "raw_again.onnx").read_bytes() == (work / "raw.onnx").read_bytes()


@pytest.mark.slow
def test_python_page(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for code in blocks("python", PAGES["python"]):
        exec(compile(code, "python.md", "exec"), names)
    assert names["report"].passed
    assert names["predictions"].pred_label.tolist() == [[False], [True]]
    assert bool(names["results"]["pred_label"][0, 0])
    assert "[[False]" in capsys.readouterr().out


@pytest.mark.slow
def test_drift_page(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = PAGES["drift"]
    for arguments in command_lines(page):
        assert run(arguments) == 0, arguments
    printed = capsys.readouterr().out
    for line in blocks("text", page)[0].splitlines():
        assert line in printed
    names: dict[str, object] = {}
    for code in blocks("python", page):
        exec(compile(code, "drift.md", "exec"), names)
    assert names["monitors"][0].report().found == names["report"].found
    (histogram,) = blocks("json", page)
    assert pp.Statistics.from_json(f'{{"histogram": {histogram}}}').histogram.total("normal") == 6


@pytest.mark.slow
def test_own_post_processing_page(work: Path) -> None:
    page = PAGES["own-post-processing"]
    for code in blocks("yaml", page):
        Path(code.splitlines()[0].removeprefix("# ")).write_text(code)
    for arguments in command_lines(page):
        assert run(arguments) == 0, arguments
    names: dict[str, object] = {"pp": pp}
    for code in blocks("python", page):
        exec(compile(code, "own-post-processing.md", "exec"), names)
    assert names["report"].passed


def test_json() -> None:
    (text,) = blocks("json", PAGES["command-line"])
    assert pp.Statistics.from_json(text).image.threshold == 14.97


def test_exactly_two_commands_set_up() -> None:
    setup = [line for code in blocks("bash", README) for line in code.splitlines() if "pip install" in line]
    assert setup == ["pip install . && pp-graph demo", 'pip install -e ".[test]" && pytest']
    ci = (ROOT / ".ci" / "run").read_text()
    assert setup[1].replace("pip install", "pip install --quiet") in ci


def test_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text("utf-8")):
            assert target.startswith("http") or (page.parent / target).exists(), f"{page}: {target}"


def test_nothing_of_one_machine_is_in_the_project() -> None:
    files = [file for folder in ("pp_graph", "docs", "examples", "benchmarks") for file in (ROOT / folder).rglob("*")]
    texts = [file for file in files if file.suffix in (".py", ".md", ".json", ".toml")]
    for file in [*texts, ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "pyproject.toml"]:
        assert not re.search(r"/(root|home|work|tmp)/", file.read_text(encoding="utf-8")), file
