"""Heads told by how many candidates their cells have: key points, lists without an axis of images, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import pp_graph as pp
from pp_graph.errors import OutputRoleError, PostProcessorError
from tests.detector_scenes import COUNTS, SCENES, points_of
from tests.detectors import SIZE, detector, greedy, scene
from tests.models import run, run_openvino

F32 = np.float32
FACES = ("retinaface", "scrfd", "yunet")


def faces(head: str, images: int = 2) -> tuple[tuple[np.ndarray, ...], np.ndarray, np.ndarray, np.ndarray]:
    """Outputs of a model; corners, scores and key points of its scene."""
    boxes, scores = scene(np.random.default_rng(5), images, COUNTS[head], 3)
    return (*SCENES[head](boxes, scores, SIZE), points_of(boxes))


def feeds(arrays: tuple[np.ndarray, ...]) -> dict[str, np.ndarray]:
    image = np.random.default_rng(1).normal(0, 1, (len(arrays[0]), 3, SIZE, SIZE)).astype(F32)
    return {"image": image, **{f"in{place}": array for place, array in enumerate(arrays)}}


@pytest.mark.parametrize("head", FACES)
def test_key_points_of_the_boxes_that_plain_suppression_keeps(head: str) -> None:
    raw, boxes, scores, points = faces(head)
    proto = detector(*(array.shape[1:] for array in raw))
    fused = pp.fuse(proto, pp.DetectionPostProcessor(confidence=0.3, iou=0.4, max_detections=30))
    assert fused.provenance.parameters["head"] == head
    for execute in (run, run_openvino):
        found = execute(fused, feeds(raw))
        assert found["keypoints"].shape == (2, 30, 5, 2)
        for image in range(2):
            kept = greedy(boxes[image], scores[image], 0.3, 0.4)
            count = found["count"][image]
            assert 3 < len(kept) == count
            assert np.allclose(found["boxes"][image, :count], boxes[image, kept], atol=1e-3)
            assert np.allclose(found["keypoints"][image, :count], points[image, kept], atol=1e-3)
            assert not found["keypoints"][image, count:].any()
            assert np.allclose(found["scores"][image, :count], scores[image, kept, 0], atol=1e-6)


@pytest.mark.parametrize("head", ["scrfd", "yunet"])
def test_levels_without_key_points(head: str) -> None:
    raw, boxes, scores, _ = faces(head)
    proto = detector(*(array.shape[1:] for array in raw[:-3]))
    found = run(pp.fuse(proto, pp.DetectionPostProcessor(confidence=0.3, iou=0.4)), feeds(raw[:-3]))
    assert "keypoints" not in found
    assert found["count"][0] == len(greedy(boxes[0], scores[0], 0.3, 0.4))


def one_image(arrays: tuple[np.ndarray, ...], batch: int | str = 1) -> onnx.ModelProto:
    """Image (1,3,64,64) -> outputs of these shapes, without an axis of images, as InsightFace exports them."""
    proto = detector(*(array.shape[1:] for array in arrays), batch=batch)
    for place, output in enumerate(proto.graph.output):
        node = next(node for node in proto.graph.node if node.output[0] == output.name)
        node.output[0] = f"whole_{output.name}"
        proto.graph.node.append(helper.make_node("Squeeze", [node.output[0], "first"], [output.name]))
        sizes = arrays[place].shape[1:]
        output.CopyFrom(helper.make_tensor_value_info(output.name, onnx.TensorProto.FLOAT, sizes))
    proto.graph.initializer.append(numpy_helper.from_array(np.array([0]), "first"))
    return proto


def test_levels_without_an_axis_of_images() -> None:
    raw, boxes, scores, points = faces("scrfd", 1)
    proto = one_image(raw)
    for output in proto.graph.output[:3]:
        node = next(node for node in proto.graph.node if node.output[0] == output.name)
        node.output[0] = f"logits_{output.name}"
        proto.graph.node.append(helper.make_node("Sigmoid", [node.output[0]], [output.name]))
    logits = tuple(np.log(array / (1.0001 - array)) if place < 3 else array for place, array in enumerate(raw))
    fused = pp.fuse(proto, pp.DetectionPostProcessor(confidence=0.3, iou=0.4, max_detections=30))
    assert fused.provenance.parameters["head"] == "scrfd"
    assert fused.provenance.raw.read["raw_scores_0"].name == "logits_out0"
    kept = greedy(boxes[0], scores[0], 0.3, 0.4)
    for execute in (run, run_openvino):
        found = execute(fused, feeds(logits))
        assert found["count"][0] == len(kept) > 3
        assert np.allclose(found["boxes"][0, : len(kept)], boxes[0, kept], atol=1e-3)
        assert np.allclose(found["keypoints"][0, : len(kept)], points[0, kept], atol=1e-3)
    report = pp.verify(proto, pp.convert(fused), feeds(logits))
    assert report.postprocessing_exact, report.failures
    with pytest.raises(OutputRoleError, match=r"Input 'image' is \(N, 3, 64, 64\), and head 'scrfd' lists"):
        pp.fuse(one_image(raw, "N"), pp.DetectionPostProcessor(head="scrfd"))


def decoded(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Let the model's boxes be the sum and difference of two numbers each, as decoding ends."""
    node = next(node for node in proto.graph.node if node.output[0] == "out1")
    node.output[0] = "numbers"
    proto.graph.node.extend(
        [
            helper.make_node("Split", ["numbers"], ["low", "high"], axis=2),
            helper.make_node("Sub", ["low", "none"], ["left"]),
            helper.make_node("Add", ["high", "none"], ["right"]),
            helper.make_node("Concat", ["left", "right"], ["out1"], axis=2),
        ]
    )
    return proto


def test_ultraface_is_told_from_deltas_by_its_decoding() -> None:
    raw, _, _ = SCENES["ultraface"](*scene(np.random.default_rng(5), 2, COUNTS["ultraface"], 3), SIZE)
    shapes = [array.shape[1:] for array in raw]
    found = run(pp.fuse(decoded(detector(*shapes)), pp.DetectionPostProcessor(confidence=0.3)), feeds(raw))
    named = run(pp.fuse(detector(*shapes), pp.DetectionPostProcessor(head="ultraface", confidence=0.3)), feeds(raw))
    assert found["count"].min() > 3
    assert all(np.array_equal(array, found[name]) for name, array in named.items())
    other = pp.fuse(detector(*shapes), pp.DetectionPostProcessor())
    assert other.provenance.parameters["head"] == "ultraface-raw"


@pytest.mark.sample(every=2)
@pytest.mark.parametrize("sigmoids", [6, 5])
def test_two_factors_are_read_before_their_sigmoids_if_all_have_one(sigmoids: int) -> None:
    raw, boxes, scores, _ = faces("yunet")
    proto = detector(*(array.shape[1:] for array in raw))
    for place in range(sigmoids):
        node = next(node for node in proto.graph.node if node.output[0] == f"out{place}")
        node.output[0] = f"logits{place}"
        proto.graph.node.append(helper.make_node("Sigmoid", [node.output[0]], [f"out{place}"]))
    wide = tuple(np.log(array / (1.0001 - array)) if place < sigmoids else array for place, array in enumerate(raw))
    fused = pp.fuse(proto, pp.DetectionPostProcessor(confidence=0.31, iou=0.4))
    assert fused.provenance.parameters["activation"] == ("sigmoid" if sigmoids == 6 else "none")
    for execute in (run, run_openvino):
        found = execute(fused, feeds(wide))
        assert found["count"][0] == len(greedy(boxes[0], scores[0], 0.31, 0.4))
    report = pp.verify(proto, pp.convert(fused), feeds(wide), inference_precision="bf16")
    assert report.postprocessing_exact, report.failures


def test_confidence_of_a_root_is_a_cutoff_on_the_product() -> None:
    raw, *_ = faces("yunet")
    proto = detector(*(array.shape[1:] for array in raw))
    program = pp.fuse(proto, pp.DetectionPostProcessor(confidence=0.6)).program
    comparison = program.comparisons["passing"]
    assert comparison.source == "products"
    cutoff = comparison.cutoffs
    assert np.sqrt(cutoff) > F32(0.6) >= np.sqrt(np.nextafter(cutoff, F32(0)))


@pytest.mark.parametrize(("parts", "given"), [(35, None), (43, 3)])
def test_nanodet_with_other_numbers_of_distances(parts: int, given: Any) -> None:
    rows = np.random.default_rng(2).normal(0, 1, (2, COUNTS["nanodet-plus"], parts)).astype(F32)
    post = pp.DetectionPostProcessor(head="nanodet-plus", class_count=given, iou=1, candidates=50)
    fused = pp.fuse(detector(rows.shape[1:]), post)
    assert fused.provenance.parameters["class_count"] == 3
    found = run(fused, feeds((rows,)))
    best = rows[0, :, :3].max(1).argmax()
    logits = rows[0, best, 3:].reshape(4, -1).astype(np.float64)
    left, top, right, bottom = (np.exp(logits) * np.arange(logits.shape[1])).sum(1) / np.exp(logits).sum(1)
    # The first level has 8x8 cells, the second 4x4.
    place, side = (best, 8) if best < 64 else (best - 64, 4)
    assert best < 80
    x, y, stride = place % side * 64 // side, place // side * 64 // side, 64 // side
    box = [x - left * stride, y - top * stride, x + right * stride, y + bottom * stride]
    assert np.allclose(found["boxes"][0, 0], box, atol=1e-3)


def test_parts_that_are_no_sides() -> None:
    post = pp.DetectionPostProcessor(head="nanodet-plus", class_count=4)
    with pytest.raises(PostProcessorError, match="expected two or more logits a side"):
        pp.fuse(detector((COUNTS["nanodet-plus"], 35)), post)
