"""Streams over HTTP and RTSP: frames decide as pictures, cuts are survived, and latency does not grow."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pp_graph as pp
from pp_graph.errors import VideoError
from pp_graph.running import run_frames
from tests.video.servers import demo_frames, mjpeg_stream, rtsp_stream


def test_a_stream_that_is_cut_off_comes_back(demo_ir_path: Path, tmp_path: Path) -> None:
    runner = pp.load(demo_ir_path)
    told: list[str] = []
    with mjpeg_stream(demo_frames(), rate=25, user="me:secret") as stream:
        video = pp.open_video(stream.url, reconnect=10, max_frames=20, tell=told.append)
        assert (video.live, video.drops, video.size) == (True, True, (256, 256))
        times = []
        for frame, _, predictions in run_frames(runner, video):
            times.append(frame.time)
            if len(times) == 5:
                stream.cut(0.8)
            if len(times) in (3, 18):
                Image.fromarray(frame.pixels).save(tmp_path / "frame.png")
                expected = runner(tmp_path / "frame.png")
                assert np.array_equal(predictions.pred_label, expected.pred_label)
                assert np.array_equal(predictions.pred_mask, expected.pred_mask)
        assert stream.connections == 2
    assert len(times) == 20
    assert 0.4 < np.diff(times).max() < 3, "the time of the cut"
    assert "secret" not in video.name
    assert len(told) == 2, told
    assert f"'{video.name}' was cut off after " in told[0]
    assert "Reconnecting for up to 10 s" in told[0]
    assert f"'{video.name}' is back after " in told[1]


@pytest.mark.slow
def test_a_stream_that_does_not_come_back() -> None:
    told: list[str] = []
    with mjpeg_stream(demo_frames(), rate=50) as stream:
        frames = iter(pp.open_video(stream.url, reconnect=1, tell=told.append))
        for _ in range(4):
            next(frames)
        stream.cut(60)
        started = time.monotonic()
        with pytest.raises(VideoError, match=r"was cut off \(.*\) and did not come back within 1 s"):
            list(frames)
        assert 0.9 < time.monotonic() - started < 3
        with pytest.raises(VideoError, match="cannot be opened: server returned 5XX"):
            pp.open_video(stream.url)
    assert len(told) == 1


def test_frames_of_a_stream_are_dropped_or_wait() -> None:
    with mjpeg_stream(demo_frames(), rate=50) as stream:
        dropping = pp.open_video(stream.url, max_frames=4)
        ages = []
        for frame in dropping:
            ages.append(time.perf_counter() - frame.came)
            time.sleep(0.15)
        assert dropping.dropped > 4
        assert max(ages) < 0.15
        queue = pp.open_video(stream.url, max_frames=4, drop_frames=False)
        numbers = []
        for frame in queue:
            numbers.append(frame.index)
            time.sleep(0.15)
        assert (numbers, queue.dropped) == ([0, 1, 2, 3], 0)


def test_rtsp() -> None:
    frames = demo_frames(10)
    with rtsp_stream(frames, rate=20) as stream:
        video = pp.open_video(stream.url, max_frames=12, drop_frames=False)
        assert (video.live, video.rate) == (True, 20.0)
        for frame in video:
            # The first pictures are normal parts; encoding changes them a little.
            assert min(np.abs(frame.pixels.astype(int) - each).mean() for each in frames[:30:10]) < 5


@pytest.mark.slow
def test_rtsp_that_is_cut_off_comes_back() -> None:
    told: list[str] = []
    with rtsp_stream(demo_frames(40), rate=20) as stream:
        count = 0
        for _ in pp.open_video(stream.url, max_frames=30, tell=told.append):
            count += 1
            if count == 15:
                stream.cut(1.2)
        assert stream.connections == 2
    assert count == 30
    assert [" is back after " in each for each in told] == [False, True]


@pytest.mark.slow
def test_a_silent_stream_counts_as_cut_off() -> None:
    told: list[str] = []
    with mjpeg_stream(demo_frames(), rate=25) as stream:

        def tell(message: str) -> None:
            told.append(message)
            stream.silent = False

        frames = iter(pp.open_video(stream.url, max_frames=10, tell=tell))
        next(frames)
        stream.silent = True
        before = time.monotonic()
        assert len(list(frames)) == 9
        assert 9 < time.monotonic() - before < 20
        assert stream.connections == 2
    assert "(no answer or frame for 10 s)" in told[0]
