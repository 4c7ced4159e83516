"""The fastest precision that keeps the decisions: blocks, marks, limits, budget, resuming."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import pp_graph as pp
from pp_graph.cli import run as run_cli
from pp_graph.data import open_labelled
from pp_graph.errors import DataError, OutputFileError, TargetError
from pp_graph.openvino.core import openvino_core
from pp_graph.openvino.island.float32 import mark_float32, operator_precisions
from pp_graph.openvino.island.network_marks import keep_network_marked
from pp_graph.precision.blocks import cut_into_blocks
from pp_graph.precision.decisions import Decided, Judge
from pp_graph.precision.measured import Limits
from pp_graph.precision.plan import Builder, Plan, runs_otherwise
from pp_graph.precision.timing import Stopwatch
from pp_graph.quantization.network_cut import split_network
from pp_graph.quantization.truth import LabelledTruth
from tests.models import STATS
from tests.quantization.test_quantization import distance_model, with_weights

POST = pp.OneClassPostProcessor(STATS)
LABELS = np.array([False, True] * 3)
IMAGES = (np.random.default_rng(0).normal(0, 1, (6, 3, 32, 32)) * np.where(LABELS, 2, 1)[:, None, None, None]).astype(
    np.float32
)
DATA = {"image": IMAGES, "label": LABELS}
HAS_BF16 = "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
needs_bf16 = pytest.mark.skipif(not HAS_BF16, reason="this CPU does not compute in bf16")
ANY = {"max_label_flips": None, "max_pixel_flips": None}
QUICK = {"precisions": ("bf16",), "budget": 0.5}


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> pp.FusedModel:
    path = tmp_path_factory.mktemp("precision") / "raw.onnx"
    path.write_bytes(distance_model(32).SerializeToString())
    statistics = pp.calibrate(path, DATA | {"mask": np.broadcast_to(LABELS[:, None, None], (6, 32, 32))}).statistics
    return pp.fuse(path, pp.OneClassPostProcessor(statistics))


@pytest.fixture(scope="module")
def builder(fused: pp.FusedModel) -> Builder:
    made = Builder(fused, {"device": "CPU"}, pp.Quantization(IMAGES))
    times = Stopwatch({"image": IMAGES[:1]}, "CPU").operator_times(made.base, "f32")
    # Equal times, so that both convolutions get a block of their own on every machine.
    made.blocks = cut_into_blocks(made.base.network, made.base.provenance, dict.fromkeys(times, 10.0))
    return made


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file with the measurements of `free`."""
    return tmp_path_factory.mktemp("state") / "search.json"


@pytest.fixture(scope="module")
def free(fused: pp.FusedModel, state: Path) -> pp.PrecisionChoice:
    """The choice without limits."""
    return pp.choose_precision(fused, DATA, **ANY, **QUICK, state=state)


def executed(artifact: pp.OpenVINOModel, precision: str) -> dict[str, str]:
    compiled = openvino_core().compile_model(artifact.network, "CPU", {"INFERENCE_PRECISION_HINT": precision})
    return operator_precisions(compiled)


class TestBlocks:
    def test_every_operator_of_the_network_is_in_one_block(self, builder: Builder) -> None:
        parts = split_network(builder.base.network, builder.base.provenance)
        names = [node.get_friendly_name() for part in parts for node in part]
        assert sorted(name for block in builder.blocks for name in block.names) == sorted(names)
        assert not any(name.startswith("pp_graph/pred") for name in names)
        # What follows the last layer is a block of its own.
        assert [block.quantisable for block in builder.blocks][-1] is False
        assert sum(block.quantisable for block in builder.blocks) == 2

    def test_cuts_lie_where_the_fewest_tensors_cross(self, tmp_path: Path) -> None:
        # Each r adds the input of its two convolutions: only between r and the next a does one tensor cross.
        pairs = [
            f"""a{i} = Conv <pads = [1, 1, 1, 1]> (r{i}, w)
            b{i} = Relu (a{i})
            c{i} = Conv <pads = [1, 1, 1, 1]> (b{i}, w)
            r{i + 1} = Add (c{i}, r{i})
            """
            for i in range(8)
        ]
        text = f"""<ir_version: 8, opset_import: ["": 17]>
        g (float[N,3,16,16] r0) => (float[N,1,16,16] heat) {{
            {"".join(pairs)}
            heat = ReduceMean <axes = [1], keepdims = 1> (r8)
        }}"""
        (tmp_path / "raw.onnx").write_bytes(with_weights(text, w=(3, 3, 3, 3)).SerializeToString())
        base = pp.convert(tmp_path / "raw.onnx", post=POST)
        # The device merges the sum into the second convolution, so the last sum belongs to the last layer's block.
        times = {names: 10.0 for i in range(8) for names in (f"a{i},b{i}", f"c{i},r{i + 1}")}
        blocks = cut_into_blocks(base.network, base.provenance, times)
        layers = [[name for name in block.names if name[:1] in "abcr" and name[1:].isdigit()] for block in blocks]
        assert layers == [*([f"a{i}", f"b{i}", f"c{i}", f"r{i + 1}"] for i in range(8)), []]

    def test_plans_are_named_by_precision_and_block(self) -> None:
        assert str(Plan(("bf16",) * 3)) == "bf16"
        assert str(Plan(("bf16", "bf16", "f32", "bf16"))) == "bf16 in 1-2 4, f32 in 3"


class TestMarks:
    @needs_bf16
    def test_a_block_runs_in_its_precision(self, builder: Builder) -> None:
        count = len(builder.blocks)
        for low in range(count - 1):
            plan = Plan.uniform("f32", builder.blocks).having(low, "bf16")
            found = executed(builder.build(plan), "bf16")
            for names, precision in found.items():
                block = next((i for i, b in enumerate(builder.blocks) if set(b.names) & set(names.split(","))), None)
                if "Convolution" in names or "a" in names.split(",") or "features" in names.split(","):
                    assert precision == ("bf16" if block == low else "f32"), names
            assert runs_otherwise(builder.blocks, plan, found) == []

    @needs_bf16
    def test_rewritten_operators_keep_marks_and_numbers(self, tmp_path: Path) -> None:
        text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[N,3,16,16] image) => (float[N,1,32,32] heat)
        <float[1,3,1,1] mean = {0.4, 0.5, 0.6}, float[1,3,1,1] std = {0.2, 0.3, 0.7}, float[4] scales = {1.0, 1.0, 2.0, 2.0},
         float two = {-2.0}> {
            centred = Sub (image, mean)
            normal = Div (centred, std)
            conv = Conv <pads = [1, 1, 1, 1]> (normal, w)
            a = Add (conv, mean)
            large = Resize <mode = "linear"> (a, , scales)
            last = Transpose <perm = [0, 2, 3, 1]> (large)
            product = MatMul (last, matrix)
            doubled = Mul (product, two)
            shifted = Sub (doubled, offset)
            again = MatMul (shifted, matrix)
            biased = Add (offset, again)
            back = Transpose <perm = [0, 3, 1, 2]> (biased)
            heat = ReduceMean <axes = [1], keepdims = 1> (back)
        }"""
        model = with_weights(text, w=(3, 3, 3, 3), matrix=(3, 3), offset=(3,))
        (tmp_path / "raw.onnx").write_bytes(model.SerializeToString())
        base = pp.convert(tmp_path / "raw.onnx", post=POST)
        names = {node.get_friendly_name() for part in split_network(base.network, base.provenance) for node in part}
        network = base.network.clone()
        keep_network_marked(network, names)
        feeds = {"image": IMAGES[:2, :, :16, :16].copy()}
        before, after = base.session().run(feeds), replace(base, network=network).session().run(feeds)
        assert all(np.array_equal(before[name], after[name]) for name in before)
        found = executed(replace(base, network=mark_float32(network, names)), "bf16")
        inner = {"centred", "normal", "a", "large", "product", "doubled", "shifted", "again", "biased"}
        assert {merged for merged, kind in found.items() if inner & set(merged.split(",")) and kind != "f32"} == set()

    @needs_bf16
    def test_what_the_device_does_otherwise_is_said(self, builder: Builder) -> None:
        found = executed(builder.build(Plan.uniform("bf16", builder.blocks)), "bf16")
        planned = Plan.uniform("f32", builder.blocks).having(1, "int8")
        remarks = " ".join(runs_otherwise(builder.blocks, planned, found))
        assert "block 1, planned in f32" in remarks
        assert "in bf16" in remarks
        assert "block 2, planned in int8: none of" in remarks

    def test_one_block_in_int8(self, builder: Builder) -> None:
        plan = Plan.uniform("f32", builder.blocks).having(0, "int8")
        artifact = builder.build(plan)
        assert artifact.conversion["quantization"]["layers"] == "1 of 2 in int8"
        found = executed(artifact, "f32")
        assert list(found.values()).count("int8") == 1
        assert runs_otherwise(builder.blocks, plan, found) == []

    @needs_bf16
    def test_saving_and_retuning_keep_the_marks(self, builder: Builder, tmp_path: Path) -> None:
        artifact = builder.build(Plan.uniform("bf16", builder.blocks).having(0, "f32"))
        before = sorted(executed(artifact, "bf16").values())
        artifact.save(tmp_path / "model.xml")
        pp.retune(tmp_path / "model.xml", image_sensitivity=0.6, output=tmp_path / "tuned.xml")
        for name in ("model.xml", "tuned.xml"):
            assert sorted(executed(pp.open(tmp_path / name), "bf16").values()) == before


class TestLimits:
    @pytest.mark.parametrize(
        ("limits", "allowed"),
        [
            ((None, None, None), True),
            ((0, None, None), False),
            ((1, "1%", None), True),
            ((1, "0.1%", None), False),
            ((None, None, 0.05), False),
            ((None, None, 0.1), True),
        ],
    )
    def test_every_limit_holds(self, limits: tuple, allowed: bool) -> None:
        base = Decided(f1={"image": 0.9, "mask": 0.5})
        found = Decided(label_flips=1, labels=10, pixel_flips=5, pixels=1000, f1={"image": 0.91, "mask": 0.41})
        assert Limits.parse(*limits).allow(found, base) is allowed

    def test_are_readable(self) -> None:
        assert (
            str(Limits.parse(0, "0.1%", 0.005))
            == "at most 0 labels and 0.1% of pixels flipped, F1 or accuracy at most 0.005 lower"
        )
        assert str(Limits.parse(None, None, None)) == "none"


class TestChoice:
    def test_is_within_the_limits_and_verified(
        self, fused: pp.FusedModel, free: pp.PrecisionChoice, state: Path
    ) -> None:
        choice = pp.choose_precision(fused, DATA, max_label_flips=0, max_pixel_flips=0, **QUICK, state=state)
        # Limits may change between runs.
        assert any("were measured by an earlier run" in note for note in choice.notes)
        assert choice.chosen.decided.label_flips == choice.chosen.decided.pixel_flips == 0
        assert choice.verification.passed
        raw = pp.strip(fused)
        assert pp.verify(raw, choice.artifact, IMAGES, max_label_flips=0, max_pixel_flips=0).passed

    def test_without_limits_is_the_fastest(self, free: pp.PrecisionChoice) -> None:
        assert free.complete
        ratios = [each.timing.ratio for each in free.plans]
        assert ratios == sorted(ratios)
        assert all(free.allowed)
        # Whole-network plans may be chosen like any other.
        fastest = next(each for each in free.plans if len(set(each.plan.precisions)) == 1)
        assert free.chosen.timing.ratio <= fastest.timing.ratio
        assert any(set(each.plan.precisions) == {"f32"} for each in free.plans)

    def test_shows_a_frontier(self, free: pp.PrecisionChoice, tmp_path: Path) -> None:
        flips = [(each.decided.label_flips, each.decided.pixel_flips) for each in free.frontier()]
        assert flips == sorted(flips, reverse=True)
        assert "chosen" in str(free)
        assert all(str(each.plan) in str(free) for each in free.frontier())
        assert "1: block 1, " in str(free)
        assert len(repr(free)) < 200
        free.save(tmp_path / "frontier.svg")
        assert (tmp_path / "frontier.svg").read_text().count("<circle") == len(free.plans)
        free.save(tmp_path / "frontier.json")
        assert json.loads((tmp_path / "frontier.json").read_text())["plan"] == str(free.chosen.plan)
        with pytest.raises(OutputFileError, match=r"ends in '.png', expected .json"):
            free.save(tmp_path / "frontier.png")

    def test_is_recorded_and_followed(self, free: pp.PrecisionChoice, tmp_path: Path) -> None:
        path = free.artifact.save(tmp_path / "model.xml")
        lines = pp.inspect(path).provenance.summary()
        assert f"plan {free.chosen.plan}" in lines["precision_choice"]
        assert "block 1, " in lines["precision_blocks"]
        assert pp.load(path).precision == free.inference_precision
        assert f'"INFERENCE_PRECISION_HINT": "{free.inference_precision}"' in (tmp_path / "model.usage.md").read_text()

    def test_thresholds_are_recalibrated_where_that_keeps_more(self, fused: pp.FusedModel) -> None:
        # At so low a threshold everything is anomalous.
        poor = pp.LevelStatistics(threshold=0.01, min=0.0, max=10.0)
        poorly = pp.fuse(pp.strip(fused), pp.OneClassPostProcessor(pp.Statistics(image=poor, pixel=poor)))
        labelled = open_labelled(DATA)
        base = pp.convert(poorly)
        judge = Judge(poorly, base, labelled.images, LabelledTruth(labelled), None)
        given, found = judge.decide(base, "CPU", "f32", recalibrate=True)
        assert (given.thresholds, given.label_flips) == ("given", 0)
        assert (found.thresholds, found.f1["image"]) == ("recalibrated", 1.0)
        assert found.label_flips == 3
        assert found.statistics["image"]["threshold"] > 0.01

    def test_labels_may_come_with_other_images(self, fused: pp.FusedModel) -> None:
        choice = pp.choose_precision(fused, IMAGES[:2], labels=DATA, precisions=(), budget=0.1, max_drop=0)
        assert choice.base.f1 == {"image": 1.0}
        # Decisions are compared on both.
        assert choice.chosen.decided.labels == 8
        assert choice.images == 2

    def test_frames_are_preprocessed(self, fused: pp.FusedModel) -> None:
        frames = np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3), np.uint8)
        preprocessing = pp.Preprocessing(dtype="u8", layout="NHWC", scale=(255.0,))
        choice = pp.choose_precision(
            fused, frames, precisions=("bf16",), budget=0.02, preprocessing=preprocessing, **ANY
        )
        assert choice.artifact.provenance.preprocessing is not None
        assert choice.chosen.decided.labels == 4
        assert choice.verification.passed
        assert not any("preprocessing" in block for block in choice.blocks)

    def test_a_later_run_goes_on(
        self, fused: pp.FusedModel, free: pp.PrecisionChoice, state: Path, tmp_path: Path
    ) -> None:
        # The first measurements of a search that was cut off.
        record = json.loads(state.read_text())
        before = record["measured"][: len(record["measured"]) // 2]
        cut_off = tmp_path / "cut_off.json"
        cut_off.write_text(json.dumps({**record, "measured": before}))
        later = pp.choose_precision(fused, DATA, **ANY, **QUICK, state=cut_off)
        assert any(f"{len(before)} plans were measured by an earlier run" in note for note in later.notes)
        after = json.loads(cut_off.read_text())["measured"]
        assert [each["options"] for each in after[: len(before)]] == [each["options"] for each in before]
        assert {each.plan for each in free.plans} == {each.plan for each in later.plans}
        other = {**DATA, "image": IMAGES * 0.5}
        choice = pp.choose_precision(fused, other, precisions=("bf16",), budget=1e-6, state=cut_off)
        assert not any("earlier run" in note for note in choice.notes)

    def test_a_spent_budget_gives_what_was_found(self, fused: pp.FusedModel) -> None:
        choice = pp.choose_precision(fused, DATA, precisions=("bf16",), budget=1e-6)
        assert not choice.complete
        assert str(choice.chosen.plan) == "f32"
        assert any("was spent before the search ended" in note for note in choice.notes)
        assert choice.verification.passed

    def test_int8_needs_nncf(self, fused: pp.FusedModel, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "nncf", None)
        choice = pp.choose_precision(fused, DATA, precisions=("int8",), budget=0.1)
        assert str(choice.chosen.plan) == "f32"
        assert any("NNCF is not installed" in note for note in choice.notes)

    @pytest.mark.parametrize(
        ("images", "more", "error", "message"),
        [
            (IMAGES, {"max_drop": 0.1}, DataError, "the images have no labels or masks, expected some"),
            (DATA, {"max_drop": 1.5}, DataError, "max_drop is 1.5, expected at least 0 and below 1"),
            (DATA, {"budget": 0}, DataError, "Budget is 0 minutes, expected a positive number"),
            (DATA, {"precisions": ("f8",)}, TargetError, "Precision 'f8' is not known, expected some of: bf16"),
            (DATA, {"device": "GPU"}, TargetError, "Device 'GPU' is not on this machine"),
            (IMAGES[:0], {}, DataError, "No images in the data"),
        ],
    )
    def test_bad_input(
        self, fused: pp.FusedModel, images: object, more: dict, error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            pp.choose_precision(fused, images, **more)


def test_convert_points_to_the_search(fused: pp.FusedModel) -> None:
    with pytest.raises(TargetError, match=r"Precision 'auto' is not known.* Use choose_precision"):
        pp.convert(fused, precision="auto")


class TestCommand:
    @pytest.fixture
    def files(self, fused: pp.FusedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.chdir(tmp_path)
        fused.save("fused.onnx")
        np.savez("data.npz", **DATA)
        return tmp_path

    def test_converts(self, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
        arguments = ["convert", "fused.onnx", "-o", "m.xml", "--precision", "auto", "--data", "data.npz"]
        limits = ["--max-drop", "0.005", "--budget", "0.1", "--subset-size", "2", "--frontier", "f.svg", "--json"]
        assert run_cli([*arguments, *limits]) == 0
        record = json.loads(capsys.readouterr().out)
        assert record["choice"]["verified"]
        assert record["precision_choice"]["plan"] == record["choice"]["plan"]
        assert {path.name for path in files.iterdir()} == {
            "fused.onnx", "data.npz", "m.xml", "m.bin", "m.usage.md", "m.search.json", "f.svg",
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ("--precision auto", "--precision auto needs images"),
            ("--precision f16 --budget 3", "--budget applies only to --precision auto"),
            ("--precision auto --data data.npz --frontier f.png", "expected .json for the measurements"),
        ],
    )
    def test_bad_options(self, files: Path, capsys: pytest.CaptureFixture[str], arguments: str, message: str) -> None:
        assert run_cli(["convert", "fused.onnx", "-o", "m.xml", *arguments.split()]) == 2
        assert message in capsys.readouterr().err
        assert not (files / "m.xml").exists()


@pytest.mark.slow
@needs_bf16
def test_a_real_model_runs_faster_with_its_decisions(brick: Path, tmp_path: Path) -> None:
    post = pp.OneClassPostProcessor(pp.Statistics.load(brick / "stats.json"))
    choice = pp.choose_precision(
        brick / "raw.onnx", brick / "images.npz", post=post, precisions=("bf16",), max_drop=0.005, budget=5
    )
    # All in bf16 flips more pixels than the limit, all in f32 is slowest: a mixture lies between.
    assert "bf16" in choice.chosen.plan.precisions
    assert "f32" in choice.chosen.plan.precisions
    assert choice.chosen.decided.label_flips == 0
    assert choice.chosen.timing.ratio < 1
    path = choice.artifact.save(tmp_path / "model.xml")
    assert pp.verify(brick / "raw.onnx", path, brick / "images.npz").passed
