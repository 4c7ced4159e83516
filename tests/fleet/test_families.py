"""Detectors and classifiers with ground truth, a precision that a search chooses, models by URL, an absent device."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml

import pp_graph as pp
from pp_graph.cli import run
from pp_graph.fleet import read_fleet, read_manifest, run_fleet
from tests.classifiers import classifier, images
from tests.models import conv_model
from tests.quantization.test_truth import folder, squares

__all__ = ["folder"]
Fleet = Callable[..., Path]


def test_rates_of_detectors_and_classifiers(folder: Path) -> None:
    onnx.save(squares(), folder / "squares.onnx")
    onnx.save(classifier(), folder / "kinds.onnx")
    data, fused = images(20), pp.fuse(classifier(), pp.ClassificationPostProcessor())
    found = pp.load(fused)({"image": data}).pred_class
    label = found.copy()
    label[0] = (label[0] + 1) % 4
    np.savez(folder / "photos.npz", image=data, label=label)
    boxes = {"path": "squares.onnx", "task": "detection", "data": "images", "boxes": "coco.json", "options": {"head": "yolov8"}}
    kinds = {"path": "kinds.onnx", "task": "classification", "data": "photos.npz"}
    (folder / "fleet.yaml").write_text(yaml.safe_dump({"output": "out", "models": [boxes, kinds]}))
    report = run_fleet(folder / "fleet.yaml")
    assert report.passed, report
    one, other = report.rows
    expected = pp.calibrate_detector(pp.fuse(squares(), pp.DetectionPostProcessor(head="yolov8")), folder / "images", folder / "coco.json")
    assert one["average_precision_50"] == pytest.approx(expected.ap50, abs=1e-6)
    assert one["average_precision_50_95"] == pytest.approx(expected.ap50_95, abs=1e-6)
    assert 0 < one["f1_box"] <= 1
    assert other["class_accuracy"] == 19 / 20
    each = [2 * ((found == k) & (label == k)).sum() / ((found == k).sum() + (label == k).sum())
            for k in range(4) if k in found or k in label]  # fmt: skip
    assert other["f1_class"] == pytest.approx(np.mean(each))
    assert "AP50" in str(report) or report.passed
    page = (folder / "out" / "fleet.html").read_text()
    assert "F1 of boxes" in page
    assert "right classes" in page
