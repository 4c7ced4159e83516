"""`write_predictions`: write tables, masks, overlays and maps of images to a folder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pp_graph.errors import DataError, OutputFileError
from pp_graph.files import check_folder, folder_filled
from pp_graph.plausibility import describe_warnings
from pp_graph.preprocessing.placement import FRAME, LETTERBOX
from pp_graph.progress import expect, shows_progress
from pp_graph.report.detections import (
    ImageDetections,
    write_box_csv,
    write_coco,
)
from pp_graph.report.drawn_outputs import DrawnOutputs
from pp_graph.report.on_workers import run_on_workers
from pp_graph.report.predicting import PlannedPictures, predict_and_draw
from pp_graph.report.prediction_table import (
    COCO,
    FORMATS,
    PICTURES,
    REGIONS_TABLE,
    ImagePrediction,
    earlier_files,
    picture_stems,
    table_name,
    write_csv,
    write_json,
    write_regions,
)
from pp_graph.running import open_source
from pp_graph.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from distributed import Client

    from pp_graph.report.drawn_outputs import Picture
    from pp_graph.running import Runner, RunnerInput, Source


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


@shows_progress("Running")
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
    client: Client | None = None,
    progress: Callable[[int], None] | bool | None = None,
) -> WrittenPredictions:
    """Run a model on images and write its predictions to a folder.

    Pictures are named after the images. Masks (PNG, 0 and 255) have the size of the image file, or of the model's input
    for arrays. Overlays (JPEG) have that size up to 4096 pixels on the longer side. Maps (TIFF, float32) have the size
    of the model's map. Class maps are PNGs with a palette, and so are masks of classes: 0 for none, or 1 plus the last
    class. A legend below the overlay names the classes, a caption the class or text of the image. Mattes are grayscale.
    Detections are drawn on overlays, and listed in pixels of the image: in CSV a row for each, and on request as COCO
    JSON. Boxes of regions are drawn on overlays, and listed in `regions.csv` in pixels of the image. Outputs that the
    model does not return are skipped. If several outputs are masks or maps, `pred_mask` and `anomaly_map` come first,
    and the others get folders with their own names. The folder is written at once when everything is done.

    Args:
        runner: The model.
        images: See `Runner.__call__`.
        folder: Output folder; created if missing.
        save: Kinds of pictures to write: `masks`, `overlays`, `maps`.
        formats: Tables to write: `csv`, `json`, and of a detector `coco`.
        overwrite: Write to a folder that is not empty. Files of an earlier run are removed, others kept.
        batch_size: Images to run at a time.
        inputs: Files that are never overwritten, besides the images.
        client: A `distributed.Client`, to share the images among the workers of a Dask cluster, which need to see the
            output folder, too. What is written is the same. None runs in this process.
        progress: Called with the number of images just done; True shows a progress bar.

    Raises:
        OutputFileError: The folder cannot be written, is not empty without `overwrite`, lies among the images, or
            contains an input that would be overwritten.
        DataError: An image cannot be read or does not fit the model, `save` or `formats` has an unknown entry, or
            COCO JSON is wanted of a model that returns no detections.
        TargetError: The runtime fails.
        ClusterError: The cluster cannot share the work.
    """
    for kind, requested, known in (("Pictures", save, tuple(PICTURES)), ("Tables", formats, (*FORMATS, COCO))):
        unknown = [name for name in requested if name not in known]
        if unknown:
            raise DataError(f"{kind} '{unknown[0]}' are not known, expected some of: {', '.join(known)}.")
    folder = Path(folder)
    source = open_source(images, runner.inputs, batch_size=batch_size)
    expect(progress, len(source))
    drawn = DrawnOutputs.of(runner)
    if COCO in formats and not drawn.detects:
        raise DataError(
            f"COCO JSON lists boxes, and the model returns {', '.join(drawn.outputs) or 'none'}, expected a detector. "
            "Leave out --coco."
        )
    folders = drawn.folders(save)
    refuse_letterboxed_maps(runner, source.images.letterbox, drawn, draws=bool(folders))
    _refuse_folder_among_images(folder, source, folders)
    picture_files = _picture_files(source.images.names, folders)
    tables = [table_name(form) for form in (*FORMATS, COCO) if form in formats]
    if drawn.regions is not None and "csv" in formats:
        tables.append(REGIONS_TABLE)
    names = [file for files in picture_files for file in files.values()] + tables
    protected = [*inputs, *(source.images.files or ())]
    check_folder(folder, names, overwrite=overwrite, inputs=protected)
    with folder_filled(folder, names, overwrite=overwrite, inputs=protected, stale=earlier_files(folder)) as draft:
        tell = progress if callable(progress) else None
        draw = predict_and_draw if client is None else partial(run_on_workers, client)
        found = draw(runner, source, PlannedPictures(folders, picture_files, draft), tell)
        rows, detected, regions = tuple(found.rows), tuple(found.detected), found.regions
        about = _about(runner, rows, drawn, detected)
        for table in tables:
            if table == table_name(COCO):
                write_coco(draft / table, detected, drawn.class_names)
            elif table == table_name("csv") and drawn.detects:
                write_box_csv(draft / table, detected, drawn.class_names)
            elif table == table_name("csv"):
                write_csv(draft / table, rows)
            elif table == REGIONS_TABLE:
                write_regions(draft / table, source.images.names, regions)
            else:
                write_json(draft / table, about, rows)
    return WrittenPredictions(
        folder,
        rows,
        tuple(folder / table for table in tables),
        dict.fromkeys(folders, len(rows)),
        about,
        (*describe_warnings(runner.provenance), *found.checks.warnings(), *_truncations(about)),
    )


def refuse_letterboxed_maps(runner: Runner, letterbox: bool, drawn: DrawnOutputs, *, draws: bool) -> None:
    """Raise `DataError` if maps of letterboxed images are to be drawn, or their regions listed."""
    preprocessing = runner.provenance.preprocessing
    letterboxed = letterbox or (preprocessing is not None and preprocessing.resize == LETTERBOX)
    if not letterboxed or drawn.detects:
        return
    placed = drawn.regions is not None and drawn.regions.in_frame
    in_frame = not letterbox and preprocessing is not None and preprocessing.map_size == FRAME
    pixels = not in_frame and any(output.per_pixel for output in drawn.outputs.values())
    if (drawn.regions is not None and not placed) or (draws and (pixels or not (placed or in_frame))):
        raise DataError(
            "The images are letterboxed, and the model returns maps, masks or regions, which run cannot place in the "
            "images, expected boxes of a detector, or maps and regions of the frame. Convert with --map-size frame, "
            "and for regions with --box-coordinates frame; with another --resize; or write tables only (--save none; "
            "of a video, -o FILE.csv)."
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


def _truncations(about: dict[str, Any]) -> tuple[str, ...]:
    truncated = about.get("truncated_images", 0)
    if not truncated:
        return ()
    return (
        (
            f"{truncated:,} of {about['images']:,} images have more candidates above the confidence than the "
            "post-processing compares, so boxes may be missing. Fuse with more --candidates, or a higher --confidence."
        ),
    )


def _about(
    runner: Runner, rows: Sequence[ImagePrediction], drawn: DrawnOutputs, detected: Sequence[ImageDetections]
) -> dict[str, Any]:
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
        **({"detections": sum(len(each.found) for each in detected)} if detected else {}),
        **({"truncated_images": sum(each.found.truncated for each in detected)} if detected else {}),
        **drawn.legend,
    }
