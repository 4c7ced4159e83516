"""`pp-graph run`."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pp_graph.cli.options import (
    PATH,
    cache_option,
    check_report,
    examples,
    force_option,
    image_options,
    image_settings,
    input_option,
    json_option,
    letterbox_option,
    refuse_given,
    report_option,
    worker_client,
    worker_options,
)
from pp_graph.cli.output import note, print_fields, print_json, print_line, print_table, progress_bar
from pp_graph.cli.run_video import VIDEO_OPTIONS, refuse_file, run_videos, video_options, videos_among
from pp_graph.cli.verb import Verb
from pp_graph.errors import counted

if TYPE_CHECKING:
    from pp_graph.fusion import Artifact
    from pp_graph.report import WrittenPredictions
    from pp_graph.report.prediction_table import ImagePrediction
    from pp_graph.running import Runner

_SHOWN = 10
_SHOWN_AREAS = 4
_NO_PICTURES = "none"


@click.command(
    "run",
    cls=Verb,
    epilog=examples(
        "pp-graph run model.xml images/ -o predictions/",
        "pp-graph run model.xml part.png -o out/ --save masks",
        "pp-graph run model.xml images/ -o sensitive/ --image-sensitivity 0.6",
        "pp-graph run model.xml clip.mp4 -o annotated.mp4 -o frames.csv",
        "pp-graph run model.xml 0 -o -",
        "pp-graph run model.xml rtsp://user:password@camera/stream -o seen.mp4 --every 5",
    ),
)
@click.argument("model", type=PATH)
@click.argument("images", type=str, nargs=-1, required=True)
@click.option("-o", "--output", "outputs", type=PATH, required=True, multiple=True, metavar="DIR|FILE|-",
              help="Folder to write to. Of a video, camera or stream: FILE.mp4 with the predictions drawn on it (also "
                   ".mkv, .mov), FILE.csv, FILE.jsonl, or - for JSON lines on stdout; may be repeated. A folder then "
                   "gets an .mp4 and a .csv of each.")  # fmt: skip
@click.option("--format", "form", type=click.Choice(["both", "csv", "json"]), default="both", show_default=True,
              help="Tables to write: predictions.csv, predictions.json.")  # fmt: skip
@click.option("--coco", is_flag=True, help="Also write a detector's boxes as COCO JSON: predictions.coco.json.")
@click.option("--save", default="masks,overlays", show_default=True, metavar="masks,overlays,maps|none",
              help="Pictures to write; maps are TIFF in float32.")  # fmt: skip
@click.option("--device", default="CPU", show_default=True, metavar="CPU|GPU|NPU|AUTO|...", help="OpenVINO device.")
@click.option("--inference-precision", default="recommended", show_default=True,
              type=click.Choice(["recommended", "f32", "bf16", "f16", "default"]),
              help="Precision to run in; 'recommended' is the one that convert --precision auto chose, otherwise f32 "
                   "if the device has it; 'default' leaves it to the device.")  # fmt: skip
@click.option("--image-sensitivity", type=float, metavar="S",
              help="Decide with this image sensitivity, from 0 to 1; MODEL is not changed.")  # fmt: skip
@click.option("--pixel-sensitivity", type=float, metavar="S", help="The same for pixels.")
@click.option("--batch", type=click.IntRange(min=1), metavar="N", help="Images per request.")
@cache_option
@input_option
@image_options
@letterbox_option
@video_options
@worker_options
@report_option
@force_option
@json_option
@click.pass_context
def run_verb(
    context: click.Context,
    /,
    model: Path,
    images: tuple[str, ...],
    outputs: tuple[Path, ...],
    form: str,
    coco: bool,
    save: str,
    report: Path | None,
    force: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Run MODEL on IMAGES, and save predictions.

    MODEL is an OpenVINO IR or a fused ONNX file, which is converted to OpenVINO in memory first. IMAGES is a folder, an
    .npz with an array 'image', image files or a pattern of them; or videos, the number of a camera, or the URL of a
    stream (extra 'video'). Ctrl-C ends a video and finishes its files (exit status 0 for a camera or stream, 130 for a
    file). DIR gets predictions.csv, predictions.json, masks/ and overlays/, all
    at once when every image is done. With
    --force, DIR may contain files: those of an earlier run are replaced, others are kept.
    """
    from pp_graph.report import write_gallery, write_predictions
    from pp_graph.report.prediction_table import COCO, FORMATS
    from pp_graph.running import open_source

    inputs = [*map(Path, images), model, model.with_suffix(".bin")]
    videos = videos_among(images)
    if videos:
        refuse_given(
            context, ("form", "coco", "save", "batch", "report", "workers", "scheduler"), "applies only to images."
        )
        return run_videos(
            videos, lambda mode: _load(model, options, mode), outputs, options, inputs, force=force, as_json=as_json
        )
    refuse_given(context, VIDEO_OPTIONS, "applies only to videos, cameras and streams.")
    if len(outputs) > 1:
        raise click.UsageError(f"-o is given {len(outputs)} times, expected one folder. Leave out the others.")
    (output,) = outputs
    refuse_file(output)
    check_report(report, inputs, force=force)
    runner = _load(model, options, "throughput")
    given = images[0] if len(images) == 1 else list(images)
    source = open_source(given, runner.inputs, batch_size=options["batch"], **image_settings(options))
    pictures = _pictures(save)
    with worker_client(options) as client, progress_bar("Running", len(source)) as progress:
        written = write_predictions(
            runner,
            source,
            output,
            save=pictures,
            formats=(*(FORMATS if form == "both" else (form,)), *((COCO,) if coco else ())),
            overwrite=force,
            inputs=inputs,
            client=client,
            progress=progress,
        )
    if report is not None:
        write_gallery(written, runner, source, report, overwrite=force, inputs=inputs)
    for remark in source.images.notes:
        note(f"Note: {remark}.")
    for warning in written.warnings:
        note(f"Warning: {warning}")
    for kind in pictures:
        if kind not in written.pictures and any(row.anomalies for row in written.predictions):
            note(f"Note: the model returns no output to draw {kind} from, so none are written.")
    if as_json:
        print_json(
            {
                "output": str(output),
                "tables": [str(table) for table in written.tables],
                "pictures": written.pictures,
                **({} if report is None else {"report": str(report)}),
                **written.about,
                "warnings": list(written.warnings),
                "notes": list(source.images.notes),
                "predictions": [row.to_dict() for row in written.predictions],
            }
        )
        return 0
    _print(runner, written)
    if report is not None:
        print_line(f"Wrote {report}")
    return 0


def _load(model: Path, options: dict[str, Any], mode: str) -> Runner:
    from pp_graph.running import load

    precision = options["inference_precision"]
    runner = load(
        _with_sensitivities(model, options["image_sensitivity"], options["pixel_sensitivity"]),
        device=options["device"],
        inference_precision=None if precision == "default" else precision,
        mode=mode,
        cache_dir=options["cache_dir"],
        fixed_inputs=options["fixed_inputs"],
    )
    runner.name = model.name
    return runner


def _with_sensitivities(model: Path, image: float | None, pixel: float | None) -> Path | Artifact:
    """Retune a model in memory; without sensitivities leave it alone."""
    if image is None and pixel is None:
        return model
    from pp_graph.opening import open_artifact
    from pp_graph.retuning import retune

    return retune(open_artifact(model), image_sensitivity=image, pixel_sensitivity=pixel)


def _pictures(text: str) -> tuple[str, ...]:
    from pp_graph.report.prediction_table import PICTURES

    names = [name.strip() for name in text.split(",") if name.strip()]
    if names == [_NO_PICTURES]:
        return ()
    if not names:
        raise click.BadParameter(
            f"is empty, expected some of {','.join(PICTURES)}, or {_NO_PICTURES}.", param_hint="--save"
        )
    for name in names:
        if name not in PICTURES:
            raise click.BadParameter(
                f"'{name}' is not known, expected some of {','.join(PICTURES)}, or {_NO_PICTURES}.",
                param_hint="--save",
            )
    return tuple(dict.fromkeys(names))


def _print(runner: Runner, written: WrittenPredictions) -> None:
    from pp_graph.report.prediction_table import COLUMNS, columns_of

    rows = written.predictions
    flagged = written.about["anomalous_images"]
    boxes = written.about.get("detections")
    print_fields(
        counted(len(rows), "image")
        + ("" if flagged is None else f", {flagged:,} anomalous")
        + ("" if boxes is None else f", {counted(boxes, 'detection')}"),
        {
            "model": f"{runner.name}, {runner.description}",
            # Steps between the raw value and the outputs have no names that a reader knows.
            **{
                name: line
                for name, line in runner.provenance.summary().items()
                if name.removesuffix(" cutoff") in runner.provenance.predicted
            },
        },
    )
    anomalies = all(row.anomalies for row in rows)
    shown = (sorted(rows, key=_how_anomalous) if anomalies else rows)[:_SHOWN]
    # Files of pictures are not shown, and areas of classes are summed up.
    pictured = {output.name for output in runner.provenance.predicted.values() if output.per_pixel}
    further = [
        name
        for name in columns_of(rows)
        if name not in (*COLUMNS, "mask_share", *pictured) and not name.startswith("pixels_")
    ]
    columns = ("image", *(("score", "label", "anomalous pixels", "share") if anomalies else ()))
    areas = any(name.startswith("pixels_") for name in columns_of(rows))
    listed = () if boxes is None else ("detections",)
    print_table(
        "Predictions"
        if len(shown) == len(rows)
        else f"The {'' if anomalies else 'first '}{len(shown)}" + (" most anomalous" if anomalies else ""),
        (*columns, *(name.replace("_", " ") for name in further), *(("largest classes",) if areas else ()), *listed),
        [
            (
                *_cells(row)[: len(columns)],
                *(_cell(row.cells.get(name)) for name in further),
                *((_largest_areas(row, shares="class_map" in pictured),) if areas else ()),
                *(_listed(row.further[name]) for name in listed),
            )
            for row in shown
        ],
    )
    pictures = [f"{count:,} in {written.folder / kind}" for kind, count in written.pictures.items()]
    print_line(f"Wrote {', '.join([*map(str, written.tables), *pictures])}")


def _how_anomalous(row: ImagePrediction) -> tuple[float, float, float]:
    """Sort key that puts the most anomalous first, NaN before all."""
    score = row.pred_score
    known = float("-inf") if score is None else float("inf") if math.isnan(score) else score
    return (-float(row.pred_label or 0), -known, -float(row.anomalous_pixels or 0))


def _cells(row: ImagePrediction) -> tuple[str, ...]:
    label = "-" if row.pred_label is None else "anomalous" if row.pred_label else "normal"
    return (
        # A name that is not Unicode cannot be printed as it is.
        row.image.encode("utf-8", "replace").decode(),
        "-" if row.pred_score is None else f"{row.pred_score:.4f}",
        label,
        "-" if row.anomalous_pixels is None else f"{row.anomalous_pixels:,}",
        "-" if row.anomalous_share is None else f"{row.anomalous_share:.2%}",
    )


def _largest_areas(row: ImagePrediction, *, shares: bool) -> str:
    """List the largest classes: `sky 62 %, road 20 %`, or with their pixels."""
    areas = {name.removeprefix("pixels_"): each for name, each in row.further.items() if name.startswith("pixels_")}
    areas = {f"class {name}" if name.isdecimal() else name: area for name, area in areas.items()}
    whole = sum(areas.values())
    ordered = sorted(areas.items(), key=lambda area: -area[1])[:_SHOWN_AREAS]
    return ", ".join(
        f"{name} {100 * area / whole:.0f} %" if shares else f"{name} {area:,} pixels" for name, area in ordered if area
    )


def _listed(detections: list[dict[str, Any]]) -> str:
    """Count detections by class: `2 cat, 1 dog`."""
    counts = Counter(each["class_name"] for each in detections)
    return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "-"


def _cell(value: object) -> str:
    """Format an output that has no column of its own."""
    if isinstance(value, list):
        return ", ".join(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return "-" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
