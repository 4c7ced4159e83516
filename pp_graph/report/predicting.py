"""Run a model on images, and draw pictures of its predictions."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from pp_graph.data.image_files import upright_size
from pp_graph.plausibility import PredictionChecks
from pp_graph.report.detections import ImageDetections, detections_of_image
from pp_graph.report.drawn_outputs import DrawnOutputs
from pp_graph.report.overlays import overlay_of
from pp_graph.report.pictures import class_picture, mask_picture, matte_picture
from pp_graph.report.prediction_table import ImagePrediction, plain
from pp_graph.report.shown_images import picture_size, rgb_image
from pp_graph.sessions.threads import thread_limit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from PIL.Image import Image

    from pp_graph.data.image_files import SeenFiles
    from pp_graph.report.drawn_outputs import Picture
    from pp_graph.running import Runner, Source

Array = npt.NDArray[Any]

_QUALITY: Final = 90
"""Quality of JPEG overlays. Encoding them as PNG takes 20 times as long as predicting."""


@dataclass
class Predicted:
    """Predictions about consecutive images.

    Attributes:
        checks: What looks wrong in them.
        rows: A row of the table for each image.
        detected: Detections of each image; empty for other models.
        regions: Regions of each image; empty for other models.
        seen: What was noticed in the files, if another process read them.
    """

    checks: PredictionChecks
    rows: list[ImagePrediction] = field(default_factory=list)
    detected: list[ImageDetections] = field(default_factory=list)
    regions: list[list[list[Any]]] = field(default_factory=list)
    seen: SeenFiles | None = None

    def merge(self, other: Predicted) -> None:
        """Add the images that follow."""
        self.checks.merge(other.checks)
        self.rows += other.rows
        self.detected += other.detected
        self.regions += other.regions
        if self.seen is not None:
            self.seen.merge(other.seen)


@dataclass(frozen=True)
class PlannedPictures:
    """Pictures to write about consecutive images.

    Attributes:
        folders: Content of each folder of pictures.
        files: Files of each image by folder, as paths in `draft`.
        draft: Folder to write to.
    """

    folders: Mapping[str, Picture]
    files: Sequence[Mapping[str, str]]
    draft: Path

    def part(self, start: int, stop: int) -> PlannedPictures:
        """Return the pictures about some of the images."""
        return replace(self, files=self.files[start:stop])


def predict_and_draw(
    runner: Runner, source: Source, planned: PlannedPictures, progress: Callable[[int], object] | None
) -> Predicted:
    """Run a model on images, and write pictures.

    Args:
        runner: The model.
        source: The images.
        planned: The pictures.
        progress: Called with the number of images just done.
    """
    drawn = DrawnOutputs.of(runner)
    outputs = (part for output in runner.provenance.outputs for part in (output.channels or (output,)))
    predicted = Predicted(PredictionChecks(tuple(outputs)))
    waiting: deque[Future[None]] = deque()
    # While this thread decodes, the device predicts, and others draw.
    workers = thread_limit() or os.cpu_count() or 1
    with (
        closing(runner.stream(source.batches())) as results,
        ThreadPoolExecutor(workers, thread_name_prefix="drawing") as pool,
    ):
        for (start, stop), predictions in zip(source.spans(), results, strict=True):
            predicted.checks.add(dict(predictions))
            for index in range(start, stop):
                values = drawn.of_image(predictions, index - start, stop - start)
                files = planned.files[index]
                regions: list[list[Any]] = []
                if drawn.regions is not None:
                    size = picture_size(source, index, runner.inputs)
                    shape = None if drawn.mask is None else values[drawn.mask].shape
                    regions = drawn.regions.of_image(values, size, shape)
                    predicted.regions.append(regions)
                pictures = {planned.draft / file: planned.folders[folder] for folder, file in files.items()}
                boxes = None
                if drawn.detects:
                    boxes = detections_of_image(
                        runner, source, index, predictions, index - start, files.get("overlays")
                    )
                    predicted.detected.append(boxes)
                if pictures:
                    if len(waiting) >= 2 * workers:
                        waiting.popleft().result()
                    # Arrays in a file are read by one thread only.
                    shown = rgb_image(source, index, runner.inputs) if source.images.files is None else None
                    waiting.append(
                        pool.submit(_draw, runner, source, index, shown, values, drawn, boxes, pictures, regions)
                    )
                further = drawn.further(
                    values, {name: files[folder] for folder, (_, name) in planned.folders.items() if name is not None}
                )
                if boxes is not None:
                    further |= {"detections": boxes.listed(drawn.class_names), "truncated": boxes.found.truncated}
                predicted.rows.append(row_of(source.images.names[index], values, drawn, files, further))
            if progress is not None:
                progress(stop - start)
        for future in waiting:
            future.result()
    return predicted


def row_of(
    name: str, values: dict[str, Array], drawn: DrawnOutputs, files: Mapping[str, str], further: dict[str, Any]
) -> ImagePrediction:
    """Return the row of a table for an image.

    Args:
        name: Its name.
        values: Its outputs; see `DrawnOutputs.of_image`.
        drawn: Outputs of the model.
        files: Files of its pictures, by folder.
        further: Cells of other outputs.
    """
    score, label = (values.get(name) if drawn.anomalies else None for name in ("pred_score", "pred_label"))
    mask = None if drawn.mask is None else values.get(drawn.mask)
    pixels = None if mask is None else int(mask.sum())
    anomaly_map = values.get("anomaly_map") if drawn.anomalies else None
    if anomaly_map is not None:
        further = {**further, "map_max": plain(np.asarray(anomaly_map.max()))}
    return ImagePrediction(
        image=name,
        # With several classes, the largest score, and anomalous if any class is.
        pred_score=None if score is None else plain(np.asarray(score.max())),
        pred_label=None if label is None else bool(label.any()),
        anomalous_pixels=pixels,
        anomalous_share=None if mask is None or pixels is None else round(pixels / mask.size, 9),
        mask=files.get("masks"),
        overlay=files.get("overlays"),
        map=files.get("maps"),
        further=further,
        anomalies=drawn.anomalies,
    )


def _draw(
    runner: Runner,
    source: Source,
    index: int,
    shown: Image | None,
    values: dict[str, Array],
    drawn: DrawnOutputs,
    boxes: ImageDetections | None,
    pictures: dict[Path, Picture],
    regions: list[list[Any]],
) -> None:
    from PIL import Image

    size, files = None, source.images.files or ()
    for file, (kind, name) in pictures.items():
        if kind == "overlays":
            image = np.asarray(shown or rgb_image(source, index, runner.inputs))
            size = picture_size(source, index, runner.inputs) if shown is None else shown.size
            overlay = overlay_of(image, values, drawn, runner.provenance, boxes, regions, size)
            overlay.save(file, quality=_QUALITY)
        elif name is not None and kind == "maps":
            Image.fromarray(np.ascontiguousarray(values[name], np.float32)).save(file)
        elif name is not None:
            size = size or (upright_size(files[index])[0] if shown is None else shown.size)
            classes = name in (*drawn.class_maps, *drawn.class_masks)
            draw = class_picture if classes else matte_picture if name in drawn.mattes else mask_picture
            draw(values[name], size).save(file, compress_level=1)
