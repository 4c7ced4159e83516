"""Limits of detectors and classifiers that change while a model runs decide as a model fused anew does, to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

import pp_graph as pp
from pp_graph.errors import PostProcessorError
from tests.models import identity_model, run
from tests.postprocessors.test_inner_scores import fed, joined

DETECTION = ("boxes", "scores", "classes", "count", "candidates")
CHANGES: tuple[dict[str, Any], ...] = (
    {"confidence": 0.15},
    {"confidence": 0.8, "iou": 0.9},
    {"iou": 0.05},
    {"confidence": 1.0},
)


@pytest.mark.sample(every=5)
@pytest.mark.parametrize("options", [{}, {"confidence": (0.3, 0.4, 0.5)}, {"loop_free": True}, {"candidates": 400}])
@pytest.mark.parametrize("blocks", [False, True])
def test_detectors(options: dict[str, Any], blocks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if blocks:  # as with more candidates than 320
        monkeypatch.setattr("pp_graph.steps.overlaps._FEW", 16)
        monkeypatch.setattr("pp_graph.steps.overlaps._BLOCK", 16)
    raw, feeds = joined(), fed()
    settings = {"max_detections": 40, **options}
    fused = pp.fuse(raw, pp.DetectionPostProcessor(thresholds="runtime", **settings))
    assert fused.provenance.adjustable == ["confidence_cutoff", "iou_threshold"]
    model = pp.convert(fused)
    model.save(tmp_path / "model.xml")
    runner = pp.load(tmp_path / "model.xml")
    session = ort.InferenceSession(fused.to_proto().SerializeToString(), providers=["CPUExecutionProvider"])
    each = {"confidence": (0.9, 0.1, 0.5)} if "confidence" in options else {"confidence": 0.6}
    for change in (*CHANGES, each):
        expected = run(pp.fuse(raw, pp.DetectionPostProcessor(**{**settings, **change})), feeds)
        cutoffs = pp.cutoffs_for(fused.provenance, **change)
        found = dict(zip(DETECTION, session.run(DETECTION, {**feeds, **cutoffs}), strict=True))
        runner.set_thresholds(**change)
        again = runner(feeds)
        for name in DETECTION:
            # The probabilities of chosen candidates are those of each runtime.
            assert np.array_equal(found[name], expected[name]), (change, name)
            assert np.allclose(again[name], expected[name], rtol=0, atol=1e-6), (change, name)
    for precision in ("f32", "bf16"):
        report = pp.verify(raw, model, feeds, inference_precision=precision)
        assert report.postprocessing_exact, report.failures
    assert pp.strip(fused).to_proto() == raw


def test_one_limit_for_all_classes_stays_one() -> None:
    fused = pp.fuse(joined(), pp.DetectionPostProcessor(thresholds="runtime"))
    with pytest.raises(PostProcessorError, match="3 limits are given for 'confidence_cutoff', and the model has one"):
        pp.cutoffs_for(fused.provenance, confidence=(0.1, 0.2, 0.3))


def test_classifiers_with_several_labels(tmp_path: Path) -> None:
    raw = identity_model({"logits": ["N", 3]})
    x = np.random.default_rng(0).normal(0, 2, (50, 3)).astype(np.float32)
    x[0, 0] = np.nan
    post = pp.ClassificationPostProcessor(multi_label=0.5, unknown_below=0.4, thresholds="runtime")
    fused = pp.fuse(raw, post)
    assert sorted(fused.provenance.adjustable) == ["known_cutoff", "pred_label_cutoff"]
    pp.convert(fused).save(tmp_path / "model.xml")
    runner = pp.load(tmp_path / "model.xml")
    session = ort.InferenceSession(fused.to_proto().SerializeToString(), providers=["CPUExecutionProvider"])
    with pytest.raises(PostProcessorError, match="'pred_label_cutoff' is compared with probabilities instead of raw_l"):
        pp.cutoffs_for(fused.provenance, multi_label=(1.0, 0.0, 0.5))
    for limits in (0.2, (0.1, 0.5, 0.9), (0.99, 0.0, 0.5)):
        expected = run(pp.fuse(raw, pp.ClassificationPostProcessor(multi_label=limits)), {"logits_in": x})
        cutoffs = pp.cutoffs_for(fused.provenance, multi_label=limits)
        (found,) = session.run(["pred_label"], {"logits_in": x, **cutoffs})
        runner.set_thresholds(multi_label=limits)
        assert np.array_equal(found, expected["pred_label"])
        assert np.array_equal(runner({"logits_in": x})["pred_label"], expected["pred_label"])
    assert pp.verify(raw, pp.convert(fused), {"logits_in": x}).postprocessing_exact
