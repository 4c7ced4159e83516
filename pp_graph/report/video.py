"""`write_video`: run a model on a video, and write an annotated video, a CSV table, or JSON lines."""

from __future__ import annotations

import time
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from pp_graph.errors import DataError, OutputFileError, VideoError
from pp_graph.files import check_targets, written_together
from pp_graph.plausibility import PredictionChecks, describe_warnings
from pp_graph.progress import shows_progress
from pp_graph.report.drawn_outputs import DrawnOutputs
from pp_graph.report.frame_sinks import FrameResult, JsonLines, frame_result, open_sink
from pp_graph.report.prediction_folder import refuse_letterboxed_maps
from pp_graph.running import run_frames
from pp_graph.video import VIDEO_FILES, Video, open_video

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import TextIO

    from pp_graph.running import Runner

Array = npt.NDArray[Any]

ENDINGS: Final = (*VIDEO_FILES, ".csv", ".jsonl")
"""Endings of what is written about a video."""
_KEPT_LATENCIES: Final = 100_000


@dataclass(frozen=True)
class WrittenVideo:
    """Result of `write_video`.

    Attributes:
        source: Name of the video, without password.
        outputs: The files.
        frames: Number of frames that the model ran on.
        decoded: Number of frames decoded.
        dropped: Number of frames dropped because newer ones came.
        skipped: Number of damaged frames left out.
        anomalous: Number of frames labelled anomalous; None for other models.
        detections: Number of detections; None for other models.
        seconds: Time from the first frame to the last result.
        latency: Median and 95th percentile of the time from decoding a frame to its predictions, in seconds.
        ended: Why a live source ended, if it did not come back.
        warnings: What looks wrong in the results.
    """

    source: str
    outputs: tuple[Path, ...]
    frames: int
    decoded: int
    dropped: int
    skipped: int
    anomalous: int | None
    detections: int | None
    seconds: float
    latency: tuple[float, float]
    ended: VideoError | None
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "source": self.source,
            "outputs": list(map(str, self.outputs)),
            "frames": self.frames,
            "decoded_frames": self.decoded,
            "dropped_frames": self.dropped,
            "skipped_frames": self.skipped,
            "anomalous_frames": self.anomalous,
            "detections": self.detections,
            "seconds": round(self.seconds, 3),
            "frames_per_second": round(self.rate, 2),
            "latency_ms": {"median": _milliseconds(self.latency[0]), "p95": _milliseconds(self.latency[1])},
            "ended": None if self.ended is None else str(self.ended),
            "warnings": list(self.warnings),
        }

    @property
    def rate(self) -> float:
        """Frames per second that were run."""
        return self.frames / self.seconds if self.seconds else 0.0


def _milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 1)


@shows_progress("Running")
def write_video(
    runner: Runner,
    video: Video | str | Path | int,
    outputs: Sequence[str | Path] = (),
    *,
    lines: TextIO | None = None,
    letterbox: bool = False,
    overwrite: bool = False,
    inputs: Iterable[Path] = (),
    progress: Callable[[int], object] | bool | None = None,
) -> WrittenVideo:
    """Run a model on the frames of a video, and write what it finds.

    Decoding, the model, drawing and encoding run side by side. The files appear when everything is done. `Video.stop`
    ends early, and finishes them.

    Args:
        runner: The model.
        video: The video; see `open_video`.
        outputs: Files to write, by ending: an annotated video (.mp4, .mkv, .mov), a table with a row for each frame, or
            for each detection (.csv), or a JSON object for each frame on a line (.jsonl).
        lines: Text stream that gets the JSON lines at once.
        letterbox: Resize frames to the model's input without changing their aspect ratio.
        overwrite: Replace existing files.
        inputs: Files that are never replaced.
        progress: Called with 1 after each frame; True shows a progress bar.

    Raises:
        OutputFileError: A file exists, cannot be written, or has another ending.
        VideoError: The video cannot be read to its end; no file appears. If a camera or stream was cut off and did not
            come back, the files appear all the same, and `WrittenVideo.ended` says so.
        DataError: The frames do not fit the model, or it returns nothing to draw.
        TargetError: The runtime fails.
    """
    targets = [Path(output) for output in outputs]
    check_outputs(targets, overwrite=overwrite, inputs=inputs)
    drawn = DrawnOutputs.of(runner)
    draws = any(target.suffix.lower() in VIDEO_FILES for target in targets)
    if draws and not drawn.folders(("overlays",)):
        raise DataError(
            f"The model returns {', '.join(drawn.outputs) or 'nothing'}, expected something to draw on a video, such "
            "as a map, a mask, boxes or a class. Write a .csv or .jsonl, or stdout (-o -)."
        )
    refuse_letterboxed_maps(runner, letterbox, drawn, draws=draws)
    opened = video if isinstance(video, Video) else open_video(video)
    latencies: deque[float] = deque(maxlen=_KEPT_LATENCIES)
    counts = _Counts()
    checks = PredictionChecks(tuple(part for each in runner.provenance.outputs for part in (each.channels or (each,))))
    with opened, ExitStack() as stack:
        drafts = [
            stack.enter_context(written_together(target, overwrite=overwrite, inputs=inputs))[0] for target in targets
        ]
        sinks = [stack.enter_context(open_sink(draft, opened, drawn, runner)) for draft in drafts]
        if lines is not None:
            sinks.append(JsonLines(lines))
        started = ended_at = None
        ended = None
        try:
            for frame, source, predictions in run_frames(runner, opened, letterbox=letterbox):
                ended_at = time.perf_counter()
                started = started or frame.came
                latencies.append(ended_at - frame.came)
                checks.add(dict(predictions))
                result = frame_result(runner, drawn, frame, source, predictions)
                counts.add(result)
                for sink in sinks:
                    sink.write(result)
                if callable(progress):
                    progress(1)
        except VideoError as error:
            # What a camera saw cannot be had again.
            if not opened.live or not latencies:
                raise
            ended = error
        if not counts.frames:
            raise VideoError(f"'{opened.name}' was stopped before its first frame; nothing was written.")
    middle, high = np.percentile(latencies, (50, 95))
    return WrittenVideo(
        opened.name,
        tuple(targets),
        counts.frames,
        opened.decoded,
        opened.dropped,
        opened.skipped,
        counts.anomalous if drawn.anomalies and counts.labelled else None,
        counts.detections if drawn.detects else None,
        0.0 if started is None or ended_at is None else ended_at - started,
        (float(middle), float(high)),
        ended,
        (*describe_warnings(runner.provenance), *checks.warnings()),
    )


def check_outputs(targets: Sequence[Path], *, overwrite: bool, inputs: Iterable[Path]) -> None:
    """Raise `OutputFileError` if a file about a video cannot be written, before the work starts."""
    for target in targets:
        if target.suffix.lower() not in ENDINGS:
            raise OutputFileError(
                f"Output '{target}' of a video has the ending '{target.suffix}', expected one of "
                f"{', '.join(ENDINGS)}, or - for JSON lines on stdout. Name a file with one of these."
            )
    if len(set(targets)) < len(targets):
        raise OutputFileError(f"Output '{targets[0]}' is given twice, expected different files. Leave one out.")
    check_targets(targets, overwrite=overwrite, inputs=inputs)


@dataclass
class _Counts:
    frames: int = 0
    anomalous: int = 0
    labelled: bool = False
    detections: int = 0

    def add(self, result: FrameResult) -> None:
        self.frames += 1
        self.labelled = self.labelled or result.row.pred_label is not None
        self.anomalous += bool(result.row.pred_label)
        self.detections += len(result.listed)
