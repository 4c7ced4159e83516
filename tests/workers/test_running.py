"""Running on several processes writes the same files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from distributed import Client

import pp_graph as pp
from pp_graph.data import open_images
from pp_graph.report import write_predictions
from tests.cell_detector import cells, save_scenes
from tests.conftest import DEMO
from tests.workers.conftest import kill_one


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.slow
def test_tables_and_pictures(photos: Path, demo_ir_path: Path, two_workers: Client, tmp_path: Path) -> None:
    runner = pp.load(demo_ir_path, mode="throughput")
    killed: list[int] = []

    def kill(_: int) -> None:
        if not killed:
            killed.append(kill_one(two_workers))

    save = ("masks", "overlays", "maps")
    one = write_predictions(runner, photos, tmp_path / "one", save=save, batch_size=2)
    other = write_predictions(
        runner, photos, tmp_path / "other", save=save, batch_size=2, client=two_workers, progress=kill
    )
    assert killed
    assert len(files_of(tmp_path / "one")) == 3 * 24 + 2
    assert files_of(tmp_path / "one") == files_of(tmp_path / "other")
    assert (one.predictions, one.about, one.warnings) == (other.predictions, other.about, other.warnings)


@pytest.mark.slow
def test_arrays_and_detections(two_workers: Client, tmp_path: Path) -> None:
    onnx.save(cells(), tmp_path / "raw.onnx")
    save_scenes(tmp_path / "images", 9)
    fused = pp.fuse(tmp_path / "raw.onnx", pp.DetectionPostProcessor(head="yolov8", confidence=0.3))
    runner = pp.load(fused)
    arrays = open_images(tmp_path / "images").read(0, 9, runner.inputs)
    for data in (tmp_path / "images", arrays):
        for name, client in (("one", None), ("other", two_workers)):
            write_predictions(
                runner, data, tmp_path / name, formats=("csv", "coco"), batch_size=2, overwrite=True, client=client
            )
        assert files_of(tmp_path / "one") == files_of(tmp_path / "other")


@pytest.mark.slow
def test_thresholds_set_on_the_runner(
    demo_post: pp.OneClassPostProcessor, demo_images: np.ndarray, two_workers: Client, tmp_path: Path
) -> None:
    post = dataclasses.replace(demo_post, thresholds="runtime")
    runner = pp.load(pp.fuse(DEMO / "raw.onnx", post))
    runner.set_thresholds(image_sensitivity=0.9, pixel_sensitivity=0.8)
    for name, client in (("one", None), ("other", two_workers)):
        write_predictions(runner, demo_images, tmp_path / name, save=("masks",), batch_size=2, client=client)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "other")
    runner.set_thresholds()
    write_predictions(runner, demo_images, tmp_path / "own", save=("masks",), batch_size=2)
    assert files_of(tmp_path / "one") != files_of(tmp_path / "own")
