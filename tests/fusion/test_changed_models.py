"""Fused models that were changed afterwards, or that stand beside files of another model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx_ir.passes import common as passes

import pp_graph as pp
from pp_graph.cli import run
from pp_graph.errors import ModelError, ProvenanceError, StatisticsError, StatisticsWarning, TargetError
from pp_graph.fusion import METADATA_KEY
from pp_graph.statistics import CalibrationRecord, StatisticsProvenance
from tests.conftest import DEMO
from tests.models import STATS, conv_model
from tests.models import run as outputs_of

POST = pp.OneClassPostProcessor(STATS)
IMAGE = np.random.default_rng(0).normal(0, 1, (2, 3, 8, 8)).astype(np.float32)


def calibrated_on(sha256: str) -> pp.Statistics:
    record = CalibrationRecord(model="old.onnx", model_sha256=sha256, images=3, anomalous_images=1)
    provenance = StatisticsProvenance(source="calibration", calibration=record)
    return msgspec.structs.replace(STATS, provenance=provenance)


def test_statistics_of_another_model(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    raw = pp.RawModel.open(DEMO / "raw.onnx")
    other = pp.OneClassPostProcessor(calibrated_on("0123456789abcdef" * 4))
    with pytest.warns(StatisticsWarning, match="calibrated on a different model"):
        (note,) = pp.fuse(DEMO / "raw.onnx", other).notes
    assert note.startswith(
        "The statistics were calibrated on a different model ('old.onnx', sha256 0123456789ab) than this one"
    )
    assert raw.sha256[:12] in note
    assert "pp-graph calibrate RAW.onnx" in note
    with pytest.raises(StatisticsError, match="calibrated on a different model"):
        pp.fuse(DEMO / "raw.onnx", other, strict=True)
    assert not pp.fuse(DEMO / "raw.onnx", pp.OneClassPostProcessor(calibrated_on(raw.sha256)), strict=True).notes
    assert not pp.fuse(DEMO / "raw.onnx", POST, strict=True).notes
    other.statistics.save(tmp_path / "own.json")
    fuse = ["fuse", str(DEMO / "raw.onnx"), "--stats", str(tmp_path / "own.json"), "-o", str(tmp_path / "f.onnx")]
    assert run([*fuse, "--strict"]) == 2
    assert "calibrated on a different model" in capfd.readouterr().err
    assert not (tmp_path / "f.onnx").exists()
    assert run(fuse) == 0
    assert "calibrated on a different model" in capfd.readouterr().err
    assert run(["retune", str(tmp_path / "f.onnx"), "--stats", str(tmp_path / "own.json")]) == 0
    assert "Warning: The statistics were calibrated on a different model" in capfd.readouterr().err


def with_weights(path: Path, seed: int) -> Path:
    onnx.save(conv_model(seed=seed), path, save_as_external_data=True, location=f"{path.stem}.data", size_threshold=0)
    return path


def test_weights_of_another_run(tmp_path: Path) -> None:
    """The graph is the same, and so is its hash."""
    raw, other = with_weights(tmp_path / "raw.onnx", 0), with_weights(tmp_path / "other.onnx", 1)
    fused = pp.fuse(raw, POST).save(tmp_path / "fused.onnx")
    artifact = pp.convert(pp.fuse(raw, POST))
    copied = pp.fuse(raw, POST).save(tmp_path / "copied.onnx", copy_weights=True)
    assert pp.FusedModel.load(copied).provenance.weights == pp.FusedModel.load(fused).provenance.weights is not None
    assert pp.verify(raw, artifact, IMAGE).passed
    shutil.copy(other.with_suffix(".data"), raw.with_suffix(".data"))
    for verb in (
        pp.FusedModel.load,
        pp.strip,
        pp.open,
        pp.convert,
        lambda path: pp.retune(path, image_sensitivity=0.6),
    ):
        with pytest.raises(
            ProvenanceError, match=r"External weights in 'raw.data' are not those .* expected [\d,]+ bytes"
        ):
            verb(fused)
    with pytest.raises(
        ModelError, match="has the graph of the model that the artifact was made from, and other external"
    ):
        pp.verify(raw, artifact, IMAGE)
    assert not pp.verify(raw, artifact, IMAGE, other_raw=True).raw_matches
    assert pp.FusedModel.load(copied)


def test_statistics_of_another_run_with_the_same_graph(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    """The hash of the graph does not tell them apart, the weights beside it do."""
    for training in ("first", "second"):
        (tmp_path / training).mkdir()
    raw, other = with_weights(tmp_path / "first" / "raw.onnx", 0), with_weights(tmp_path / "second" / "raw.onnx", 1)
    assert raw.read_bytes() == other.read_bytes()
    data = {"image": IMAGE, "label": np.arange(len(IMAGE)) % 2}
    np.savez(tmp_path / "data.npz", **data)
    calibrated = pp.calibrate(raw, tmp_path / "data.npz", image="max-normal", pixel="max-normal").statistics
    post = pp.OneClassPostProcessor(calibrated, normalize=False)
    with pytest.warns(StatisticsWarning):
        found = pp.fuse(other, post).notes
    assert any("a different model ('raw.onnx', hash of external weights" in note for note in found), found
    with pytest.raises(StatisticsError, match="calibrated on a different model"):
        pp.fuse(other, post, strict=True)
    assert pp.fuse(raw, post, strict=True)
    artifact = pp.convert(pp.fuse(raw, post)).save(tmp_path / "model.xml")
    assert pp.calibrate(
        artifact, tmp_path / "data.npz", image="max-normal", pixel="max-normal"
    ).statistics.of_another_model(pp.RawModel.open(other).sha256, pp.fuse(other, POST).provenance.raw.weights)
    fused = pp.fuse(raw, POST).save(tmp_path / "first" / "fused.onnx")
    shutil.copy(other.with_suffix(".data"), raw.with_suffix(".data"))
    for verb in (
        pp.inspect,
        lambda path: pp.calibrate(path, tmp_path / "data.npz", image="max-normal", pixel="max-normal"),
    ):
        with pytest.raises(ProvenanceError, match="External weights in 'raw.data' are not those"):
            verb(fused)


def test_statistics_of_an_artifact_of_another_model(tmp_path: Path) -> None:
    """Numbers typed by hand have no record of a calibration; the artifact that they come from says whose they are."""
    for path in (
        pp.fuse(conv_model(), POST).save(tmp_path / "fused.onnx"),
        pp.convert(pp.fuse(conv_model(), POST)).save(tmp_path / "model.xml"),
    ):
        post = pp.OneClassPostProcessor(pp.Statistics.load(path))
        assert not pp.fuse(conv_model(), post, strict=True).notes
        with pytest.warns(StatisticsWarning):
            (note,) = pp.fuse(conv_model(seed=1), post).notes
        for model in (path, pp.open(path)):
            with pytest.warns(StatisticsWarning, match="calibrated on a different model"):
                pp.retune(
                    model,
                    calibrated_on("0" * 64),
                    **({"output": tmp_path / f"new{path.suffix}"} if model is path else {}),
                )
        assert f"come from an artifact of a different model ('{path.name}', sha256" in note
        with pytest.raises(StatisticsError, match="come from an artifact of a different model"):
            pp.fuse(conv_model(seed=1), post, strict=True)


@pytest.mark.parametrize(
    ("change", "verb", "message"),
    [
        ("renamed values", "verify", "Tensor 'raw_pred_score' is not in the model.*changed after it was fused"),
        ("renamed values", "convert", "is not in the converted model.*changed after it was fused"),
        ("lost output", "verify", "its output 'pred_mask' is missing"),
        ("lost output", "convert", "its output 'pred_mask' is missing"),
        ("lost output", "retune", "its output 'pred_mask' is missing"),
        ("lost output", "load", "its output 'pred_mask' is missing"),
        *[
            ("appended operator", verb, "operator 'Not' of another program computes output 'pred_label'")
            for verb in ("verify", "convert", "retune", "load")
        ],
        ("further operator", "convert", "other operators read values of the post-processing"),
    ],
)
def test_other_verbs_say_what_was_changed(change: str, verb: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "fused.onnx"
    onnx.save(changed(change), path)
    onnx.save(conv_model(), tmp_path / "raw.onnx")
    before = path.read_bytes()
    verbs = {
        "verify": lambda: pp.verify(tmp_path / "raw.onnx", path, IMAGE),
        "convert": lambda: pp.convert(path),
        "retune": lambda: pp.retune(path, image_sensitivity=0.6),
        "load": lambda: pp.load(path),
    }
    with pytest.raises((ProvenanceError, TargetError), match=message):
        verbs[verb]()
    assert path.read_bytes() == before


def test_provenance_without_weights_is_as_before() -> None:
    text = pp.fuse(conv_model(), POST).to_proto().metadata_props[-1]
    assert text.key == METADATA_KEY
    assert "weights" not in json.loads(text.value)
    assert "weights" not in json.loads(text.value)["raw"]


def initializer(proto: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(each for each in proto.graph.initializer if each.name == name)


def changed(change: str, **settings: object) -> onnx.ModelProto:
    """A fused model after another tool."""
    proto = pp.fuse(conv_model(), pp.OneClassPostProcessor(STATS, **settings)).to_proto()
    if change == "float16":
        for tensor in proto.graph.initializer:
            if tensor.data_type == onnx.TensorProto.FLOAT:
                tensor.CopyFrom(
                    onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(np.float16), tensor.name)
                )
    elif change == "lost input":
        kept = [each for each in proto.graph.input if not each.name.endswith("_cutoff")]
        del proto.graph.input[:]
        proto.graph.input.extend(kept)
    elif change == "renamed values":
        for node in proto.graph.node:
            for names in (node.input, node.output):
                names[:] = [f"main/{name}" if name.startswith("raw_") else name for name in names]
    elif change == "constants as inputs":
        for tensor in proto.graph.initializer:
            value = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            if tensor.name not in {each.name for each in proto.graph.input}:
                proto.graph.input.append(value)
    elif change == "lost defaults":
        kept = [each for each in proto.graph.initializer if not each.name.endswith("_cutoff")]
        del proto.graph.initializer[:]
        proto.graph.initializer.extend(kept)
    elif change == "lost output":
        del proto.graph.output[-1]
    elif change == "appended operator":
        node = next(each for each in proto.graph.node if each.output[0] == "pred_label")
        node.output[0] = "before"
        proto.graph.node.append(onnx.helper.make_node("Not", ["before"], ["pred_label"]))
    elif change == "further operator":
        proto.graph.node.append(onnx.helper.make_node("Cast", ["pred_label"], ["bytes"], to=onnx.TensorProto.UINT8))
        proto.graph.output.append(onnx.helper.make_tensor_value_info("bytes", onnx.TensorProto.UINT8, None))
    elif change == "merged":
        model = ir.from_proto(proto)
        passes.DeduplicateInitializersPass()(model)
        proto = ir.to_proto(model)
    elif change == "operator":
        # Greater instead of Not(Less): the old cutoff may stay behind, unread.
        node = next(each for each in proto.graph.node if each.op_type == "Less" and "pred_label" in each.output[0])
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(1.0, np.float32), "other"))
        node.input[1] = "other"
    elif change == "network":
        # A simplifier folds, and the raw file does not come back.
        node = next(each for each in proto.graph.node if each.op_type == "Relu")
        node.name = "renamed"
    return proto


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ("float16", {}, "is not valid any more"),
        ("lost input", {"thresholds": "runtime"}, "its input 'pred_label_cutoff'.* is missing"),
        ("renamed values", {}, "of the raw model is missing"),
    ],
)
def test_what_cannot_be_restored_is_refused(tmp_path: Path, change: str, settings: dict, message: str) -> None:
    path = tmp_path / "fused.onnx"
    onnx.save(changed(change, **settings), path)
    with pytest.raises(ProvenanceError, match=message):
        pp.strip(path)
    with pytest.raises(ProvenanceError):
        pp.retune(path, image_sensitivity=0.6, output=tmp_path / "tuned.onnx")
    assert run(["strip", str(path), "-o", str(tmp_path / "raw.onnx")]) == 2
    assert not (tmp_path / "raw.onnx").exists()
    assert not (tmp_path / "tuned.onnx").exists()


@pytest.mark.parametrize("settings", [{}, {"thresholds": "runtime"}], ids=str)
@pytest.mark.parametrize("change", ["merged", "operator", "network"])
def test_retuning_a_changed_model_decides_right(tmp_path: Path, change: str, settings: dict) -> None:
    if change == "operator" and settings:
        pytest.skip("a cutoff that is an input has no Less")
    path = tmp_path / "fused.onnx"
    onnx.save(changed(change, **settings), path)
    tuned = pp.retune(path, image_sensitivity=0.6, output=tmp_path / "tuned.onnx").path
    expected = outputs_of(
        pp.fuse(conv_model(), pp.OneClassPostProcessor(STATS, image_sensitivity=0.6, **settings)), {"image": IMAGE}
    )
    for name, array in outputs_of(str(tuned), {"image": IMAGE}).items():
        assert np.array_equal(array, expected[name]), name


def test_verify_says_that_the_post_processing_reads_other_values(tmp_path: Path) -> None:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(conv_model(), tmp_path / "raw.onnx")
    fused = pp.fuse(tmp_path / "raw.onnx", POST, keep_raw=True).to_proto()
    onnx.save(convert_float_to_float16(fused, keep_io_types=True), tmp_path / "half.onnx")
    with pytest.raises(ProvenanceError, match="No operator computes outputs from 'raw_pred_score'.*float16 converter"):
        pp.verify(tmp_path / "raw.onnx", tmp_path / "half.onnx", IMAGE)


@pytest.mark.parametrize("change", ["constants as inputs", "lost defaults"])
def test_stripping_leaves_no_input_behind(change: str) -> None:
    raw = pp.strip(changed(change, thresholds="runtime"))
    required = {value.name for value in raw.model.graph.inputs} - set(raw.model.graph.initializers)
    assert required == {"image"}
    expected = outputs_of(conv_model(), {"image": IMAGE})
    for name, array in outputs_of(raw.to_proto(), {"image": IMAGE}).items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=1e-5)


def test_strip_says_if_it_is_not_the_raw_file(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    onnx.save(conv_model(), tmp_path / "raw.onnx")
    pp.fuse(tmp_path / "raw.onnx", POST).save(tmp_path / "fused.onnx")
    assert run(["strip", str(tmp_path / "fused.onnx"), "-o", str(tmp_path / "a.onnx"), "--json"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["is_raw_file"] is True
    assert "is not, byte for byte" not in err
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "raw.onnx").read_bytes()
    onnx.save(changed("network"), tmp_path / "changed.onnx")
    assert run(["strip", str(tmp_path / "changed.onnx"), "-o", str(tmp_path / "b.onnx"), "--json"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["is_raw_file"] is False
    assert json.loads(out)["raw_sha256"] == pp.RawModel.open(tmp_path / "b.onnx").sha256
    assert "is not, byte for byte, the raw file that was fused" in err


@pytest.mark.parametrize(
    "edit",
    [
        lambda record: record["raw"]["read"]["raw_score"].update(declaration="!!!not base64"),
        lambda record: record["raw"]["read"]["raw_score"].update(declaration="AAAA"),
        lambda record: record["raw"]["read"]["raw_score"].update(tensor="nowhere"),
    ],
)
def test_an_edited_record_is_a_typed_error(edit: object) -> None:
    proto = pp.fuse(conv_model(), POST).to_proto()
    entry = next(each for each in proto.metadata_props if each.key == METADATA_KEY)
    record = json.loads(entry.value)
    edit(record)
    entry.value = json.dumps(record)
    with pytest.raises(ProvenanceError, match="was changed after it was fused"):
        pp.strip(proto)


@pytest.mark.parametrize("large", [1 << 24, 0])
def test_the_bin_of_a_model_of_which_one_layer_was_trained_again(
    large: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pp_graph.openvino.weights_file._LARGE", large)
    raw = onnx.load(DEMO / "raw.onnx")
    own = pp.convert(pp.fuse(pp.RawModel.open(raw), POST)).save(tmp_path / "own.xml")
    layer = next(each for each in raw.graph.initializer if each.name == "stem.0.bias")
    layer.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(layer) * 1.01, layer.name))
    other = pp.convert(pp.fuse(pp.RawModel.open(raw), POST)).save(tmp_path / "other.xml")
    weights, retrained = own.with_suffix(".bin"), other.with_suffix(".bin")
    assert weights.stat().st_size == retrained.stat().st_size
    pp.retune(own, image_sensitivity=0.6)
    assert pp.open(own)
    shutil.copy(retrained, weights)
    with pytest.raises(TargetError, match=r"own.bin' .* is not the one that '.*own.xml' was saved with, expected"):
        pp.open(own)


def test_the_bin_of_another_ir(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    own = pp.convert(pp.fuse(conv_model(), POST)).save(tmp_path / "own.xml")
    other = pp.convert(pp.fuse(conv_model(seed=1), POST)).save(tmp_path / "other.xml")
    before = own.with_suffix(".bin").read_bytes()
    pp.retune(own, image_sensitivity=0.6)
    pp.retune(own, pixel_sensitivity=0.3, output=tmp_path / "tuned.xml")
    for path in (own, tmp_path / "tuned.xml"):
        assert pp.verify(pp.RawModel.open(conv_model()), pp.open(path), IMAGE).passed
    tuned = own.with_suffix(".bin").read_bytes()
    # Longer is fine, as when retuning was interrupted before the .xml was replaced.
    own.with_suffix(".bin").write_bytes(tuned + bytes(64))
    assert pp.open(own)
    assert len(tuned) >= len(before)
    for content in (
        other.with_suffix(".bin").read_bytes() + bytes(256),
        tuned[:-1],
        tuned[:-1] + bytes([tuned[-1] ^ 1]),
    ):
        own.with_suffix(".bin").write_bytes(content)
        for verb in (pp.open, pp.load, lambda path: pp.retune(path, image_sensitivity=0.7)):
            with pytest.raises(
                TargetError, match=r"own.bin' .* is not the one that '.*own.xml' was saved with, expected"
            ):
                verb(own)
    # Another program that saves an IR again copies the record, which then says nothing.
    own.with_suffix(".bin").write_bytes(tuned)
    openvino = pytest.importorskip("openvino")
    openvino.save_model(openvino.Core().read_model(own), str(tmp_path / "again.xml"), compress_to_fp16=False)
    assert pp.open(tmp_path / "again.xml")
    own.with_suffix(".bin").write_bytes(other.with_suffix(".bin").read_bytes() + bytes(256))
    assert run(["inspect", str(own)]) == 2
    assert "Copy both files of one conversion" in capfd.readouterr().err
