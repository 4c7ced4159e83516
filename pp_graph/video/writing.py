"""`VideoWriter`: write frames to a video file."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pp_graph.errors import OutputFileError, VideoError
from pp_graph.extras import require_extra

VIDEO_FILES: Final = (".mp4", ".mkv", ".mov")
"""Endings of videos that are written."""
_CODECS: Final = ("libx264", "libopenh264", "mpeg4")
"""H.264 where FFmpeg was built with an encoder of it."""
_CLOCK: Final = 90_000
"""Ticks per second of the time of frames."""


class VideoWriter:
    """Writes frames of one size, each shown until the time of the next.

    Args:
        file: The file; its ending is one of `VIDEO_FILES`.
        size: Height and width of the frames in pixels. A row or column is repeated where a size is odd, because H.264
            takes even sizes.
        rate: Frames per second, as far as known; the last frame is shown for one of these.

    Raises:
        ExtraError: PyAV is not installed.
        OutputFileError: The file cannot be written.
    """

    def __init__(self, file: str | Path, size: tuple[int, int], rate: float | None) -> None:
        self._av: Any = require_extra("av", "video", "writing a video")
        self._file = Path(file)
        self._step = max(1, round(_CLOCK / (rate or 25)))
        self._last = -1
        try:
            self._container = self._av.open(str(file), "w", options={"movflags": "+faststart"})
            codec = next(name for name in _CODECS if name in self._av.codecs_available)
            stream = self._container.add_stream(codec, rate=Fraction(rate or 25).limit_denominator(1001))
            stream.width, stream.height = (side + side % 2 for side in reversed(size))
            stream.pix_fmt = "yuv420p"
            stream.time_base = stream.codec_context.time_base = Fraction(1, _CLOCK)
            if codec == "libx264":
                stream.options = {"preset": "veryfast", "crf": "20"}
        except (self._av.FFmpegError, StopIteration) as error:
            raise self._failed(error) from error
        self._stream = stream

    def write(self, pixels: npt.NDArray[np.uint8], time: float) -> None:
        """Write a frame.

        Args:
            pixels: RGB, uint8, (H,W,3).
            time: Seconds since the start.

        Raises:
            VideoError: The frame has another size.
            OutputFileError: The file cannot be written.
        """
        height, width = pixels.shape[:2]
        pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        if pixels.shape[:2] != (self._stream.height, self._stream.width):
            raise VideoError(
                f"A frame for '{self._file.name}' has {width}x{height} pixels, expected "
                f"{self._stream.width}x{self._stream.height} as the first. Write frames of another size elsewhere."
            )
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        # Times of frames grow, even where a camera's clock does not.
        self._last = frame.pts = max(self._last + 1, round(time * _CLOCK))
        frame.time_base = Fraction(1, _CLOCK)
        self._encode(frame)

    def close(self) -> None:
        """Finish the file.

        Raises:
            OutputFileError: The file cannot be written.
        """
        try:
            self._encode(None)
        finally:
            try:
                self._container.close()
            except self._av.FFmpegError as error:
                raise self._failed(error) from error

    def _encode(self, frame: Any) -> None:
        try:
            for packet in self._stream.encode(frame):
                if not packet.duration:
                    packet.duration = self._step
                self._container.mux(packet)
        except self._av.FFmpegError as error:
            raise self._failed(error) from error

    def _failed(self, error: BaseException) -> OutputFileError:
        reason = getattr(error, "strerror", None) or str(error) or "FFmpeg has no encoder of H.264 or MPEG-4"
        return OutputFileError(
            f"Video '{self._file.name}' cannot be written: {reason}. Free disk space, or choose another folder."
        )
