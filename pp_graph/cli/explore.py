"""`pp-graph explore`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pp_graph.cli.options import (
    PATH,
    STATS_HELP,
    examples,
    force_option,
    image_options,
    image_settings,
    input_option,
    json_option,
    letterbox_option,
    named_roles,
    role_options,
)
from pp_graph.cli.other_calibrations import further_files
from pp_graph.cli.output import note, print_json, print_line, progress_bar
from pp_graph.cli.verb import Verb


@click.command(
    cls=Verb,
    epilog=examples(
        "pp-graph explore model.xml --data bottle/test -o explore.html",
        "pp-graph explore raw.onnx --stats stats.json --data images/ -o explore.html",
        "pp-graph explore model.xml --compare model_int8.xml --data images/ -o compare.html",
        "pp-graph explore model.xml --compare new_stats.json --data images/ -o compare.html",
        "pp-graph explore detector.xml --data images/ --boxes coco.json -o explore.html",
    ),
)
@click.argument("model", type=PATH)
@click.option("--data", type=PATH, required=True, metavar="FOLDER|FILE.npz",
              help="Images, with labels and masks or without; folders as for calibrate.")  # fmt: skip
@click.option("-o", "--output", type=PATH, default=Path("explore.html"), show_default=True, metavar="FILE.html",
              help="Page to write.")  # fmt: skip
@click.option("--stats", type=PATH, metavar="FILE",
              help=f"{STATS_HELP}; without it MODEL keeps its own. A raw model needs it.")  # fmt: skip
@click.option("--compare", type=PATH, metavar="MODEL|STATS.json",
              help="Show a second anomaly model beside the first, or the first one with other statistics.")  # fmt: skip
@click.option("--masks", type=PATH, metavar="DIR", help="Folder of the masks, if --data does not hold them.")
@click.option("--no-masks", is_flag=True, help="Do not use masks.")
@click.option("--boxes", type=PATH, metavar="COCO.json|DIR",
              help="detection: ground truth, COCO JSON or a folder of YOLO's text files.")  # fmt: skip
@letterbox_option
@click.option("--device", default="CPU", show_default=True, metavar="CPU|GPU|NPU|AUTO|...", help="OpenVINO device.")
@click.option("--inference-precision", default="recommended", show_default=True,
              type=click.Choice(["recommended", "f32", "bf16", "f16", "default"]),
              help="Precision to run in; see pp-graph run.")  # fmt: skip
@click.option("--max-images", type=click.IntRange(min=1), default=200, show_default=True, metavar="N",
              help="Show at most N images; of an anomaly model half wrong or nearly so, the others spread over "
                   "the scores.")  # fmt: skip
@click.option("--max-megabytes", type=click.FloatRange(min=0, min_open=True), default=100.0, show_default=True,
              metavar="MB", help="Show fewer images if the page would be larger.")  # fmt: skip
@click.option("--batch", type=click.IntRange(min=1), metavar="N", help="Images per request.")
@role_options
@input_option
@image_options
@force_option
@json_option
def explore(
    model: Path,
    data: Path,
    output: Path,
    stats: Path | None,
    compare: Path | None,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Write a page to move thresholds on images and see what changes.

    MODEL is an IR or a fused ONNX file of an anomaly model, a detector or a classifier, or a raw anomaly model with
    --stats. The page holds images and what MODEL compares, needs no network, and decides as MODEL does after
    pp-graph retune with the same settings. Images of a classifier lie in a folder for each class, if these are known.
    """
    from pp_graph.exploring import explore as run
    from pp_graph.files import check_targets

    if options["masks"] is not None and options["no_masks"]:
        raise click.UsageError("--masks and --no-masks contradict each other. Use one or the other.")
    if output.suffix.lower() != ".html":
        raise click.BadParameter(
            f"'{output}' ends in '{output.suffix}', expected '.html'. Rename it.", param_hint="--output"
        )
    models = [path for path in (model, compare) if path is not None and path.suffix.lower() != ".json"]
    inputs = [
        path for path in (model, compare, stats, data, options["boxes"]) if path is not None and not path.is_dir()
    ]
    inputs += [each for path in models for each in further_files(path)]
    check_targets([output], overwrite=force, inputs=inputs)
    masks: Path | bool = not options["no_masks"] if options["masks"] is None else options["masks"]
    precision = options["inference_precision"]
    with progress_bar("Running", None) as progress:
        page = run(
            model,
            data,
            statistics=stats,
            compare=compare,
            device=options["device"],
            inference_precision=None if precision == "default" else precision,
            roles=named_roles(options),
            masks=masks,
            boxes=options["boxes"],
            letterbox=options["letterbox"],
            max_images=options["max_images"],
            max_megabytes=options["max_megabytes"],
            batch_size=options["batch"],
            fixed_inputs=options["fixed_inputs"],
            progress=progress,
            **image_settings(options),
        )
    page.save(output, overwrite=force, inputs=inputs)
    for remark in page.notes:
        note(f"Note: {remark}.")
    if as_json:
        print_json({"output": str(output), "images": page.images, "shown": page.shown, "notes": list(page.notes)})
        return
    print_line(f"Wrote {output}: {page.shown:,} of {page.images:,} images, {output.stat().st_size / 1e6:,.1f} MB")
