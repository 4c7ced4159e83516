"""Calibrating real models on labelled images, and on what they gave: from the API and the command line."""

from __future__ import annotations

import contextlib
import csv
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import pp_graph as pp
from pp_graph.calibration import calibrate, calibrate_scores
from pp_graph.cli import run
from pp_graph.data import open_labelled, open_predictions
from pp_graph.data.masks import resized
from pp_graph.errors import AlreadyFusedError, CalibrationError, DataError, ProvenanceError, StatisticsError
from pp_graph.postprocessors import CLASS_ROLES
from pp_graph.retuning import retune
from pp_graph.steps import Compare, MinMaxNormalize, SelectClass, Sigmoid, Step
from tests.conftest import DEMO
from tests.models import conv_model, identity_model
from tests.models import run as run_onnx

DATA = DEMO / "images"


@pytest.fixture(scope="session")
def arrays(demo_images: np.ndarray) -> dict[str, np.ndarray]:
    labelled = open_labelled(DATA)
    masks = labelled.masks(0, len(labelled), (256, 256))
    filled = np.stack([np.zeros((256, 256), bool) if mask is None else mask for mask in masks])
    return {"image": demo_images, "label": labelled.labels, "mask": filled}


@pytest.fixture(scope="session")
def dumped(tmp_path_factory: pytest.TempPathFactory, arrays: dict) -> Path:
    """What the raw model gives on the demo's images."""
    import onnxruntime as ort

    session = ort.InferenceSession(DEMO / "raw.onnx")
    outputs = session.run(["pred_score", "anomaly_map"], {session.get_inputs()[0].name: arrays["image"]})
    path = tmp_path_factory.mktemp("dumped") / "preds.npz"
    labels = {"gt_label": arrays["label"], "gt_mask": arrays["mask"][:, None]}
    np.savez(path, pred_score=outputs[0], anomaly_map=outputs[1], **labels)
    return path


# --- the real case ---------------------------------------------------------------------------------------------------


def test_anomalibs_own_numbers_come_back_to_the_bit(brick: Path) -> None:
    """`stats.json` is what Anomalib's metrics found on the same model and images."""
    found = calibrate(brick / "raw.onnx", brick / "images.npz", placement="observed", resamples=100).statistics
    theirs = pp.Statistics.load(brick / "stats.json")
    assert (found.image, found.pixel) == (theirs.image, theirs.pixel)


@pytest.mark.slow
def test_midpoint_finds_the_anomaly_that_anomalib_calls_normal(brick: Path, tmp_path: Path) -> None:
    with np.load(brick / "images.npz") as data:
        truth = data["label"]
        images = data["image"].astype(np.float32) / np.float32(255)
    scores = {}
    for placement in ("observed", "midpoint"):
        result = calibrate(brick / "raw.onnx", brick / "images.npz", placement=placement, resamples=0)
        artifact = pp.convert(pp.fuse(brick / "raw.onnx", pp.OneClassPostProcessor(result.statistics)))
        labels = artifact.session().run({"input": images})["pred_label"].ravel()
        scores[placement] = 2 * (labels & truth).sum() / (labels.sum() + truth.sum())
        assert result.image.metrics.f1 == pytest.approx(scores[placement])
    assert scores["observed"] == pytest.approx(78 / 79)  # 0.987
    assert scores["midpoint"] == 1.0


# --- sources ---------------------------------------------------------------------------------------------------------


def test_all_sources_agree(arrays: dict, dumped: Path, tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "images.npz", **arrays)
    category = tmp_path / "category"
    shutil.copytree(DATA, category / "test")
    shutil.copytree(DEMO / "ground_truth", category / "ground_truth")
    # Beside the test images, a category of MVTec AD has those for training.
    (category / "train" / "good").mkdir(parents=True)
    expected = calibrate(DEMO / "raw.onnx", DATA, resamples=0)
    assert expected.exact
    for found in (
        calibrate(DEMO / "raw.onnx", tmp_path / "images.npz", batch_size=5, resamples=0),
        calibrate(DEMO / "raw.onnx", category, resamples=0),
        calibrate(pp.RawModel.open(DEMO / "raw.onnx"), arrays, resamples=0),
        calibrate_scores(dumped, resamples=0),
    ):
        assert found.statistics.image == expected.statistics.image
        assert found.statistics.pixel == expected.statistics.pixel
        assert found.pixel.metrics == expected.pixel.metrics
    record = expected.record
    assert (record.model, record.precision, record.device) == ("raw.onnx", "f32", "CPU")
    assert record.model_sha256 == pp.RawModel.open(DEMO / "raw.onnx").sha256
    assert (record.images, record.anomalous_images) == (12, 6)
    assert len(record.data_sha256) == 64


def test_dumps_are_read_in_batches(dumped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = calibrate_scores(dumped, resamples=0)
    monkeypatch.setattr("pp_graph.data.dumped_predictions._BATCH_BYTES", 5 * 4 * 256 * 256)
    assert [len(batch) for batch in open_predictions(dumped).batches()] == [5, 5, 2]
    parts = calibrate_scores(dumped, resamples=0)
    assert parts.statistics == whole.statistics
    assert parts.pixel.metrics == whole.pixel.metrics


def test_labels_of_a_model_without_a_map_follow_from_masks(arrays: dict) -> None:
    proto = onnx.load(DEMO / "raw.onnx")
    del proto.graph.output[1]
    result = calibrate(pp.RawModel.open(proto), {"image": arrays["image"], "mask": arrays["mask"]}, resamples=0)
    assert result.pixel is None
    assert result.record.anomalous_images == 6


def test_hash_tells_data_apart(tmp_path: Path, arrays: dict) -> None:
    for name in ("one", "other"):
        shutil.copytree(DATA, tmp_path / name / "images")
    one, other = (open_labelled(tmp_path / name / "images").sha256() for name in ("one", "other"))
    assert one == other
    shutil.copytree(DEMO / "ground_truth", tmp_path / "other" / "ground_truth")
    assert open_labelled(tmp_path / "other" / "images").sha256() != one
    assert open_labelled(arrays).sha256() != open_labelled({**arrays, "label": ~arrays["label"]}).sha256()


def test_image_scores_in_tables(dumped: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="the extra 'calibration' is not installed")
    import pyarrow as pa
    import pyarrow.parquet as pq

    with np.load(dumped) as data:
        scores, labels = data["pred_score"][:, 0], data["gt_label"]
    with (tmp_path / "preds.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image_path", "Pred_Score", "label"])
        for index, (score, label) in enumerate(zip(scores, labels, strict=True)):
            writer.writerow([f"{index}.png", repr(float(score)), "anomalous" if label else "good"])
    pq.write_table(pa.table({"score": scores, "label": labels, "split": ["test"] * 12}), tmp_path / "preds.parquet")
    expected = calibrate_scores(dumped, resamples=30)
    for name in ("preds.csv", "preds.parquet"):
        found = calibrate_scores(tmp_path / name, resamples=30)
        assert found.statistics.image == expected.statistics.image
        assert found.image.metrics == expected.image.metrics
        assert found.pixel is None
        assert found.statistics.pixel == pp.LevelStatistics()


def test_external_weights_are_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: object) -> None:
    monkeypatch.chdir(tmp_path)
    proto = onnx.load(DEMO / "raw.onnx")
    onnx.save(proto, "raw.onnx", save_as_external_data=True, location="raw.data", size_threshold=0)
    before = Path("raw.data").read_bytes()
    assert run(["calibrate", "raw.onnx", "--data", str(DATA), "-o", "raw.data", "--force"]) == 2
    assert "is an input of this command" in capfd.readouterr().err
    assert Path("raw.data").read_bytes() == before


def test_sensitivity_in_the_artifact_is_mentioned(tmp_path: Path, arrays: dict) -> None:
    post = pp.OneClassPostProcessor(pp.Statistics.load(DEMO / "stats.json"), image_sensitivity=0.9)
    pp.fuse(DEMO / "raw.onnx", post).save(tmp_path / "fused.onnx")
    result = calibrate(tmp_path / "fused.onnx", arrays, resamples=0)
    expected = "the model decides with image_sensitivity=0.9, and the figures here are for 0.5"
    assert expected in result.image.warnings
    assert not any("sensitivity" in warning for warning in result.pixel.warnings)


def test_masks_follow_the_map(tmp_path: Path) -> None:
    mask = np.zeros((4, 6), bool)
    mask[1, 2] = True
    assert np.array_equal(resized(mask, (4, 6)), mask)
    doubled = resized(mask, (8, 12))
    assert np.array_equal(np.argwhere(doubled), [[2, 4], [2, 5], [3, 4], [3, 5]])
    picture = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) > 40)
    nearest = np.asarray(picture.resize((5, 3), Image.Resampling.NEAREST))
    assert np.array_equal(resized(np.asarray(picture), (3, 5)), nearest)


# --- on the target ---------------------------------------------------------------------------------------------------


def test_record_names_the_file_that_was_given(demo_fused_path: Path, arrays: dict) -> None:
    for device in (None, "CPU"):
        record = calibrate(demo_fused_path, arrays, device=device, resamples=0).record
        assert record.model == demo_fused_path.name
        assert record.model_sha256 == pp.RawModel.open(DEMO / "raw.onnx").sha256


def test_nothing_is_written_where_the_model_needs_more(work: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Path("preds.csv").write_text("score,label\n1,0\n2,1\n")
    arguments = ["-o", "part.json", "--retune", "part.xml", "--bootstrap", "0"]
    assert run(["calibrate", "model.xml", "--scores", "preds.csv", *arguments]) == 2
    assert "Statistics lack 'pixel.min' and 'pixel.max'" in capfd.readouterr().err
    assert not Path("part.json").exists()


def test_artifact_is_calibrated_in_the_precision_it_runs_in(demo_ir_path: Path, arrays: dict) -> None:
    in_f32 = calibrate(demo_ir_path, arrays, resamples=0)
    in_bf16 = calibrate(demo_ir_path, arrays, inference_precision="bf16", resamples=0)
    assert (in_f32.record.device, in_f32.record.precision, in_f32.record.weights) == ("CPU", "f32", "f32")
    assert in_f32.statistics.image.threshold == pytest.approx(
        calibrate(DEMO / "raw.onnx", arrays, resamples=0).statistics.image.threshold, rel=1e-4
    )
    artifact = pp.OpenVINOModel.load(demo_ir_path)
    session = artifact.session(precision="bf16", probes=[artifact.provenance.tensors["raw_map"]])
    assert in_bf16.record.precision == session.precision
    raw = session.run({session.inputs[0].name: arrays["image"]})[artifact.provenance.tensors["raw_map"]]
    assert in_bf16.statistics.pixel.max == raw.max()
    if session.precision == "bf16":
        assert in_bf16.statistics != in_f32.statistics


def test_raw_model_is_calibrated_as_it_would_ship(arrays: dict, demo_ir_path: Path) -> None:
    shipped = calibrate(demo_ir_path, arrays, resamples=0)
    raw = calibrate(DEMO / "raw.onnx", arrays, device="CPU", resamples=0)
    assert (raw.statistics.image, raw.statistics.pixel) == (shipped.statistics.image, shipped.statistics.pixel)
    assert raw.record.runtime.startswith("OpenVINO on CPU")


def test_fused_onnx_gives_its_raw_values(arrays: dict, demo_fused_path: Path) -> None:
    raw = calibrate(DEMO / "raw.onnx", arrays, resamples=0).statistics
    fused = calibrate(demo_fused_path, arrays, resamples=0).statistics
    # Its tail is rewritten.
    assert fused.image.threshold == pytest.approx(raw.image.threshold, rel=1e-5)
    assert fused.pixel.max == pytest.approx(raw.pixel.max, rel=1e-5)


OTHERS = pp.Statistics(
    image=pp.LevelStatistics(threshold=13.0, min=9.0, max=27.0),
    pixel=pp.LevelStatistics(threshold=11.5, min=2.0, max=27.0),
)
EDGES = pp.Statistics(
    image=pp.LevelStatistics(threshold=13.0, min=12.99, max=13.0),
    pixel=pp.LevelStatistics(threshold=11.5, min=3.0, max=3.0),
)


@pytest.mark.slow
@pytest.mark.parametrize("statistics", [OTHERS, EDGES], ids=["usual", "other operators"])
@pytest.mark.parametrize("settings", [{}, {"keep_raw": True}, {"outputs": ("pred_mask",)}], ids=str)
def test_retuned_equals_fused_anew(statistics: pp.Statistics, settings: dict, tmp_path: Path, arrays: dict) -> None:
    post = {"outputs": settings.get("outputs")}
    keep = {"keep_raw": settings.get("keep_raw", False)}
    before = pp.OneClassPostProcessor(pp.Statistics.load(DEMO / "stats.json"), pixel_sensitivity=0.4, **post)
    after = pp.OneClassPostProcessor(statistics, pixel_sensitivity=0.4, **post)
    pp.fuse(DEMO / "raw.onnx", before, **keep).save(tmp_path / "fused.onnx")
    anew = pp.fuse(DEMO / "raw.onnx", after, **keep)
    retuned = retune(pp.open(tmp_path / "fused.onnx"), statistics)
    assert retuned.to_proto().SerializeToString(deterministic=True) == anew.to_proto().SerializeToString(
        deterministic=True
    )
    for precision in ("f32", "f16"):
        pp.convert(tmp_path / "fused.onnx", precision=precision).save(tmp_path / "model.xml", overwrite=True)
        untouched = (tmp_path / "model.xml").read_bytes()
        retune(pp.open(tmp_path / "model.xml"), statistics).save(tmp_path / "retuned.xml", overwrite=True)
        assert (tmp_path / "model.xml").read_bytes() == untouched
        changed = pp.OpenVINOModel.load(tmp_path / "retuned.xml")
        session = changed.session(precision="bf16")
        expected = pp.convert(anew, precision=precision).session(precision="bf16")
        feeds = {session.inputs[0].name: arrays["image"]}
        found, wanted = session.run(feeds), expected.run(feeds)
        assert found.keys() == wanted.keys()
        for name in wanted:
            assert np.array_equal(found[name], wanted[name]), name
        assert session.island
        assert set(session.island.values()) <= {"f32", "u8", "boolean"}
        assert changed.provenance.statistics == statistics
        assert changed.provenance.cutoffs == anew.provenance.cutoffs
        assert pp.verify(DEMO / "raw.onnx", tmp_path / "retuned.xml", arrays["image"][:2]).postprocessing_flips == 0


def test_retuned_as_it_was_fused(tmp_path: Path) -> None:
    """Without rewrites, under another prefix, from outputs in float16."""
    statistics = pp.Statistics(image=EDGES.image, pixel=OTHERS.pixel)
    post, changed = pp.OneClassPostProcessor(OTHERS), pp.OneClassPostProcessor(statistics)
    proto = identity_model({"pp_graph/score": ["N", 1], "heat": ["N", 1, 4, 4]}, dtype=onnx.TensorProto.FLOAT16)
    rng = np.random.default_rng(0)
    feeds = {
        "pp_graph/score_in": rng.uniform(12, 14, (50, 1)).astype(np.float16),
        "heat_in": rng.uniform(8, 14, (50, 1, 4, 4)).astype(np.float16),
    }
    pp.convert(pp.fuse(proto, post)).save(tmp_path / "model.xml")
    retuned = retune(pp.open(tmp_path / "model.xml"), statistics)
    assert retuned.provenance.prefix != "pp_graph"
    retuned.save(tmp_path / "retuned.xml")
    found = pp.OpenVINOModel.load(tmp_path / "retuned.xml").session()
    wanted = pp.convert(pp.fuse(proto, changed)).session().run(feeds)
    assert found.island
    for name, array in found.run(feeds).items():
        assert np.array_equal(array, wanted[name]), name
    assert 0 < wanted["pred_label"].sum() < 50
    untouched = pp.fuse(DEMO / "raw.onnx", post, tail=False)
    assert not retune(untouched, statistics).provenance.tail
    assert retune(pp.fuse(DEMO / "raw.onnx", post), statistics).provenance.tail


@pytest.mark.slow
def test_sensitivities_are_retuned(work: Path, capfd: pytest.CaptureFixture[str], arrays: dict) -> None:
    post = pp.OneClassPostProcessor(pp.Statistics.load("stats.json"), image_sensitivity=0.3, pixel_sensitivity=0.8)
    expected = pp.convert(pp.fuse("raw.onnx", post)).session().run({"image": arrays["image"]})
    assert run(["fuse", "raw.onnx", "--stats", "stats.json", "-o", "fused.onnx"]) == 0
    for model in ("model.xml", "fused.onnx"):
        output = f"tuned{Path(model).suffix}"
        arguments = ["--image-sensitivity", "0.3", "--pixel-sensitivity", "0.8", "-o", output]
        assert run(["retune", model, *arguments]) == 0
        assert "image_sensitivity=0.3" in capfd.readouterr().out
        tuned = pp.OpenVINOModel.load(output) if model == "model.xml" else pp.convert(output)
        found = tuned.session().run({"image": arrays["image"]})
        assert all(np.array_equal(found[name], expected[name]) for name in expected)
        assert tuned.provenance.parameters["pixel_sensitivity"] == 0.8
    assert run(["verify", "raw.onnx", "tuned.xml", "--data", "images"]) == 0
    capfd.readouterr()
    for arguments, message in (
        (["model.xml", "-o", "t.xml"], "There is nothing to change, expected some of --stats, --image-sensitivity"),
        (
            ["model.xml", "--image-sensitivity", "1.5", "-o", "t.xml"],
            "--image-sensitivity is 1.5, expected a number from 0",
        ),
        (["model.xml", "--image-sensitivity", "0.4", "-o", "t.onnx"], "ends in '.onnx', expected '.xml', the ending"),
        (["model.xml", "--image-sensitivity", "0.4", "-o", "model.xml", "--force"], "is an input of this command"),
        (["raw.onnx", "--image-sensitivity", "0.4", "-o", "t.onnx"], "has no post-processing by pp_graph"),
    ):
        assert run(["retune", *arguments]) == 2
        assert message in capfd.readouterr().err


@pytest.mark.parametrize("outputs", [("pred_score",), ("pred_label",), ("anomaly_map",), ("pred_mask",)])
def test_raw_values_are_kept_beside_few_outputs(outputs: tuple[str, ...]) -> None:
    """A raw value must not pass for the post-processed one of its name that was not asked for."""
    proto = conv_model()
    fused = pp.fuse(proto, pp.OneClassPostProcessor(OTHERS, outputs=outputs), keep_raw=True)
    assert set(fused.output_names) == {*outputs, "raw_pred_score", "raw_anomaly_map"}
    session = pp.convert(fused).session()
    image = np.random.default_rng(0).random((2, 3, 8, 8)).astype(np.float32)
    kept, expected = session.run({"image": image}), run_onnx(proto, {"image": image})
    assert np.allclose(kept["raw_anomaly_map"], expected["anomaly_map"], atol=1e-4)
    assert pp.strip(fused).to_proto().SerializeToString() == pp.RawModel.open(proto).to_proto().SerializeToString()


def test_retuned_model_without_a_score(tmp_path: Path, arrays: dict) -> None:
    proto = onnx.load(DEMO / "raw.onnx")
    del proto.graph.output[0]
    assert [output.name for output in proto.graph.output] == ["anomaly_map"]
    calibrated = calibrate(pp.RawModel.open(proto), arrays, resamples=0).statistics
    pp.convert(pp.fuse(proto, pp.OneClassPostProcessor(OTHERS))).save(tmp_path / "model.xml")
    retune(pp.open(tmp_path / "model.xml"), calibrated).save(tmp_path / "retuned.xml")
    labels = pp.OpenVINOModel.load(tmp_path / "retuned.xml").session().run({"image": arrays["image"]})["pred_label"]
    anew = (
        pp.convert(pp.fuse(proto, pp.OneClassPostProcessor(calibrated)))
        .session()
        .run({"image": arrays["image"]})["pred_label"]
    )
    assert np.array_equal(labels, anew)


def test_retuning_with_too_little(demo_fused_path: Path, tmp_path: Path) -> None:
    with pytest.raises(StatisticsError, match="Statistics lack 'image.min' and 'image.max'"):
        retune(demo_fused_path, pp.Statistics(image=pp.LevelStatistics(threshold=1.0)))
    with pytest.raises(ProvenanceError, match="has no post-processing by pp_graph"):
        retune(DEMO / "raw.onnx", OTHERS)


# --- one class of several --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OfSecondClass(pp.PostProcessor):
    """Compares the second class, as it is, normalised or through a sigmoid."""

    roles = CLASS_ROLES
    statistics: pp.Statistics | None = None
    way: str = "plain"

    def steps(self, raw: pp.Signature) -> Sequence[Step]:
        if self.statistics is None:
            raise StatisticsError("There are no statistics, expected some.")
        known = self.statistics.image
        select = SelectClass("raw_score", "chosen", 1)
        if self.way == "normalized":
            shown = MinMaxNormalize("chosen", "pred_score", known.threshold, known.min, known.max)
            return select, shown, Compare("pred_score", "pred_label", 0.5)
        if self.way == "sigmoid":
            return select, Sigmoid("chosen", "pred_score"), Compare("pred_score", "pred_label", known.threshold)
        return select, Compare("chosen", "pred_label", known.threshold)


@pytest.mark.parametrize("way", ["plain", "normalized", "sigmoid"])
def test_what_is_compared_is_calibrated(way: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2 == 1
    logits = np.stack([rng.normal(0, 1, 40), rng.normal(0, 1, 40) + 3 * labels, rng.normal(9, 1, 40)], 1)
    data = {"logits_in": logits.astype(np.float32), "label": labels}
    proto = identity_model({"logits": ["N", 3]})
    expected = logits[:, 1].astype(np.float32)
    if way == "sigmoid":
        expected = Sigmoid("x", "y").reference(expected)
    found = calibrate(pp.RawModel.open(proto), data, post=OfSecondClass(way=way), resamples=0)
    assert (found.image.statistics.min, found.image.statistics.max) == (expected.min(), expected.max())
    fused = pp.fuse(proto, OfSecondClass(found.statistics, way))
    assert run_onnx(fused, {"logits_in": data["logits_in"]})["pred_label"].mean() == pytest.approx(0.5, abs=0.1)
    # A fused model knows its own post-processor, and gives the same.
    for model in (fused.save(tmp_path / "f.onnx"), pp.convert(fused).save(tmp_path / "f.xml")):
        assert calibrate(model, data, resamples=0).statistics.image == found.statistics.image


def test_roles_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    proto = identity_model({"a": ["N"], "b": ["N"]})
    data = {"a_in": np.arange(8, dtype=np.float32), "b_in": -np.arange(8, dtype=np.float32), "label": np.arange(8) > 3}
    found = calibrate(pp.RawModel.open(proto), data, roles={"raw_score": "b"}, resamples=0)
    assert found.image.statistics.min == -7
    onnx.save(proto, "two.onnx")
    np.savez("data.npz", **data)
    assert run(["calibrate", "two.onnx", "--data", "data.npz", "--role", "raw_score=b", "-o", "s.json"]) == 0
    assert pp.Statistics.load("s.json").image == found.statistics.image


def test_steps_that_refer_to_no_statistics() -> None:
    recipe = [{"step": "compare", "source": "heat", "target": "bad", "level": 0.5}]
    post = pp.RecipePostProcessor(recipe=recipe, roles=[{"name": "heat", "axes": "NC"}], declared_outputs=["bad"])
    data = {"h_in": np.ones((2, 3), np.float32), "label": [0, 1]}
    with pytest.raises(CalibrationError, match="reads heat and has nothing to calibrate"):
        calibrate(pp.RawModel.open(identity_model({"h": ["N", 3]})), data, post=post)


# --- the command line ------------------------------------------------------------------------------------------------


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, demo_ir_path: Path, dumped: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(DEMO, tmp_path, dirs_exist_ok=True)
    shutil.copy(demo_ir_path, tmp_path / "model.xml")
    shutil.copy(demo_ir_path.with_suffix(".bin"), tmp_path / "model.bin")
    shutil.copy(dumped, tmp_path / "preds.npz")
    return tmp_path


def test_from_images_to_a_retuned_model(work: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["--inference-precision", "bf16", "-o", "own.json", "--retune", "tuned.xml", "--report", "report.html"]
    assert run(["calibrate", "model.xml", "--data", "images", "--bootstrap", "50", *arguments]) == 0
    out, err = capfd.readouterr()
    for expected in ("12 images, 6 of them anomalous", "F1", "AUROC", "95 % confidence intervals", "Wrote own.json"):
        assert expected in out
    assert "Warning: image level: only 6 normal images" in err
    statistics = pp.Statistics.load("own.json")
    record = statistics.provenance.calibration
    assert record.device == "CPU"
    assert (record.image.method, record.image.placement, record.pixel.exact) == ("f1", "midpoint", True)
    assert pp.OpenVINOModel.load("tuned.xml").provenance.statistics == statistics
    assert "<html" in (work / "report.html").read_text()
    assert run(["verify", "raw.onnx", "tuned.xml", "--data", "images"]) == 0
    assert run(["fuse", "raw.onnx", "--stats", "own.json", "-o", "fused.onnx"]) == 0
    capfd.readouterr()
    assert run(["calibrate", "fused.onnx", "--stats", "stats.json", "--retune", "back.onnx", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["statistics"]["image"]["threshold"] == 14.975105285644531
    assert pp.FusedModel.load("back.onnx").provenance.statistics == pp.Statistics.load("stats.json")


def test_methods_and_parameters(work: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("scipy", reason="the extra 'calibration' is not installed")
    methods = ["--image-method", "quantile:q=0.9,factor=1.1", "--pixel-method", "pro:rate=0.02"]
    ranges = ["--pixel-range", "percentile:low=1,high=99", "--placement", "observed"]
    assert run(["calibrate", "--scores", "preds.npz", *methods, *ranges, "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    calibration = found["statistics"]["provenance"]["calibration"]
    assert calibration["image"]["parameters"] == {"q": 0.9, "factor": 1.1}
    assert calibration["pixel"]["method"] == "pro"
    assert 0 < found["pixel"]["metrics"]["pro"] <= 1
    assert found["pixel"]["metrics"]["regions"] == 6
    with np.load("preds.npz") as data:
        scores, labels = data["pred_score"][:, 0].astype(np.float64), data["gt_label"]
        expected = 1.1 * np.quantile(scores[~labels], 0.9)
    assert found["statistics"]["image"]["threshold"] == float(np.float32(expected))
    assert run(["calibrate", "--scores", "preds.npz", "--one-pass", "--bootstrap", "0"]) == 0
    assert "one pass, with a bound" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "Found no source, expected one of MODEL --data, --scores and --stats"),
        (["raw.onnx"], "Found no source"),
        (["--data", "images"], "--data needs the MODEL"),
        (["raw.onnx", "--data", "images", "--scores", "preds.npz"], "Found --data and --scores, expected one"),
        (["raw.onnx", "--scores", "preds.npz"], "MODEL is not used with --scores: leave it out, or give --retune"),
        (["--stats", "stats.json"], "--stats alone changes nothing"),
        (["model.xml", "--data", "images", "-o", "q.bin", "--retune", "q.xml"], "Two outputs have the same name"),
        (["--stats", "stats.json", "-o", "o.json", "--report", "r.html"], "--report plots scores, and --stats has none"),
        (["raw.onnx", "--data", "images", "--retune", "t.onnx"], "has no post-processing by pp_graph"),
        (["model.xml", "--data", "images", "--retune", "t.onnx"], "ends in '.onnx', expected '.xml', the ending"),
        (["model.xml", "--data", "images", "--retune", "model.xml"], "is an input of this command"),
        (["raw.onnx", "--data", "images", "-o", "stats.json"], "'stats.json' exists already. Use --force"),
        (["raw.onnx", "--data", "images", "--report", "a.png", "--report", "a.png"], "Two outputs have the same name"),
        (["raw.onnx", "--data", "images", "--image-method", "best"], "'best' is not known, expected one of: f1"),
        (["raw.onnx", "--data", "images", "--image-method", "fpr:rate"], "'rate' is not a KEY=VALUE with a number"),
        (["raw.onnx", "--data", "images", "--image-method", "fpr:rate=2"], "'rate' is 2.0, expected a number in [0, 1)"),
        (["raw.onnx", "--data", "images", "--image-method", "pro"], "expected pixels"),
        (["raw.onnx", "--data", "images/good"], "holds image '00.png' in no folder, expected a folder 'good'"),
        (["raw.onnx", "--data", "ground_truth"], "holds no images in 'good', expected a folder 'good'"),
        (["raw.onnx", "--data", "nothing"], "'nothing' does not exist"),
        (["raw.onnx", "--data", "images", "--device", "XPU"], "Device 'XPU' is not known"),
        (["--scores", "nothing.npz"], "Predictions 'nothing.npz' do not exist"),
        (["--scores", "raw.onnx"], "are a '.onnx' file, expected .npz, .csv or .parquet"),
        (["--stats", "raw.onnx", "-o", "o.json"], "Statistics file 'raw.onnx'"),
        (["raw.onnx", "--data", "images", "--inference-precision", "bf16"], "without a device, expected f32"),
        (["--scores", "preds.npz", "--device", "GPU"], "--device has no effect with --scores"),
        (["--stats", "stats.json", "-o", "o.json", "--image-method", "evt"], "--image-method has no effect with --stats"),
        (["raw.onnx", "--data", "images", "--image-method", "fpr:rate=1,rate=0"], "'rate' is given twice"),
        (["raw.onnx", "--data", "images", "--report", "r.pdf"], "ends in '.pdf', expected '.html' or '.png'"),
        (["raw.onnx", "--data", "images", "-o", "images/good/00.png", "--force"], "is an input of this command"),
        (["raw.onnx", "--data", "images", "-o", "ground_truth/grass/00_mask.png", "--force"], "is an input"),
        (["model.xml", "--data", "images", "-o", "model.bin", "--force"], "is an input of this command"),
    ],
)  # fmt: skip
def test_bad_input(work: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], expected: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*")}
    assert run(["calibrate", *arguments]) == 2
    out, err = capfd.readouterr()
    assert expected in err
    assert "Traceback" not in out + err
    assert {path: path.stat().st_mtime_ns for path in work.rglob("*")} == before


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"pred_score": np.ones(3)}, "expected a label or mask under one of the names label, gt_label"),
        ({"label": np.ones(3)}, "expected a score or map under one of the names pred_score"),
        ({"pred_score": np.ones(3), "label": np.ones(2)}, r"'pred_score' \(3,\), 'label' \(2,\), expected arrays of"),
        ({"pred_score": np.ones(0), "label": np.ones(0)}, "the same length, at least 1"),
        ({"pred_score": np.ones(3), "score": np.ones(3), "label": np.ones(3)}, "'pred_score' and 'score', expected one score"),
        ({"pred_score": np.array(["a"] * 3), "label": np.ones(3)}, "Scores hold <U1, expected floating-point"),
        ({"pred_score": np.array([{}, {}], object), "label": np.ones(2)}, "'pred_score' in .* holds Python objects"),
    ],
)  # fmt: skip
def test_bad_dumps(tmp_path: Path, arrays: dict, expected: str) -> None:
    np.savez(tmp_path / "preds.npz", **arrays)
    with pytest.raises(DataError, match=expected):
        calibrate_scores(tmp_path / "preds.npz")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("preds.npz", b"PK no zip", "cannot be read: File is not a zip file"),
        ("preds.csv", b"", "'preds.csv' holds nothing, expected a score"),
        ("preds.csv", b"score,label\n", "holds no rows"),
        ("preds.csv", b"score,class\n1,0\n", "holds 'score', 'class', expected a label"),
        ("preds.csv", b"score,label\n1.5,maybe\n", "row 1: the label is 'maybe', expected 0 or 1"),
        ("preds.csv", b"score,label\nhigh,1\n", "row 1: the score is 'high', expected a number"),
        ("preds.csv", b"score,label\n1\n", "row 1: found 1 fields, expected 2"),
        ("preds.csv", b"score,label,Score\n1,0,2\n", "'score' and 'Score', expected one score"),
        ("preds.csv", b"score,label\n1_0,1\n", "row 1: the score is '1_0', expected a number"),
        ("preds.csv", b"\xff\xfe\x00", "cannot be read: .* Expected comma-separated text in UTF-8"),
        ("preds.csv", b"score,label\nnan,1\n1,0\n", "The score of 'image 0' has 1 of 1 values that are not finite"),
        ("preds.parquet", b"PAR1", "cannot be read: .* Expected a Parquet file"),
    ],
)
def test_bad_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, expected: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow", reason="the extra 'calibration' is not installed")
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(content)
    with pytest.raises(DataError, match=expected):
        calibrate_scores(name)


@pytest.mark.sample(every=5)
@pytest.mark.parametrize("place", range(0, 4000, 61))
def test_damaged_dump(dumped: Path, tmp_path: Path, place: int) -> None:
    """Whatever is damaged, it is an error of ours, or the numbers in it are others."""
    with np.load(dumped) as data:
        np.savez_compressed(tmp_path / "preds.npz", **{name: data[name][:2, ...] for name in data.files})
    content = bytearray((tmp_path / "preds.npz").read_bytes())
    content[place] ^= 0x5A
    (tmp_path / "preds.npz").write_bytes(content)
    with contextlib.suppress(pp.PPGraphError):
        calibrate_scores(tmp_path / "preds.npz", resamples=0)


def test_cut_short_dump(dumped: Path, tmp_path: Path) -> None:
    whole = dumped.read_bytes()
    (tmp_path / "preds.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cannot be read"):
        open_predictions(tmp_path / "preds.npz")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"label": None, "mask": None}, "expected 'label' .* or 'mask' .* beside the images"),
        ({"label": np.arange(12)}, "Labels in the data: found 2, expected bool, or 0 for normal and 1"),
        ({"label": np.ones(3)}, r"Array 'label' .* has shape \(3,\), expected 12 items"),
        ({"mask": np.ones((12, 3, 256, 256), bool)}, r"Masks have shape \(8, 3, 256, 256\), expected \(N,H,W\)"),
        ({"label": np.zeros(12, bool)}, "'6' is labelled normal, but its mask has"),
    ],
)
def test_bad_labels(arrays: dict, change: dict, expected: str) -> None:
    given = {name: array for name, array in {**arrays, **change}.items() if array is not None}
    with pytest.raises(DataError, match=expected):
        calibrate(DEMO / "raw.onnx", given)


def test_labels_follow_from_masks(arrays: dict) -> None:
    result = calibrate(DEMO / "raw.onnx", {"image": arrays["image"], "mask": arrays["mask"]}, resamples=0)
    assert result.record.anomalous_images == 6


def test_another_tools_post_processing_is_refused(brick: Path) -> None:
    with pytest.raises(AlreadyFusedError, match="seems to contain post-processing already"):
        calibrate(brick / "full.onnx", brick / "images.npz")


def test_nan_from_the_model_names_the_image(tmp_path: Path, arrays: dict) -> None:
    images = arrays["image"].copy()
    images[3, 0, 100, 100] = np.nan
    with pytest.raises(DataError, match="of '3' has .* not finite .*--ignore-nonfinite"):
        calibrate(DEMO / "raw.onnx", {**arrays, "image": images})
    result = calibrate(DEMO / "raw.onnx", {**arrays, "image": images}, ignore_nonfinite=True, resamples=0)
    assert result.pixel.record.dropped > 0
