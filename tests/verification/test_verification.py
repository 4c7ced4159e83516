"""Verification must see what is wrong, say whose fault it is, and not cry wolf."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

import pp_graph as pp
from pp_graph.errors import DataError, ModelError, ProvenanceError, TargetError
from pp_graph.fusion import METADATA_KEY
from tests.conftest import DEMO
from tests.models import STATS, conv_model, from_text, identity_model

POST = pp.OneClassPostProcessor(STATS)
RNG = np.random.default_rng(0)
FEEDS = {
    "s_in": RNG.normal(1.2, 0.5, (21, 1)).astype(np.float32),
    "m_in": RNG.normal(0.7, 0.5, (21, 1, 6, 5)).astype(np.float32),
}


def model(batch: int | str = "N") -> onnx.ModelProto:
    return identity_model({"s": [batch, 1], "m": [batch, 1, "H", "W"]})


def tampered(change: str) -> onnx.ModelProto:
    """A fused model whose cutoff or network was changed behind its provenance."""
    proto = pp.fuse(model(), POST).to_proto()
    if change == "cutoff":
        cutoff = next(each for each in proto.graph.initializer if each.name == "pp_graph/pred_mask/cutoff")
        cutoff.CopyFrom(onnx.numpy_helper.from_array(np.array(0.9, np.float32), cutoff.name))
    else:
        shift = onnx.numpy_helper.from_array(np.array(0.01, np.float32), "shift")
        proto.graph.initializer.append(shift)
        for node in proto.graph.node:
            if node.output[0] == "m":
                node.op_type = "Add"
                node.input.append("shift")
    return proto


def save(proto: onnx.ModelProto, path: Path) -> Path:
    onnx.save(proto, path)
    return path


@pytest.mark.parametrize("openvino", [False, True], ids=["onnx", "ir"])
def test_faithful_artifacts_pass(openvino: bool) -> None:
    fused = pp.fuse(model(), POST)
    report = pp.verify(pp.RawModel.open(model()), pp.convert(fused) if openvino else fused, FEEDS)
    assert report.passed
    assert report.images == 21
    assert (report.postprocessing_flips, report.drift_flips) == (0, 0)
    label, mask = report.decisions
    assert (label.name, label.total, mask.name, mask.total) == ("pred_label", 21, "pred_mask", 630)
    assert 0 < label.positive < 21
    assert 0 < mask.positive < 630
    assert report.raw_matches
    assert bool(report.island) == openvino


@pytest.mark.parametrize("openvino", [False, True], ids=["onnx", "ir"])
def test_a_wrong_cutoff_is_the_post_processings_fault(tmp_path: Path, openvino: bool) -> None:
    fused = pp.FusedModel.load(save(tampered("cutoff"), tmp_path / "fused.onnx"))
    report = pp.verify(pp.RawModel.open(model()), pp.convert(fused) if openvino else fused, FEEDS)
    expected = ((FEEDS["m_in"] > 0.75) & (FEEDS["m_in"] < 0.9)).sum()
    assert report.postprocessing_flips == expected > 0
    assert report.drift_flips == 0
    assert not report.passed
    flips = report.decisions[1].postprocessing
    values = FEEDS["m_in"].reshape(21, -1)[flips.image, flips.pixel]
    assert np.array_equal(values, flips.raw_value)
    np.testing.assert_allclose(flips.margin, np.abs(values - np.float64(report.decisions[1].cutoff)) / 3.0)


@pytest.mark.parametrize("openvino", [False, True], ids=["onnx", "ir"])
def test_a_network_that_computes_otherwise_is_drift(tmp_path: Path, openvino: bool) -> None:
    fused = pp.FusedModel.load(save(tampered("network"), tmp_path / "fused.onnx"))
    artifact = pp.convert(fused) if openvino else fused
    raw = pp.RawModel.open(model())
    report = pp.verify(raw, artifact, FEEDS)
    drifted = (FEEDS["m_in"] + np.float32(0.01) > 0.75) != (FEEDS["m_in"] > 0.75)
    assert report.drift_flips == drifted.sum() > 0
    assert report.postprocessing_flips == 0
    assert report.postprocessing_exact
    assert not report.passed, "more than 0.1 % of the pixels flip"
    assert report.decisions[1].drift.margin.max() < 0.01
    assert {error.name: error.max_abs for error in report.errors}["raw_map"] == pytest.approx(0.01, abs=1e-6)
    (labels, pixels) = report.drift
    assert (labels.kind, labels.flips, pixels.kind, pixels.flips) == ("labels", 0, "pixels", report.drift_flips)
    assert "exact, but the network in the artifact computes different raw values" in report.verdict
    assert "--inference-precision f32" in report.verdict
    assert "calibrate on this artifact" in report.verdict
    share = f"{100 * report.drift_flips / 630:.4f}"
    for limit in (report.drift_flips, str(report.drift_flips), f"{float(share) + 0.001}%", None):
        tolerant = pp.verify(raw, artifact, FEEDS, max_pixel_flips=limit)
        assert tolerant.passed
        assert "within the limit" in tolerant.verdict
    for limit in (report.drift_flips - 1, f"{float(share) - 0.001}%", "0%"):
        assert not pp.verify(raw, artifact, FEEDS, max_pixel_flips=limit).passed
    read = report.to_dict()
    assert read["postprocessing_exact"] is True
    assert read["drift"]["pixels"]["within_limit"] is False
    assert read["drift"]["labels"]["limit"] == "0"


def test_drift_without_flips_is_named() -> None:
    """Decisions about other images may flip."""
    proto = tampered("network")
    next(each for each in proto.graph.initializer if each.name == "shift").CopyFrom(
        onnx.numpy_helper.from_array(np.array(0.04, np.float32), "shift")
    )
    feeds = {"s_in": FEEDS["s_in"], "m_in": np.full((21, 1, 6, 5), 2.0, np.float32)}
    report = pp.verify(pp.RawModel.open(model()), pp.FusedModel.load(proto), feeds)
    assert report.passed
    assert report.drift_flips == 0
    drift = "Drift of 'raw_map' is up to 0.04, 1.3 % of the calibrated range. Decisions about other images may flip"
    assert any(drift in warning for warning in report.warnings), report.warnings
    calm = pp.verify(pp.RawModel.open(model()), pp.fuse(model(), POST), FEEDS)
    assert not any("Drift" in warning for warning in calm.warnings)


@pytest.mark.parametrize("limit", [-1, "x", "101%", "-1%", 1.5, "nan", "inf%"])
def test_limits_that_are_not_limits(limit: object) -> None:
    with pytest.raises(DataError, match="max_label_flips is .*, expected a number of decisions such as 5, or a share"):
        pp.verify(pp.RawModel.open(model()), pp.fuse(model(), POST), FEEDS, max_label_flips=limit)


def test_results_that_are_all_alike_are_named() -> None:
    raw = pp.RawModel.open(model())
    for value, label, end in (
        (9.0, "All 21 decisions of 'pred_label' are anomalous", "above"),
        (-9.0, "None of 21", "below"),
    ):
        feeds = {"s_in": np.full((21, 1), value, np.float32), "m_in": FEEDS["m_in"]}
        report = pp.verify(raw, pp.fuse(model(), POST), feeds)
        assert report.passed
        assert any(warning.startswith(label) for warning in report.warnings)
        saturated = f"All 21 numbers of 'pred_score' are 0 or 1: the raw scores lie {end} the calibrated range."
        assert any(saturated in warning for warning in report.warnings)
        few = {name: array[:9] for name, array in feeds.items()}
        assert not pp.verify(raw, pp.fuse(model(), POST), few).warnings
    outside = msgspec.structs.replace(STATS, image=msgspec.structs.replace(STATS.image, threshold=30.0))
    report = pp.verify(raw, pp.fuse(model(), pp.OneClassPostProcessor(outside)), FEEDS)
    assert any("The image threshold 30 lies outside the calibrated range" in warning for warning in report.warnings)


def test_drift_of_a_precision(demo_ir_path: Path, demo_images: np.ndarray) -> None:
    report = pp.verify(DEMO / "raw.onnx", demo_ir_path, demo_images, inference_precision="bf16")
    assert report.postprocessing_flips == 0
    if "bf16" not in report.artifact or "not to be had" in report.artifact:
        pytest.skip("this CPU does not run bf16")
    assert report.drift_flips > 0
    assert report.decisions[1].flips == report.drift_flips
    assert report.decisions[1].drift.summary()["margin_max"] < 0.05


@pytest.mark.parametrize("batch", [1, 4])
def test_fixed_batches(batch: int) -> None:
    fused = pp.fuse(model(batch), POST)
    report = pp.verify(pp.RawModel.open(model(batch)), fused, FEEDS)
    assert report.passed
    assert report.decisions[1].total == 630
    shapes = {"s_in": [2, 1], "m_in": [2, 1, 6, 5]}
    artifact = pp.convert(pp.fuse(model(), POST), input_shape=shapes)
    assert pp.verify(pp.RawModel.open(model()), artifact, FEEDS, batch_size=5).passed


def test_score_from_the_map() -> None:
    raw = identity_model({"m": ["N", "H", "W"]})
    feeds = {"m_in": FEEDS["m_in"][:, 0].copy()}
    feeds["m_in"][4, 2, 2] = np.nan
    report = pp.verify(pp.RawModel.open(raw), pp.convert(pp.fuse(raw, POST)), feeds)
    assert report.passed
    assert report.drift_flips == 0
    assert [error.name for error in report.errors] == ["raw_map", "pred_score", "anomaly_map"]


def test_another_raw_model_is_noticed(tmp_path: Path) -> None:
    raw, other = save(conv_model(), tmp_path / "a.onnx"), save(conv_model(seed=1), tmp_path / "b.onnx")
    image = RNG.normal(0, 1, (4, 3, 8, 8)).astype(np.float32)
    artifact = pp.convert(pp.fuse(raw, POST))
    assert pp.verify(raw, artifact, image).raw_matches
    with pytest.raises(
        ModelError, match=r"b.onnx' .sha256 \w{12}. is not the one .*'a.onnx'., expected sha256 .*--other-raw"
    ):
        pp.verify(other, artifact, image)
    with pytest.raises(ModelError, match="is a fused model, expected the raw export"):
        pp.verify(pp.fuse(raw, POST).save(tmp_path / "fused.onnx"), artifact, image)
    report = pp.verify(other, artifact, image, other_raw=True)
    assert not report.raw_matches
    assert report.drift_flips > 0
    with pytest.raises(ModelError, match="The raw model has no output 'pred_score', which the artifact was made from"):
        pp.verify(pp.RawModel.open(model()), artifact, image, other_raw=True)


def test_report_is_json(tmp_path: Path) -> None:
    fused = pp.FusedModel.load(save(tampered("cutoff"), tmp_path / "fused.onnx"))
    feeds = {**FEEDS, "s_in": np.where(FEEDS["s_in"] > 1.5, np.nan, FEEDS["s_in"])}
    report = pp.verify(pp.RawModel.open(model()), fused, feeds)
    read = msgspec.json.decode(msgspec.json.encode(report.to_dict()))
    assert read["passed"] is False
    assert read["decisions"][1]["postprocessing"]["count"] == report.postprocessing_flips
    listed = read["decisions"][1]["postprocessing"]["flips"]
    assert len(listed) == report.postprocessing_flips
    assert [each["margin"] for each in listed] == sorted((each["margin"] for each in listed), reverse=True)


def test_progress() -> None:
    done: list[int] = []
    pp.verify(pp.RawModel.open(model()), pp.fuse(model(), POST), FEEDS, batch_size=8, progress=done.append)
    assert done == [8, 8, 5]


def test_errors(tmp_path: Path, demo_fused_path: Path) -> None:
    fused = pp.fuse(model(), POST)
    raw = pp.RawModel.open(model())
    with pytest.raises(TargetError, match="An ONNX file was given with device CPU and precision bf16, expected"):
        pp.verify(raw, fused, FEEDS, inference_precision="bf16")
    with pytest.raises(DataError, match="Batch size is 0"):
        pp.verify(raw, fused, FEEDS, batch_size=0)
    with pytest.raises(ProvenanceError, match="has no post-processing by pp_graph"):
        pp.verify(raw, save(model(), tmp_path / "raw.onnx"), FEEDS)
    with pytest.raises(DataError, match="expected images of one size for both"):
        pp.verify(
            DEMO / "raw.onnx",
            pp.convert(pp.fuse(conv_model(), POST), input_shape=[1, 3, 32, 32]),
            FEEDS["m_in"],
            other_raw=True,
        )
    broken = onnx.load(demo_fused_path)
    del broken.graph.output[3]
    with pytest.raises(ProvenanceError, match="was changed after it was fused: its output 'pred_mask' is missing"):
        pp.verify(DEMO / "raw.onnx", save(broken, tmp_path / "broken.onnx"), DEMO / "images")
    edited = pp.fuse(model(), POST).to_proto()
    entry = next(each for each in edited.metadata_props if each.key == METADATA_KEY)
    entry.value = entry.value.replace('"pixel_sensitivity":0.5', '"pixel_sensitivity":0.6')
    with pytest.raises(
        ProvenanceError, match="Provenance has the cutoffs .*, expected .* from its statistics and parameters"
    ):
        pp.verify(raw, save(edited, tmp_path / "edited.onnx"), FEEDS)
    unknown = pp.fuse(model(), POST).to_proto()
    entry = next(each for each in unknown.metadata_props if each.key == METADATA_KEY)
    entry.value = entry.value.replace("OneClassPostProcessor", "Other")
    with pytest.raises(
        ProvenanceError,
        match="Post-processor 'Other' is not known, expected one of: ClassificationPostProcessor, Detection",
    ):
        pp.verify(raw, save(unknown, tmp_path / "unknown.onnx"), FEEDS)


def edit(fused: pp.FusedModel, name: str, value: float, path: Path) -> Path:
    """Change one constant of a fused model behind its provenance."""
    proto = fused.to_proto()
    constant = next(each for each in proto.graph.initializer if each.name == name)
    constant.CopyFrom(onnx.numpy_helper.from_array(np.array(value, np.float32), name))
    return save(proto, path)


@pytest.mark.parametrize("openvino", [False, True], ids=["onnx", "ir"])
@pytest.mark.parametrize(
    ("constant", "value", "reason"),
    [
        ("pred_mask/cutoff", 0.7500005, "the post-processing alone flips"),
        ("pred_label/cutoff", 1.3, "the post-processing alone flips"),
        ("anomaly_map/range", 2.9, "the post-processing alone is off by"),
        ("pred_score/threshold", 1.24, "the post-processing alone is off by"),
        ("anomaly_map/half", 0.4, "the post-processing alone is off by"),
    ],
)
def test_images_that_show_nothing_do_not_hide_a_wrong_constant(
    tmp_path: Path, openvino: bool, constant: str, value: float, reason: str
) -> None:
    """All raw values lie far from the cutoffs and saturate, so nothing is off on them."""
    path = edit(pp.fuse(model(), POST), f"pp_graph/{constant}", value, tmp_path / "fused.onnx")
    fused = pp.FusedModel.load(path)
    far = {"s_in": np.full((3, 1), 100, np.float32), "m_in": np.full((3, 1, 2, 2), -100, np.float32)}
    report = pp.verify(pp.RawModel.open(model()), pp.convert(fused) if openvino else fused, far)
    assert (report.postprocessing_flips, report.drift_flips, report.postprocessing_error) == (0, 0, 0.0)
    assert not report.passed
    assert any(reason in failure for failure in report.failures), report.failures


def test_boundary_of_a_faithful_model() -> None:
    for raw in (model(), identity_model({"m": ["N", "H", "W"]}), identity_model({"s": ["N"]})):
        for settings in (
            {},
            {"normalize": False},
            {"on_nan": "normal", "image_sensitivity": 0.2},
            {"threshold": False},
        ):
            fused = pp.fuse(raw, pp.OneClassPostProcessor(STATS, **settings))
            names = [each.name for each in pp.RawModel.open(raw).inputs]
            feeds = {name: FEEDS["s_in"][:, 0] if name == "s_in" and len(names) == 1 else FEEDS[name] for name in names}
            if raw.graph.output[0].name == "m":
                feeds = {"m_in": FEEDS["m_in"][:, 0]}
            for artifact in (fused, pp.convert(fused)):
                report = pp.verify(pp.RawModel.open(raw), artifact, feeds)
                assert report.passed, report.failures
                assert report.boundary.values > 500
                assert report.boundary.flips == 0


@pytest.mark.parametrize("openvino", [False, True], ids=["onnx", "ir"])
def test_outputs_that_are_passed_through_are_compared(openvino: bool) -> None:
    raw = conv_model()
    raw.graph.node.add(op_type="Neg", input=["h2"], output=["features"])
    raw.graph.output.append(onnx.helper.make_tensor_value_info("features", onnx.TensorProto.FLOAT, ["N", 8, "H", "W"]))
    fused = pp.fuse(raw, POST, keep_raw=True)
    image = RNG.normal(0, 1, (3, 3, 9, 8)).astype(np.float32)
    report = pp.verify(pp.RawModel.open(raw), pp.convert(fused) if openvino else fused, image)
    counts = {error.name: error.count for error in report.errors}
    assert counts["features"] == 3 * 8 * 9 * 8
    assert counts["raw_anomaly_map"] == counts["anomaly_map"] == 3 * 9 * 8
    assert max(error.max_abs for error in report.errors) < 1e-4


def test_a_score_that_is_a_weight() -> None:
    raw = from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[1,1,4,4] x) => (float[1] s, float[1,1,4,4] m) <float[1] s = {1.5}> { m = Relu(x) }"""
    )
    fused = pp.fuse(raw, POST)
    for artifact in (fused, pp.convert(fused)):
        assert pp.verify(pp.RawModel.open(raw), artifact, {"x": FEEDS["m_in"][:, :, :4, :4]}).passed


def test_outputs_of_another_form(tmp_path: Path) -> None:
    proto = pp.fuse(model(), POST).to_proto()
    for node in proto.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == "pred_score":
                    names[index] = "inner"
    proto.graph.node.add(
        op_type="Flatten", input=["inner"], output=["flat"], attribute=[onnx.helper.make_attribute("axis", 0)]
    )
    proto.graph.node.add(op_type="Identity", input=["flat"], output=["pred_score"])
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    path = save(proto, tmp_path / "fused.onnx")
    with pytest.raises(
        TargetError, match=r"Output 'pred_score' .* of shape \(1, \d+\), expected float32 of shape \(\d+, 1\)"
    ):
        pp.verify(pp.RawModel.open(model()), path, FEEDS)


def test_a_model_in_memory_is_verified_as_it_ships(
    tmp_path: Path, demo_fused_path: Path, demo_images: np.ndarray
) -> None:
    artifact = pp.convert(demo_fused_path, precision="f16")
    in_memory = pp.verify(DEMO / "raw.onnx", artifact, demo_images)
    saved = pp.verify(DEMO / "raw.onnx", artifact.save(tmp_path / "model.xml"), demo_images)
    assert in_memory.drift_flips == saved.drift_flips
    assert in_memory.errors == saved.errors
    assert max(error.max_abs for error in saved.errors) > 1e-3, "f16 weights must show"


@pytest.mark.parametrize("shape", [None, ["N", "C", "H", "W"], [None] * 4], ids=str)
def test_inputs_that_leave_everything_open(shape: list | None, tmp_path: Path) -> None:
    from PIL import Image

    raw = conv_model()
    raw.graph.input[0].CopyFrom(onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, shape))
    for index in range(3):
        Image.fromarray(RNG.integers(0, 255, (16, 20, 3), np.uint8)).save(tmp_path / f"{index}.png")
    (tmp_path / "._0.png").write_bytes(b"companion of another system")
    report = pp.verify(pp.RawModel.open(raw), pp.fuse(raw, POST), tmp_path)
    assert report.passed
    assert report.decisions[1].total == 3 * 16 * 20
