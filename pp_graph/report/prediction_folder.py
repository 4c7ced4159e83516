"""A folder of predictions: tables, masks, overlays and maps of images."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pp_graph.errors import DataError, OutputFileError
from pp_graph.files import check_folder, folder_filled
from pp_graph.model import image_input
from pp_graph.model.shapes import channels_are_last
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

    from pp_graph.fusion import Provenance
    from pp_graph.postprocessors import Predictions
    from pp_graph.running import Runner, RunnerInput, Source

Array = npt.NDArray[Any]
_FIELDS = {"masks": "pred_mask", "overlays": "anomaly_map", "maps": "anomaly_map"}


@dataclass(frozen=True)
class WrittenPredictions:
    """What was written.

    Attributes:
        folder: Where it lies.
        predictions: A row an image, in the order of the images.
        tables: The tables.
        pictures: How many pictures of each kind.
        about: What ran: model, device, precision, hash of the raw model, cutoffs, numbers of images.
    """

    folder: Path
    predictions: tuple[ImagePrediction, ...]
    tables: tuple[Path, ...]
    pictures: dict[str, int]
    about: dict[str, Any]


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
    """Run a model on images and write what it says to a folder.

    Pictures have the names of the images, in their folders. Masks (0 and 255) and overlays have the size of the image
    file, or of the model's input where arrays were given; maps are TIFF in float32 of the model's own size. What the
    model does not give is not written. Nothing appears in the folder until everything is there.

    Args:
        runner: The model.
        images: As for `Runner.__call__`.
        folder: Where to write; made if it is not there.
        save: Pictures to write, of `masks`, `overlays` and `maps`.
        formats: Tables to write: `predictions.csv`, `predictions.json`.
        overwrite: Whether the folder may hold something already. Files of an earlier run are then removed, others of
            other names left as they are.
        batch_size: Images to run at a time.
        inputs: Files never to be overwritten, besides the images.
        progress: Called with the number of images just done.

    Returns:
        What was written.

    Raises:
        OutputFileError: The folder cannot be written, holds something and `overwrite` is off, lies among the images, or
            a file in it is an input.
        DataError: An image cannot be read or does not fit the model; `save` or `formats` name something else.
        TargetError: The runtime fails.
    """
    for what, asked, known in (("Pictures", save, tuple(PICTURES)), ("Tables", formats, FORMATS)):
        unknown = [name for name in asked if name not in known]
        if unknown:
            raise DataError(f"{what} '{unknown[0]}' are not known, expected some of: {', '.join(known)}.")
    folder = Path(folder)
    source = open_source(images, runner.inputs, batch_size=batch_size)
    kinds = [kind for kind in PICTURES if kind in save and _can_draw(kind, runner)]
    _refuse_folder_among_images(folder, source, kinds)
    plan = _plan(source.images.names, kinds)
    tables = [table_name(form) for form in FORMATS if form in formats]
    names = [files[kind] for files in plan for kind in kinds] + tables
    protected = [*inputs, *(source.files or ())]
    check_folder(folder, names, overwrite=overwrite, inputs=protected)
    with folder_filled(folder, names, overwrite=overwrite, inputs=protected, stale=earlier_files(folder)) as draft:
        rows = _run(runner, source, plan, draft, progress)
        about = _about(runner, rows)
        for table in tables:
            if table == table_name("csv"):
                write_csv(draft / table, rows)
            else:
                write_json(draft / table, about, rows)
    return WrittenPredictions(
        folder, rows, tuple(folder / table for table in tables), dict.fromkeys(kinds, len(rows)), about
    )


def _can_draw(kind: str, runner: Runner) -> bool:
    return _FIELDS[kind] in runner.outputs or (kind == "overlays" and "pred_mask" in runner.outputs)


def _refuse_folder_among_images(folder: Path, source: Source, kinds: Sequence[str]) -> None:
    if kinds and source.folder is not None and folder.resolve().is_relative_to(source.folder.resolve()):
        raise OutputFileError(
            f"Output folder '{folder}' lies in the folder of images '{source.folder}', expected another place: the "
            "next run would take its pictures for images. Choose a folder outside."
        )


def _plan(names: Sequence[str], kinds: Sequence[str]) -> list[dict[str, str]]:
    """For each image, the file of each kind of picture."""
    return [{kind: f"{kind}/{stem}{PICTURES[kind]}" for kind in kinds} for stem in picture_stems(names)]


def _run(
    runner: Runner,
    source: Source,
    plan: Sequence[dict[str, str]],
    draft: Path,
    progress: Callable[[int], None] | None,
) -> tuple[ImagePrediction, ...]:
    rows: list[ImagePrediction] = []
    with closing(runner.stream(source.batches())) as results:
        for (start, stop), predictions in zip(source.spans(), results, strict=True):
            for index in range(start, stop):
                found = _of_image(predictions, index - start)
                files = plan[index]
                _draw(runner, source, index, found, {kind: draft / name for kind, name in files.items()})
                rows.append(_row(source.images.names[index], found, files))
            if progress is not None:
                progress(stop - start)
    return tuple(rows)


def _of_image(predictions: Predictions, index: int) -> dict[str, Any]:
    """What is said about one image of a batch: numbers, and maps as (H,W).

    Of several classes it is what holds of any: the largest number, and whether one of them is anomalous.
    """
    found: dict[str, Any] = {}
    for name, array in vars(predictions).items():
        if array is None:
            found[name] = None
        elif name in ("anomaly_map", "pred_mask"):
            own = array[index]
            found[name] = own if own.ndim == 2 else own.max(axis=2 if channels_are_last(array.shape) else 0)
        else:
            found[name] = array[index].max()
    return found


def _row(name: str, found: dict[str, Any], files: dict[str, str]) -> ImagePrediction:
    score, label, mask = found["pred_score"], found["pred_label"], found["pred_mask"]
    pixels = None if mask is None else int(mask.sum())
    return ImagePrediction(
        image=name,
        # The shortest decimal that is this float32 number, and not its digits as a double.
        pred_score=None if score is None else float(str(score)),
        pred_label=None if label is None else bool(label),
        anomalous_pixels=pixels,
        anomalous_share=None if pixels is None else round(pixels / mask.size, 9),
        mask=files.get("masks"),
        overlay=files.get("overlays"),
        map=files.get("maps"),
    )


def _draw(runner: Runner, source: Source, index: int, found: dict[str, Any], files: dict[str, Path]) -> None:
    from PIL import Image

    mask, anomaly_map = found["pred_mask"], found["anomaly_map"]
    if "maps" in files:
        Image.fromarray(np.ascontiguousarray(anomaly_map)).save(files["maps"])
    picture = None
    if "overlays" in files:
        picture = _picture(runner, source, index)
        shown = None if anomaly_map is None else _normalised(anomaly_map, runner.provenance)
        overlay_picture(np.asarray(picture), shown, mask).save(files["overlays"])
    if "masks" in files:
        size = picture.size if picture is not None else _size(runner, source, index)
        mask_picture(mask, size).save(files["masks"])


def _size(runner: Runner, source: Source, index: int) -> tuple[int, int]:
    from PIL import Image

    if source.files is None:
        return _picture(runner, source, index).size
    with Image.open(source.files[index]) as image:
        return image.size


def _picture(runner: Runner, source: Source, index: int) -> Image:
    """The image as people know it, RGB: the file, or what the model is fed."""
    from PIL import Image

    if source.files is not None:
        with Image.open(source.files[index]) as image:
            return image.convert("RGB")
    images = image_input(runner.inputs)
    assert images is not None
    return Image.fromarray(_as_rgb(read_feeds(source, index, index + 1, runner.inputs)[images.name][0]))


def _as_rgb(array: Array) -> npt.NDArray[np.uint8]:
    """One item of an input as a picture, (H,W,3); what is no picture as well as it can be shown."""
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


def _normalised(anomaly_map: Array, provenance: Provenance) -> Array:
    """A map in [0, 1] with the decision at 0.5, to be shown; a raw one by its statistics, else by its own range."""
    if provenance.parameters.get("normalize", True):
        return anomaly_map
    cutoff = provenance.cutoffs.get("pred_mask")
    level = None if provenance.statistics is None else provenance.statistics.pixel
    if isinstance(cutoff, float) and level is not None and level.min is not None and level.max is not None:
        return (anomaly_map - np.float32(cutoff)) / np.float32(max(level.max - level.min, 1e-12)) + np.float32(0.5)
    finite = anomaly_map[np.isfinite(anomaly_map)]
    low, high = (finite.min(), finite.max()) if finite.size else (0, 1)
    return (anomaly_map - low) / np.float32(max(high - low, 1e-12))


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
