"""What is written about each frame of a video: a picture, rows of a table, a line of JSON."""

from __future__ import annotations

import contextlib
import csv
import json
import os
from abc import ABC, abstractmethod
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from pp_graph.errors import OutputFileError
from pp_graph.report.detections import ImageDetections, detections_of_image
from pp_graph.report.overlays import overlay_of
from pp_graph.report.predicting import row_of
from pp_graph.report.prediction_table import BOX_COLUMNS, REGION_COLUMNS, columns_of, table_cell, text_file
from pp_graph.video import VideoWriter

if TYPE_CHECKING:
    from pathlib import Path
    from typing import TextIO

    from pp_graph.program import Predictions
    from pp_graph.report.drawn_outputs import DrawnOutputs
    from pp_graph.report.prediction_table import ImagePrediction
    from pp_graph.running import Runner, Source
    from pp_graph.video import Frame, Video

Array = npt.NDArray[Any]

_FRAME_COLUMNS: Final = ("source", "frame", "time")
_NOT_LISTED: Final = frozenset({"image", "mask", "overlay", "map"})


@dataclass(frozen=True)
class FrameResult:
    """What there is to write about a frame.

    Attributes:
        frame: The frame.
        row: Its row of a table.
        values: Its outputs; see `DrawnOutputs.of_image`.
        boxes: Its detections; None for other models.
        listed: The same as JSON values.
        regions: Its regions; see `DrawnRegions.of_image`.
    """

    frame: Frame
    row: ImagePrediction
    values: dict[str, Array]
    boxes: ImageDetections | None
    listed: list[dict[str, Any]]
    regions: list[list[Any]]

    @property
    def about(self) -> tuple[str, int, float]:
        """Cells of `_FRAME_COLUMNS`."""
        return self.frame.source, self.frame.index, round(self.frame.time, 6)

    @property
    def cells(self) -> dict[str, Any]:
        """Cells by column, as JSON values."""
        return {name: value for name, value in self.row.to_dict().items() if name not in _NOT_LISTED}


def frame_result(
    runner: Runner, drawn: DrawnOutputs, frame: Frame, source: Source, predictions: Predictions
) -> FrameResult:
    """Return what there is to write about a frame.

    Args:
        runner: The model.
        drawn: Its outputs.
        frame: The frame.
        source: The source that it was run as.
        predictions: Its predictions.
    """
    values = drawn.of_image(predictions, 0, 1)
    boxes, listed, regions = None, [], []
    further = drawn.further(values, {})
    height, width = frame.pixels.shape[:2]
    if drawn.detects:
        boxes = detections_of_image(runner, source, 0, predictions, 0, None)
        listed = boxes.listed(drawn.class_names)
        further |= {"detections": listed, "truncated": boxes.found.truncated}
    if drawn.regions is not None:
        regions = drawn.regions.of_image(
            values, (width, height), None if drawn.mask is None else values[drawn.mask].shape
        )
        further["regions"] = [dict(zip(REGION_COLUMNS[2:], region, strict=True)) for region in regions]
    row = row_of(str(frame.index), values, drawn, {}, further)
    return FrameResult(frame, row, values, boxes, listed, regions)


class Sink(ABC):
    """Something that frames are written to."""

    @abstractmethod
    def write(self, result: FrameResult) -> None:
        """Write a frame."""

    def close(self) -> None:  # noqa: B027 - most have nothing to finish
        """Finish the file."""

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close()


def open_sink(draft: Path, video: Video, drawn: DrawnOutputs, runner: Runner) -> Sink:
    """Open a file to write frames to, by its ending."""
    ending = draft.suffix.lower()
    if ending == ".csv":
        return _Csv(draft, detects=drawn.detects)
    if ending == ".jsonl":
        return _JsonLinesFile(draft)
    return _Annotated(draft, video, drawn, runner)


class JsonLines(Sink):
    """A JSON object for each frame on a line."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, result: FrameResult) -> None:
        """Write a line."""
        record = {**dict(zip(_FRAME_COLUMNS, result.about, strict=True)), **result.cells}
        self.stream.write(json.dumps(record, allow_nan=False) + "\n")
        # Whoever reads acts on it now.
        self.stream.flush()


class _JsonLinesFile(JsonLines):
    def __init__(self, file: Path) -> None:
        super().__init__(file.open("w", encoding="utf-8"))

    def close(self) -> None:
        self.stream.close()


class _Csv(Sink):
    """A table with a row for each frame, or of a detector for each detection."""

    def __init__(self, file: Path, *, detects: bool) -> None:
        self._stream = text_file(file)
        self._writer = csv.writer(self._stream, lineterminator="\n")
        self._columns: tuple[str, ...] = BOX_COLUMNS[1:-1] if detects else ()
        self._detects = detects
        if detects:
            self._writer.writerow((*_FRAME_COLUMNS, *self._columns))

    def write(self, result: FrameResult) -> None:
        if self._detects:
            for each in result.listed:
                self._writer.writerow([*result.about, each["class"], each["class_name"], each["score"], *each["box"]])
            return
        if not self._columns:
            left_out = {*_NOT_LISTED, "regions"}
            self._columns = tuple(name for name in columns_of([result.row]) if name not in left_out)
            self._writer.writerow((*_FRAME_COLUMNS, *self._columns))
        cells = result.row.cells
        self._writer.writerow([*result.about, *(table_cell(cells.get(name)) for name in self._columns)])

    def close(self) -> None:
        self._stream.close()


class _Annotated(Sink):
    """The frames with the predictions drawn over them. Some threads draw, and another encodes in order."""

    def __init__(self, file: Path, video: Video, drawn: DrawnOutputs, runner: Runner) -> None:
        self._drawn, self._runner = drawn, runner
        self._file, self._rate = file, video.rate
        self._writer: VideoWriter | None = None
        self._workers = os.cpu_count() or 1
        self._drawing = ThreadPoolExecutor(self._workers, thread_name_prefix="drawing")
        self._encoding = ThreadPoolExecutor(1, thread_name_prefix="encoding")
        self._waiting: deque[Future[None]] = deque()

    def write(self, result: FrameResult) -> None:
        if len(self._waiting) >= 2 * self._workers:
            self._waiting.popleft().result()
        picture = self._drawing.submit(self._draw, result)
        self._waiting.append(self._encoding.submit(self._encode, picture, result.frame.time))

    def _draw(self, result: FrameResult) -> Array:
        height, width = result.frame.pixels.shape[:2]
        picture = overlay_of(
            result.frame.pixels, result.values, self._drawn, self._runner.provenance, result.boxes, result.regions,
            (width, height),
        )  # fmt: skip
        return _kept_size(np.asarray(picture), (height, width))

    def _encode(self, picture: Future[Array], at: float) -> None:
        pixels = picture.result()
        if self._writer is None:
            self._writer = VideoWriter(self._file, (pixels.shape[0], pixels.shape[1]), self._rate)
        self._writer.write(pixels, at)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                for future in self._waiting:
                    future.result()
        finally:
            self._drawing.shutdown(cancel_futures=True)
            self._encoding.shutdown(cancel_futures=True)
            if self._writer is not None:
                with contextlib.suppress(*(() if kind is None else (OutputFileError,))):
                    self._writer.close()


def _kept_size(picture: Array, size: tuple[int, int]) -> Array:
    """Move what is drawn below a picture, such as a legend, over its lowest rows, so that frames keep their size."""
    height, width = size
    below = picture[height:, :width]
    if not len(below):
        return picture[:height, :width]
    whole = picture[:height, :width].copy()
    rows = min(len(below), height)
    whole[height - rows :] = below[:rows]
    return whole
