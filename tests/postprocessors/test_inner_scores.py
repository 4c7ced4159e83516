"""Detectors whose scores are the result of a Sigmoid inside the model: candidates are compared and chosen by logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import pp_graph as pp
from pp_graph.postprocessors import RAW_BOXES, RAW_SCORES
from pp_graph.sessions import OnnxSession
from tests.detectors import CELLS, SIZE, detector, scene
from tests.models import run

F32 = np.float32
IMAGES = 3


def joined(*, ends_in: str = "Sigmoid", typed: bool = False) -> onnx.ModelProto:
    """Image -> `out`, (N,7,K) as of YOLOv8: boxes, and what an operator makes of logits."""
    proto = detector((4, CELLS), (3, CELLS))
    del proto.graph.output[:]
    proto.graph.node.extend([
        helper.make_node(ends_in, ["out1"], ["scores"]),
        helper.make_node("Concat", ["out0", "scores"], ["whole"], axis=1),
        helper.make_node("Identity", ["whole"], ["out"]),
    ])  # fmt: skip
    proto.graph.output.append(helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", 7, CELLS]))
    if typed:
        proto.graph.value_info.append(helper.make_tensor_value_info("out1", TensorProto.FLOAT, ["N", 3, CELLS]))
    return proto


def fed(seed: int = 0) -> dict[str, np.ndarray]:
    """Candidates with logits of which many tie, and some saturate the Sigmoid."""
    rng = np.random.default_rng(seed)
    boxes, scores = scene(rng, IMAGES, CELLS, 3)
    logits = np.log(np.maximum(scores, 1e-3) / (1 - np.minimum(scores, 0.999))).astype(F32)
    logits[rng.random(logits.shape) < 0.02] = 30
    logits[rng.random(logits.shape) < 0.02] = np.nan
    image = rng.normal(0, 1, (IMAGES, 3, SIZE, SIZE)).astype(F32)
    return {"image": image, "in0": boxes.transpose(0, 2, 1).copy(), "in1": logits.transpose(0, 2, 1).copy()}


def outputs_of(raw: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> np.ndarray:
    return OnnxSession(pp.RawModel.open(raw)).run(feeds)["out"]


@pytest.mark.sample(every=4)
@pytest.mark.parametrize("options", [{}, {"every_class": True}, {"confidence": (0.2, 0.5, 0.7)}, {"candidates": 4}])
def test_decides_on_logits_in_every_runtime(options: dict[str, Any]) -> None:
    raw, feeds = joined(), fed()
    post = pp.DetectionPostProcessor(max_detections=40, **{"confidence": 0.3, **options})
    fused = pp.fuse(raw, post)
    assert {role: each.name for role, each in fused.provenance.raw.read.items()} == {
        RAW_SCORES: "out1",
        RAW_BOXES: "out0",
    }
    found = run(fused, feeds)
    probabilities = outputs_of(raw, feeds)[:, 4:]
    passing = probabilities > np.reshape(np.array(post.confidence, F32), (-1, 1))
    best = passing.sum((1, 2)) if post.every_class else passing.any(1).sum(1)
    assert np.array_equal(found["candidates"], best)
    for precision in ("f32", "bf16"):
        report = pp.verify(raw, pp.convert(fused), feeds, inference_precision=precision)
        assert report.postprocessing_exact, report.failures
    assert pp.verify(raw, fused, feeds).passed


@pytest.mark.parametrize("typed", [False, True])
def test_the_raw_model_and_its_output_stay(typed: bool) -> None:
    raw, feeds = joined(typed=typed), fed()
    fused = pp.fuse(raw, pp.DetectionPostProcessor())
    assert "out" not in fused.output_names
    assert pp.strip(fused).to_proto() == raw
    kept = pp.fuse(raw, pp.DetectionPostProcessor(), keep_raw=True)
    assert kept.output_names[-1] == "out"
    assert np.array_equal(run(kept, feeds)["out"], outputs_of(raw, feeds), equal_nan=True)
    assert pp.strip(kept).to_proto() == raw
    # One confidence for each class instead of one: other operators.
    tuned = pp.retune(kept, confidence=(0.1, 0.2, 0.3))
    assert tuned.output_names == kept.output_names
    assert pp.strip(tuned).to_proto() == raw
    tuned = pp.retune(fused, confidence=(0.1, 0.2, 0.3))
    assert tuned.output_names == fused.output_names
    assert pp.strip(tuned).to_proto() == raw
    assert pp.verify(raw, tuned, feeds).passed


def test_an_output_is_read_itself_where_it_does_not_follow_from_one_logit() -> None:
    assert "out" in read_by(joined(), activation="none")
    assert "out" in read_by(joined(ends_in="HardSigmoid"))
    assert "out" in read_by(joined(), class_count=2)


def read_by(raw: onnx.ModelProto, **options: Any) -> list[str]:
    fused = pp.fuse(raw, pp.DetectionPostProcessor(**options))
    assert pp.verify(raw, fused, fed()).postprocessing_exact
    return [each.name for each in fused.provenance.raw.read.values()]
