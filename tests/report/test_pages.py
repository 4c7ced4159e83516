"""Pages of verify, run and benchmark: self-contained, with the numbers of the result."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest

import pp_graph as pp
from pp_graph.cli import run
from pp_graph.errors import OutputFileError
from pp_graph.report import write_verification_report
from tests.classifiers import classifier, images
from tests.conftest import DEMO
from tests.models import from_text


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def checked(path: str) -> str:
    text = Path(path).read_text()
    assert "default-src 'none'" in text
    assert not re.search(r"""(src|href)=["']?http|url\(""", text)
    assert "<script" not in text
    return text


def test_verify(work: Path, demo_ir_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["verify", str(DEMO / "raw.onnx"), str(demo_ir_path), "--data", str(DEMO / "images")]
    assert run([*arguments, "--inference-precision", "bf16", "--max-pixel-flips", "1", "--report", "v.html"]) == 1
    page = checked("v.html")
    assert 'class="verdict failed"' in page
    assert "flips by margin" in page
    assert "786,432" in page
    assert run([*arguments, "--report", "v.html"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert run([*arguments, "--report", "v.html", "--force"]) == 0
    assert 'class="verdict"' in checked("v.html")


def test_page_of_a_report_in_python(work: Path, demo_ir_path: Path) -> None:
    report = pp.verify(DEMO / "raw.onnx", demo_ir_path, DEMO / "images" / "grass")
    assert write_verification_report(report, work / "v.html").is_file()
    with pytest.raises(OutputFileError, match=r"expected '.html'"):
        write_verification_report(report, work / "v.txt")


def test_run(work: Path, demo_ir_path: Path) -> None:
    images = str(DEMO / "images")
    assert run(["run", str(demo_ir_path), images, "-o", "out", "--report", "r.html", "--save", "none"]) == 0
    page = checked("r.html")
    assert page.count("data:image/jpeg") == 12
    assert page.index("grass/02.png") < page.index("good/00.png")
    assert "<dt>score</dt>" in page


def test_run_of_another_family(work: Path) -> None:
    onnx.save(classifier(), "raw.onnx")
    np.savez("images.npz", image=images(6))
    assert run(["convert", "raw.onnx", "--task", "classification", "-o", "model.xml"]) == 0
    assert run(["run", "model.xml", "images.npz", "-o", "out", "--report", "r.html"]) == 0
    page = checked("r.html")
    assert page.count("data:image/jpeg") == 6
    assert "<dt>class</dt>" in page


def test_run_with_other_sensitivities(work: Path, demo_ir_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = demo_ir_path.read_bytes()
    arguments = ["run", str(demo_ir_path), str(DEMO / "images"), "--save", "none"]
    assert run([*arguments, "-o", "own"]) == 0
    assert "12 images, 6 anomalous" in capsys.readouterr().out
    assert run([*arguments, "-o", "sensitive", "--image-sensitivity", "0.8", "--pixel-sensitivity", "0.3"]) == 0
    assert "model.xml" in (shown := capsys.readouterr().out)
    tuned = pp.retune(pp.open(demo_ir_path), image_sensitivity=0.8, pixel_sensitivity=0.3)
    predictions = pp.load(tuned)(DEMO / "images")
    assert f"12 images, {predictions.pred_label.sum()} anomalous" in shown
    assert demo_ir_path.read_bytes() == before


def test_benchmark(work: Path, demo_ir_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["benchmark", str(DEMO / "raw.onnx"), str(demo_ir_path), "--report", "b.html"]
    assert (
        run([*arguments, "--seconds", "0.2", "--no-memory", "--inference-precision", "f32", "--against", "host-numpy"])
        == 0
    )
    page = checked("b.html")
    assert "Where the time goes" in page
    assert "model.xml" in page
    assert run(["benchmark", "--compare", "a.json", "b.json", "--report", "c.html"]) == 2
    assert "--compare runs none" in capsys.readouterr().err


def test_run_of_a_segmentation_model(tmp_path: Path) -> None:
    raw = from_text(
        """<ir_version: 8, opset_import: ["": 18]>
        raw (float[N,3,8,12] image) => (float[N,3,8,12] logits) { logits = Identity(image) }"""
    )
    pp.convert(pp.fuse(raw, pp.SegmentationPostProcessor(labels=("sky", "tree", "road")))).save(tmp_path / "s.xml")
    np.savez(tmp_path / "photos.npz", image=np.random.default_rng(0).random((2, 3, 8, 12), np.float32))
    page = tmp_path / "page.html"
    assert run(["run", str(tmp_path / "s.xml"), str(tmp_path / "photos.npz"), "-o", str(tmp_path / "out"), "--save", "none",
                "--report", str(page)]) == 0  # fmt: skip
    text = page.read_text()
    assert text.count("<dt>pixels tree</dt>") == 2
    assert "<dt>class area</dt>" not in text, "the same numbers again"
