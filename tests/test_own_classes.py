"""Classes of users: found by their module in the models that were made with them, and never imported from a file."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import pp_graph as pp
from pp_graph.errors import PostProcessorError, ProvenanceError
from pp_graph.postprocessors import RawLayout, class_name, find_post_processor
from pp_graph.steps import Compare, Keep, MaxOverMap, Step
from tests.conftest import DEMO, ROOT

PLUGIN = """
from dataclasses import dataclass

import pp_graph as pp
from pp_graph.steps import Compare, Keep, MaxOverMap


@dataclass(frozen=True)
class WeldPostProcessor(pp.PostProcessor):
    statistics: pp.Statistics | None = None
    limit: float = 1.0

    def steps(self, layout):
        return (
            MaxOverMap("raw_map", "pred_score"),
            Compare("pred_score", "pred_label", self.limit),
            Compare("raw_map", "pred_mask", self.statistics.pixel.threshold),
        )
"""


@dataclass(frozen=True)
class PeakPostProcessor(pp.PostProcessor):
    statistics: pp.Statistics | None = None
    limit: float = 12.0

    def steps(self, layout: RawLayout) -> tuple[Step, ...]:
        return (MaxOverMap("raw_map", "pred_score"), Compare("pred_score", "pred_label", self.limit))


def test_own_post_processor_all_the_way(demo_images: np.ndarray, tmp_path: Path) -> None:
    fused = pp.fuse(DEMO / "raw.onnx", PeakPostProcessor(limit=13.0))
    assert fused.provenance.post_processor == f"{__name__}:PeakPostProcessor"
    path = pp.convert(fused).save(tmp_path / "model.xml")
    for precision in ("f32", "bf16"):
        report = pp.verify(DEMO / "raw.onnx", path, demo_images[:4], inference_precision=precision)
        assert report.passed, report.failures
    assert isinstance(pp.load(path).provenance.build_post_processor(), PeakPostProcessor)
    assert pp.strip(fused).sha256 == fused.provenance.raw.sha256


def test_name_is_found_without_importing_anything() -> None:
    name = class_name(PeakPostProcessor)
    assert find_post_processor(name) is PeakPostProcessor
    # A script that ran as __main__ and is imported now.
    assert find_post_processor("__main__:PeakPostProcessor") is PeakPostProcessor
    assert find_post_processor("OneClassPostProcessor") is pp.OneClassPostProcessor
    assert find_post_processor("antigravity:Fly") is None
    assert "antigravity" not in sys.modules


def test_own_class_cannot_take_the_name_of_ours() -> None:
    class OneClassPostProcessor(pp.PostProcessor):
        statistics = None

        def steps(self, layout: RawLayout) -> tuple[Step, ...]:
            return (Keep("raw_score", "pred_score"),)

    assert find_post_processor("OneClassPostProcessor") is pp.OneClassPostProcessor
    assert OneClassPostProcessor.__qualname__ in class_name(OneClassPostProcessor)


def call(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    code = "import sys; from pp_graph.cli import main; main()"
    command = [sys.executable, "-c", code, *arguments]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)


def test_plugin_makes_own_classes_known_to_every_verb(tmp_path: Path) -> None:
    (tmp_path / "weld.py").write_text(PLUGIN)
    (tmp_path / "post.yaml").write_text("post_processor: WeldPostProcessor\nparameters:\n  limit: 13\n")
    raw, images = str(DEMO / "raw.onnx"), str(DEMO / "images" / "good")
    fuse = ("convert", raw, "--stats", str(DEMO / "stats.json"), "--recipe", "post.yaml", "-o", "model.xml")
    done = call("--plugin", "weld.py", *fuse, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    done = call("--plugin", "weld.py", "verify", raw, "model.xml", "--data", images, "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert '"weld:WeldPostProcessor"' in done.stdout
    done = call("verify", raw, "model.xml", "--data", images, folder=tmp_path)
    assert done.returncode == 2
    assert "Post-processor 'weld:WeldPostProcessor' is not known" in done.stderr
    assert "--plugin FILE.py" in done.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "File 'own.py' does not exist"),
        ("import nothing_of_that_name", "'own.py' cannot be imported: ModuleNotFoundError"),
        ("1 / 0", "'own.py' cannot be imported: ZeroDivisionError"),
    ],
)
def test_plugin_that_cannot_be_imported(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "own.py").write_text(content)
    done = call("--plugin", "own.py", "devices", folder=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr


def test_steps_are_tried_out_when_a_post_processor_is_built() -> None:
    @dataclass(frozen=True)
    class Wrong(pp.PostProcessor):
        statistics: pp.Statistics | None = None

        def steps(self, layout: RawLayout) -> tuple[Step, ...]:
            return (Keep("raw_scores", "pred_score"),)

    with pytest.raises(PostProcessorError, match="Step 'pred_score' .Keep. reads 'raw_scores', which is not there"):
        Wrong()


def test_parameters_that_cannot_be_noted() -> None:
    @dataclass(frozen=True)
    class Holding(pp.PostProcessor):
        statistics: pp.Statistics | None = None
        held: object = None

        def steps(self, layout: RawLayout) -> tuple[Step, ...]:
            return (Keep("raw_map", "anomaly_map"),)

    with pytest.raises(PostProcessorError, match="Parameters of Holding hold what is no plain value"):
        pp.fuse(DEMO / "raw.onnx", Holding(held=object()))

    class Plain(pp.PostProcessor):
        statistics = None

        def steps(self, layout: RawLayout) -> tuple[Step, ...]:
            return (Keep("raw_map", "anomaly_map"),)

    with pytest.raises(PostProcessorError, match="Plain is no dataclass"):
        pp.fuse(DEMO / "raw.onnx", Plain())


def test_edited_provenance_is_refused() -> None:
    fused = pp.fuse(DEMO / "raw.onnx", PeakPostProcessor(limit=13.0))
    record = fused.provenance.to_json().replace('"limit":13.0', '"limit":14.0')
    with pytest.raises(ProvenanceError, match="Provenance names the cutoffs"):
        type(fused.provenance).from_json(record).build_post_processor()
