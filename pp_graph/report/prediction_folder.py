"""`write_predictions`: write tables, masks, overlays and maps of images to a folder."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from pp_graph.data.image_files import decode, upright_size
from pp_graph.errors import DataError, OutputFileError
from pp_graph.files import check_folder, folder_filled
from pp_graph.model import image_input
from pp_graph.plausibility import PredictionChecks, describe_warnings
from pp_graph.report.drawn_outputs import DrawnOutputs, plain
from pp_graph.report.pictures import mask_picture, overlay_picture
from pp_graph.report.prediction_table import (
    FORMATS,
    PICTURES,
    ImagePrediction,
    earlier_files,
    picture_stems,
    table_name,
    write_csv,
    write_json,
)
from pp_graph.running import open_source
from pp_graph.running.feeding import read_feeds
from pp_graph.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from PIL.Image import Image

    from pp_graph.report.drawn_outputs import Picture
    from pp_graph.running import Runner, RunnerInput, Source

Array = npt.NDArray[Any]

_MAX_OVERLAY_SIDE: Final = 4096
_QUALITY: Final = 90
"""Quality of JPEG overlays. Encoding them as PNG takes 20 times as long as predicting."""


@dataclass(frozen=True)
class WrittenPredictions:
    """Result of `write_predictions`.

    Attributes:
        folder: The output folder.
        predictions: A row per image, in the order of the images.
        tables: Files of the tables.
        pictures: Number of pictures in each folder of pictures.
        about: Description of the run: model, device, precision, hash of the raw model, cutoffs, numbers of images.
        warnings: What looks wrong in the results, such as images that are all anomalous.
    """

    folder: Path
    predictions: tuple[ImagePrediction, ...]
    tables: tuple[Path, ...]
    pictures: dict[str, int]
    about: dict[str, Any]
    warnings: tuple[str, ...] = ()


def write_predictions(
    runner: Runner,
    images: RunnerInput,
    folder: str | Path,
    *,
    save: Sequence[str] = ("masks", "overlays"),
    formats: Sequence[str] = FORMATS,
    overwrite: bool = False,
    batch_size: int | None = None,
    inputs: Iterable[Path] = (),
    progress: Callable[[int], None] | None = None,
) -> WrittenPredictions:
    """Run a model on images and write its predictions to a folder.

    Pictures are named after the images. Masks (PNG, 0 and 255) have the size of the image file, or of the model's input
    for arrays. Overlays (JPEG) have that size up to 4096 pixels on the longer side. Maps (TIFF, float32) have the size
    of the model's map. Outputs that the model does not return are skipped. If several outputs are masks or maps,
    `pred_mask` and `anomaly_map` come first, and the others get folders with their own names. The folder is written at
    once when everything is done.

    Args:
        runner: The model.
        images: See `Runner.__call__`.
        folder: Output folder; created if missing.
        save: Kinds of pictures to write: `masks`, `overlays`, `maps`.
        formats: Tables to write: `csv`, `json`.
        overwrite: Write to a folder that is not empty. Files of an earlier run are removed, others kept.
        batch_size: Images to run at a time.
        inputs: Files that are never overwritten, besides the images.
        progress: Called with the number of images just done.

    Raises:
        OutputFileError: The folder cannot be written, is not empty without `overwrite`, lies among the images, or
            contains an input that would be overwritten.
        DataError: An image cannot be read or does not fit the model, or `save` or `formats` has an unknown entry.
        TargetError: The runtime fails.
    """
    for kind, requested, known in (("Pictures", save, tuple(PICTURES)), ("Tables", formats, FORMATS)):
        unknown = [name for name in requested if name not in known]
        if unknown:
            raise DataError(f"{kind} '{unknown[0]}' are not known, expected some of: {', '.join(known)}.")
    folder = Path(folder)
    source = open_source(images, runner.inputs, batch_size=batch_size)
    drawn = DrawnOutputs.of(runner)
    folders = drawn.folders(save)
    _refuse_folder_among_images(folder, source, folders)
    picture_files = _picture_files(source.images.names, folders)
    tables = [table_name(form) for form in FORMATS if form in formats]
    names = [file for files in picture_files for file in files.values()] + tables
    protected = [*inputs, *(source.images.files or ())]
    check_folder(folder, names, overwrite=overwrite, inputs=protected)
    with folder_filled(folder, names, overwrite=overwrite, inputs=protected, stale=earlier_files(folder)) as draft:
        checks = PredictionChecks(
            tuple(part for output in runner.provenance.outputs for part in (output.channels or (output,)))
        )
        rows = _write_pictures(runner, source, drawn, folders, picture_files, draft, checks, progress)
        about = _about(runner, rows)
        for table in tables:
            if table == table_name("csv"):
                write_csv(draft / table, rows)
            else:
                write_json(draft / table, about, rows)
    return WrittenPredictions(
        folder,
        rows,
        tuple(folder / table for table in tables),
        dict.fromkeys(folders, len(rows)),
        about,
        (*describe_warnings(runner.provenance), *checks.warnings()),
    )


def _refuse_folder_among_images(folder: Path, source: Source, pictures: Iterable[str]) -> None:
    images = source.images.folder
    if any(pictures) and images is not None and folder.resolve().is_relative_to(images.resolve()):
        raise OutputFileError(
            f"Output folder '{folder}' lies in the folder of images '{images}', expected another place: the "
            "next run would read its pictures as images. Choose a folder outside."
        )


def _picture_files(names: Sequence[str], folders: dict[str, Picture]) -> list[dict[str, str]]:
    """Return the picture files of each image, by folder."""
    return [
        {folder: f"{folder}/{stem}{PICTURES[picture.kind]}" for folder, picture in folders.items()}
        for stem in picture_stems(names)
    ]


def _write_pictures(
    runner: Runner,
    source: Source,
    drawn: DrawnOutputs,
    folders: dict[str, Picture],
    picture_files: Sequence[dict[str, str]],
    draft: Path,
    checks: PredictionChecks,
    progress: Callable[[int], None] | None,
) -> tuple[ImagePrediction, ...]:
    rows: list[ImagePrediction] = []
    waiting: deque[Future[None]] = deque()
    # While this thread decodes, the device predicts, and others draw.
    workers = os.cpu_count() or 1
    with (
        closing(runner.stream(source.batches())) as results,
        ThreadPoolExecutor(workers, thread_name_prefix="drawing") as pool,
    ):
        for (start, stop), predictions in zip(source.spans(), results, strict=True):
            checks.add(dict(predictions))
            for index in range(start, stop):
                values = drawn.of_image(predictions, index - start, stop - start)
                files = picture_files[index]
                pictures = {draft / file: folders[folder] for folder, file in files.items()}
                if pictures:
                    if len(waiting) >= 2 * workers:
                        waiting.popleft().result()
                    # Arrays in a file are read by one thread only.
                    shown = _rgb_image(runner, source, index) if source.images.files is None else None
                    waiting.append(pool.submit(_draw, runner, source, index, shown, values, drawn, pictures))
                further = drawn.further(
                    values, {name: files[folder] for folder, (_, name) in folders.items() if name is not None}
                )
                rows.append(_row(source.images.names[index], values, drawn, files, further))
            if progress is not None:
                progress(stop - start)
        for future in waiting:
            future.result()
    return tuple(rows)


def _row(
    name: str, values: dict[str, Array], drawn: DrawnOutputs, files: dict[str, str], further: dict[str, Any]
) -> ImagePrediction:
    score, label = values.get("pred_score"), None if drawn.classifies else values.get("pred_label")
    mask = None if drawn.mask is None else values.get(drawn.mask)
    pixels = None if mask is None else int(mask.sum())
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
        classifies=drawn.classifies,
    )


def _draw(
    runner: Runner,
    source: Source,
    index: int,
    shown: Image | None,
    values: dict[str, Array],
    drawn: DrawnOutputs,
    pictures: dict[Path, Picture],
) -> None:
    from PIL import Image

    size, files = None, source.images.files or ()
    for file, (kind, name) in pictures.items():
        if kind == "overlays":
            mask = None if drawn.mask is None else values[drawn.mask]
            image = np.asarray(shown or _rgb_image(runner, source, index))
            overlay_picture(image, drawn.shown_map(values, runner.provenance), mask).save(file, quality=_QUALITY)
        elif name is not None and kind == "maps":
            Image.fromarray(np.ascontiguousarray(values[name], np.float32)).save(file)
        elif name is not None:
            size = size or (upright_size(files[index])[0] if shown is None else shown.size)
            mask_picture(values[name], size).save(file, compress_level=1)


def _rgb_image(runner: Runner, source: Source, index: int) -> Image:
    """Return the image as RGB, of bounded size: the file, or the model's input if there is none."""
    from PIL import Image

    if source.images.files is not None:
        file = source.images.files[index]
        width, height = upright_size(file)[0]
        factor = min(1.0, _MAX_OVERLAY_SIDE / max(width, height))
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        pixels = decode(file, 3, size, max_pixels=None).pixels
        return Image.fromarray(pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8))
    images = image_input(runner.inputs)
    assert images is not None
    return Image.fromarray(_as_rgb(read_feeds(source, index, index + 1, runner.inputs)[images.name][0]))


def _as_rgb(array: Array) -> npt.NDArray[np.uint8]:
    """Convert one item of an input to a picture, (H,W,3), whatever its shape."""
    if array.ndim != 3:
        array = array.reshape(1, 1, -1)
    if array.shape[0] in (1, 3) or array.shape[-1] not in (1, 3):
        array = array.transpose(1, 2, 0)
    if array.shape[-1] not in (1, 3):
        array = array.mean(axis=-1, keepdims=True)
    if array.dtype != np.uint8:
        values = np.nan_to_num(array.astype(np.float32))
        low, high = float(values.min()), float(values.max())
        if low < 0 or high > 1:  # standardised, or in 0 to 255
            values = (values - low) / max(high - low, 1e-12)
        array = np.round(values * 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], 3)))


def _about(runner: Runner, rows: Sequence[ImagePrediction]) -> dict[str, Any]:
    labels = [row.pred_label for row in rows if row.pred_label is not None]
    return {
        "pp_graph_version": __version__,
        "model": runner.name,
        "raw_sha256": runner.provenance.raw.sha256,
        "device": runner.device,
        "precision": runner.precision,
        "cutoffs": runner.provenance.cutoffs,
        "images": len(rows),
        "anomalous_images": sum(labels) if labels else None,
    }
