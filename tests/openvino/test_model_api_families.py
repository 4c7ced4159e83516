"""Detectors, classifiers and segmentation models in Intel's Model API: its decisions are those of `run`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

import pp_graph as pp
from pp_graph.cli import run
from pp_graph.errors import TargetError
from pp_graph.openvino import OpenVINOModel
from pp_graph.openvino.model_info import read_model_info
from tests.cell_detector import HEIGHT, WIDTH, cells, save_scenes
from tests.models import from_text
from tests.openvino.test_model_api import RGB_TO_1, load

NAMES = ("red", "green", "hot blue")
POST = pp.DetectionPostProcessor(head="yolov8", confidence=0.6, max_detections=20, labels=NAMES, names="model-api")
RNG = np.random.default_rng(3)


def images_of(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: np.asarray(Image.open(path).convert("RGB")) for path in sorted(folder.iterdir())}


def detections_of_run(path: Path, images: Path, out: Path) -> dict[str, list[dict[str, Any]]]:
    assert run(["run", str(path), str(images), "-o", str(out)]) == 0
    listed = json.loads((out / "predictions.json").read_text())["predictions"]
    return {each["image"]: each["detections"] for each in listed}


@pytest.mark.sample(every=3)
@pytest.mark.parametrize("method", [None, "linear", "letterbox"])
def test_a_detector(method: str | None, tmp_path: Path) -> None:
    """Model API resizes images itself, or the model takes frames and Model API brings their boxes back."""
    size = (HEIGHT, WIDTH) if method is None else (128, 240)
    save_scenes(tmp_path / "images", 8, size)
    fused = pp.fuse(cells(), POST)
    frames = None if method is None else pp.Preprocessing(scale=(255,), resize=method)
    info = None if frames else {"scale_values": (255, 255, 255)}
    path = pp.convert(fused, preprocessing=frames, model_info=info).save(tmp_path / "model.xml")
    assert read_model_info(OpenVINOModel.load(path).network)["model_type"] == "SSD"
    expected = detections_of_run(path, tmp_path / "images", tmp_path / "out")
    assert sum(map(len, expected.values())) > 5
    assert "result.bboxes" in (tmp_path / "model.usage.md").read_text()
    wrapper = load(path)
    for name, image in images_of(tmp_path / "images").items():
        found, wanted = wrapper(image), expected[name]
        assert found.labels.tolist() == [each["class"] for each in wanted]
        assert found.label_names == [NAMES[each["class"]].replace(" ", "_") for each in wanted]
        # Model API rounds boxes to whole pixels, and writes their size into the original image.
        np.testing.assert_allclose(found.scores, [each["score"] for each in wanted], atol=1e-6)
        if wanted:
            np.testing.assert_allclose(found.bboxes, [each["box"] for each in wanted], atol=1)


def test_the_form_of_a_detector_is_that_of_its_own_outputs(tmp_path: Path) -> None:
    onnx.save(cells(), tmp_path / "raw.onnx")
    save_scenes(tmp_path / "images", 4)
    fused = pp.fuse(tmp_path / "raw.onnx", POST)
    plain = pp.fuse(tmp_path / "raw.onnx", pp.DetectionPostProcessor(head="yolov8", confidence=0.6, max_detections=20))
    image = RNG.random((2, 3, HEIGHT, WIDTH)).astype(np.float32)
    for artifact, other in ((fused, plain), (pp.convert(fused), pp.convert(plain))):
        found, own = artifact.session().run({"image": image}), other.session().run({"image": image})
        assert (found["bboxes"].dtype, found["labels"].dtype) == (np.float32, np.int64)
        assert np.array_equal(found["bboxes"], np.concatenate([own["boxes"], own["scores"][..., None]], 2))
        assert np.array_equal(found["labels"], own["classes"])
        assert pp.verify(tmp_path / "raw.onnx", artifact, tmp_path / "images").passed
    path = pp.convert(fused).save(tmp_path / "model.xml")
    pp.retune(path, confidence=0.9)
    assert load(path).params.confidence_threshold == 0
    fused.save(tmp_path / "fused.onnx")
    assert run(["strip", str(tmp_path / "fused.onnx"), "-o", str(tmp_path / "stripped.onnx")]) == 0
    assert (tmp_path / "stripped.onnx").read_bytes() == (tmp_path / "raw.onnx").read_bytes()
    frames = pp.Preprocessing(resize="linear", box_coordinates="frame")
    with pytest.raises(TargetError, match="Model API brings boxes back to the frame itself"):
        pp.convert(fused, preprocessing=frames)


def pooled(shape: list[Any], end: str = "y = Identity(logits)") -> onnx.ModelProto:
    """Image (N,3,12,16) -> numbers of this shape, which the mean of its channels gives."""
    weights = RNG.normal(0, 3, (3, int(np.prod(shape[1:])))).astype(np.float32)
    raw = from_text(
        f"""<ir_version: 8, opset_import: ["": 17]>
        g (float[N,3,12,16] image) => (float[{",".join(map(str, shape))}] y) <int64[{len(shape)}] shape = {{
            {",".join(["0", *map(str, shape[1:])])}}}> {{
            pooled = GlobalAveragePool(image)
            flat = Flatten(pooled)
            product = MatMul(flat, w)
            logits = Reshape(product, shape)
            {end}
        }}"""
    )
    raw.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    return raw


@pytest.mark.sample(every=2)
@pytest.mark.parametrize("end", ["y = Identity(logits)", "y = Softmax(logits)"])
def test_a_classifier(end: str, tmp_path: Path) -> None:
    outputs = ("probabilities", "pred_class", "top_classes", "top_probs")
    post = pp.ClassificationPostProcessor(labels=("cat", "big dog", "ox", "hen"), top=3, outputs=outputs)
    artifact = pp.convert(pp.fuse(pooled(["N", 4], end), post), model_info=RGB_TO_1)
    path = artifact.save(tmp_path / "model.xml")
    wrapper = load(path)
    for image in RNG.integers(0, 256, (20, 12, 16, 3), np.uint8):
        fed = np.float32(image.transpose(2, 0, 1)[None, ::-1]) / np.float32(255)
        found = artifact.session().run({"image": np.ascontiguousarray(fed)})
        labels = wrapper(image).top_labels
        assert [each.id for each in labels] == found["top_classes"][0].tolist()
        assert labels[0].id == found["pred_class"][0]
        assert labels[0].name == ("cat", "big_dog", "ox", "hen")[labels[0].id]
        np.testing.assert_allclose([each.confidence for each in labels], found["top_probs"][0], atol=1e-5)


def test_segmentation(tmp_path: Path) -> None:
    raw = pooled(["N", 4, 12, 16])
    artifact = pp.convert(pp.fuse(raw, pp.SegmentationPostProcessor(outputs=("class_scores",))), model_info=RGB_TO_1)
    classes = pp.convert(pp.fuse(raw, pp.SegmentationPostProcessor())).session()
    wrapper = load(artifact.save(tmp_path / "model.xml"))
    for image in RNG.integers(0, 256, (5, 12, 16, 3), np.uint8):
        fed = np.float32(image.transpose(2, 0, 1)[None, ::-1]) / np.float32(255)
        expected = classes.run({"image": np.ascontiguousarray(fed)})["class_map"][0]
        assert len(np.unique(expected)) > 1
        assert np.mean(wrapper(image).resultImage != expected) < 0.01


@pytest.mark.parametrize(
    ("post", "output", "reason"),
    [
        (pp.ClassificationPostProcessor(outputs=("probabilities",), activation="sigmoid"), ["N", 4], "softmax, unless"),
        (pp.ClassificationPostProcessor(outputs=("pred_class",)), ["N", 4], "these are pred_class"),
        (pp.SegmentationPostProcessor(outputs=("class_scores", "class_map")), ["N", 4, 12, 16], "class_scores alone"),
    ],
)
def test_forms_that_would_be_decided_again(post: Any, output: list[Any], reason: str) -> None:
    fused = pp.fuse(pooled(output), post)
    assert "model_type" not in read_model_info(pp.convert(fused).network)
    with pytest.raises(TargetError, match=reason):
        pp.convert(fused, model_info=RGB_TO_1)
