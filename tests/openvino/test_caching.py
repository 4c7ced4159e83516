"""Compiled models kept in a folder: never a stale one, and the same decisions in the same precision."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import openvino as ov
import pytest

import pp_graph as pp
from pp_graph.cli import run
from pp_graph.errors import OutputFileError, TargetError
from pp_graph.fusion import retuned_program
from pp_graph.openvino import OpenVINOModel
from tests.conftest import DEMO
from tests.models import STATS, conv_model

IMAGES = np.random.default_rng(0).normal(0, 1, (3, 3, 9, 11)).astype(np.float32)
FIELDS = ("pred_score", "pred_label", "anomaly_map", "pred_mask")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return pp.convert(pp.fuse(conv_model(), pp.OneClassPostProcessor(STATS))).save(tmp_path / "model.xml")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "new" / "cache"


def from_cache(runner: pp.Runner) -> bool:
    return "from the cache" in runner.description


def same(found: pp.Predictions, expected: pp.Predictions) -> bool:
    return all(np.array_equal(found[name], expected[name]) for name in FIELDS)


@pytest.mark.sample(every=3)
@pytest.mark.parametrize("mode", ["latency", "throughput"])
@pytest.mark.parametrize("precision", ["f32", "bf16", None])
def test_same_predictions_in_the_same_precisions(
    demo_ir_path: Path, demo_images: np.ndarray, cache: Path, precision: str | None, mode: str
) -> None:
    plain, first, second = (
        pp.load(demo_ir_path, inference_precision=precision, mode=mode, cache_dir=folder)
        for folder in (None, cache, str(cache))
    )
    assert [from_cache(each) for each in (plain, first, second)] == [False, False, True]
    assert (second.precision, second.in_flight, second.inputs) == (plain.precision, plain.in_flight, plain.inputs)
    expected = plain(demo_images[:4])
    assert same(first(demo_images[:4]), expected)
    assert same(second(demo_images[:4]), expected)
    artifact = OpenVINOModel.load(demo_ir_path)
    kept, fresh = (artifact.session(precision=precision, cache_dir=folder) for folder in (cache, None))
    assert set(kept.island.values()) == {"f32"}
    assert kept.island == fresh.island


def test_a_retuned_model_is_compiled_again(model: Path, cache: Path) -> None:
    """Retuned in place, back and forth: a .bin of the same size, files of the same time."""
    times, sizes, anomalous = model.stat(), [], []
    for sensitivity in (0.2, 0.9, 0.2, 0.9):
        pp.retune(model, image_sensitivity=sensitivity, pixel_sensitivity=sensitivity)
        for file in (model, model.with_suffix(".bin")):
            os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        sizes.append(model.with_suffix(".bin").stat().st_size)
        kept, fresh = pp.load(model, cache_dir=cache), pp.load(model)
        assert same(kept(IMAGES), fresh(IMAGES))
        anomalous.append(int(kept(IMAGES).pred_mask.sum()))
    assert sizes[2] == sizes[3]
    assert anomalous[0] < anomalous[1]
    assert anomalous[2:] == anomalous[:2]
    assert from_cache(pp.load(model, cache_dir=cache))


def test_a_cutoff_alone_is_another_model(model: Path, cache: Path) -> None:
    """Same names, sizes, times and provenance: only four bytes of the .bin differ."""
    artifact = OpenVINOModel.load(model)
    cutoff = np.float32(artifact.provenance.cutoffs["pred_mask"])
    weights = model.with_suffix(".bin")
    content = weights.read_bytes()
    assert content.count(cutoff.tobytes()) == 1
    core = ov.Core()
    masks = []
    for other in (cutoff, np.nextafter(cutoff, np.float32(9)), np.float32(9)):
        weights.write_bytes(content.replace(cutoff.tobytes(), other.tobytes()))
        changed = OpenVINOModel(core.read_model(model), artifact.provenance, "f32")
        runner = pp.load(changed, cache_dir=cache)
        assert not from_cache(runner)
        masks.append(runner(IMAGES).pred_mask)
    assert masks[0].any()
    assert not masks[2].any()
    assert len(list(cache.iterdir())) == 3


def test_changed_weights_and_artifacts_in_memory(cache: Path) -> None:
    post = pp.OneClassPostProcessor(STATS)
    for seed in (0, 1):
        artifact = pp.convert(pp.fuse(conv_model(seed=seed), post))
        for kept in (False, True):
            runner = pp.load(artifact, cache_dir=cache)
            assert from_cache(runner) == kept
            assert same(runner(IMAGES), pp.load(artifact)(IMAGES))
        retuned = artifact.with_program(retuned_program(artifact.provenance, None, {"pixel_sensitivity": 0.9}))
        assert not from_cache(pp.load(retuned, cache_dir=cache))


def test_adjustable_cutoffs(cache: Path) -> None:
    artifact = pp.convert(pp.fuse(conv_model(), pp.OneClassPostProcessor(STATS, thresholds="runtime")))
    runners = [pp.load(artifact, cache_dir=folder) for folder in (cache, cache, None)]
    assert from_cache(runners[1])
    for runner in runners:
        runner.set_thresholds(pixel_sensitivity=0.9)
    assert same(runners[1](IMAGES), runners[2](IMAGES))
    for runner in runners:
        runner.set_thresholds()
    assert same(runners[1](IMAGES), runners[2](IMAGES))


def test_a_damaged_cache_is_replaced(model: Path, cache: Path) -> None:
    expected = pp.load(model, cache_dir=cache)(IMAGES)
    for blob in cache.rglob("*.blob"):
        blob.write_bytes(blob.read_bytes()[: blob.stat().st_size // 2])
    assert same(pp.load(model, cache_dir=cache)(IMAGES), expected)
    assert from_cache(pp.load(model, cache_dir=cache))


def test_a_folder_that_cannot_be_written(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputFileError, match=r"Cache folder '.*file' cannot be written: .*Choose another one"):
        pp.load(model, cache_dir=tmp_path / "file")
    images = [str(DEMO / "images" / "grass" / "00.png"), "-o", str(tmp_path / "out")]
    assert run(["run", str(model), *images, "--cache-dir", str(tmp_path / "file")]) == 2
    assert "Cache folder" in capsys.readouterr().err
    with pytest.raises(TargetError, match="expected an IR"):
        pp.verify(
            pp.RawModel.open(conv_model()), pp.fuse(conv_model(), pp.OneClassPostProcessor(STATS)), IMAGES,
            cache_dir=tmp_path,
        )  # fmt: skip


@pytest.mark.slow
def test_verbs(demo_ir_path: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = str(DEMO / "images")
    for kept in (False, True):
        given = ["verify", str(DEMO / "raw.onnx"), str(demo_ir_path), "--data", images, "--cache-dir", str(cache)]
        assert run([*given, "--json"]) == 0
        assert ("from the cache" in json.loads(capsys.readouterr().out)["artifact"]) == kept
    assert (
        run(
            ["run", str(demo_ir_path), images, "-o", str(tmp_path / "out"), "--save", "none", "--cache-dir", str(cache)]
        )
        == 0
    )
    report = pp.benchmark(
        DEMO / "raw.onnx", [demo_ir_path], against=[], inference_precisions=["f32"], seconds=0.2, cache_dir=cache
    )
    assert report.settings["cache"] == str(cache)
    assert any("compile times are those of reading it" in note for note in report.notes)
    assert all(each.groups_us for each in report.results)
