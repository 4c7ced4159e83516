"""`pp-graph run` on videos, cameras and streams."""

from __future__ import annotations

import contextlib
import re
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from pp_graph.cli.output import nobody_reads, note, print_error, print_fields, print_json, print_line, progress_bar
from pp_graph.errors import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pp_graph.report.video import WrittenVideo
    from pp_graph.running import Runner
    from pp_graph.video import Place, Video

_Function = TypeVar("_Function", bound="Callable[..., Any]")

VIDEO_OPTIONS: Final = ("every", "max_frames", "drop_frames", "reconnect")
"""Parameters that `video_options` adds."""
_STDOUT: Final = Path("-")
_INTERRUPTED: Final = 130
_OPTIONS = (
    click.option("--every", type=click.IntRange(min=1), default=1, metavar="N", help="video: take every N-th frame."),
    click.option("--max-frames", type=click.IntRange(min=1), metavar="N", help="video: end after N frames."),
    click.option("--drop-frames/--no-drop-frames", default=None,
                 help="video: take only the newest frame, and drop those before it; or keep all, and let the source "
                      "wait.  [default: drop those of cameras and streams]"),
    click.option("--reconnect", type=click.FloatRange(min=0), default=30.0, show_default=True, metavar="SECONDS",
                 help="video: try for this long to open a camera or stream again that was cut off."),
)  # fmt: skip


def video_options(function: _Function) -> _Function:
    """Add the options about videos to a verb."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def videos_among(given: Sequence[str]) -> tuple[Place, ...]:
    """Return the videos, cameras and streams that arguments name; none if they name images.

    Raises:
        click.UsageError: They name both.
    """
    from pp_graph.video import find_videos

    found = [find_videos(each) for each in given]
    if any(found) and not all(found):
        image = next(each for each, videos in zip(given, found, strict=True) if not videos)
        video = next(videos[0].name for videos in found if videos)
        raise click.UsageError(f"'{video}' is a video, and '{image}' is none, expected only videos, or only images.")
    return tuple(video for videos in found for video in videos)


def refuse_file(output: Path) -> None:
    """Refuse an output of images that only a video has: a file, or stdout.

    Raises:
        click.UsageError: It is one, and no folder of that name exists.
    """
    from pp_graph.report.video import ENDINGS

    if output == _STDOUT or (output.suffix.lower() in ENDINGS and not output.is_dir()):
        raise click.UsageError(
            f"-o {output} is an output of videos, expected a folder, because images were given. Name a folder, which "
            "gets predictions.csv; --json prints the predictions."
        )


def run_videos(
    places: Sequence[Place],
    load: Callable[[str], Runner],
    outputs: Sequence[Path],
    options: dict[str, Any],
    inputs: Sequence[Path],
    *,
    force: bool,
    as_json: bool,
) -> int:
    """Run a model on videos, one after the other, and print what was found.

    Args:
        places: The videos.
        load: Loads the model for a mode, `latency` or `throughput`.
        outputs: What was given as outputs.
        options: Options of the verb.
        inputs: Files that are never replaced.
        force: Replace existing files.
        as_json: Print one JSON object.

    Returns:
        The exit status.
    """
    from pp_graph.report.video import check_outputs, write_video
    from pp_graph.video import open_video

    prints_lines = _STDOUT in outputs
    if prints_lines and as_json:
        raise click.UsageError("--json and -o - both write to stdout, expected one of them. Leave out the other.")
    targets = _targets(places, [output for output in outputs if output != _STDOUT])
    inputs = [*inputs, *(Path(place.url) for place in places if place.kind == "file")]
    check_outputs([file for files in targets for file in files], overwrite=force, inputs=inputs)
    limit = {} if options["max_pixels"] is None else {"max_pixels": options["max_pixels"]}
    settings = {name: options[name] for name in (*VIDEO_OPTIONS, "skip_broken")} | limit
    runner: Runner | None = None
    written: list[WrittenVideo] = []
    stopped = live = False
    for place, files in zip(places, targets, strict=True):
        with open_video(place, tell=note, **settings) as video:
            if runner is None:
                runner = load("latency" if video.drops else "throughput")
            with _stopped_by_signals(video) as signals, progress_bar("Running", video.count) as progress:
                written.append(
                    write_video(
                        runner,
                        video,
                        files,
                        lines=sys.stdout if prints_lines else None,
                        letterbox=options["letterbox"],
                        overwrite=force,
                        inputs=inputs,
                        progress=_Progress(progress, video) if prints_lines else progress,
                    )
                )
            stopped, live = bool(signals), video.live
        if stopped or nobody_reads():
            break
    assert runner is not None
    for warning in dict.fromkeys(warning for each in written for warning in each.warnings):
        note(f"Warning: {warning}")
    if stopped:
        note(f"Note: stopped after {counted(written[-1].frames, 'frame')}; what was written is complete up to there.")
    _print(runner, written, as_json=as_json, quiet=prints_lines)
    ended = written[-1].ended
    if ended is not None:
        print_error(type(ended).__name__, str(ended), as_json=False)
        return 2
    return _INTERRUPTED if stopped and not live else 0


def _targets(places: Sequence[Place], outputs: Sequence[Path]) -> list[list[Path]]:
    """Return the files to write of each video."""
    from pp_graph.report.prediction_table import picture_stems

    folders = [output for output in outputs if not output.suffix or output.is_dir()]
    if len(places) > 1 and len(folders) < len(outputs):
        file = next(output for output in outputs if output not in folders)
        raise click.UsageError(
            f"{len(places)} videos were given, and -o {file} is one file, expected a folder, or - for JSON lines on "
            "stdout. Name a folder."
        )
    plain = [Path(place.name).name if place.kind == "file" else re.sub(r"\W+", "_", place.name) for place in places]
    return [
        [
            file
            for output in outputs
            for file in ([output / f"{stem}.mp4", output / f"{stem}.csv"] if output in folders else [output])
        ]
        for stem in picture_stems(plain)
    ]


class _Progress:
    """Tells a bar of each frame, and ends the video when nobody reads its lines any more."""

    def __init__(self, tell: Callable[[float], None], video: Video) -> None:
        self._tell, self._video = tell, video

    def __call__(self, done: int) -> None:
        self._tell(done)
        if nobody_reads():
            self._video.stop()


@contextlib.contextmanager
def _stopped_by_signals(video: Video) -> Iterator[list[int]]:
    """End a video on the first Ctrl-C or SIGTERM, so that its files are finished, and abort on the second.

    Yields:
        The signals that came.
    """
    came: list[int] = []

    def stop(number: int, _: object) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)
        video.stop()

    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    # SIGTERM too, where `main` has made an interrupt of it.
    handled = [
        number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is signal.default_int_handler
    ]
    for number in handled:
        signal.signal(number, stop)
    try:
        yield came
    finally:
        for number in handled:
            signal.signal(number, signal.default_int_handler)


def _print(runner: Runner, written: Sequence[WrittenVideo], *, as_json: bool, quiet: bool) -> None:
    if as_json:
        print_json({"model": runner.name, "device": runner.device, "videos": [each.to_dict() for each in written]})
        return
    for each in written:
        found = counted(each.frames, "frame") + (
            ("" if each.anomalous is None else f", {each.anomalous:,} anomalous")
            + ("" if each.detections is None else f", {counted(each.detections, 'detection')}")
        )
        if quiet:  # stdout has the lines
            note(
                f"{each.source}: {found}, {each.rate:.1f} frames/s, {each.dropped:,} dropped, {each.skipped:,} damaged."
            )
            continue
        print_fields(
            found,
            {
                "source": each.source,
                "model": f"{runner.name}, {runner.description}",
                "decoded": counted(each.decoded, "frame")
                + (f", {each.dropped:,} dropped" if each.dropped else "")
                + (f", and {each.skipped:,} damaged ones skipped" if each.skipped else ""),
                "speed": f"{each.rate:.1f} frames/s",
                "latency": f"{1000 * each.latency[0]:.1f} ms from decoded frame to predictions "
                f"(95 % within {1000 * each.latency[1]:.1f} ms)",
            },
        )
    files = [str(file) for each in written for file in each.outputs]
    if files and not quiet:
        print_line(f"Wrote {', '.join(files)}")
    elif files:
        note(f"Wrote {', '.join(files)}")
