"""Calibrating on several processes gives what one gives, bit for bit, also if workers die."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client

import pp_graph as pp
from pp_graph.calibration import on_workers
from pp_graph.cli import run
from pp_graph.data import open_labelled
from pp_graph.workers import Job, cut_into_shards, open_client
from tests.conftest import DEMO, ROOT
from tests.workers.conftest import kill_one, running_cluster

RAW = DEMO / "raw.onnx"


def same(one: pp.CalibrationResult, other: pp.CalibrationResult) -> bool:
    return one.to_dict() == other.to_dict() and all(
        np.array_equal(getattr(one.levels[name].counts, column), getattr(other.levels[name].counts, column))
        for name in one.levels
        for column in ("low", "high", "normal", "anomalous", "unlabelled")
    )


@pytest.fixture(scope="module")
def in_one(photos: Path) -> pp.CalibrationResult:
    return pp.calibrate(RAW, photos, resamples=20, batch_size=2)


def test_both_passes_count_the_same(photos: Path, in_one: pp.CalibrationResult, two_workers: Client) -> None:
    done: list[int] = []
    found = pp.calibrate(RAW, photos, resamples=20, batch_size=2, client=two_workers, progress=done.append)
    assert found.exact
    assert same(found, in_one)
    assert sum(done) == found.record.images == 24


@pytest.mark.slow
def test_a_model_and_arrays_in_memory(demo_ir_path: Path, demo_images: np.ndarray, two_workers: Client) -> None:
    labelled = open_labelled(DEMO / "images")
    arrays = {"image": demo_images, "label": labelled.labels}
    model = pp.open(demo_ir_path)
    one, other = (pp.calibrate(model, arrays, resamples=0, client=client) for client in (None, two_workers))
    assert same(one, other)


@pytest.mark.slow
def test_remarks_about_files_come_back(photos: Path, tmp_path: Path, two_workers: Client) -> None:
    from PIL import Image

    for index, file in enumerate(sorted((photos / "good").glob("*.png"))[:6]):
        (tmp_path / "good").mkdir(exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = 3 if index % 2 else 1
        Image.open(file).save(tmp_path / "good" / f"{index}.png", exif=exif)
    one, other = (
        pp.calibrate(RAW, tmp_path, resamples=0, batch_size=1, client=client) for client in (None, two_workers)
    )
    assert one.notes == other.notes
    assert "3 of 6 images were turned" in other.notes[0]


@pytest.mark.parametrize("when", [pytest.param("first pass", marks=pytest.mark.slow), "second pass"])
def test_a_killed_worker_changes_nothing(
    photos: Path,
    in_one: pp.CalibrationResult,
    two_workers: Client,
    monkeypatch: pytest.MonkeyPatch,
    when: str,
) -> None:
    killed: list[int] = []
    count = Job.run

    def kill_before_second(job: Job, function: Any, *given: Any) -> Any:
        if function is on_workers._count_again:
            killed.append(kill_one(two_workers))
        return count(job, function, *given)

    def kill_at_first(_: int) -> None:
        if not killed:
            killed.append(kill_one(two_workers))

    if when == "second pass":
        monkeypatch.setattr(Job, "run", kill_before_second)
    found = pp.calibrate(
        RAW,
        photos,
        resamples=20,
        batch_size=2,
        client=two_workers,
        progress=kill_at_first if when == "first pass" else None,
    )
    assert same(found, in_one)
    assert killed
    assert not set(killed) & set(two_workers.run(os.getpid).values())


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 5])
def test_any_number_of_workers(photos: Path, in_one: pp.CalibrationResult, workers: int) -> None:
    with open_client(workers) as client:
        assert same(pp.calibrate(RAW, photos, resamples=20, batch_size=2, client=client), in_one)


@pytest.mark.slow
@pytest.mark.parametrize("pixel", ["pro", "sigma", "evt", "quantile"])
def test_every_kind_of_summary_merges(photos: Path, two_workers: Client, pixel: str) -> None:
    one_pass = pixel == "quantile"
    one, other = (
        pp.calibrate(RAW, photos, pixel=pixel, resamples=0, client=client, pixel_range="percentile", one_pass=one_pass)
        for client in (None, two_workers)
    )
    assert same(one, other)


def test_shards_hold_whole_batches() -> None:
    for count, batch, threads in ((96, 8, 2), (1, 8, 5), (10_000, 8, 2), (1000, 300, 4), (7, 1, 16), (10**9, 8, 1000)):
        spans = cut_into_shards(count, batch, threads)
        assert [start for start, _ in spans] == [0, *(stop for _, stop in spans[:-1])]
        assert spans[-1][1] == count
        assert len(spans) <= 50_000
        assert all(start % batch == 0 for start, _ in spans)


@pytest.mark.slow
def test_a_running_cluster(photos: Path, tmp_path: Path) -> None:
    given = ["calibrate", str(RAW), "--data", str(photos), "--bootstrap", "20", "--batch", "2"]
    assert run([*given, "-o", str(tmp_path / "one.json")]) == 0
    with running_cluster(ROOT) as address:
        assert run([*given, "-o", str(tmp_path / "other.json"), "--scheduler", address]) == 0
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "other.json").read_bytes()
