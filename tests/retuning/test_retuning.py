"""Retuning changes only constants, equals fusing again, and leaves the old file if anything fails."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import pp_graph as pp
from pp_graph.cli import run as run_cli
from pp_graph.errors import (
    OutputFileError,
    PostProcessorError,
    PPGraphError,
    ProvenanceError,
    StatisticsError,
    TargetError,
)
from pp_graph.model.onnx_layout import LayoutError, OnnxLayout
from pp_graph.postprocessors import ROLES
from pp_graph.retuning import RetunedFile
from tests.conftest import DEMO
from tests.models import conv_model, run, run_openvino, score_and_map

# All numbers of a level differ, because equal constants would be merged.
STATS = pp.Statistics(
    image=pp.LevelStatistics(threshold=1.3, min=0.4, max=3.1), pixel=pp.LevelStatistics(threshold=0.8, min=-0.6, max=2)
)
OTHERS = pp.Statistics(
    image=pp.LevelStatistics(threshold=1.75, min=0.25, max=3.5),
    pixel=pp.LevelStatistics(threshold=0.625, min=-1, max=2),
)
DEMO_OTHERS = pp.Statistics(
    image=pp.LevelStatistics(threshold=13.0, min=9.0, max=27.0),
    pixel=pp.LevelStatistics(threshold=11.5, min=2.0, max=27.0),
)
CHANGES = {
    "statistics": {"statistics": OTHERS},
    "image": {"image_sensitivity": 0.3},
    "pixel": {"pixel_sensitivity": 1.0},
    "all": {"statistics": OTHERS, "image_sensitivity": 0.123456789, "pixel_sensitivity": 0.9},
}


def changed(post: pp.OneClassPostProcessor, change: dict) -> pp.OneClassPostProcessor:
    change = dict(change)
    statistics = change.pop("statistics", post.statistics)
    return pp.OneClassPostProcessor(statistics, **{**post.parameters(), **change})


def edges(*posts: pp.OneClassPostProcessor) -> dict[str, np.ndarray]:
    """Return raw values at and around every cutoff of some post-processors, NaN and infinities."""
    signature = pp.Signature({role.name: role.example() for role in ROLES})
    found: list[np.float32] = [np.float32(x) for x in (0, -np.inf, np.inf, np.nan, -1e30, 1e30)]
    for post in posts:
        for step in post.bind(signature).decisions.values():
            if step.cutoff is not None:
                near = [np.nextafter(step.cutoff, np.float32(end)) for end in (-np.inf, np.inf)]
                found += [step.cutoff, *near]
    found += list(np.random.default_rng(0).uniform(-1, 4, 200 - len(found)).astype(np.float32))
    values = np.array(found, np.float32)
    return {"level": values[:, None], "image": values[:, None, None, None]}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert np.array_equal(found[name], array, equal_nan=array.dtype.kind == "f"), name


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


# --- ONNX ------------------------------------------------------------------------------------------------------------


@pytest.mark.sample(every=5)
@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
@pytest.mark.parametrize("in_place", [True, False], ids=["in place", "to a file"])
@pytest.mark.parametrize(("opset", "ir_version"), [(9, 4), (10, 5), (13, 7), (18, 8), (17, 3)], ids=str)
def test_onnx_equals_fused_again(tmp_path: Path, change: dict, in_place: bool, opset: int, ir_version: int) -> None:
    raw, before = score_and_map(opset, ir_version), pp.OneClassPostProcessor(STATS)
    path = pp.fuse(raw, before).save(tmp_path / "fused.onnx")
    untouched = path.read_bytes()
    after = changed(before, change)
    target = path if in_place else tmp_path / "tuned.onnx"
    done = pp.retune(path, **change, output=None if in_place else target)
    assert done.path == target
    # Below IR version 4, constants are operators.
    assert done.way == ("rewritten" if ir_version < 4 else "constants")
    anew = pp.fuse(raw, after)
    assert target.read_bytes() == anew.save(tmp_path / "anew.onnx").read_bytes()
    assert done.provenance == anew.provenance
    assert in_place or path.read_bytes() == untouched
    feeds = edges(before, after)
    assert_same(run(str(target), feeds), run(anew, feeds))
    expected = after({"pred_score": feeds["level"], "anomaly_map": feeds["image"]})
    for outputs in (run(str(target), feeds), run_openvino(onnx.load(target), feeds)):
        assert np.array_equal(outputs["pred_label"], expected.pred_label)
        assert np.array_equal(outputs["pred_mask"], expected.pred_mask)


SETTINGS = {
    "all": ({}, {}),
    "raw kept": ({}, {"keep_raw": True}),
    "mask": ({"outputs": ("pred_mask",)}, {}),
    "label and map": ({"outputs": ("pred_label", "anomaly_map")}, {"keep_raw": True}),
    "NaN is normal": ({"on_nan": "normal"}, {}),
    "no decisions": ({"threshold": False}, {}),
}


@pytest.mark.parametrize(("settings", "options"), SETTINGS.values(), ids=list(SETTINGS))
def test_settings_survive(tmp_path: Path, settings: dict, options: dict) -> None:
    raw, before = score_and_map(), pp.OneClassPostProcessor(STATS, **settings)
    path = pp.fuse(raw, before, **options).save(tmp_path / "fused.onnx")
    pp.convert(path).save(tmp_path / "model.xml")
    decisions = pp.FusedModel.load(path).provenance.cutoffs
    moves = {"image_sensitivity": {"pred_label"}, "pixel_sensitivity": {"pred_mask"}}
    change = {
        name: value for name, value in CHANGES["all"].items() if name == "statistics" or moves[name] & decisions.keys()
    }
    after = changed(before, change)
    anew = pp.fuse(raw, after, **options)
    assert pp.retune(path, **change).way == "constants"
    assert path.read_bytes() == anew.save(tmp_path / "anew.onnx").read_bytes()
    assert pp.retune(tmp_path / "model.xml", **change).way == "constants"
    feeds = edges(before, after)
    found = pp.OpenVINOModel.load(tmp_path / "model.xml").session().run(feeds)
    assert_same(found, pp.convert(anew).session().run(feeds))


def test_another_prefix_and_other_types(tmp_path: Path) -> None:
    raw = score_and_map()
    raw.graph.node.insert(
        0, helper.make_node("Identity", ["level"], ["pp_graph/in"], name="pp_graph/pred_label/cutoff")
    )
    raw.graph.node[1].input[0] = "pp_graph/in"
    path = pp.fuse(raw, pp.OneClassPostProcessor(STATS)).save(tmp_path / "fused.onnx")
    done = pp.retune(path, OTHERS)
    assert (done.way, done.provenance.prefix) == ("constants", "pp_graph_1")
    assert path.read_bytes() == pp.fuse(raw, pp.OneClassPostProcessor(OTHERS)).save(tmp_path / "a.onnx").read_bytes()
    pp.convert(path).save(tmp_path / "model.xml")
    assert pp.retune(tmp_path / "model.xml", STATS).way == "constants"


OPERATORS = {
    "flags nothing": {"image_sensitivity": 0.0},
    "no range": {"statistics": pp.Statistics(image=pp.LevelStatistics(threshold=1, min=1, max=1), pixel=STATS.pixel)},
    "one more Clip": {
        "statistics": pp.Statistics(image=pp.LevelStatistics(threshold=9, min=8.99, max=9), pixel=STATS.pixel)
    },
    "constants merge": {
        "statistics": pp.Statistics(image=pp.LevelStatistics(threshold=0.5, min=0, max=4), pixel=STATS.pixel)
    },
    "subnormal": {
        "statistics": pp.Statistics(image=pp.LevelStatistics(threshold=1e-40, min=0, max=1e-36), pixel=STATS.pixel)
    },
}


@pytest.mark.sample(every=3)
@pytest.mark.parametrize("change", OPERATORS.values(), ids=list(OPERATORS))
@pytest.mark.parametrize("in_place", [True, False], ids=["in place", "to a file"])
def test_other_operators(tmp_path: Path, change: dict, in_place: bool) -> None:
    """If operators change, the model is rewritten; the next change is one of constants again."""
    raw, before = score_and_map(), pp.OneClassPostProcessor(STATS)
    first = pp.fuse(raw, before).save(tmp_path / "fused.onnx")
    pp.convert(first).save(tmp_path / "model.xml")
    after = changed(before, change)
    anew, feeds = pp.fuse(raw, after), edges(before, after)
    for path in (first, tmp_path / "model.xml"):
        target = path if in_place else path.with_stem("tuned")
        done = pp.retune(path, **change, output=None if in_place else target)
        assert done.way == "rewritten"
        assert done.provenance.cutoffs == anew.provenance.cutoffs
        if path == first:
            assert target.read_bytes() == anew.save(tmp_path / "anew.onnx").read_bytes()
        else:
            found = pp.OpenVINOModel.load(target).session().run(feeds)
            assert_same(found, pp.convert(anew).session().run(feeds))
        again = {"statistics": STATS, "image_sensitivity": 0.5}
        assert pp.retune(target, **again).way == "rewritten"
        assert pp.retune(target, image_sensitivity=0.7).way == "constants"
    assert {file.name for file in tmp_path.iterdir()} <= {
        "fused.onnx", "model.xml", "model.bin", "model.usage.md", "tuned.onnx", "tuned.xml", "tuned.bin",
        "tuned.usage.md", "anew.onnx",
    }  # fmt: skip


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat every ONNX file as too large to be copied."""
    monkeypatch.setattr("pp_graph.retuning.onnx_file._COPIED_AT_MOST", 0)


@pytest.mark.usefixtures("large")
def test_a_large_file_is_patched_in_place(tmp_path: Path, demo_fused_path: Path) -> None:
    path = tmp_path / "fused.onnx"
    shutil.copy(demo_fused_path, path)
    path.chmod(0o640)
    untouched, node = path.read_bytes(), path.stat().st_ino
    layout = OnnxLayout(untouched)
    names = [name for name in constants(onnx.load(path)) if name.startswith("pp_graph/pred_")]
    ours = layout.float_initializers([*names, *(name.replace("pred_score", "anomaly_map") for name in names)])
    start = min(place.start for place in ours.values())
    entry = layout.metadata["pp_graph"].span
    sizes = set()
    for change in (
        {"image_sensitivity": 0.123456789, "pixel_sensitivity": 0.987654321},
        {"statistics": DEMO_OTHERS},
        {"image_sensitivity": 0.5, "pixel_sensitivity": 0.5},
        {"statistics": pp.Statistics.load(DEMO / "stats.json")},
    ):
        assert pp.retune(path, **change).way == "constants"
        now = path.read_bytes()
        sizes.add(len(now))
        assert len(now) >= len(untouched)
        assert now[:start] == untouched[:start]
        kept = bytearray(now[: entry.start])
        for place in ours.values():
            kept[place.start : place.stop] = untouched[place.start : place.stop]
        assert bytes(kept) == untouched[: entry.start]
        found = pp.FusedModel.load(path).provenance
        sensitivities = {name: found.parameters[name] for name in ("image_sensitivity", "pixel_sensitivity")}
        expected = constants(pp.retune(pp.open(demo_fused_path), found.statistics, **sensitivities).to_proto())
        assert all(np.array_equal(array, expected[name]) for name, array in constants(onnx.load(path)).items())
    assert path.stat().st_ino == node
    assert path.stat().st_mode & 0o777 == 0o640
    # With the first statistics again, the file differs only in blanks behind the provenance.
    assert path.read_bytes()[: entry.start] == untouched[: entry.start]
    assert pp.FusedModel.load(path).provenance == pp.FusedModel.load(demo_fused_path).provenance
    (size,) = sizes
    assert size > len(untouched), "the provenance became longer at first, and the file did not become shorter again"
    assert pp.strip(path).save(tmp_path / "raw.onnx").read_bytes() == (DEMO / "raw.onnx").read_bytes()
    onnx.checker.check_model(str(path), full_check=True)
    # A copy has no blanks.
    copied = pp.retune(path, output=tmp_path / "copy.onnx", image_sensitivity=0.5)
    assert copied.path.read_bytes() == untouched


def test_small_files_are_replaced(tmp_path: Path, demo_fused_path: Path) -> None:
    path = tmp_path / "fused.onnx"
    shutil.copy(demo_fused_path, path)
    os.link(path, tmp_path / "other.onnx")
    untouched = path.read_bytes()
    path.chmod(0o604)
    assert pp.retune(path, DEMO_OTHERS).way == "constants"
    assert (tmp_path / "other.onnx").read_bytes() == untouched, "another name of the file keeps what it had"
    assert path.stat().st_mode & 0o777 == 0o604
    pp.retune(path, pp.Statistics.load(DEMO / "stats.json"))
    assert path.read_bytes() == untouched


@pytest.mark.usefixtures("large")
def test_linked_files_are_replaced(tmp_path: Path, demo_fused_path: Path) -> None:
    shutil.copy(demo_fused_path, tmp_path / "fused.onnx")
    os.link(tmp_path / "fused.onnx", tmp_path / "other.onnx")
    pp.retune(tmp_path / "fused.onnx", DEMO_OTHERS)
    assert (tmp_path / "other.onnx").read_bytes() == demo_fused_path.read_bytes()


def test_external_weights(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    onnx.save(conv_model(), folder / "raw.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    path = pp.fuse(folder / "raw.onnx", pp.OneClassPostProcessor(STATS)).save(folder / "fused.onnx")
    weights = (folder / "w.bin").read_bytes()
    image = {"image": np.random.default_rng(0).normal(0, 1, (2, 3, 9, 11)).astype(np.float32)}
    beside = pp.retune(path, OTHERS, output=folder / "tuned.onnx")
    elsewhere = pp.retune(path, OTHERS, output=tmp_path / "b" / "tuned.onnx")
    assert (beside.way, elsewhere.way) == ("constants", "rewritten")
    assert {*files_in(tmp_path / "b")} == {"tuned.onnx", "tuned.onnx.data"}
    assert pp.retune(path, OTHERS, output=beside.path, overwrite=True).way == "constants"
    assert pp.retune(path, OTHERS).way == "constants"
    assert (folder / "w.bin").read_bytes() == weights
    anew = run(str(pp.fuse(folder / "raw.onnx", pp.OneClassPostProcessor(OTHERS)).save(folder / "anew.onnx")), image)
    for model in (beside.path, elsewhere.path, path):
        assert_same(run(str(model), image), anew)
    # Weights stay where they are if operators change.
    assert pp.retune(path, image_sensitivity=0.0).way == "rewritten"
    assert {*files_in(folder)} == {"raw.onnx", "w.bin", "fused.onnx", "tuned.onnx", "anew.onnx"}
    assert (folder / "w.bin").read_bytes() == weights


def test_weights_are_never_an_output(tmp_path: Path) -> None:
    onnx.save(conv_model(), tmp_path / "raw.onnx", save_as_external_data=True, location="w.onnx", size_threshold=0)
    path = pp.fuse(tmp_path / "raw.onnx", pp.OneClassPostProcessor(STATS)).save(tmp_path / "fused.onnx")
    before = files_in(tmp_path)
    with pytest.raises(OutputFileError, match="is an input of this command"):
        pp.retune(path, OTHERS, output=tmp_path / "w.onnx", overwrite=True)
    assert files_in(tmp_path) == before


# --- OpenVINO --------------------------------------------------------------------------------------------------------


def without_ours(xml: bytes) -> bytes:
    """Remove the provenance, the record of the .bin, and the offsets of the post-processing's constants from an XML."""
    xml = re.sub(rb'<(provenance|weights_file) value="[^"]*"', rb"<\1", xml)
    ours = rb'(name="pp_graph[^"]*/(?:pred|anomaly)_[^"]*" type="Const"[^>]*>\s*<data[^>]*) offset="\d+"'
    return re.sub(ours, rb"\1", xml)


@pytest.mark.sample(every=3)
@pytest.mark.parametrize("precision", ["f32", "f16"])
@pytest.mark.parametrize("in_place", [True, False], ids=["in place", "to a file"])
def test_ir_equals_fused_again(
    tmp_path: Path, demo_images: np.ndarray, demo_fused_path: Path, precision: str, in_place: bool
) -> None:
    path = pp.convert(demo_fused_path, precision=precision).save(tmp_path / "model.xml")
    before = files_in(tmp_path)
    target = path if in_place else tmp_path / "out" / "tuned.xml"
    for change in ({"statistics": DEMO_OTHERS}, {"image_sensitivity": 0.3}, {"pixel_sensitivity": 0.8}):
        done = pp.retune(path if target == path or not target.exists() else target, **change,
                              output=None if in_place or target.exists() else target)  # fmt: skip
        assert done.way == "constants"
    now = {file.suffix: file.read_bytes() for file in (target, target.with_suffix(".bin"))}
    assert now[".bin"].startswith(before["model.bin"])
    assert len(now[".bin"]) - len(before["model.bin"]) <= 3 * 128
    assert without_ours(now[".xml"]) == without_ours(before["model.xml"])
    assert now[".xml"] != before["model.xml"]
    if not in_place:
        assert {name: content for name, content in files_in(tmp_path).items() if "/" not in name} == before
    post = pp.OneClassPostProcessor(DEMO_OTHERS, image_sensitivity=0.3, pixel_sensitivity=0.8)
    anew = pp.convert(pp.fuse(DEMO / "raw.onnx", post), precision=precision)
    loaded = pp.OpenVINOModel.load(target)
    assert loaded.provenance == done.provenance
    assert loaded.provenance.cutoffs == anew.provenance.cutoffs
    for inference in ("f32", "bf16"):
        session = loaded.session(precision=inference)
        feeds = {"image": demo_images}
        assert_same(session.run(feeds), anew.session(precision=inference).run(feeds))
        assert set(session.island.values()) <= {"f32", "u8", "boolean"}
    assert pp.verify(DEMO / "raw.onnx", target, demo_images[:2]).postprocessing_flips == 0


def test_back_and_forth(tmp_path: Path, demo_ir_path: Path) -> None:
    """Numbers that the weights already contain are not appended again."""
    for file in (demo_ir_path, demo_ir_path.with_suffix(".bin")):
        shutil.copy(file, tmp_path / file.name)
    path = tmp_path / "model.xml"
    first, sizes = pp.Statistics.load(DEMO / "stats.json"), []
    for _ in range(3):
        for statistics in (DEMO_OTHERS, first):
            assert pp.retune(path, statistics).way == "constants"
            sizes.append(path.with_suffix(".bin").stat().st_size)
    assert len(set(sizes)) == 1
    assert pp.OpenVINOModel.load(path).provenance == pp.OpenVINOModel.load(demo_ir_path).provenance


def test_ir_of_an_old_opset(tmp_path: Path) -> None:
    """Bounds of Clip are attributes at old opsets. They cannot be patched, and need not be if they stay."""
    raw, before = score_and_map(opset=10, ir_version=5), pp.OneClassPostProcessor(STATS)
    path = pp.convert(pp.fuse(raw, before)).save(tmp_path / "model.xml")
    after = changed(before, CHANGES["all"])
    assert pp.retune(path, **CHANGES["all"]).way == "constants"
    # At IR version 3, constants are operators with other names in OpenVINO.
    oldest = pp.convert(pp.fuse(score_and_map(opset=10, ir_version=3), before)).save(tmp_path / "oldest.xml")
    assert [pp.retune(oldest, **CHANGES[name]).way for name in ("all", "pixel")] == ["rewritten", "constants"]
    feeds = edges(before, after)
    found = pp.OpenVINOModel.load(path).session().run(feeds)
    assert_same(found, pp.convert(pp.fuse(raw, after)).session().run(feeds))
    narrow = [pp.LevelStatistics(threshold=9, min=8.99, max=9), pp.LevelStatistics(threshold=9, min=8.98, max=9)]
    posts = [pp.OneClassPostProcessor(pp.Statistics(image=each, pixel=STATS.pixel)) for each in narrow]
    path = pp.convert(pp.fuse(raw, posts[0])).save(tmp_path / "narrow.xml")
    assert pp.retune(path, posts[1].statistics).way == "rewritten"
    feeds = edges(*posts)
    found = pp.OpenVINOModel.load(path).session().run(feeds)
    assert_same(found, pp.convert(pp.fuse(raw, posts[1])).session().run(feeds))


def test_merged_constants_are_recognised(tmp_path: Path) -> None:
    """If an optimiser merged both cutoffs into one layer, changing one must not change both decisions."""
    same = pp.Statistics(image=STATS.image, pixel=STATS.image)
    path = pp.convert(pp.fuse(score_and_map(), pp.OneClassPostProcessor(same))).save(tmp_path / "model.xml")
    xml = path.read_text()
    label, mask = (
        re.search(rf'<layer id="(\d+)" name="pp_graph/{name}/cutoff"', xml)[1] for name in ("pred_label", "pred_mask")
    )
    assert f'from-layer="{mask}"' in xml
    path.write_text(xml.replace(f'from-layer="{mask}"', f'from-layer="{label}"'))
    assert pp.retune(path, image_sensitivity=0.2).way == "rewritten"
    after = pp.OneClassPostProcessor(same, image_sensitivity=0.2)
    feeds = edges(pp.OneClassPostProcessor(same), after)
    found = pp.OpenVINOModel.load(path).session().run(feeds)
    assert_same(found, pp.convert(pp.fuse(score_and_map(), after)).session().run(feeds))


def test_odd_names_and_odd_lengths(tmp_path: Path) -> None:
    """Names that XML must escape, and weights with an odd number of bytes."""
    raw = score_and_map()
    for node, name in zip(raw.graph.node, ('sc"<&>é', "he'at"), strict=True):
        node.output[0] = name
    for output, name in zip(raw.graph.output, ('sc"<&>é', "he'at"), strict=True):
        output.name = name
    path = pp.convert(pp.fuse(raw, pp.OneClassPostProcessor(STATS))).save(tmp_path / "möd<el.xml")
    with path.with_suffix(".bin").open("ab") as stream:
        stream.write(b"odd")
    assert pp.retune(path, OTHERS).way == "constants"
    after = pp.OneClassPostProcessor(OTHERS)
    feeds = edges(pp.OneClassPostProcessor(STATS), after)
    loaded = pp.OpenVINOModel.load(path)
    assert loaded.provenance.raw.read["raw_score"].name == 'sc"<&>é'
    assert_same(loaded.session().run(feeds), pp.convert(pp.fuse(raw, after)).session().run(feeds))


def test_a_usage_text_goes_along(tmp_path: Path, demo_ir_path: Path) -> None:
    for file in (demo_ir_path, demo_ir_path.with_suffix(".bin")):
        shutil.copy(file, tmp_path / file.name)
    (tmp_path / "model.usage.md").write_text("how to run it")
    pp.retune(tmp_path / "model.xml", DEMO_OTHERS)
    pp.retune(tmp_path / "model.xml", DEMO_OTHERS, output=tmp_path / "b" / "tuned.xml")
    assert {*files_in(tmp_path)} == {
        "model.xml", "model.bin", "model.usage.md", "b/tuned.xml", "b/tuned.bin", "b/tuned.usage.md"
    }  # fmt: skip
    assert (tmp_path / "b" / "tuned.usage.md").read_text() == "how to run it"


@pytest.mark.slow
def test_brick(tmp_path: Path, brick: Path) -> None:
    stats = pp.Statistics.load(brick / "stats.json")
    path = pp.fuse(brick / "raw.onnx", pp.OneClassPostProcessor(stats)).save(tmp_path / "fused.onnx")
    pp.convert(path).save(tmp_path / "model.xml")
    with np.load(brick / "images.npz") as data:
        images = data["image"][:3].astype(np.float32) / np.float32(255)
    after = pp.OneClassPostProcessor(stats, image_sensitivity=0.45, pixel_sensitivity=0.6)
    anew = pp.fuse(brick / "raw.onnx", after)
    for file in (path, tmp_path / "model.xml"):
        assert pp.retune(file, image_sensitivity=0.45, pixel_sensitivity=0.6).way == "constants"
    assert path.read_bytes() == anew.save(tmp_path / "anew.onnx").read_bytes()
    feeds = {"input": images}
    found = pp.OpenVINOModel.load(tmp_path / "model.xml").session().run(feeds)
    assert_same(found, pp.convert(anew).session().run(feeds))
    assert pp.strip(path).save(tmp_path / "raw.onnx").read_bytes() == (brick / "raw.onnx").read_bytes()


# --- failures leave the old files ------------------------------------------------------------------------------------


@pytest.fixture
def work(tmp_path: Path, demo_fused_path: Path, demo_ir_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copy(demo_fused_path, "fused.onnx")
    shutil.copy(demo_ir_path, "model.xml")
    shutil.copy(demo_ir_path.with_suffix(".bin"), "model.bin")
    shutil.copy(DEMO / "raw.onnx", "raw.onnx")
    shutil.copy(DEMO / "stats.json", "stats.json")
    return tmp_path


def test_tampered_constants(work: Path) -> None:
    layout = OnnxLayout(Path("fused.onnx").read_bytes())
    name = "pp_graph/pred_mask/cutoff"
    place = layout.float_initializers([name])[name]
    content = bytearray(Path("fused.onnx").read_bytes())
    content[place.start : place.stop] = np.float32(12.5).tobytes()
    Path("fused.onnx").write_bytes(content)
    weights = bytearray(Path("model.bin").read_bytes())
    offset = int(re.search(rf'name="{name}"[^>]*>\s*<data[^>]* offset="(\d+)"', Path("model.xml").read_text())[1])
    weights[offset : offset + 4] = np.float32(12.5).tobytes()
    Path("model.bin").write_bytes(weights)
    before = files_in(work)
    # Also if operators change and the model would be rewritten.
    for change in ({"image_sensitivity": 0.4}, {"pixel_sensitivity": 0.4}, {"image_sensitivity": 0.0}):
        with pytest.raises(ProvenanceError, match=rf"Constant '{name}' of 'fused.onnx' is 12.5, expected 12\.6172"):
            pp.retune("fused.onnx", **change)
        with pytest.raises(TargetError, match=r"'model.bin' .* is not the one that 'model.xml' was saved with"):
            pp.retune("model.xml", **change)
    # An IR that another program saved again has no valid record of its .bin.
    text = Path("model.xml").read_bytes()
    Path("model.xml").write_bytes(re.sub(rb'(<weights_file value=")\d{16}', rb"\g<1>" + b"9" * 16, text) + b"\n")
    with pytest.raises(ProvenanceError, match=rf"Constant '{name}' of 'model.xml' is 12.5, expected 12\.6172"):
        pp.retune("model.xml", image_sensitivity=0.4)
    Path("model.xml").write_bytes(text)
    assert files_in(work) == before


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"image_sensitivity": 1.5}, PostProcessorError, "image_sensitivity is 1.5, expected a number from 0"),
        (
            {"statistics": pp.Statistics(image=pp.LevelStatistics(threshold=1.0))},
            StatisticsError,
            "Statistics lack 'image.min' and 'image.max'",
        ),
    ],
)
def test_bad_changes(work: Path, change: dict, error: type[PPGraphError], message: str) -> None:
    before = files_in(work)
    for path in ("fused.onnx", "model.xml"):
        with pytest.raises(error, match=message):
            pp.retune(path, **change)
    assert files_in(work) == before


def _foreign_ir(folder: Path) -> Path:
    import openvino as ov

    ov.save_model(ov.Core().read_model(DEMO / "raw.onnx"), str(folder / "foreign.xml"))
    return folder / "foreign.xml"


def _without_weights(folder: Path) -> Path:
    shutil.copy(folder / "model.xml", folder / "alone.xml")
    return folder / "alone.xml"


def _written(name: str, content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def _short_weights(folder: Path) -> Path:
    os.truncate(folder / "model.bin", 1000)
    return folder / "model.xml"


def _link(folder: Path) -> Path:
    (folder / "link.onnx").symlink_to(folder / "fused.onnx")
    return folder / "link.onnx"


def _sizes(text: str) -> Callable[[Path], Path]:
    def edit(folder: Path) -> Path:
        content = re.sub(rb'(offset|size)="\d+"', text.encode(), (folder / "model.xml").read_bytes())
        (folder / "model.xml").write_bytes(content)
        return folder / "model.xml"

    return edit


def _edited_provenance(folder: Path) -> Path:
    text = (folder / "model.xml").read_text().replace("OneClassPostProcessor", "TwoClassPostProcessor")
    (folder / "model.xml").write_text(text)
    return folder / "model.xml"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda folder: folder / "raw.onnx",
            "has no post-processing by pp_graph, expected a model written by pp_graph",
        ),
        (_foreign_ir, "has no post-processing by pp_graph, expected one written by pp-graph convert"),
        (_edited_provenance, "Post-processor 'TwoClassPostProcessor' is not known"),
        (_without_weights, "IR file '.*alone.bin' does not exist"),
        (lambda folder: folder / "nowhere.onnx", "does not exist"),
        (lambda folder: folder / "nowhere.xml", "does not exist"),
        (_written("empty.onnx", b""), "has 0 nodes and 0 outputs"),
        (_written("noise.onnx", b"\x89PNG\r\n" + b"x" * 99), "(is not|Is this) an ONNX model"),
        (_written("cut.onnx", (DEMO / "raw.onnx").read_bytes()[:9999]), "is not an ONNX model"),
        (_written("model.xml", b"<net><layers>"), "is not an OpenVINO IR"),
        (_sizes('size="-8"'), "is not an OpenVINO IR"),
        (_sizes('offset="99999999999999999999"'), "is not an OpenVINO IR"),
        (_sizes('size="abc"'), "is not an OpenVINO IR"),
        (_short_weights, "is not the one that .* was saved with, expected"),
        (_link, "is a link to '.*fused.onnx', which may be used elsewhere"),
    ],
)
def test_files_that_cannot_be_retuned(
    work: Path, make: Callable[[Path], Path], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = make(work)
    before = files_in(work)
    assert run_cli(["retune", str(path), "--image-sensitivity", "0.4"]) == 2
    err = capfd.readouterr().err
    assert re.search(message, err), err
    assert "Traceback" not in err
    assert files_in(work) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("locked", ["fused.onnx", "model.xml", "model.bin", "."])
def test_read_only(work: Path, locked: str, capfd: pytest.CaptureFixture[str]) -> None:
    before = files_in(work)
    mode = Path(locked).stat().st_mode
    Path(locked).chmod(0o555)
    try:
        for path in ("fused.onnx",) if locked == "fused.onnx" else ("model.xml",):
            assert run_cli(["retune", path, "--image-sensitivity", "0.4"]) == 2
            assert re.search("is read-only, expected a file|cannot be written", capfd.readouterr().err)
    finally:
        Path(locked).chmod(mode)
    assert files_in(work) == before


@pytest.mark.sample(every=5)
@pytest.mark.parametrize(
    ("path", "room"),
    [
        ("fused.onnx", "1000"),
        ("model.xml", "1000"),
        ("model.xml", "os.path.getsize('model.bin')"),
        ("model.xml", "os.path.getsize('model.bin') + 1"),
        # A large file is patched in place: the write fails within the new constants or the provenance.
        ("large", "os.path.getsize('fused.onnx') - 4000"),
        ("large", "os.path.getsize('fused.onnx') - 300"),
        ("large", "os.path.getsize('fused.onnx')"),
    ],
)
@pytest.mark.parametrize("output", [False, True], ids=["in place", "to a file"])
def test_a_full_disk(work: Path, path: str, room: str, output: bool) -> None:
    """A file-size limit acts like a full disk: writing fails half-way with an OSError."""
    before = files_in(work)
    model = "fused.onnx" if path == "large" else path
    target = ["-o", f"out{Path(model).suffix}"] if output else []
    # A sensitivity with many digits makes the provenance, and so the file, longer.
    arguments = ["retune", model, "--image-sensitivity", "0.41234567891", *target]
    code = (
        "import os, resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from pp_graph.cli import run\n"
        "import pp_graph.retuning.files, pp_graph.retuning.onnx_file as edit\n"
        f"edit._COPIED_AT_MOST = {0 if path == 'large' else 2**30}\n"
        f"room = {room}\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))\n"
        f"sys.exit(run({arguments!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert re.search("Error: (Output|File) '.*' cannot be (written|changed): File too large", done.stderr), done.stderr
    assert files_in(work) == before


def test_interrupted_between_the_two_files_of_an_ir(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files_in(work)

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pp_graph.retuning.ir_file.IREdit._write_text", fail)
    with pytest.raises(KeyboardInterrupt):
        pp.retune("model.xml", DEMO_OTHERS)
    assert files_in(work) == before


@pytest.mark.usefixtures("large")
def test_changes_by_other_programs(work: Path) -> None:
    from pp_graph.retuning import prepare_retuning

    for path, other in (("fused.onnx", "fused.onnx"), ("model.xml", "model.xml")):
        retuning = prepare_retuning(path, DEMO_OTHERS)
        pp.retune(other, image_sensitivity=0.3)
        before = files_in(work)
        for output in (None, f"out{Path(path).suffix}"):
            with pytest.raises(OutputFileError, match="was changed by another program in the meantime"):
                retuning.write(output)
        assert files_in(work) == before
    for path, held in (("fused.onnx", "fused.onnx"), ("model.xml", "model.bin")):
        with Path(held).open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            with pytest.raises(OutputFileError, match="is being changed by another process"):
                pp.retune(path, DEMO_OTHERS)
    assert files_in(work) == before


# --- the layout of an ONNX file --------------------------------------------------------------------------------------


def test_layout_agrees_with_onnx(demo_fused_path: Path) -> None:
    content, model = demo_fused_path.read_bytes(), onnx.load(demo_fused_path)
    layout = OnnxLayout(content)
    assert layout.ir_version == model.ir_version
    assert layout.opset == model.opset_import[0].version
    assert {key: entry.value for key, entry in layout.metadata.items()} == {
        entry.key: entry.value for entry in model.metadata_props
    }
    floats = [tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT]
    found = layout.float_initializers([tensor.name for tensor in model.graph.initializer])
    assert found.keys() == {tensor.name for tensor in floats}
    for tensor in floats:
        place = found[tensor.name]
        assert content[place.start : place.stop] == tensor.raw_data
    assert not layout.refers_to_files()


def test_layout_of_other_writers() -> None:
    """Read numbers in float_data, and find references to other files in every position."""
    model = pp.fuse(score_and_map(), pp.OneClassPostProcessor(STATS)).to_proto()
    for tensor in model.graph.initializer:
        number = numpy_helper.to_array(tensor).item()
        tensor.ClearField("raw_data")
        tensor.float_data.append(number)
    content = model.SerializeToString()
    for name, place in OnnxLayout(content).float_initializers(list(constants(model))).items():
        assert np.frombuffer(content[place.start : place.stop], "<f4")[0] == constants(model)[name]
    attribute = helper.make_tensor("t", TensorProto.FLOAT, [1], [0.0])
    attribute.ClearField("float_data")
    attribute.data_location = TensorProto.EXTERNAL
    attribute.external_data.add(key="location", value="w.bin")
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=attribute))
    layout = OnnxLayout(model.SerializeToString())
    assert layout.refers_to_files()
    assert layout.refers_to_files("w.bin")
    assert not layout.refers_to_files("v.bin")


def test_retuning_files_of_other_writers(tmp_path: Path) -> None:
    path = pp.fuse(score_and_map(), pp.OneClassPostProcessor(STATS)).save(tmp_path / "fused.onnx")
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        number = numpy_helper.to_array(tensor).item()
        tensor.ClearField("raw_data")
        tensor.float_data.append(number)
    onnx.save(model, path)
    assert pp.retune(path, OTHERS).way == "constants"
    expected = constants(pp.fuse(score_and_map(), pp.OneClassPostProcessor(OTHERS)).to_proto())
    assert constants(onnx.load(path)) == expected


def test_broken_layouts_are_recognised(demo_fused_path: Path) -> None:
    content = pp.fuse(score_and_map(), pp.OneClassPostProcessor(STATS)).to_proto().SerializeToString()
    whole = OnnxLayout(content)
    names = ["pp_graph/pred_label/cutoff"]
    for length in range(len(content)):
        try:
            assert OnnxLayout(content[:length]).float_initializers(names) == whole.float_initializers(names)
        except LayoutError:
            continue
    rng = np.random.default_rng(0)
    for _ in range(2000):
        noisy = bytearray(content)
        for at in rng.integers(0, len(content), 3):
            noisy[at] = rng.integers(0, 256)
        try:
            layout = OnnxLayout(bytes(noisy))
            layout.float_initializers(names)
            layout.refers_to_files()
        except LayoutError:
            continue
    for twice in (content + content, b"", content[:0] + b"\x00"):
        with pytest.raises(LayoutError):
            OnnxLayout(twice)


# --- the command line ------------------------------------------------------------------------------------------------


def test_command_line(work: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for path in ("fused.onnx", "model.xml"):
        assert run_cli(["retune", path, "--image-sensitivity", "0.4", "--json"]) == 0
        found = json.loads(capfd.readouterr().out)
        assert (found["path"], found["way"]) == (path, "constants")
        assert 0 < found["bytes_changed"] < 100_000
        kind = pp.OpenVINOModel if path == "model.xml" else pp.FusedModel
        assert found["cutoffs"] == kind.load(path).provenance.cutoffs
        assert found["parameters"]["image_sensitivity"] == 0.4
        assert run_cli(["retune", path, "--image-sensitivity", "0", "--json"]) == 0
        found = json.loads(capfd.readouterr().out)
        assert (found["way"], found["cutoffs"]["pred_label"]) == ("rewritten", "never")
        assert found["bytes_changed"] > 1_000_000
        assert run_cli(["retune", path, "--stats", "stats.json", "--image-sensitivity", "0.6"]) == 0
        assert f"Retuned {path}\n" in capfd.readouterr().out
        before = files_in(work)
        for same in (path, f"../{work.name}/{path}"):
            assert run_cli(["retune", path, "--image-sensitivity", "0.4", "-o", same, "--force"]) == 2
            assert "Leave out -o to change MODEL in place" in capfd.readouterr().err
        output = f"new/{path}"
        assert run_cli(["retune", path, "--image-sensitivity", "0.4", "-o", output]) == 0
        assert run_cli(["retune", path, "--image-sensitivity", "0.3", "-o", output]) == 2
        assert "exists already. Use --force" in capfd.readouterr().err
        assert run_cli(["retune", path, "--image-sensitivity", "0.3", "-o", output, "--force"]) == 0
        assert {name: content for name, content in files_in(work).items() if "new" not in name} == before
        shutil.rmtree("new")
        assert run_cli(["calibrate", path, "--stats", "stats.json", "--retune", output]) == 0
        assert kind.load(output).provenance.statistics == pp.Statistics.load("stats.json")
        shutil.rmtree("new")
        capfd.readouterr()


def test_what_is_returned(work: Path) -> None:
    done = pp.retune("fused.onnx", DEMO_OTHERS, output="sub/t.onnx", inputs=[Path("stats.json")])
    assert isinstance(done, RetunedFile)
    assert done.provenance.statistics == DEMO_OTHERS
    with pytest.raises(OutputFileError, match=r"ends in '\.xml', expected '\.onnx'"):
        pp.retune("fused.onnx", DEMO_OTHERS, output="t.xml")
    with pytest.raises(OutputFileError, match="is an input of this command"):
        pp.retune("model.xml", DEMO_OTHERS, output="model.xml", overwrite=True)


def test_a_dry_run_writes_nothing(tmp_path: Path, demo_ir_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in (demo_ir_path, demo_ir_path.with_suffix(".bin")):
        shutil.copy(file, tmp_path / file.name)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    path = tmp_path / demo_ir_path.name
    assert run_cli(["retune", str(path), "--pixel-sensitivity", "0.7", "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert run_cli(["retune", str(path), "--pixel-sensitivity", "0.7", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert told["cutoffs"] == done["cutoffs"] != pp.OpenVINOModel.load(demo_ir_path).provenance.cutoffs
    assert told["output"] is None


def test_the_old_xml_fits_while_an_ir_is_rewritten(tmp_path: Path) -> None:
    """A power failure between the two files leaves the old model."""
    raw, post = score_and_map(), pp.OneClassPostProcessor(STATS)
    path = pp.convert(pp.fuse(raw, post)).save(tmp_path / "model.xml")
    feeds = edges(post, changed(post, OPERATORS["flags nothing"]))
    old_xml, old_bin = path.read_bytes(), path.with_suffix(".bin").read_bytes()
    expected = pp.OpenVINOModel.load(path).session().run(feeds)
    assert pp.retune(path, **OPERATORS["flags nothing"]).way == "rewritten"
    assert path.with_suffix(".bin").read_bytes().startswith(old_bin)
    new = pp.OpenVINOModel.load(path).session().run(feeds)
    assert not np.array_equal(new["pred_label"], expected["pred_label"])
    path.write_bytes(old_xml)
    assert_same(pp.OpenVINOModel.load(path).session().run(feeds), expected)


def test_omitted_outputs_stay_omitted() -> None:
    fused = pp.fuse(score_and_map(), pp.OneClassPostProcessor(STATS, outputs=("pred_mask",)))
    assert fused.output_names == ("pred_mask",)
    # A sensitivity of 0 needs other operators, so the model is rewritten.
    assert pp.retune(fused, pixel_sensitivity=0.0).output_names == ("pred_mask",)
    whole = pp.fuse(score_and_map(), pp.OneClassPostProcessor(STATS))
    assert whole.with_program(whole.program.replace(outputs=("pred_mask",))).output_names == ("pred_mask",)


def test_an_edited_record_is_not_bound(tmp_path: Path) -> None:
    proto = pp.fuse(score_and_map(), pp.OneClassPostProcessor(STATS)).to_proto()
    (entry,) = (each for each in proto.metadata_props if "OneClassPostProcessor" in each.value)
    entry.value = entry.value.replace("anomaly score of each pixel", "something else")
    onnx.save(proto, tmp_path / "edited.onnx")
    artifact = pp.open(tmp_path / "edited.onnx")
    with pytest.raises(ProvenanceError, match="was edited after it was written"):
        artifact.program  # noqa: B018
