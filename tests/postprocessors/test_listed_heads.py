"""Detectors that suppress overlaps themselves: every runtime returns what plain NumPy finds in their lists."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import pp_graph as pp
from pp_graph.errors import OutputRoleError, PostProcessorError
from tests.detectors import detector
from tests.listed_detectors import OUTPUTS, listed_detector, pictures, plain
from tests.models import run, run_openvino

F32 = np.float32


def assert_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        assert np.array_equal(found[name], array), name


@pytest.mark.sample(every=4)
@pytest.mark.parametrize("head", OUTPUTS)
def test_every_runtime_returns_what_the_model_lists(head: str) -> None:
    proto, most = listed_detector(head), 6
    fused = pp.fuse(proto, pp.DetectionPostProcessor(confidence=0.3125, max_detections=most, candidates=50))
    assert fused.provenance.parameters["head"] == head
    counts = []
    for image in pictures()[:, None]:
        expected = plain(head, run(proto, {"image": image}), 0.3125, most)
        counts.append(int(expected["candidates"][0]))
        assert_equal(run(fused, {"image": image}), expected)
        there = plain(head, run_openvino(proto, {"image": image}), 0.3125, most)
        assert_equal(run_openvino(fused, {"image": image}), there)
    # No detection at all, and more than fit.
    assert counts[0] == 0
    assert max(counts) > most
    model = pp.convert(fused)
    for precision in ("f32", "bf16"):
        report = pp.verify(proto, model, {"image": pictures()}, inference_precision=precision)
        assert report.postprocessing_exact, report.failures


def test_limits_that_change_forms_and_retuning() -> None:
    proto, image = listed_detector("torchvision"), pictures()[2:]
    expected = plain("torchvision", run(proto, {"image": image}), 0.625, 6)
    post = pp.DetectionPostProcessor(confidence=0.25, max_detections=6, candidates=50, thresholds="runtime")
    fused = pp.fuse(proto, post)
    cutoffs = pp.cutoffs_for(fused.provenance, confidence=0.625)
    assert_equal(run(fused, {"image": image, **cutoffs}), expected)
    plain_post = pp.DetectionPostProcessor(confidence=0.25, max_detections=6, candidates=50)
    tuned = pp.retune(pp.fuse(proto, plain_post), confidence=0.625)
    assert_equal(run(tuned, {"image": image}), expected)
    packed = pp.DetectionPostProcessor(confidence=0.625, max_detections=6, candidates=50, pack=True)
    found = run(pp.fuse(proto, packed), {"image": image})["detections"]
    assert np.array_equal(found[..., :4], expected["boxes"])
    assert np.array_equal(found[..., 5], expected["classes"])
    named = pp.DetectionPostProcessor(confidence=0.625, max_detections=6, candidates=50, names="efficient-nms")
    again = pp.fuse(proto, named)
    # The form is read again as a head of its own.
    assert np.array_equal(run(again, {"image": image})["det_scores"], expected["scores"])
    sizes = pp.DetectionPostProcessor(confidence=0.625, max_detections=6, candidates=50, box_format="xywh")
    assert np.array_equal(run(pp.fuse(proto, sizes), {"image": image})["boxes"][..., :2], expected["boxes"][..., :2])


@pytest.mark.parametrize("labels", [("cat", "dog", "ox"), ("__background__", "cat", "dog", "ox")])
def test_names_of_classes_that_count_from_one(labels: tuple[str, ...]) -> None:
    fused = pp.fuse(listed_detector("torchvision"), pp.DetectionPostProcessor(labels=labels, candidates=50))
    names = next(output.class_names for output in fused.provenance.outputs if output.name == "classes")
    assert names[1:] == ("cat", "dog", "ox")
    same = pp.fuse(listed_detector("efficient-nms"), pp.DetectionPostProcessor(labels=labels, candidates=50))
    assert next(output.class_names for output in same.provenance.outputs if output.name == "classes") == labels


def test_names_that_are_numbers_and_other_orders() -> None:
    proto, image = listed_detector("torchvision"), pictures()[2:]
    expected = plain("torchvision", run(proto, {"image": image}), 0.25, 300)
    outputs = [proto.graph.output[place] for place in (2, 0, 1)]
    del proto.graph.output[:]
    proto.graph.output.extend(outputs)
    renamed = {"scores": "2210", "boxes": "2194", "labels": "2208"}
    for node in proto.graph.node:
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for output in proto.graph.output:
        output.name = renamed[output.name]
    fused = pp.fuse(proto, pp.DetectionPostProcessor(candidates=50))
    assert_equal(run(fused, {"image": image}), expected)
    assert_equal(run_openvino(fused, {"image": image}), expected)


@pytest.mark.filterwarnings("ignore")
def test_an_export_of_torch() -> None:
    torch = pytest.importorskip("torch")

    class Suppression(torch.autograd.Function):  # type: ignore[misc, name-defined]
        @staticmethod
        def forward(context: Any, boxes: Any, scores: Any) -> Any:
            return torch.tensor([[0, 0, 0], [0, 1, 2]])

        @staticmethod
        def symbolic(graph: Any, boxes: Any, scores: Any) -> Any:
            limits = [graph.op("Constant", value_t=torch.tensor([limit])) for limit in (40, 0.5, 0.1)]
            return graph.op("NonMaxSuppression", boxes, scores, *limits)

    class Detector(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, images: Any) -> Any:
            scores = torch.nn.functional.avg_pool2d(images, 8).flatten(2)
            places = torch.arange(64)
            corner = torch.stack([places % 8, places // 8], 1).float() * 8
            boxes = torch.cat([corner - 3.3, corner + 9.1], 1)[None] + scores.mean()
            chosen = Suppression.apply(boxes, scores)
            kinds, cells = chosen[:, 1], chosen[:, 2]
            return boxes[0][cells], kinds + 1, scores[0][kinds, cells]

    file = io.BytesIO()
    torch.onnx.export(Detector().eval(), (torch.rand(1, 3, 64, 64),), file, opset_version=17, dynamo=False)
    proto = onnx.load_from_string(file.getvalue())
    fused = pp.fuse(proto, pp.DetectionPostProcessor(confidence=0.3125, max_detections=6, candidates=50))
    name = proto.graph.input[0].name
    for image in pictures()[:, None]:
        boxes, labels, scores = run(proto, {name: image}).values()
        expected = plain("torchvision", {"boxes": boxes, "labels": labels, "scores": scores}, 0.3125, 6)
        assert_equal(run(fused, {name: image}), expected)


def test_classes_and_scores_that_only_names_tell_apart() -> None:
    proto, image = listed_detector("tensorflow"), pictures()[2:]
    expected = plain("tensorflow", run(proto, {"image": image}), 0.25, 30)
    renamed = {"detection_scores": "a", "detection_classes": "b"}
    for node in proto.graph.node:
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for output in proto.graph.output:
        output.name = renamed.get(output.name, output.name)
    with pytest.raises(OutputRoleError, match=r"fit no head(?s:.*)tensorflow: TensorFlow(?s:.*)--head NAME"):
        pp.fuse(proto, pp.DetectionPostProcessor())
    post = pp.DetectionPostProcessor(head="tensorflow", max_detections=30)
    with pytest.raises(OutputRoleError, match=r"2 outputs can be read as the scores:(?s:.*)raw_scores"):
        pp.fuse(proto, post)
    roles = {"raw_scores": "a", "raw_classes": "b"}
    assert_equal(run(pp.fuse(proto, post, roles=roles), {"image": image}), expected)


@pytest.mark.parametrize("head", ["torchvision", "yolov7-end2end"])
def test_a_list_of_one_image_needs_a_batch_of_one(head: str) -> None:
    proto = listed_detector(head)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    with pytest.raises(OutputRoleError, match=r"Input 'image' is \(batch, 3, 64, 64\), .*expected \(1,3,H,W\)"):
        pp.fuse(proto, pp.DetectionPostProcessor(head=head))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"confidence": (0.5, 0.6)}, r"There are 2 confidences, .* holds one score a box, expected one confidence"),
        ({"every_class": True}, r"every_class is True, .* holds one class a box, expected False"),
        ({"head": "detection-output"}, r"(?s)head is 'detection-output', .* and the outputs.*fit only.*torchvision"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises((PostProcessorError, OutputRoleError), match=message):
        pp.fuse(listed_detector("torchvision"), pp.DetectionPostProcessor(**options))


def test_classes_of_whole_numbers_of_either_size() -> None:
    proto, image = listed_detector("efficient-nms"), pictures()[2:]
    # YOLO-NAS lists its classes and their number as int64.
    for node in proto.graph.node:
        if node.op_type == "Cast" and node.output[0] in ("number", "whole"):
            node.attribute[0].i = onnx.TensorProto.INT64
    for output in proto.graph.output:
        if output.type.tensor_type.elem_type == onnx.TensorProto.INT32:
            output.type.tensor_type.elem_type = onnx.TensorProto.INT64
    expected = plain("efficient-nms", run(proto, {"image": image}), 0.3125, 30)
    fused = pp.fuse(proto, pp.DetectionPostProcessor(confidence=0.3125, max_detections=30))
    assert_equal(run(fused, {"image": image}), expected)
    assert_equal(run_openvino(fused, {"image": image}), expected)


def test_the_last_score_without_a_label_is_no_class_of_rfdetr() -> None:
    boxes, scores = np.full((1, 30, 4), 0.5, F32), np.zeros((1, 30, 4), F32)
    scores[0, :, 3], scores[0, 7, 1] = 3, 2
    proto = detector((30, 4), (30, 4), names=("dets", "labels"))
    feeds = {"image": np.zeros((1, 3, 64, 64), F32), "in0": boxes, "in1": scores}
    roles = {"raw_boxes": "dets", "raw_scores": "labels"}
    for labels, expected in ((("cat", "dog", "ox"), 1), (("cat", "dog", "ox", "none"), 3)):
        post = pp.DetectionPostProcessor(head="rfdetr", labels=labels, confidence=0.6, every_class=True)
        found = run(pp.fuse(proto, post, roles=roles), feeds)
        assert found["count"] == (1 if expected == 1 else 31)
        assert found["classes"][0, 0] == expected
    with pytest.raises(PostProcessorError, match=r"There are 2 labels, and output 'labels', .*, has 4 classes"):
        pp.fuse(proto, pp.DetectionPostProcessor(head="rfdetr", labels=("cat", "dog")), roles=roles)
    # COCO's ids reach from 1 to 90, and the last score is a class.
    proto = detector((30, 4), (30, 91), names=("dets", "labels"))
    with pytest.raises(PostProcessorError, match=r"There are 90 labels, .* has 91 classes"):
        pp.fuse(proto, pp.DetectionPostProcessor(labels=tuple(map(str, range(90)))))


@pytest.mark.sample(every=3)
@pytest.mark.parametrize("head", ["torchvision", "torchvision-keypoints", "yolov7-end2end", "mmdeploy"])
def test_a_declared_number_of_detections_that_is_false(head: str, capfd: pytest.CaptureFixture[str]) -> None:
    proto = listed_detector(head)
    # Exporters declare as many as there were in the image that they traced.
    for output in proto.graph.output:
        for size in output.type.tensor_type.shape.dim:
            if size.dim_param == "D":
                size.dim_value = 7
    image = pictures()[2:]
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    raw = dict(zip([each.name for each in session.get_outputs()], session.run(None, {"image": image}), strict=True))
    assert "does not match actual shape" in capfd.readouterr().err
    most = {"confidence": 0.3125, "max_detections": 6, "candidates": 50}
    fused = pp.fuse(proto, pp.DetectionPostProcessor(**most))
    expected = plain(head, raw, 0.3125, 6)
    assert expected["candidates"][0] > 7
    assert_equal(run(fused, {"image": image}), expected)
    assert_equal(run_openvino(fused, {"image": image}), expected)
    assert pp.strip(fused).to_proto() == proto
    report = pp.verify(proto, pp.convert(fused), {"image": pictures()})
    assert report.postprocessing_exact, report.failures
