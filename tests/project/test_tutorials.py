"""The tutorials run as they stand, and the site shows every page."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from PIL import Image

from pp_graph.cli import run
from tests.conftest import DEMO, ROOT
from tests.project.test_examples import load
from tests.project.test_readme import blocks, command_lines

DOCS = ROOT / "docs"


def page(name: str) -> str:
    return (DOCS / "tutorials" / f"{name}.md").read_text("utf-8")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    assert run(["demo", "-o", str(tmp_path / "demo")]) == 0
    monkeypatch.chdir(tmp_path / "demo" / "inputs")
    return tmp_path / "demo" / "inputs"


def follow(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in command_lines(text):
        assert run(arguments) == 0, (arguments, capsys.readouterr().err)


@pytest.mark.slow
def test_any_onnx(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    follow(page("any-onnx"), capsys)
    assert (work / "verify.html").stat().st_size > 10_000
    assert "AUROC" in capsys.readouterr().out


@pytest.mark.slow
def test_classifier(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks("python", page("classifier"))
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    follow(page("classifier"), capsys)
    with (work / "classified" / "predictions.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(list((work / "images").rglob("*.png")))
    right = [row["image"].split("/")[0] == row["pred_class_name"] for row in rows]
    assert np.mean(right) > 0.8


@pytest.mark.slow
def test_detector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    example = load("detection")
    monkeypatch.chdir(tmp_path)
    onnx.save(example.raw_model(), "detector.onnx")
    Path("pictures").mkdir()
    for index, picture in enumerate(example.pictures(3)):
        Image.fromarray((picture.transpose(1, 2, 0) * 255).astype(np.uint8)).save(f"pictures/{index}.png")
    before, after = page("detector").split("## Thresholds from ground truth")
    follow(before, capsys)
    found = json.loads(Path("found/predictions.coco.json").read_text())
    assert found["annotations"]
    Path("coco.json").write_text(json.dumps(found))
    follow(after, capsys)


@pytest.mark.slow
def test_camera(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    work = shutil.copytree(DEMO, tmp_path / "inputs")
    monkeypatch.chdir(work)
    text = page("camera")
    make, use = blocks("python", text)
    before, after = text.split("## A video")
    after, _ = after.split("## Frames as a camera gives them")
    follow(before, capsys)
    subprocess.run([sys.executable, "-c", make], check=True, capture_output=True)
    capsys.readouterr()
    follow(after, capsys)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [line["frame"] for line in lines] == [0, 3, 6, 9]
    (shown,) = blocks("json", text)
    wanted = json.loads(shown)
    assert lines[1] == wanted | {name: pytest.approx(wanted[name], abs=0.02) for name in ("pred_score", "map_max")}
    with (work / "frames.csv").open() as stream:
        assert {row["pred_label"] for row in csv.DictReader(stream)} == {"true", "false"}
    printed = subprocess.run([sys.executable, "-c", use], check=True, capture_output=True, text=True).stdout
    assert "4 0.4 (256, 256, 3) [[False]]" in printed


@pytest.mark.slow
def test_frames_of_a_camera(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(shutil.copytree(DEMO, tmp_path / "inputs"))
    _, text = page("camera").split("## Frames as a camera gives them")
    follow(text, capsys)
    assert "PASSED" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cmake") is None or shutil.which("c++") is None, reason="cmake or c++ is missing")
def test_cpp(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = page("cpp")
    follow(text, capsys)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    build, use, measure = blocks("sh", text)
    shell = ["bash", "-e", "-c"]
    subprocess.run([*shell, build], check=True, capture_output=True, env=environment)
    done = subprocess.run([*shell, f"cd deploy\n{use}"], check=True, capture_output=True, text=True, env=environment)
    before, after = (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    (shown,) = (json.loads(code) for code in blocks("json", text))
    assert before["pred_label"] == shown["pred_label"] == [True]
    assert before["pred_mask"] == shown["pred_mask"]
    assert after["pred_label"] == [False]
    assert len(list((work / "deploy" / "results").glob("*.npy"))) == 4
    quick = measure.replace("bench.py", "bench.py --seconds 0.2")
    subprocess.run([*shell, f"cd deploy\n{quick}"], check=True, capture_output=True, env=environment)
    (code,) = blocks("cpp", text)
    (work / "deploy" / "src" / "main.cpp").write_text(code)
    own = "cd deploy && cmake --build build && build/predict"
    done = subprocess.run([*shell, own], check=True, capture_output=True, text=True, env=environment)
    assert done.stdout.endswith("pred_mask [1,1,256,256]\nnormal\n")


def test_the_call_of_the_anomalib_page_is_the_functions() -> None:
    (code,) = blocks("python", page("anomalib"))
    assert code.startswith("from pp_graph.integrations.anomalib import export\n")
    compile(code, "anomalib.md", "exec")


def navigation(entry: object) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    parts = entry if isinstance(entry, list) else entry.values() if isinstance(entry, dict) else ()
    return [page for part in parts for page in navigation(part)]


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / ".ci" / "mkdocs.yml").read_text("utf-8")
    listed = navigation(yaml.safe_load(re.sub(r"!!python\S+", "", text))["nav"])
    assert sorted(listed) == sorted(str(file.relative_to(DOCS)) for file in DOCS.rglob("*.md"))
