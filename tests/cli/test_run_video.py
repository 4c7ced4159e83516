"""`pp-graph run` on videos and streams, as a user runs it."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

import pp_graph as pp
from pp_graph.cli import run
from tests.conftest import ROOT
from tests.project.test_examples import load
from tests.video.servers import demo_frames, mjpeg_stream, write_video


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, demo_ir_path: Path) -> Path:
    write_video(tmp_path / "parts.mp4", demo_frames())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODEL", str(demo_ir_path))
    return tmp_path


def go(*arguments: str) -> int:
    return run(["run", os.environ["MODEL"], *arguments])


def rows_of(file: str) -> list[dict[str, str]]:
    with Path(file).open() as stream:
        return list(csv.DictReader(stream))


def test_video_to_video_table_and_lines(work: Path, capsys: pytest.CaptureFixture[str], demo_ir_path: Path) -> None:
    assert go("parts.mp4", "-o", "seen/seen.mp4", "-o", "frames.csv", "-o", "frames.jsonl") == 0
    out = capsys.readouterr().out
    assert "12 frames, 6 anomalous" in out
    assert "frames/s" in out
    rows = rows_of("frames.csv")
    assert [(row["frame"], row["time"], row["pred_label"]) for row in rows[5:7]] == [
        ("5", "0.5", "false"),
        ("6", "0.6", "true"),
    ]
    lines = [json.loads(line) for line in Path("frames.jsonl").read_text().splitlines()]
    assert [line["pred_label"] for line in lines] == [row["pred_label"] == "true" for row in rows]
    seen, given = (list(pp.open_video(file)) for file in ("seen/seen.mp4", "parts.mp4"))
    assert [frame.time for frame in seen] == [frame.time for frame in given]
    found = list(pp.load(demo_ir_path).stream("parts.mp4"))
    for frame, before, predictions, line in zip(seen, given, found, lines, strict=True):
        mask = predictions.pred_mask[0, 0]
        assert line["anomalous_pixels"] == mask.sum()
        changed = np.abs(frame.pixels.astype(int) - before.pixels).mean(-1)
        if mask.any():  # a warm colour lies over what is anomalous
            assert changed[mask].mean() > 2 * changed[~mask].mean()
    assert not list(work.rglob(".pp_graph_*"))


def test_json_and_lines_on_stdout(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert go("parts.mp4", "-o", "-", "--every", "4", "--max-frames", "2") == 0
    printed = capsys.readouterr()
    assert [json.loads(line)["frame"] for line in printed.out.splitlines()] == [0, 4]
    assert "parts.mp4: 2 frames, 0 anomalous" in printed.err
    assert go("parts.mp4", "-o", "frames.csv", "--json") == 0
    (video,) = json.loads(capsys.readouterr().out)["videos"]
    assert (video["frames"], video["anomalous_frames"], video["dropped_frames"], video["ended"]) == (12, 6, 0, None)
    assert go("parts.mp4", "-o", "-", "--json") == 2
    assert "both write to stdout" in capsys.readouterr().err


def test_several_videos_fill_a_folder(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        (work / f"{name}.mp4").write_bytes((work / "parts.mp4").read_bytes())
    assert go("[ab].mp4", "-o", "out", "--max-frames", "2") == 0
    assert sorted(file.name for file in Path("out").iterdir()) == ["a.csv", "a.mp4", "b.csv", "b.mp4"]
    assert go("a.mp4", "b.mp4", "-o", "one.csv") == 2
    assert "2 videos were given, and -o one.csv is one file" in capsys.readouterr().err
    assert go("a.mp4", "b.mp4", "-o", "-", "--max-frames", "1") == 0
    assert [json.loads(line)["source"] for line in capsys.readouterr().out.splitlines()] == ["a.mp4", "b.mp4"]


def test_a_detector_lists_boxes_in_pixels_of_the_frame(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    example = load("detection")
    onnx.save(example.raw_model(), "detector.onnx")
    pictures = [(each.transpose(1, 2, 0) * 255).astype(np.uint8) for each in example.pictures(4)]
    write_video(work / "boxes.mp4", [np.kron(each, np.ones((2, 2, 1), np.uint8)) for each in pictures])
    assert run(["convert", "detector.onnx", "--task", "detection", "-o", "detector.xml"]) == 0
    monkeypatch.setenv("MODEL", str(work / "detector.xml"))
    assert go("boxes.mp4", "-o", "boxes.csv", "-o", "-", "-o", "drawn.mkv") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    rows = rows_of("boxes.csv")
    assert rows
    assert len(rows) == sum(len(line["detections"]) for line in lines)
    height, width = pictures[0].shape[:2]
    assert max(float(row["x2"]) for row in rows) > width, "the frame is twice as large as the model's input"
    assert all(0 <= float(row["x1"]) < float(row["x2"]) <= 2 * width for row in rows)
    assert next(iter(pp.open_video("drawn.mkv"))).pixels.shape == (2 * height, 2 * width, 3)


def test_refusals(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "images").mkdir()
    (work / "kept.mp4").write_bytes(b"kept")
    data = (work / "parts.mp4").read_bytes()
    (work / "cut.mp4").write_bytes(data[: len(data) // 2])
    cases = [
        (["nowhere.mp4", "-o", "x.mp4"], "Video 'nowhere.mp4' does not exist"),
        (["97", "-o", "x.mp4"], "Camera 97 cannot be opened"),
        (["rtsp://me:secret@127.0.0.1:9/x", "-o", "x.mp4"], "Stream 'rtsp://127.0.0.1:9/x' cannot be opened"),
        (["cut.mp4", "-o", "x.mp4"], "cannot be opened: invalid data"),
        (["parts.mp4", "images", "-o", "x.mp4"], "'parts.mp4' is a video, and 'images' is none"),
        (["parts.mp4", "-o", "x.txt"], "has the ending '.txt', expected one of .mp4, .mkv, .mov, .csv, .jsonl, or -"),
        (["parts.mp4", "-o", "kept.mp4"], "'kept.mp4' exists already"),
        (["parts.mp4", "-o", "parts.mp4", "--force"], "is an input of this command"),
        (["parts.mp4", "-o", "x.mp4", "--coco"], "--coco applies only to images"),
        (["parts.mp4", "-o", "x.mp4", "--format", "csv"], "--format applies only to images"),
        (["parts.mp4", "-o", "x.mp4", "--max-pixels", "100"], "expected at most 100"),
        (["images", "-o", "out", "--every", "2"], "--every applies only to videos, cameras and streams"),
        (["images", "-o", "-"], "-o - is an output of videos, expected a folder, because images were given"),
        (["images", "-o", "frames.csv"], "-o frames.csv is an output of videos, expected a folder"),
        (["*.avi", "-o", "out"], "Pattern '*.avi' matches no file"),
    ]
    for arguments, message in cases:
        assert go(*arguments) == 2
        err = " ".join(capsys.readouterr().err.split())
        assert message in err, err
        assert "Traceback" not in err
        assert "secret" not in err
    assert sorted(path.name for path in work.iterdir()) == ["cut.mp4", "images", "kept.mp4", "parts.mp4"]


@contextlib.contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    # A job in the background of a shell ignores Ctrl-C, and so would its children.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    with subprocess.Popen(
        [sys.executable, "-c", f"{code}from pp_graph.cli import main; main()", "run", os.environ["MODEL"], *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("live", "number", "status"),
    [
        pytest.param(False, signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param(True, signal.SIGTERM, 0, marks=pytest.mark.slow),
        (True, signal.SIGINT, 0),
    ],
)
def test_interrupted_files_are_finished(work: Path, live: bool, number: int, status: int) -> None:
    with mjpeg_stream(demo_frames(), rate=25) as stream:
        if not live:
            write_video(work / "long.mp4", demo_frames(30), rate=25)
        source = [stream.url] if live else ["long.mp4", "--drop-frames"]
        with started(*source, "-o", "seen.mp4", "-o", "-") as process:
            assert process.stdout is not None
            assert process.stderr is not None
            lines = [process.stdout.readline() for _ in range(5)]  # it runs
            process.send_signal(number)
            # Not `communicate`, which would miss what `readline` has read ahead.
            out, err = process.stdout.read(), process.stderr.read()
            process.wait(timeout=60)
    assert process.returncode == status, err
    assert "stopped after" in err
    count = len(lines) + len(out.splitlines())
    assert len(list(pp.open_video("seen.mp4"))) == count
    assert not list(work.glob(".pp_graph_*"))


@pytest.mark.slow
def test_a_reader_that_leaves_ends_the_run(work: Path) -> None:
    with mjpeg_stream(demo_frames(), rate=25) as stream, started(stream.url, "-o", "-") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith("{")
        process.stdout.close()
        err = process.stderr.read()
        assert process.wait(timeout=60) == 0, err
    assert "Traceback" not in err
    assert "Error" not in err


@pytest.mark.slow
def test_what_a_camera_saw_is_kept_when_it_is_lost(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (
        mjpeg_stream(demo_frames(), rate=25) as stream,
        started(stream.url, "-o", "seen.mp4", "-o", "-", "--reconnect", "0.5") as process,
    ):
        assert process.stdout is not None
        for _ in range(5):
            process.stdout.readline()
        stream.cut(60)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "Reconnecting for up to 0.5 s (--reconnect)" in err
    assert "did not come back within 0.5 s" in err
    assert len(list(pp.open_video("seen.mp4"))) >= 5
