"""Cutoffs that can be changed while a model runs decide as a model fused anew does, to the bit, in both runtimes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import openvino as ov
import pytest

import pp_graph as pp
from pp_graph.data import open_images
from pp_graph.errors import FusionError, PostProcessorError, ProvenanceError, TargetError
from tests.models import conv_model, score_and_map

DEMO = Path(pp.__file__).parent / "demo/data"
STATS = pp.Statistics.load(DEMO / "stats.json")
SENSITIVITIES = (0.0, 0.2, 0.731, 1.0)
OTHER = pp.Statistics(
    image=pp.LevelStatistics(threshold=14.0, min=8.0, max=30.0), pixel=pp.LevelStatistics(threshold=11.0, min=3, max=28)
)


def images() -> np.ndarray:
    return open_images(DEMO / "images").read(0, 8, pp.RawModel.open(DEMO / "raw.onnx").inputs)["image"]


@pytest.fixture(scope="module")
def adjustable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adjustable")
    fused = pp.fuse(DEMO / "raw.onnx", pp.OneClassPostProcessor(STATS, thresholds="runtime"))
    fused.save(folder / "fused.onnx")
    pp.convert(fused, precision="f16").save(folder / "model.xml")
    return folder


def fixed(statistics: pp.Statistics, image: float, pixel: float) -> pp.FusedModel:
    post = pp.OneClassPostProcessor(statistics, image_sensitivity=image, pixel_sensitivity=pixel)
    return pp.fuse(DEMO / "raw.onnx", post)


@pytest.mark.sample(every=3)
@pytest.mark.parametrize("statistics", [None, OTHER], ids=["same statistics", "other statistics"])
def test_onnxruntime(adjustable: Path, statistics: pp.Statistics | None) -> None:
    fused = pp.FusedModel.load(adjustable / "fused.onnx")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(adjustable / "fused.onnx", options)
    assert [each.name for each in session.get_inputs()] == ["image"], "nobody has to feed a cutoff"
    assert {each.name for each in session.get_overridable_initializers()} == {"pred_label_cutoff", "pred_mask_cutoff"}
    x = images()
    seen = set()
    for sensitivity in SENSITIVITIES:
        cutoffs = pp.cutoffs_for(
            fused.provenance, image_sensitivity=sensitivity, pixel_sensitivity=1 - sensitivity, statistics=statistics
        )
        label, mask = session.run(["pred_label", "pred_mask"], {"image": x, **cutoffs})
        anew = fixed(statistics or STATS, sensitivity, 1 - sensitivity).to_proto().SerializeToString()
        expected = ort.InferenceSession(anew, options).run(["pred_label", "pred_mask"], {"image": x})
        assert np.array_equal(label, expected[0])
        assert np.array_equal(mask, expected[1])
        seen.add(int(mask.sum()))
    assert len(seen) > 3, "the cutoffs do change decisions"


def requests(path: Path, precision: str) -> ov.InferRequest:
    return ov.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": precision}).create_infer_request()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_openvino_states(adjustable: Path, tmp_path: Path, precision: str) -> None:
    artifact = pp.OpenVINOModel.load(adjustable / "model.xml")
    request = requests(adjustable / "model.xml", precision)
    states = {state.name: state for state in request.query_state()}
    assert set(states) == {"pred_label_cutoff", "pred_mask_cutoff"}
    x = images()

    def decide() -> tuple[np.ndarray, np.ndarray]:
        request.infer({"image": x})
        return request.get_tensor("pred_label").data.copy(), request.get_tensor("pred_mask").data.copy()

    first = None
    # The first round changes a state before anything was run.
    for sensitivity in SENSITIVITIES:
        cutoffs = pp.cutoffs_for(
            artifact.provenance, image_sensitivity=sensitivity, pixel_sensitivity=1 - sensitivity, statistics=OTHER
        )
        for name, value in cutoffs.items():
            states[name].state = ov.Tensor(value)
        label, mask = decide()
        path = tmp_path / f"{sensitivity}.xml"
        pp.convert(fixed(OTHER, sensitivity, 1 - sensitivity), precision="f16").save(path)
        anew = requests(path, precision)
        anew.infer({"image": x})
        assert np.array_equal(label, anew.get_tensor("pred_label").data)
        assert np.array_equal(mask, anew.get_tensor("pred_mask").data)
        # Another request of the same model keeps its own cutoffs, and a later run those of an earlier one.
        again = decide()
        assert np.array_equal(mask, again[1])
        first = mask if first is None else first
    assert not np.array_equal(first, mask)
    for state in states.values():
        state.reset()
    label, mask = decide()
    path = tmp_path / "default.xml"
    pp.convert(fixed(STATS, 0.5, 0.5), precision="f16").save(path)
    anew = requests(path, precision)
    anew.infer({"image": x})
    assert np.array_equal(label, anew.get_tensor("pred_label").data)
    assert np.array_equal(mask, anew.get_tensor("pred_mask").data)


@pytest.mark.sample(every=2)
@pytest.mark.parametrize("file", ["model.xml", "fused.onnx"])
def test_runner(adjustable: Path, file: str) -> None:
    runner, x = pp.load(adjustable / file), images()
    own = runner(x)
    for sensitivity in SENSITIVITIES:
        runner.set_thresholds(image_sensitivity=sensitivity, pixel_sensitivity=1 - sensitivity)
        precision = "f32" if file == "fused.onnx" else "f16"
        anew = pp.load(pp.convert(fixed(STATS, sensitivity, 1 - sensitivity), precision=precision))(x)
        for found in (runner(x), *runner.stream([x, x, x])):
            assert np.array_equal(found.pred_label, anew.pred_label)
            assert np.array_equal(found.pred_mask, anew.pred_mask)
    assert not np.array_equal(found.pred_mask, own.pred_mask)
    runner.set_thresholds()
    assert np.array_equal(runner(x).pred_mask, own.pred_mask)
    with pytest.raises(TargetError, match=r"Device 'BATCH:CPU\(2\)' ignores states"):
        pp.load(adjustable / file, device="BATCH:CPU(2)").set_thresholds(image_sensitivity=0.3)
    with pytest.raises(ProvenanceError, match="cutoffs are constants"):
        pp.load(fixed(STATS, 0.5, 0.5)).set_thresholds(image_sensitivity=0.3)


@pytest.mark.sample(every=3)
@pytest.mark.parametrize("on_nan", ["anomalous", "normal"])
@pytest.mark.parametrize("opset", [9, 11, 13, 18])
def test_numbers_that_are_not_finite(opset: int, on_nan: str, tmp_path: Path) -> None:
    model = score_and_map(opset=opset)
    post = pp.OneClassPostProcessor(STATS, on_nan=on_nan, thresholds="runtime")  # type: ignore[arg-type]
    fused = pp.fuse(model, post)
    pp.convert(fused).save(tmp_path / "model.xml")
    special = np.array([np.nan, np.inf, -np.inf, 0.0, 11.0, 14.0, 30.0], np.float32)
    heat = np.stack([np.roll(np.resize(special, (1, 4, 4)), shift) for shift in range(7)])
    for artifact in (tmp_path / "model.xml", fused.save(tmp_path / "fused.onnx")):
        report = pp.verify(pp.RawModel.open(model), artifact, {"image": heat, "level": special[:, None]})
        assert report.boundary.flips == 0
        assert report.postprocessing_flips == report.drift_flips == 0
        assert report.passed


@pytest.mark.sample(every=2)
@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_retuned_defaults(adjustable: Path, tmp_path: Path, suffix: str) -> None:
    source = adjustable / ("fused.onnx" if suffix == ".onnx" else "model.xml")
    tuned = pp.retune(pp.open(source), OTHER, pixel_sensitivity=0.7)
    path = tuned.save(tmp_path / f"tuned{suffix}")
    assert tuned.provenance.adjustable == ["pred_label_cutoff", "pred_mask_cutoff"]
    report = pp.verify(DEMO / "raw.onnx", path, DEMO / "images")
    assert report.postprocessing_exact
    assert report.postprocessing_flips == report.boundary.flips == 0
    assert report.provenance.cutoffs == fixed(OTHER, 0.5, 0.7).provenance.cutoffs


def test_strip_takes_the_inputs_out_again(adjustable: Path, tmp_path: Path) -> None:
    pp.strip(adjustable / "fused.onnx").save(tmp_path / "raw.onnx")
    assert (tmp_path / "raw.onnx").read_bytes() == (DEMO / "raw.onnx").read_bytes()


def test_only_decisions_that_come_out_are_adjustable() -> None:
    post = pp.OneClassPostProcessor(STATS, outputs=("pred_label",), thresholds="runtime")
    fused = pp.fuse(DEMO / "raw.onnx", post)
    assert fused.provenance.adjustable == ["pred_label_cutoff"]
    assert set(pp.cutoffs_for(fused.provenance)) == {"pred_label_cutoff"}


def test_errors(adjustable: Path) -> None:
    provenance = pp.FusedModel.load(adjustable / "fused.onnx").provenance
    with pytest.raises(PostProcessorError, match="image_sensitivity is 2, expected a number from 0"):
        pp.cutoffs_for(provenance, image_sensitivity=2)
    with pytest.raises(
        ProvenanceError, match="cutoffs are constants, expected a model fused with thresholds='runtime'"
    ):
        pp.cutoffs_for(fixed(STATS, 0.5, 0.5).provenance)
    with pytest.raises(PostProcessorError, match="thresholds is 'sometimes', expected one of: fixed, runtime"):
        pp.OneClassPostProcessor(STATS, thresholds="sometimes")  # type: ignore[arg-type]
    with pytest.raises(PostProcessorError, match="thresholds='runtime' is given, but neither label nor mask"):
        pp.OneClassPostProcessor(STATS, outputs=("pred_score",), thresholds="runtime")
    taken = conv_model()
    taken.graph.node[0].output[0] = taken.graph.node[1].input[0] = "pred_mask_cutoff"
    with pytest.raises(FusionError, match="has a value named 'pred_mask_cutoff', which the adjustable cutoff needs"):
        pp.fuse(taken, pp.OneClassPostProcessor(STATS, thresholds="runtime"))
