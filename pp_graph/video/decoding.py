"""`Decoder`: frames from FFmpeg, through PyAV, with errors that say what is wrong, and streams that come back."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from pp_graph.errors import VideoError
from pp_graph.extras import require_extra
from pp_graph.video.places import CAMERA, FILE, STREAM, without_credentials

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pp_graph.video.places import Place

_TIMEOUT: Final = 10.0
"""Seconds without an answer or a frame after which a stream counts as cut off."""
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 8.0
"""Seconds between two tries to reconnect; each wait is twice the last."""
_TOLERANCE: Final = 1.0
"""Seconds that may miss at the end of a file without it being truncated; containers round and pad."""
_CAMERA_FORMATS: Final = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}


class DecodedFrame(NamedTuple):
    """A frame as the decoder returns it.

    Attributes:
        number: Its place in the source, from 0.
        time: Seconds since the first frame.
        pixels: PyAV's frame, or RGB.
        came: When it was decoded, in seconds of `time.perf_counter`.
    """

    number: int
    time: float
    pixels: Any
    came: float


def rgb_pixels(frame: Any) -> npt.NDArray[np.uint8]:
    """Return a frame of PyAV as RGB, (H,W,3), turned as the video says."""
    pixels = np.rot90(frame.to_ndarray(format="rgb24"), _quarter_turns(frame))
    return np.ascontiguousarray(pixels, np.uint8)


def _quarter_turns(frame: Any) -> int:
    return round((frame.rotation or 0) / 90) % 4


class Decoder:
    """A source that is open.

    Args:
        place: The source.
        reconnect: Seconds for which a live source that was cut off is tried again.
        skip_broken: Leave out frames of a file that are damaged, as those of a live source always are.
        max_pixels: Refuse larger frames; None for no limit.
        tell: Called with a sentence when a source is cut off, and when it is back.

    Attributes:
        name: Name to show to people.
        live: True for a source that does not wait and has no end.
        size: Height and width of a frame, turned as the video says.
        rate: Frames per second; None if unknown.
        count: Number of frames; None if unknown.
        skipped: Number of damaged frames left out so far.
        stopped: Set to True to end.

    Raises:
        VideoError: It cannot be opened, or holds no pictures.
        ExtraError: PyAV is not installed.
    """

    def __init__(
        self,
        place: Place,
        *,
        reconnect: float,
        skip_broken: bool,
        max_pixels: int | None,
        tell: Callable[[str], None],
    ) -> None:
        self._av: Any = require_extra("av", "video", "reading videos, cameras and streams")
        self.name, self._place = place.name, place
        self._reconnect, self._max_pixels, self._tell = reconnect, max_pixels, tell
        self.stopped = False
        self.skipped = 0
        self._first = 0.0
        try:
            self._container = self._opened()
        except (self._av.FFmpegError, OSError, ValueError) as error:
            if isinstance(error, VideoError):
                raise
            raise self._cannot_open(error) from error
        # A server may also hold a file, which ends.
        self.live = place.kind == CAMERA or (place.kind == STREAM and not self._container.duration)
        self._skips = self.live or skip_broken
        stream = self._container.streams.video[0]
        self.size = (int(stream.codec_context.height), int(stream.codec_context.width))
        self.rate = None if not stream.average_rate else float(stream.average_rate)
        known = self._container.duration if not self.live and self.rate else None
        self.count = stream.frames or (round(known / 1e6 * (self.rate or 0)) if known else None)

    def frames(self) -> Iterator[DecodedFrame]:
        """Decode, and reconnect to a live source that was cut off.

        Raises:
            VideoError: The source ends too early, is damaged, or changes its size.
        """
        index, start, lost, wait, why = 0, 0.0, None, _FIRST_WAIT, ""
        while True:
            try:
                for frame in self._decoded():
                    now = time.perf_counter()
                    self._check_size(frame, index)
                    start = start or now
                    if lost is not None:
                        self._tell(f"'{self.name}' is back after {now - lost:.1f} s.")
                        lost, wait = None, _FIRST_WAIT
                    at = now - start if self.live else self._time(frame, index)
                    yield DecodedFrame(index, at, frame, now)
                    index += 1
                why = "the stream ended"
            except (self._av.FFmpegError, OSError) as error:
                if not self.live and not self._skips:
                    raise self._damaged(index, _reason(error)) from error
                why = _reason(error)
            if self.stopped or not self.live:
                return
            if lost is None:
                lost = time.perf_counter()
                self._tell(
                    f"'{self.name}' was cut off after {index:,} frames ({why}). Reconnecting for up to "
                    f"{self._reconnect:g} s (--reconnect)."
                )
            further = self._open_again(lost, wait, why)
            if further is None:
                return
            wait = further

    def close(self) -> None:
        """Close the source. Not while another thread iterates over `frames`."""
        self._container.close()

    def _open_again(self, lost: float, wait: float, why: str) -> float | None:
        """Wait and open the source again until it can be opened; return the next wait, or None when stopped.

        Raises:
            VideoError: It was cut off for longer than it may be.
        """
        self._container.close()
        while not self.stopped:
            left = lost + self._reconnect - time.perf_counter()
            if left <= 0:
                raise VideoError(
                    f"'{self.name}' was cut off ({why}) and did not come back within {self._reconnect:g} s, expected "
                    "a stream without end. Check camera and network, or wait longer with --reconnect SECONDS "
                    "(reconnect)."
                )
            end = time.perf_counter() + min(wait, left)
            while not self.stopped and time.perf_counter() < end:
                time.sleep(0.05)
            wait = min(2 * wait, _LONGEST_WAIT)
            try:
                self._container = self._opened()
            except (self._av.FFmpegError, OSError, VideoError):
                continue
            return wait
        return None

    def _opened(self) -> Any:
        """Open the source with FFmpeg, and check that it holds pictures of a bearable size."""
        url, options, form = self._place.url, {}, None
        if self._place.kind == FILE:
            if not Path(url).is_file():
                raise VideoError(f"Video '{self.name}' does not exist, expected a video file. Check the path.")
            # FFmpeg would take `a:b.mp4` for a URL.
            url = f"file:{Path(url).absolute()}"
        elif self._place.kind == CAMERA:
            form = _CAMERA_FORMATS.get(sys.platform, "v4l2")
            if form == "dshow":
                url = self._directshow_name(int(url))
        elif url.startswith("rtsp"):
            # Packets that get lost over UDP damage pictures.
            options = {"rtsp_flags": "prefer_tcp"}
        timeout = None if self._place.kind == FILE else (_TIMEOUT, _TIMEOUT)
        container = self._av.open(url, format=form, options=options, timeout=timeout)
        try:
            self._check_pictures(container)
        except VideoError:
            container.close()
            raise
        # Decoding several frames at a time would return each later.
        live = self._place.kind == CAMERA or not container.duration
        container.streams.video[0].thread_type = "SLICE" if live else "AUTO"
        return container

    def _check_pictures(self, container: Any) -> None:
        if not container.streams.video:
            held = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
            raise VideoError(
                f"'{self.name}' holds no pictures (only {held}), expected a video stream. Check that it plays."
            )
        context = container.streams.video[0].codec_context
        if context is None:
            raise VideoError(
                f"'{self.name}' is encoded in a way that FFmpeg cannot decode, expected H.264, H.265, MJPEG or the "
                "like. Convert it."
            )
        pixels = context.width * context.height
        if self._max_pixels is not None and pixels > self._max_pixels:
            raise VideoError(
                f"Frames of '{self.name}' have {context.width} x {context.height} = {pixels:,} pixels, expected at "
                f"most {self._max_pixels:,}. Raise the limit with --max-pixels (max_pixels), or scale the video."
            )

    def _directshow_name(self, number: int) -> str:
        found = [each for each in self._av.enumerate_input_devices("dshow") if "video" in each.media_types]
        if number >= len(found):
            raise VideoError(
                f"Camera {number} does not exist, and {len(found)} cameras were found. Plug it in, or take another."
            )
        return f"video={found[number].name}"

    def _decoded(self) -> Iterator[Any]:
        """Yield frames of the open container; of a file, check that none is damaged and the end is there."""
        video = self._container.streams.video[0]
        end, frames = 0.0, 0
        for packet in self._container.demux() if not self.live else self._container.demux(video):
            if self.stopped:
                return
            if packet.pts is not None:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream is not video:
                continue
            damaged = packet.is_corrupt and not self._skips
            try:
                # The decoder holds frames back that precede a damaged packet.
                decoded = video.codec_context.decode(None) if damaged else packet.decode()
            except self._av.error.InvalidDataError:
                if not self._skips:
                    raise
                self.skipped += 1
                continue
            for frame in decoded:
                if not frame.is_corrupt:
                    yield frame
                    frames += 1
                elif self._skips:
                    self.skipped += 1
                else:
                    raise self._damaged(frames, "it is incomplete")
            if damaged:
                raise self._damaged(frames, "it is incomplete")
        if frames and not self._skips and not self.stopped:
            self._check_end(end)

    def _check_end(self, end: float) -> None:
        """Raise if the last packet of a file ends before the file does, as it says; in seconds."""
        start = (self._container.start_time or 0) / 1e6
        missing = start + (self._container.duration or 0) / 1e6 - end
        if missing > _TOLERANCE:
            raise VideoError(
                f"'{self.name}' ends {missing:.1f} s before the end that it declares, expected a whole file: it was "
                "truncated. Copy it again, or take what is there with --skip-broken (skip_broken=True)."
            )

    def _time(self, frame: Any, index: int) -> float:
        """Return a frame's time in a file, counted from its first frame."""
        if frame.pts is None or not frame.time_base:  # raw H.264, for example
            return index / (self.rate or 25)
        found = float(frame.pts * frame.time_base)
        if index == 0:
            self._first = found
        return max(0.0, found - self._first)

    def _check_size(self, frame: Any, index: int) -> None:
        size = (int(frame.height), int(frame.width))
        turned = size[::-1] if _quarter_turns(frame) % 2 else size
        if index == 0:
            self.size = turned
        if turned != self.size:
            raise VideoError(
                f"Frame {index} of '{self.name}' has {turned[1]}x{turned[0]} pixels, expected "
                f"{self.size[1]}x{self.size[0]} as the frames before. Split the video there, or scale it to one size."
            )

    def _damaged(self, index: int, why: str) -> VideoError:
        return VideoError(
            f"Frame {index} of '{self.name}' cannot be decoded: {why}; the file is damaged or truncated. Copy it "
            "again, or leave out damaged frames with --skip-broken (skip_broken=True)."
        )

    def _cannot_open(self, error: BaseException) -> VideoError:
        reason = _reason(error)
        if self._place.kind == CAMERA:
            return VideoError(
                f"Camera {self.name.rpartition(' ')[2]} cannot be opened ({self._place.url}): {reason}. Expected a "
                "camera of this machine that no other program uses. Plug it in, or give another number."
            )
        if self._place.kind == STREAM:
            return VideoError(
                f"Stream '{self.name}' cannot be opened: {reason}. Expected a URL that plays, such as "
                "rtsp://user:password@host/path. Check address, user name, password and network."
            )
        return VideoError(
            f"Video '{self.name}' cannot be opened: {reason}. Expected a whole video file: it is damaged, truncated, "
            "or no video. Check that it plays, or copy it again."
        )


def _reason(error: BaseException) -> str:
    if type(error).__name__ == "ExitError":  # PyAV's, when the timeout ends a call
        return f"no answer or frame for {_TIMEOUT:g} s"
    text = without_credentials(str(getattr(error, "strerror", None) or error)).rstrip(".")
    return (text[:1].lower() + text[1:]) or type(error).__name__
