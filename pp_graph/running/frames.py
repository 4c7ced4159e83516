"""Run a model on the frames of a video, and keep each frame with its predictions."""

from __future__ import annotations

from collections import deque
from contextlib import closing
from typing import TYPE_CHECKING

from pp_graph.data.resized_images import PictureImages
from pp_graph.running.sources import Source

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from pp_graph.program import Predictions
    from pp_graph.running.runner import Runner
    from pp_graph.video import Frame, Video


def run_frames(
    runner: Runner, video: Video, *, letterbox: bool = False
) -> Generator[tuple[Frame, Source, Predictions], None, None]:
    """Run a model on a video. If it drops frames, one at a time, otherwise with several requests in flight.

    Args:
        runner: The model.
        video: The video; its errors are raised after the results of the frames before.
        letterbox: Resize frames without changing their aspect ratio; see `pp_graph.data.open_images`.

    Yields:
        Each frame, the source of one image that it was run as, and its predictions.
    """

    def opened(frame: Frame) -> Source:
        return Source(PictureImages([frame.pixels], [str(frame.index)], letterbox=letterbox), 1)

    if video.drops:
        for frame in video:
            source = opened(frame)
            yield frame, source, runner(source)
        return
    running: deque[tuple[Frame, Source]] = deque()

    def sources() -> Iterator[Source]:
        for frame in video:
            running.append((frame, opened(frame)))
            yield running[-1][1]

    with closing(runner.stream(sources())) as results:
        for predictions in results:
            yield *running.popleft(), predictions
