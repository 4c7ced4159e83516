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
from pp_graph.postprocessors import class_name, find_post_processor
from pp_graph.program import Signature
from pp_graph.steps import Compare, CropBorder, Keep, MaxOverMap, MonotoneStep, Step, ValueType
from tests.conftest import DEMO, ROOT

PLUGIN = """
from dataclasses import dataclass

import pp_graph as pp
from pp_graph.steps import Compare, Keep, MaxOverMap


@dataclass(frozen=True)
class WeldPostProcessor(pp.PostProcessor):
    statistics: pp.Statistics | None = None
    limit: float = 1.0

    def steps(self, raw):
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

    def steps(self, raw: Signature) -> tuple[Step, ...]:
        return (MaxOverMap("raw_map", "pred_score"), Compare("pred_score", "pred_label", self.limit))


def test_own_post_processor_all_the_way(demo_images: np.ndarray, tmp_path: Path) -> None:
    fused = pp.fuse(DEMO / "raw.onnx", PeakPostProcessor(limit=13.0))
    assert fused.provenance.post_processor == f"{__name__}:PeakPostProcessor"
    path = pp.convert(fused).save(tmp_path / "model.xml")
    for precision in ("f32", "bf16"):
        report = pp.verify(DEMO / "raw.onnx", path, demo_images[:4], inference_precision=precision)
        assert report.postprocessing_exact, report.failures
    assert isinstance(pp.load(path).provenance.bind().post, PeakPostProcessor)
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

        def steps(self, raw: Signature) -> tuple[Step, ...]:
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

        def steps(self, raw: Signature) -> tuple[Step, ...]:
            return (Keep("raw_scores", "pred_score"),)

    with pytest.raises(PostProcessorError, match="Step 'pred_score' .Keep. reads 'raw_scores', which is not there"):
        Wrong()


def test_parameters_that_cannot_be_noted() -> None:
    @dataclass(frozen=True)
    class Holding(pp.PostProcessor):
        statistics: pp.Statistics | None = None
        held: object = None

        def steps(self, raw: Signature) -> tuple[Step, ...]:
            return (Keep("raw_map", "anomaly_map"),)

    with pytest.raises(PostProcessorError, match="Parameters of Holding are not JSON-serialisable"):
        pp.fuse(DEMO / "raw.onnx", Holding(held=object()))

    class Plain(pp.PostProcessor):
        statistics = None

        def steps(self, raw: Signature) -> tuple[Step, ...]:
            return (Keep("raw_map", "anomaly_map"),)

    with pytest.raises(PostProcessorError, match="Plain is not a dataclass"):
        pp.fuse(DEMO / "raw.onnx", Plain())


def test_edited_provenance_is_refused() -> None:
    fused = pp.fuse(DEMO / "raw.onnx", PeakPostProcessor(limit=13.0))
    record = fused.provenance.to_json().replace('"limit":13.0', '"limit":14.0')
    with pytest.raises(ProvenanceError, match="Provenance has the cutoffs"):
        type(fused.provenance).from_json(record).bind()


@dataclass(frozen=True)
class Sigmoid(MonotoneStep):
    """A class with the name of one of ours, and other numbers."""

    source: str
    target: str

    def emit(self, op, value):
        return op.mul(value, op.constant(np.float32(2), "two"))

    def reference(self, array):
        return np.asarray(array, np.float32) * np.float32(2)


def test_own_step_is_not_taken_for_ours_of_that_name() -> None:
    with pytest.raises(PostProcessorError, match="'sigmoid' means another step, expected a name of its own"):
        pp.RecipePostProcessor(None, (Sigmoid("raw_score", "pred_score"),))


@dataclass(frozen=True)
class Falling(MonotoneStep):
    source: str
    target: str

    def emit(self, op, value):
        return op.sub(op.constant(np.float32(1), "one"), value)

    def reference(self, array):
        return np.float32(1) - np.asarray(array, np.float32)


@dataclass(frozen=True)
class HandedOn(Step):
    source: str
    target: str

    def emit(self, op, value):
        return value

    def reference(self, array):
        return np.asarray(array, np.float32)


@dataclass(frozen=True)
class Misdeclared(Step):
    source: str
    target: str

    def output_type(self, value: ValueType) -> ValueType:
        return ValueType("N")

    def emit(self, op, value):
        return value

    def reference(self, array):
        return np.asarray(array, np.float32)


def composed(*steps: Step) -> pp.RecipePostProcessor:
    return pp.RecipePostProcessor(None, steps)


def test_monotone_step_that_falls_is_refused() -> None:
    with pytest.raises(PostProcessorError, match="Step 'pred_score' .Falling. is a MonotoneStep and falls"):
        composed(Falling("raw_score", "pred_score"), Compare("pred_score", "pred_label", -2.0))


def test_step_that_hands_its_input_on_leaves_the_raw_value_its_name() -> None:
    fused = pp.fuse(DEMO / "raw.onnx", composed(HandedOn("raw_map", "anomaly_map")))
    assert pp.strip(fused).sha256 == fused.provenance.raw.sha256


def test_step_whose_numbers_are_not_of_the_form_it_says() -> None:
    post = composed(Misdeclared("raw_map", "pred_score"))
    with pytest.raises(
        PostProcessorError, match="Step 'pred_score' .Misdeclared.: its reference returned float32 of shape"
    ):
        post({"anomaly_map": np.zeros((2, 3, 3), np.float32)})


def test_number_is_no_decision() -> None:
    with pytest.raises(
        PostProcessorError, match="Step 'pred_label' .Keep. writes float32 .*expected one value per image, bool"
    ):
        composed(Keep("raw_score", "pred_label"))


@pytest.mark.parametrize("limit", [float("nan"), float("inf")])
def test_parameters_that_json_cannot_hold(limit: float) -> None:
    @dataclass(frozen=True)
    class Limited(pp.PostProcessor):
        statistics: pp.Statistics | None = None
        unused: float = 0.0

        def steps(self, raw: Signature) -> tuple[Step, ...]:
            return (Keep("raw_map", "anomaly_map"),)

    with pytest.raises(PostProcessorError, match="Limited has different parameters after it is rebuilt"):
        pp.fuse(DEMO / "raw.onnx", Limited(unused=limit))


def test_decision_that_is_never_made_verifies(demo_images: np.ndarray, tmp_path: Path) -> None:
    stats = pp.Statistics.load(DEMO / "stats.json")
    post = pp.OneClassPostProcessor(stats, pixel_sensitivity=0, outputs=("pred_mask",))
    path = pp.convert(pp.fuse(DEMO / "raw.onnx", post)).save(tmp_path / "model.xml")
    assert pp.verify(DEMO / "raw.onnx", path, demo_images[:2]).passed


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ((Keep("raw_map", "anomaly_map"),), "pred_score, pred_label, pred_mask are missing"),
        (
            (
                MaxOverMap("raw_map", "pred_score"),
                Compare("pred_score", "pred_label", 1.0, dtype="u8_255"),
                Keep("raw_map", "anomaly_map"),
                Compare("raw_map", "pred_mask", 1.0),
            ),
            "pred_label is uint8 .*expected float32 or bool",
        ),
        (
            (
                MaxOverMap("raw_map", "pred_score"),
                Compare("pred_score", "pred_label", 1.0),
                CropBorder("raw_map", "anomaly_map", 3),
                Compare("raw_map", "pred_mask", 1.0),
            ),
            "of one size",
        ),
    ],
)
def test_what_cannot_be_packed_is_refused(steps: tuple[Step, ...], message: str) -> None:
    with pytest.raises(PostProcessorError, match=message):
        pp.fuse(DEMO / "raw.onnx", pp.RecipePostProcessor(None, steps, pack=True))


@pytest.mark.parametrize(("content", "status"), [("import sys\nsys.exit(0)", 2), ("print('hello')", 0)])
def test_plugin_that_exits_or_prints(tmp_path: Path, content: str, status: int) -> None:
    (tmp_path / "own.py").write_text(content)
    done = call("--plugin", "own.py", "devices", "--json", folder=tmp_path)
    assert done.returncode == status
    assert "hello" not in done.stdout


def test_plugin_with_the_name_of_a_library(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "scipy.py").write_text("")
    done = call("--plugin", "own/scipy.py", "devices", folder=tmp_path)
    assert done.returncode == 2
    assert "has the name of a different module, 'scipy'" in done.stderr.replace("\n", " ").replace("  ", " ")
