"""A search for a precision rates classifiers by right classes, and detectors by average precision."""

from __future__ import annotations

from pathlib import Path

import pytest

import pp_graph as pp
from pp_graph.calibration import BoxTruth
from pp_graph.data import open_images
from pp_graph.precision.decisions import Judge
from pp_graph.quantization.truth import open_truth
from tests.classifiers import classifier, images
from tests.quantization.test_truth import folder, squares

__all__ = ["folder"]


def test_right_classes() -> None:
    fused, data = pp.fuse(classifier(), pp.ClassificationPostProcessor()), images(20)
    label = pp.load(fused)({"image": data}).pred_class
    label[0] = (label[0] + 1) % 4
    truth = open_truth({"image": data, "label": label}, fused.provenance)
    base = pp.convert(fused)
    judge = Judge(fused, base, open_images({"image": data}), truth, None)
    assert judge.base.f1 == {"class_accuracy": 19 / 20}
    (found,) = judge.decide(base, "CPU", "f32", recalibrate=True)
    assert (found.f1, found.label_flips) == (judge.base.f1, 0)


def test_average_precision(folder: Path) -> None:
    fused = pp.fuse(squares(), pp.DetectionPostProcessor(head="yolov8"))
    truth = BoxTruth.open("coco.json", folder / "images", fused.provenance)
    # Frames of the images' size are brought to the model's, and boxes back.
    base = pp.convert(fused, preprocessing=pp.Preprocessing(scale=(255.0,), resize="linear"))
    judge = Judge(fused, base, open_images(folder / "images"), truth, None)
    expected = pp.calibrate_detector(fused, folder / "images", folder / "coco.json")
    assert judge.base.f1["average_precision_50"] == pytest.approx(expected.ap50, abs=1e-6)
