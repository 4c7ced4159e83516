"""Frames of videos decide as the same pictures do, and bad videos are refused with a reason."""

from __future__ import annotations

import time
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

import pp_graph as pp
from pp_graph.errors import DataError, VideoError
from pp_graph.running import run_frames
from pp_graph.video import VideoWriter, find_videos
from tests.video.servers import demo_frames, write_video


@pytest.fixture(scope="session")
def video_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve frames: six of normal parts, six of anomalous ones."""
    file = tmp_path_factory.mktemp("video") / "parts.mp4"
    write_video(file, demo_frames())
    return file


@pytest.fixture(scope="session")
def runner(demo_ir_path: Path) -> pp.Runner:
    return pp.load(demo_ir_path)


def moving(count: int, size: tuple[int, int] = (96, 128)) -> list[np.ndarray]:
    rows, columns = np.indices(size)
    return [
        np.stack([(columns + 4 * i) % 256, 2 * rows % 256, (rows + columns + i) % 256], -1).astype(np.uint8)
        for i in range(count)
    ]


@pytest.mark.parametrize("drop_frames", [False, True])
def test_frames_decide_as_pictures(video_path: Path, runner: pp.Runner, tmp_path: Path, drop_frames: bool) -> None:
    video = pp.open_video(video_path, every=5, max_frames=3, drop_frames=drop_frames)
    found = list(run_frames(runner, video))
    assert len(found) == 3
    labels = []
    for frame, _, predictions in found:
        Image.fromarray(frame.pixels).save(tmp_path / "frame.png")
        expected = runner(tmp_path / "frame.png")
        assert np.array_equal(predictions.pred_label, expected.pred_label)
        assert np.array_equal(predictions.pred_mask, expected.pred_mask)
        np.testing.assert_allclose(predictions.pred_score, expected.pred_score, atol=1e-6)
        labels.append(bool(predictions.pred_label))
    if not drop_frames:
        assert [frame.index for frame, *_ in found] == [0, 5, 10]
        assert labels == [False, False, True]


def test_frames_of_another_size_are_resized_as_files(runner: pp.Runner, tmp_path: Path) -> None:
    write_video(
        tmp_path / "large.mp4", [np.asarray(Image.fromarray(each).resize((400, 300))) for each in demo_frames()]
    )
    (frame, _, found), *_ = run_frames(runner, pp.open_video(tmp_path / "large.mp4", max_frames=1))
    assert frame.pixels.shape == (300, 400, 3)
    Image.fromarray(frame.pixels).save(tmp_path / "frame.png")
    assert np.array_equal(found.pred_mask, runner(tmp_path / "frame.png").pred_mask)


def test_a_runner_streams_files_and_patterns(video_path: Path, runner: pp.Runner, tmp_path: Path) -> None:
    done: list[int] = []
    one = [bool(each.pred_label) for each in runner.stream(str(video_path), progress=done.append)]
    assert one == [False] * 6 + [True] * 6
    assert len(done) == 12
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(video_path.read_bytes())
    assert [bool(each.pred_label) for each in runner.stream(str(tmp_path / "*.mp4"))] == 2 * one
    with pytest.raises(DataError, match="'.*parts.mp4' is a video, expected images. Give it to stream"):
        runner(video_path)
    with pytest.raises(DataError, match="matches no file"):
        runner.stream(str(tmp_path / "*.avi"))
    Image.fromarray(demo_frames()[0]).save(tmp_path / "c.png")
    assert len(runner(str(tmp_path / "*.png")).pred_label) == 1
    assert len(runner([str(tmp_path / "*.png"), tmp_path / "c.png"]).pred_label) == 2
    with pytest.raises(VideoError, match="matches the video .*a.mp4' and '.*c.png', which is none"):
        runner.stream(str(tmp_path / "*"))


def test_which_frames_come(tmp_path: Path) -> None:
    write_video(tmp_path / "moving.mkv", moving(20))
    read = [(frame.index, round(frame.time, 3)) for frame in pp.open_video(tmp_path / "moving.mkv", every=7)]
    assert read == [(0, 0.0), (7, 0.7), (14, 1.4)]
    video = pp.open_video(tmp_path / "moving.mkv", max_frames=4)
    assert (video.size, video.rate, video.count, video.live) == ((96, 128), 10.0, 4, False)
    assert [frame.index for frame in video] == [0, 1, 2, 3]
    with pytest.raises(VideoError, match="was read already"):
        next(iter(video))
    stopped = pp.open_video(tmp_path / "moving.mkv")
    for frame in stopped:
        if frame.index == 2:
            stopped.stop()
    assert frame.index == 2


def test_dropping_takes_the_newest(tmp_path: Path) -> None:
    write_video(tmp_path / "moving.mp4", moving(20), rate=20)
    video = pp.open_video(tmp_path / "moving.mp4", drop_frames=True)
    found = []
    for frame in video:
        assert time.perf_counter() - frame.came < 0.2
        found.append(frame.index)
        time.sleep(0.17)  # three frames and a half
    assert found == sorted(found)
    assert 4 <= len(found) <= 8, found
    assert video.dropped == 20 - len(found)
    assert video.decoded == 20


def test_turned_as_the_video_says(tmp_path: Path) -> None:
    write_video(tmp_path / "moving.mp4", moving(2))
    data = (tmp_path / "moving.mp4").read_bytes()
    # The matrix of the track: no turn, then a quarter turn, as a phone held upright writes it.
    plain = np.array([1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30], ">i4").tobytes()
    turned = np.array([0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30], ">i4").tobytes()
    at = data.index(plain, data.index(b"tkhd"))
    (tmp_path / "upright.mp4").write_bytes(data[:at] + turned + data[at + len(plain) :])
    (flat, *_), (upright, *_) = (pp.open_video(tmp_path / f"{name}.mp4") for name in ("moving", "upright"))
    # As ffmpeg turns the same file: clockwise.
    assert np.array_equal(upright.pixels, np.rot90(flat.pixels, -1))


def test_bad_videos(tmp_path: Path) -> None:
    frames = moving(40)
    write_video(tmp_path / "whole.mp4", frames, faststart=True)
    data = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 2 // 3])
    (tmp_path / "headless.mp4").write_bytes(data[: data.index(b"moov")])
    write_video(tmp_path / "whole.mkv", frames)
    data = (tmp_path / "whole.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) // 2])
    (tmp_path / "junk.mp4").write_bytes(b"no video at all " * 99)
    (tmp_path / "empty.avi").write_bytes(b"")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        sound = container.add_stream("aac", rate=8000)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        samples.sample_rate = 8000
        container.mux(sound.encode(samples))
        container.mux(sound.encode())
    for part, size in (("a", (96, 128)), ("b", (64, 80))):
        write_video(tmp_path / f"{part}.h264", moving(10, size))
    data = (tmp_path / "a.h264").read_bytes() + (tmp_path / "b.h264").read_bytes()
    (tmp_path / "sizes.h264").write_bytes(data)
    cases = [
        ("nowhere.mp4", r"Video '.*nowhere.mp4' does not exist"),
        ("junk.mp4", "cannot be opened: invalid data .* damaged, truncated, or no video"),
        ("headless.mp4", "cannot be opened: invalid data"),
        ("empty.avi", "cannot be opened"),
        ("cut.mp4", r"Frame \d+ of '.*cut.mp4' cannot be decoded: it is incomplete; .* --skip-broken"),
        ("cut.mkv", r"'.*cut.mkv' ends \d.\d s before the end that it declares, .* truncated"),
        ("sound.mp4", r"'.*sound.mp4' holds no pictures \(only audio\), expected a video stream"),
        ("sizes.h264", r"Frame 10 of '.*sizes.h264' has 80x64 pixels, expected 128x96 as the frames before"),
    ]
    for name, message in cases:
        with pytest.raises(VideoError, match=message):
            list(pp.open_video(tmp_path / name))
    (tmp_path / "clip.txt").write_text("x")
    for source, message in [
        ("97", r"Camera 97 cannot be opened \(/dev/video97\): no such file"),
        ("rtsp://me:secret@127.0.0.1:9/x", r"Stream 'rtsp://127.0.0.1:9/x' cannot be opened: connection refused"),
        ("gopher2://host/x", "is no video, expected a video .* or a URL such as rtsp://host/path"),
        (tmp_path / "clip.txt", "clip.txt' is no video, expected a video"),
        (tmp_path, "is a folder, expected a video"),
    ]:
        with pytest.raises(VideoError, match=message):
            pp.open_video(source)
    for settings, message in [
        ({"every": 0}, "every is 0, expected at least 1"),
        ({"max_frames": 0}, "max_frames is 0, expected at least 1"),
        ({"reconnect": -1.0}, "reconnect is -1.0, expected at least 0"),
        ({"max_pixels": 1000}, r"128 x 96 = 12,288 pixels, expected at most 1,000"),
    ]:
        with pytest.raises(VideoError, match=message):
            pp.open_video(tmp_path / "whole.mp4", **settings)
    for name in ("cut.mp4", "cut.mkv"):
        video = pp.open_video(tmp_path / name, skip_broken=True)
        whole = pp.open_video(tmp_path / f"whole.{name[-3:]}")
        pairs = list(zip(video, whole, strict=False))
        assert 15 < len(pairs) < 40
        assert all(np.array_equal(found.pixels, frame.pixels) for found, frame in pairs)


def test_what_names_a_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert [place.kind for place in find_videos("0")] == ["camera"]
    assert [place.url for place in find_videos("/dev/video3")] == ["/dev/video3"]
    assert find_videos("http://me:pw@host/live.m3u8")[0].name == "http://host/live.m3u8"
    assert [place.kind for place in find_videos("clip.MOV")] == ["file"]
    for images in ("images", "part.png", "images.npz", 4.5, None, True):
        assert find_videos(images) == ()
    (tmp_path / "0").mkdir()
    assert find_videos("0") == (), "a folder of that name comes first"


def test_written_videos_keep_size_and_times(tmp_path: Path) -> None:
    frames = moving(6, (95, 127))
    writer = VideoWriter(str(tmp_path / "odd.mp4"), (95, 127), 10)
    for index, frame in enumerate(frames):
        writer.write(frame, index * index / 10)
    with pytest.raises(VideoError, match="'odd.mp4' has 10x10 pixels, expected 128x96 as the first"):
        writer.write(np.zeros((10, 10, 3), np.uint8), 9)
    writer.close()
    read = list(pp.open_video(tmp_path / "odd.mp4"))
    assert [round(frame.time, 3) for frame in read] == [0.0, 0.1, 0.4, 0.9, 1.6, 2.5]
    assert read[0].pixels.shape == (96, 128, 3)
    for frame, given in zip(read, frames, strict=True):
        assert np.abs(frame.pixels[:95, :127].astype(int) - given).mean() < 12
