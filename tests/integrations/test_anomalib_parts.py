"""Parts of the Anomalib integration that do not need Anomalib, on the raw export and state dict of a real model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import pp_graph as pp
from pp_graph.integrations.anomalib import export, read_post_processor
from pp_graph.integrations.anomalib.comparison import ModelComparison, ModelTotals
from pp_graph.model import RawModel
from pp_graph.postprocessors import RAW_MAP, RAW_SCORE
from pp_graph.raw_values import open_raw_values
from pp_graph.sessions import OnnxSession, run_in_batches

BUFFERS = ("_image_threshold", "image_min", "image_max", "_pixel_threshold", "pixel_min", "pixel_max")


class Module(SimpleNamespace):
    """A post-processor with Anomalib's buffers and settings."""

    def state_dict(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in BUFFERS if hasattr(self, name)}


def module_of(statistics: pp.Statistics, **settings: object) -> Module:
    numbers = [
        getattr(level, end) for level in (statistics.image, statistics.pixel) for end in ("threshold", "min", "max")
    ]
    return Module(
        **dict(zip(BUFFERS, [float("nan") if each is None else each for each in numbers], strict=True)), **settings
    )


def test_needs_no_anomalib_to_import() -> None:
    code = (
        "import sys; sys.modules['anomalib'] = sys.modules['torch'] = None\n"
        "from pp_graph.integrations.anomalib import export, read_post_processor\n"
        "import pp_graph.integrations.anomalib as ours\n"
        "try: ours.nonsense\n"
        "except AttributeError as error: assert 'nonsense' in str(error)\n"
        "try: ours.OneClassPostProcessor\n"
        "except ImportError as error: assert 'pip install' in str(error), error\n"
        "else: raise AssertionError\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_checkpoint_without_anomalib_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("anomalib", "anomalib.models"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        pp.PPGraphError, match=r"opening an Anomalib checkpoint needs anomalib.*pp_graph\[anomalib\]|Opening"
    ):
        export(tmp_path / "model.ckpt", tmp_path / "model.xml")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("output", "raw_output", "message"),
    [
        ("model.bin", None, "ends in '.bin', expected '.xml'"),
        ("model.xml", "raw.xml", "expected the name of another file that ends in '.onnx'"),
        ("model.onnx", "model.onnx", "expected the name of another file"),
    ],
)
def test_outputs_are_checked_first(tmp_path: Path, output: str, raw_output: str | None, message: str) -> None:
    with pytest.raises(pp.PPGraphError, match=message):
        export(object(), tmp_path / output, raw_output=None if raw_output is None else tmp_path / raw_output)


def test_an_existing_file_is_kept(tmp_path: Path) -> None:
    (tmp_path / "model.xml").write_text("mine")
    with pytest.raises(pp.PPGraphError, match="exists already"):
        export(object(), tmp_path / "model.xml", overwrite=False)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(pp.PPGraphError, match="The model is object, expected an AnomalibModule"):
        export(object(), tmp_path / "model.xml")


def test_reads_the_buffers_of_a_real_model(brick: Path) -> None:
    torch = pytest.importorskip("torch")
    stored = torch.load(brick / "post_processor.ckpt", weights_only=True)
    state = {name.rpartition(".")[2]: value for name, value in stored.get("state_dict", stored).items()}
    wanted = pp.Statistics.load(brick / "stats.json")
    found = read_post_processor(SimpleNamespace(state_dict=lambda: state, image_sensitivity=0.7))
    assert (found.image, found.pixel) == (wanted.image, wanted.pixel)
    assert found.provenance.settings == {"image_sensitivity": 0.7}
    assert pp.Statistics.from_json(found.to_json()) == found


def test_settings_come_along() -> None:
    statistics = pp.Statistics(image=pp.LevelStatistics(threshold=1, min=0, max=2))
    found = read_post_processor(
        module_of(statistics, enable_normalization=False, enable_threshold_matching=False, pixel_sensitivity=0.9)
    )
    assert found.provenance.settings == {"normalize": False, "match_thresholds": False}
    assert any("1 - sensitivity" in note for note in found.provenance.notes)
    assert found.pixel == pp.LevelStatistics()
    found = read_post_processor(module_of(statistics, sample_rate=4, min_interval_len=4))
    assert any("MEBin" in note for note in found.provenance.notes)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (object(), "Post-processor object has no buffers '_image_threshold'"),
        (module_of(pp.Statistics()), "has no statistics yet: .* Validate the model first"),
        (Module(_image_threshold=np.zeros(3)), "Buffer '_image_threshold' .* not a tensor with one number"),
        (Module(_image_threshold=float("inf")), "'_image_threshold' is inf, expected a finite number"),
        (Module(image_min=2.0, image_max=1.0), "'max' is 1, expected at least 'min', 2"),
    ],
)
def test_impossible_statistics_are_refused(module: object, message: str) -> None:
    with pytest.raises(pp.PPGraphError, match=message):
        read_post_processor(module)


@pytest.fixture(scope="module")
def raw(brick: Path) -> dict[str, np.ndarray]:
    """Outputs of the raw model and of Anomalib for eight normal and eight anomalous images."""
    at = np.r_[0:8, 72:80]
    images = np.load(brick / "images.npz")["image"][at].astype(np.float32) / 255
    reference = np.load(brick / "ref.npz")
    found = run_in_batches(OnnxSession(RawModel.open(brick / "raw.onnx")), {"input": images})
    masks = np.unpackbits(reference["pred_mask"]).reshape(80, 1, 256, 256).astype(bool)[at]
    return {
        "images": images,
        "raw": found,
        "model_outputs": {
            "pred_label": reference["pred_label"][at].ravel(),
            "pred_mask": masks[:, 0],
            "pred_score": reference["pred_score"][at],
        },
    }


@pytest.fixture(scope="module")
def fused(brick: Path) -> pp.FusedModel:
    return pp.fuse(brick / "raw.onnx", pp.OneClassPostProcessor(pp.Statistics.load(brick / "stats.json")))


def compare(raw: dict, fused: pp.FusedModel, **changes: object) -> ModelComparison:
    feeds = {"input": raw["images"]}
    values = {
        "model_outputs": raw["model_outputs"],
        "model_raw": raw["raw"],
        "export_raw": raw["raw"],
        "artifact_outputs": run_in_batches(OnnxSession(fused.network), feeds),
        "artifact_raw": open_raw_values(fused).run(feeds),
    }
    values |= changes
    totals = ModelTotals(fused)
    for part in (slice(0, 5), slice(5, 16)):
        totals.add(**{name: {key: array[part] for key, array in value.items()} for name, value in values.items()})
    return totals.report()


def test_decisions_are_those_of_anomalib(raw: dict, fused: pp.FusedModel) -> None:
    found = compare(raw, fused)
    assert found.images == 16
    assert found.rule_flips == 0
    assert found.incomparable == ("anomaly_map",)
    label, mask = found.decisions
    assert (label.name, label.total, label.flips, len(label.drift)) == ("pred_label", 16, 0, 0)
    assert label.positive == raw["model_outputs"]["pred_label"].sum() > 0
    assert mask.total == 16 * 256 * 256
    assert mask.flips == len(mask.drift) <= 2
    assert {error.name for error in found.errors} == {RAW_SCORE, RAW_MAP, "pred_score"}
    assert max(error.max_scaled for error in found.errors) < 1e-5
    assert found.export_error == 0
    assert found.to_dict()["decisions"][0]["rules"] == {
        "count": 0, "margin_min": None, "margin_median": None, "margin_max": None,
    }  # fmt: skip


def test_other_rules_are_told_from_drift(raw: dict, fused: pp.FusedModel) -> None:
    label = raw["model_outputs"]["pred_label"].copy()
    label[3] = ~label[3]
    found = compare(raw, fused, model_outputs={**raw["model_outputs"], "pred_label": label})
    assert (found.rule_flips, found.decisions[0].flips, len(found.decisions[0].drift)) == (1, 1, 0)
    assert found.decisions[0].rules.image.tolist() == [3]
    assert 0 < found.decisions[0].rules.margin[0] < 1

    # As if the network had computed other values in torch, and Anomalib had decided about those.
    shifted = {name: array.copy() for name, array in raw["raw"].items()}
    name = fused.provenance.raw.read[RAW_SCORE].name
    cutoff = pp.Statistics.load(Path(str(fused.network.source)).parent / "stats.json").image.threshold
    shifted[name][3] = 2 * cutoff - shifted[name][3]
    found = compare(raw, fused, model_outputs={**raw["model_outputs"], "pred_label": label}, model_raw=shifted)
    assert (found.rule_flips, found.decisions[0].flips, len(found.decisions[0].drift)) == (0, 1, 1)
    assert found.export_error > 1e-2


def test_a_nan_is_no_other_rule(raw: dict, fused: pp.FusedModel) -> None:
    broken = {name: array.copy() for name, array in raw["raw"].items()}
    label = raw["model_outputs"]["pred_label"]
    # Of a normal image, so that the label of the fused model is normal too.
    broken[fused.provenance.raw.read[RAW_SCORE].name][np.flatnonzero(~label)[0]] = np.nan
    found = compare(raw, fused, model_raw=broken)
    assert found.rule_flips == 0
    assert len(found.decisions[0].drift) == 1
