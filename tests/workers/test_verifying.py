"""Verifying on several processes reports what one reports."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from distributed import Client

import pp_graph as pp
from tests.cell_detector import cells, save_scenes
from tests.conftest import DEMO
from tests.workers.conftest import kill_one

RAW = DEMO / "raw.onnx"


@pytest.mark.parametrize("precision", ["f32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_a_report_is_the_same(photos: Path, demo_ir_path: Path, two_workers: Client, precision: str) -> None:
    killed: list[int] = []

    def kill(_: int) -> None:
        if not killed:
            killed.append(kill_one(two_workers))

    one = pp.verify(RAW, demo_ir_path, photos, batch_size=2, inference_precision=precision)
    other = pp.verify(
        RAW, demo_ir_path, photos, batch_size=2, inference_precision=precision, client=two_workers, progress=kill
    )
    assert killed
    assert one.to_dict() == other.to_dict()
    assert str(one) == str(other)
    for ours, theirs in zip(one.decisions, other.decisions, strict=True):
        assert np.array_equal(ours.drift.image, theirs.drift.image)
        assert np.array_equal(ours.drift.margin, theirs.drift.margin)
    assert other.images == 24


@pytest.mark.slow
def test_lost_detections_are_listed_in_the_order_of_the_images(two_workers: Client, tmp_path: Path) -> None:
    save_scenes(tmp_path / "images", 16)
    raw = tmp_path / "raw.onnx"
    onnx.save(cells(), raw)
    exact = pp.fuse(raw, pp.DetectionPostProcessor(head="yolov8", confidence=0.5))
    # Another gain stands for a network that drifts: scores move across the confidence.
    onnx.save(cells(gain=1.3), tmp_path / "other.onnx")
    drifting = pp.convert(pp.fuse(tmp_path / "other.onnx", pp.DetectionPostProcessor(head="yolov8", confidence=0.5)))
    for artifact in (exact, drifting):
        one, other = (
            pp.verify(raw, artifact, tmp_path / "images", other_raw=True, batch_size=1, client=client)
            for client in (None, two_workers)
        )
        assert one.to_dict() == other.to_dict()
    assert other.detections is not None
    assert other.detections.drift.changes
