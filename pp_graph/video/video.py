"""`open_video`: read the frames of a video, camera or stream in a thread of their own."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import numpy as np
import numpy.typing as npt

from pp_graph.data.image_files import MAX_PIXELS, check_max_pixels
from pp_graph.errors import VideoError
from pp_graph.video.decoding import DecodedFrame, Decoder, rgb_pixels
from pp_graph.video.places import find_videos, not_a_video

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pp_graph.video.places import Place

RECONNECT: Final = 30.0
"""Seconds for which a stream that was cut off is tried again by default."""
_QUEUED: Final = 4
"""Frames that wait at most."""
_POLL: Final = 0.1
_CLOSING: Final = 2.0
"""Seconds to wait at most for the source to close."""


@dataclass(frozen=True, eq=False)
class Frame:
    """A frame.

    Attributes:
        index: Its number in the source, from 0. Frames that were left out are counted.
        time: Seconds since the first frame: of a file as it says, of a camera or stream when the frame came.
        pixels: RGB, uint8 (H,W,3), turned as the video says.
        source: Name of the source, without password.
        came: When it was decoded, in seconds of `time.perf_counter`.
    """

    index: int
    time: float
    pixels: npt.NDArray[np.uint8]
    source: str
    came: float


def open_video(
    source: str | int | Path | Place,
    *,
    every: int = 1,
    max_frames: int | None = None,
    drop_frames: bool | None = None,
    reconnect: float = RECONNECT,
    skip_broken: bool = False,
    max_pixels: int | None = MAX_PIXELS,
    tell: Callable[[str], None] | None = None,
) -> Video:
    """Open a video, camera or stream to read its frames.

    Args:
        source: The path of a video, the number of a camera (0, 1, ...), or a URL (`rtsp://`, `http://`, ...).
        every: Take every n-th frame.
        max_frames: End after this many frames; None for all.
        drop_frames: True takes only the newest frame whenever one is asked for, and drops those before it; a file is
            then read at its own pace. False keeps all, and lets the source wait. None drops those of cameras and
            streams, and keeps those of files.
        reconnect: Seconds for which a stream or camera that was cut off is tried again.
        skip_broken: Leave out damaged frames of a file, and let it end early. Those of a camera or stream always are.
        max_pixels: Refuse larger frames; None for no limit.
        tell: Called with a sentence when a stream is cut off and when it is back. None logs it as a warning of
            `pp_graph.video`.

    Returns:
        The video, which yields its frames once.

    Raises:
        VideoError: It does not exist, cannot be opened, or holds no pictures.
        DataError: A setting is out of range.
        ExtraError: PyAV is not installed.
    """
    for name, number, least in (("every", every, 1), ("max_frames", max_frames, 1), ("reconnect", reconnect, 0)):
        if number is not None and not number >= least:
            raise VideoError(
                f"{name} is {number}, expected at least {least}. Correct --{name.replace('_', '-')} ({name})."
            )
    check_max_pixels(max_pixels)
    places = find_videos(source)
    if len(places) != 1:
        if places:
            raise VideoError(f"'{source}' matches {len(places)} videos, expected one. Open one after the other.")
        raise not_a_video(Path(str(source)))
    decoder = Decoder(
        places[0],
        reconnect=reconnect,
        skip_broken=skip_broken,
        max_pixels=max_pixels,
        tell=tell or logging.getLogger("pp_graph.video").warning,
    )
    return Video(decoder, every, max_frames, decoder.live if drop_frames is None else drop_frames)


class Video:
    """Frames of a video, camera or stream, decoded in another thread. Iterate once; `open_video` makes one.

    Attributes:
        name: Name of the source, without password.
        live: True for a camera or stream, which does not wait and has no end.
        drops: True if only the newest frame is kept.
        size: Height and width of the frames in pixels, turned as the video says.
        rate: Frames per second that the iteration yields, as far as known.
        count: Number of frames that the iteration yields, as the file says; None if unknown.
        decoded: Number of frames decoded so far.
        dropped: Number of frames dropped so far because newer ones came.
    """

    def __init__(self, decoder: Decoder, every: int, max_frames: int | None, drops: bool) -> None:
        self.name, self.live, self.drops = decoder.name, decoder.live, drops
        self.size = decoder.size
        self.rate = None if decoder.rate is None else decoder.rate / every
        self.count = None if decoder.count is None or drops else -(-decoder.count // every)
        if max_frames is not None and self.count is not None:
            self.count = min(self.count, max_frames)
        self.decoded = self.dropped = 0
        self._decoder, self._every, self._max_frames = decoder, every, max_frames
        self._waiting: deque[DecodedFrame] = deque()
        self._changed = threading.Condition()
        self._ended = self._started = False
        self._failure: BaseException | None = None
        # Set by signal handlers too, which must not wait for a lock.
        self._stopped = False

    @property
    def skipped(self) -> int:
        """Number of damaged frames left out so far."""
        return self._decoder.skipped

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames.

        Raises:
            VideoError: The source ends too early, is damaged, or changes its size; after the frames before.
        """
        if self._started:
            raise VideoError(f"'{self.name}' was read already, expected one iteration. Open it again.")
        self._started = True
        reader = threading.Thread(target=self._read, name="decoding", daemon=True)
        reader.start()
        yielded = 0
        try:
            while (found := self._next()) is not None:
                pixels = found.pixels if isinstance(found.pixels, np.ndarray) else rgb_pixels(found.pixels)
                yield Frame(found.number, found.time, pixels, self.name, found.came)
                yielded += 1
                if yielded == self._max_frames:
                    return
            if self._failure is not None and not self._stopped:
                raise self._failure
            if not yielded and not self._stopped:
                raise VideoError(
                    f"'{self.name}' holds no frame that can be decoded, expected at least one. Check that it plays."
                )
        finally:
            self.stop()
            # It closes the source, so that a camera can be opened again; a silent stream may keep it waiting.
            reader.join(_CLOSING)

    def stop(self) -> None:
        """End the iteration after the frame at work. May be called at any time, also by a signal handler."""
        self._stopped = self._decoder.stopped = True

    def close(self) -> None:
        """End the iteration, and close the source."""
        self.stop()
        if not self._started:
            self._started = True
            self._decoder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _next(self) -> DecodedFrame | None:
        """Return the next frame, in dropping mode the newest; None at the end."""
        with self._changed:
            while not self._waiting:
                if self._ended or self._stopped:
                    return None
                self._changed.wait(_POLL)
            if self._stopped:
                return None
            found = self._waiting.popleft()
            self._changed.notify_all()
            return found

    def _read(self) -> None:
        """Decode frames into the queue until the source ends or nobody wants more. Runs in its own thread."""
        started = time.perf_counter()
        taken = 0
        try:
            for found in self._decoder.frames():
                self.decoded += 1
                if found.number % self._every:
                    continue
                if self.drops and not self._decoder.live:
                    self._sleep_until(started + found.time)
                    found = found._replace(came=time.perf_counter())  # noqa: PLW2901
                elif not self.drops:
                    found = found._replace(pixels=rgb_pixels(found.pixels))  # noqa: PLW2901
                taken += 1
                # In dropping mode, others than these may be asked for.
                if not self._put(found) or (taken == self._max_frames and not self.drops):
                    break
        except BaseException as error:
            self._failure = error
        finally:
            self._decoder.close()
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _put(self, found: DecodedFrame) -> bool:
        """Add a frame to the queue; return False if nobody wants it."""
        with self._changed:
            if self.drops:
                self.dropped += len(self._waiting)
                self._waiting.clear()
            while len(self._waiting) >= _QUEUED and not self._stopped:
                self._changed.wait(_POLL)
            self._waiting.append(found)
            self._changed.notify_all()
            return not self._stopped

    def _sleep_until(self, due: float) -> None:
        while not self._stopped and (left := due - time.perf_counter()) > 0:
            time.sleep(min(left, _POLL))
