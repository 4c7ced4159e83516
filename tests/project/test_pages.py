"""The commands of the docs run as they stand on small models; those that need more than a machine have options that exist."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import pp_graph as pp
from pp_graph.cli import COMMANDS, run
from tests.conftest import DEMO, ROOT
from tests.models import from_text, score_and_map
from tests.models import run as run_onnx
from tests.postprocessors import test_regions_task as text_regions
from tests.project.test_examples import load
from tests.project.test_readme import blocks, command_lines

DOCS = ROOT / "docs"
CODE = ("bash", "console", "python", "yaml")
RUN_BY = {
    "command-line": "project/test_readme.py",
    "drift": "project/test_readme.py",
    "own-post-processing": "project/test_readme.py",
    "python": "project/test_readme.py",
    "fleet": "fleet/test_running.py",
    "release-checks": "release_checks/test_release_checks.py",
    "deployment": "project/test_pages.py",
    "explore": "project/test_pages.py",
    "families": "project/test_pages.py",
    "index": "project/test_pages.py",
    "scale": "project/test_pages.py",
    "steps": "project/test_pages.py",
    "exporters": "integrations/test_olive.py",
    "tutorials/anomalib": "integrations/test_anomalib_models.py",
    **{
        f"tutorials/{name}": "project/test_tutorials.py"
        for name in ("any-onnx", "camera", "classifier", "cpp", "detector")
    },
}
"""The test that runs the code of a page, or what the code calls."""


def text_of(page: str) -> str:
    return (DOCS / f"{page}.md").read_text("utf-8")


def follow(page: str, beginning: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Run the block of commands that begins so, and return what it prints."""
    (block,) = (code for code in blocks("bash", text_of(page)) if code.startswith(f"pp-graph {beginning}"))
    capsys.readouterr()
    for arguments in command_lines(f"```bash\n{block}```"):
        assert run(arguments) == 0, (arguments, capsys.readouterr().err)
    return capsys.readouterr().out


def save_pictures(folder: str, pictures: np.ndarray) -> None:
    """Write float32 images (N,C,H,W) in [0,1] as PNGs."""
    Path(folder).mkdir(parents=True)
    for index, picture in enumerate((pictures.clip(0, 1) * 255).round().astype(np.uint8)):
        Image.fromarray(picture[0] if len(picture) == 1 else picture.transpose(1, 2, 0)).save(
            f"{folder}/{index:02}.png"
        )


def remove_model() -> None:
    """Remove what another block of the page wrote."""
    for file in Path().glob("model.*"):
        file.unlink()


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def anomalies(work: Path, demo_ir_path: Path) -> Path:
    """The demo's model and images under the names of the pages."""
    for name in ("raw.onnx", "stats.json"):
        shutil.copy(DEMO / name, name)
    for file in demo_ir_path.parent.glob("model.*"):
        shutil.copy(file, file.name)
    shutil.copytree(DEMO / "images", "images")
    shutil.copytree(DEMO / "images", "bottle/test")
    return work


def test_every_page_with_code_is_run() -> None:
    with_code = {
        str(file.relative_to(DOCS).with_suffix(""))
        for file in DOCS.rglob("*.md")
        if blocks_of_code(file.read_text("utf-8"))
    }
    assert with_code == set(RUN_BY)
    assert all((ROOT / "tests" / test).exists() for test in RUN_BY.values())


def blocks_of_code(text: str) -> list[str]:
    return [code for language in CODE for code in blocks(language, text)]


@pytest.mark.parametrize("page", sorted(RUN_BY))
def test_commands_and_options_exist(page: str) -> None:
    verbs = {command.name: command for command in COMMANDS}
    for code in blocks_of_code(text_of(page)):
        for line in code.splitlines():
            if not line.startswith("pp-graph "):
                continue
            words = shlex.split(line, comments=True)
            known = {flag for parameter in verbs[words[1]].params for flag in parameter.opts}
            if words[1] == "fleet":
                continue  # it has commands of its own, and its page is run
            flags = {word for word in words if re.match("--?[a-z]", word)}
            assert flags <= known, line


def test_index() -> None:
    (command,) = blocks("bash", text_of("index"))
    assert command in blocks("bash", (ROOT / "README.md").read_text("utf-8"))


def test_explore(anomalies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    follow("explore", "explore", capsys)
    assert "<html" in (anomalies / "explore.html").read_text("utf-8")[:1000]


def test_package(anomalies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    follow("deployment", "package", capsys)
    assert {"README.md", "check.py", "bench.py"} <= {file.name for file in (anomalies / "deploy").iterdir()}


@pytest.mark.slow  # starts eight processes
def test_scale(anomalies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("stats.json").unlink()
    follow("scale", "calibrate model.xml", capsys)
    (code,) = blocks("python", text_of("scale"))
    Path("many.py").write_text(f"{code}        print(calibration.record.images, report.passed)\n")
    done = subprocess.run([sys.executable, "many.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["12", "True"]


def lay_out_classifier() -> None:
    """A classifier, the names of its classes, images, and images by class."""
    example = load("classification")
    onnx.save(example.raw_model(), "classifier.onnx")
    Path("names.txt").write_text("\n".join(example.COLOURS) + "\n")
    save_pictures("images", example.pictures(8))
    for index, name in enumerate(example.COLOURS):
        save_pictures(f"val/{name}", example.pictures()[index::4])


def test_classifier(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lay_out_classifier()
    # The page asks for five classes, and this model has four.
    page = "convert classifier.onnx"
    (block,) = (code for code in blocks("bash", text_of("families")) if code.startswith(f"pp-graph {page}"))
    for arguments in command_lines(f"```bash\n{block.replace('--top 5', '--top 4')}```"):
        assert run(arguments) == 0, (arguments, capsys.readouterr().err)
    assert pp.open("model.xml").provenance.parameters["unknown_below"] == 0.8
    remove_model()
    follow("families", "calibrate classifier.onnx", capsys)
    assert json.loads(Path("limits.json").read_text())
    assert Path("model_tuned.xml").exists()


def test_detector(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = load("detection")
    onnx.save(example.raw_model(), "detector.onnx")
    Path("names.txt").write_text("\n".join(example.NAMES) + "\n")
    save_pictures("images", example.pictures(3))
    assert "PASSED" in follow("families", "inspect detector.onnx", capsys)
    assert pp.open("model.xml").provenance.parameters["confidence"] == 0.4


def test_segmenter(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = load("segmentation")
    onnx.save(example.raw_model(), "segmenter.onnx")
    Path("names.txt").write_text("\n".join(example.COLOURS) + "\n")
    save_pictures("images", example.pictures())
    assert "PASSED" in follow("families", "convert segmenter.onnx", capsys)


def test_regions_of_a_mask(anomalies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    remove_model()
    follow("families", "convert raw.onnx", capsys)
    assert pp.open("model.xml").provenance.parameters["regions"] == 10


@pytest.mark.slow  # compiles loops
def test_text_detector(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(text_regions.raw(17), "det.onnx")
    save_pictures("images", text_regions.maps())
    assert "PASSED" in follow("families", "convert det.onnx", capsys)
    assert pp.open("model.xml").provenance.parameters["box_threshold"] == 0.7


def test_recogniser(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = load("sequence")
    onnx.save(example.raw_model(), "recogniser.onnx")
    Path("characters.txt").write_text("\n".join(example.CHARACTERS) + "\n")
    save_pictures("lines", example.pictures())
    told = follow("families", "convert recogniser.onnx", capsys)
    assert all(text in told for text in example.TEXTS)


@pytest.mark.slow  # quantises twice
def test_int8(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("nncf", reason="nncf is not installed")
    lay_out_classifier()
    (block,) = (code for code in blocks("bash", text_of("families")) if "--precision int8" in code)
    fuse, classify, detect = command_lines(f"```bash\n{block}```")
    assert run(fuse) == run(classify) == 0, capsys.readouterr().err
    assert "INT8" in (work / "model.usage.md").read_text().upper()
    detection = load("detection")
    pp.fuse(detection.raw_model(), pp.DetectionPostProcessor(labels=detection.NAMES)).save("detector_fused.onnx")
    shutil.rmtree("images")
    save_pictures("images", detection.pictures())
    assert run(["run", "detector_fused.onnx", "images/", "-o", "found", "--coco"]) == 0
    shutil.copy("found/predictions.coco.json", "coco.json")
    remove_model()
    assert run(detect) == 0, capsys.readouterr().err


@pytest.mark.slow  # loads torch
def test_torch(work: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    (code,) = blocks("python", text_of("families"))
    candidates = torch.rand(2, 6, 84, generator=torch.Generator().manual_seed(0))
    names = {"pp": pp, "images": candidates, "network": torch.nn.Identity()}
    exec(compile(code, "families.md", "exec"), names)
    expected = pp.DetectionPostProcessor(head="yolov8", confidence=0.4)({"raw_candidates": candidates.numpy()})
    assert np.array_equal(names["boxes"].numpy(), expected["boxes"])


def test_recipes_of_steps(work: Path) -> None:
    own, regions = blocks("yaml", text_of("steps"))
    Path("own.yaml").write_text(own)
    fused = pp.fuse(one_number_per_candidate(), pp.RecipePostProcessor.load("own.yaml"))
    quality = np.array([[-1, 0, 2]], np.float32)
    assert run_onnx(fused, {"quality_in": quality})["kept"].tolist() == [[False, True, True]]
    Path("regions.yaml").write_text(f"schema_version: 1\n{regions}")
    fused = pp.fuse(score_and_map(18), pp.RecipePostProcessor.load("regions.yaml"))
    assert [output.name for output in fused.program.predicted] == ["boxes", "count"]


def one_number_per_candidate() -> onnx.ModelProto:
    return from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        raw (float[N,3] quality_in) => (float[N,3] quality) { quality = Identity(quality_in) }"""
    )


def test_contributing_names_what_exists() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    paths = re.findall(r"(?<![\w/.])(?:tests|pp_graph|docs|examples|benchmarks|\.ci)/[\w./-]*\w", text)
    assert not [path for path in paths if not (ROOT / path).exists()]
    folders = {file.parent.relative_to(ROOT).as_posix() for file in (ROOT / "tests").rglob("test_*.py")}
    assert not [folder for folder in folders if folder not in text]
