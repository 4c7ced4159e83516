"""`pp-graph stats`, and settings imported with statistics."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import pp_graph as pp
from pp_graph.cli import run
from tests.conftest import DEMO, ROOT

FILES = ROOT / "tests" / "assets" / "statistics"


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copy(DEMO / "raw.onnx", tmp_path)
    shutil.copy(DEMO / "stats.json", tmp_path)
    for name in ("anomalib_2_7.ckpt", "sensitive.onnx", "not_normalized.onnx", "metadata_1_x.json"):
        shutil.copy(FILES / name, tmp_path)
    return tmp_path


def parameters(fused: str) -> dict[str, object]:
    return pp.inspect(fused).provenance.parameters


def test_show(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["stats", "show", "sensitive.onnx"]) == 0
    out = capsys.readouterr().out
    for part in ("9.9596138", "Anomalib 2.x ONNX export", "image_sensitivity=0.7", "only the difference max - min"):
        assert part in out
    assert run(["stats", "show", "stats.json"]) == 0
    assert "not recorded" in capsys.readouterr().out
    (work / "partial.json").write_text('{"image": {"threshold": 1.5}}')
    assert run(["stats", "show", "partial.json"]) == 0
    assert "unknown" in capsys.readouterr().out
    assert run(["stats", "show", "anomalib_2_7.ckpt", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["provenance"]["settings"]["image_sensitivity"] == 0.7
    assert pp.Statistics.from_json(json.dumps(shown)) == pp.Statistics.load("anomalib_2_7.ckpt")


def test_convert(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["stats", "convert", "metadata_1_x.json", "-o", "out.json"]) == 0
    captured = capsys.readouterr()
    assert "Converted metadata_1_x.json -> out.json" in captured.out
    assert "(>=)" in captured.err
    assert pp.Statistics.load("out.json") == pp.Statistics.load("metadata_1_x.json")
    assert run(["stats", "convert", "anomalib_2_7.ckpt", "-o", "out.json"]) == 2
    assert run(["stats", "convert", "anomalib_2_7.ckpt", "-o", "out.json", "--force", "--json"]) == 0
    capsys.readouterr()
    assert pp.Statistics.load("out.json").provenance.file == "anomalib_2_7.ckpt"


def test_settings_are_imported(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fuse", "raw.onnx", "--stats", "anomalib_2_7.ckpt", "-o", "f.onnx", "--no-tail"]) == 0
    err = capsys.readouterr().err
    assert "Note: image_sensitivity=0.7 comes from anomalib_2_7.ckpt" in err
    assert "pixel_sensitivity" not in err  # 0.5, as without it
    assert parameters("f.onnx")["image_sensitivity"] == 0.7
    # The same from our JSON.
    assert run(["stats", "convert", "anomalib_2_7.ckpt", "-o", "out.json"]) == 0
    assert run(["fuse", "raw.onnx", "--stats", "out.json", "-o", "g.onnx", "--no-tail"]) == 0
    assert "Note: image_sensitivity=0.7 comes from out.json" in capsys.readouterr().err
    assert parameters("g.onnx") == parameters("f.onnx")


def test_options_win_over_imported_settings(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["fuse", "raw.onnx", "--stats", "sensitive.onnx", "-o", "f.onnx", "--no-tail"]
    # 0.5 is also the default, but here it was given.
    assert run([*command, "--image-sensitivity", "0.5"]) == 0
    err = capsys.readouterr().err
    assert "image_sensitivity=" not in err
    assert "Note: pixel_sensitivity=0.2 comes from sensitive.onnx" in err
    assert parameters("f.onnx")["image_sensitivity"] == 0.5
    assert parameters("f.onnx")["pixel_sensitivity"] == 0.2


def test_settings_can_be_turned_on_again(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["fuse", "raw.onnx", "--stats", "not_normalized.onnx", "-o", "f.onnx", "--no-tail"]
    assert run(command) == 0
    assert "normalize=False comes from not_normalized.onnx" in capsys.readouterr().err
    assert parameters("f.onnx")["normalize"] is False
    assert run([*command, "--force", "--normalize"]) == 2
    assert "Statistics lack 'image.min'" in capsys.readouterr().err


def test_convert_imports_settings(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["convert", "raw.onnx", "--stats", "anomalib_2_7.ckpt", "-o", "m.xml", "--no-tail", "--json"]
    assert run(command) == 0
    captured = capsys.readouterr()
    assert "image_sensitivity=0.7 comes from" in captured.err
    assert json.loads(captured.out)["output"] == "m.xml"
    assert parameters("m.xml")["image_sensitivity"] == 0.7


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sensitivity": 0.5}, "has a setting 'sensitivity', expected some of: image_sensitivity"),
        ({"image_sensitivity": "high"}, "--image-sensitivity is 'high', expected a number"),
        ({"image_sensitivity": 7}, "--image-sensitivity is 7, expected a number"),
        ({"normalize": "yes"}, "normalize is 'yes', expected True or False"),
        ({"outputs": 3}, "outputs is 3, expected names"),
        ({"outputs": ["x"]}, "outputs holds 'x'"),
        ({"on_nan": []}, r"--on-nan is []"),
    ],
)
def test_invalid_settings(
    work: Path, settings: dict[str, object], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stats = json.loads((work / "stats.json").read_text())
    stats["provenance"] = {"source": "by hand", "settings": settings}
    (work / "bad.json").write_text(json.dumps(stats))
    assert run(["fuse", "raw.onnx", "--stats", "bad.json", "-o", "f.onnx", "--no-tail"]) == 2
    assert message in capsys.readouterr().err
    assert not (work / "f.onnx").exists()


def test_inspect_recognises_an_export(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", "sensitive.onnx"]) == 0
    captured = capsys.readouterr()
    assert "Post-processing by Anomalib 2.x found" in captured.out
    assert "threshold 9.9596138" in captured.out
    assert "image_sensitivity=0.7" in captured.out
    assert "Next: pp-graph stats convert sensitive.onnx -o stats.json" in captured.err
    assert run(["inspect", "sensitive.onnx", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["kind"] == "Anomalib ONNX export"
    assert shown["post_processing"]["settings"]["pixel_sensitivity"] == 0.2
    assert pp.inspect("raw.onnx").post_processing is None
    assert pp.inspect("raw.onnx").kind == "raw ONNX"
