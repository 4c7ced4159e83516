"""`pp-graph calibrate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from pp_graph.cli.options import (
    PATH,
    examples,
    force_option,
    image_options,
    image_settings,
    input_option,
    json_option,
    named_roles,
    role_options,
    worker_client,
    worker_options,
)
from pp_graph.cli.other_calibrations import calibrated_otherwise, check_outputs, further_files
from pp_graph.cli.output import note, print_blocks, print_json, print_line, progress_bar
from pp_graph.cli.retune import prepare_with_notes
from pp_graph.cli.verb import Verb

if TYPE_CHECKING:
    from pathlib import Path

    from pp_graph.calibration import CalibrationResult
    from pp_graph.data import LabelledImages

METHODS: Final = (
    "f1, fbeta:beta=2, youden, fpr:rate=0.01, recall:recall=0.99, precision:precision=0.95, quantile:q=0.99,factor=1, "
    "sigma:k=3,robust=false, max-normal, evt:rate=0.001,tail=0.1"
)
"""Estimators of thresholds with the defaults of their parameters."""
PIXEL_METHODS: Final = "pro:rate=0.05"
_GOALS: Final = {"recall": "recall:recall", "precision": "precision:precision", "fpr": "fpr:rate"}
"""Estimator and parameter of each short form."""


@click.command(
    cls=Verb,
    epilog=examples(
        "pp-graph calibrate raw.onnx --data bottle/test -o stats.json",
        "pp-graph calibrate raw.onnx --data bottle/test --recall 0.95 -o stats.json",
        "pp-graph calibrate model.xml --data bottle/test --retune tuned.xml",
        "pp-graph calibrate classifier.onnx --task classification --labels names.txt --data val -o limits.json",
        "pp-graph calibrate detector.xml --data images --boxes coco.json -o confidence.json",
        "pp-graph calibrate --scores scores.csv --image-method fpr:rate=0.001 -o stats.json",
    ),
)
@click.argument("model", type=PATH, required=False)
@click.option("--data", type=PATH, metavar="FOLDER|TABLE|FILE.npz",
              help="Labelled images: good/ and one folder for each kind of anomaly, masks in ground_truth/, as "
                   "in MVTec AD; a .csv or .parquet of path, label and mask; or arrays 'image', 'label' and "
                   "'mask'.")  # fmt: skip
@click.option("--masks", type=PATH, metavar="DIR", help="Folder of the masks, if --data does not hold them.")
@click.option("--no-masks", is_flag=True, help="Do not use masks.")
@click.option("--scores", type=PATH, metavar="FILE.npz|.csv|.parquet",
              help="Dumped raw predictions: pred_score, anomaly_map, label, mask.")  # fmt: skip
@click.option("--boxes", type=PATH, metavar="COCO.json|FOLDER",
              help="Calibrate a detector: ground truth of the images of --data, as COCO JSON or as a folder of YOLO's "
                   "text files. Finds the confidence of each class, by F1.")  # fmt: skip
@click.option("--recall", "--min-recall", "recall", type=float, metavar="R",
              help="Find thresholds with at least this recall, for example 0.95: of images and pixels, or with --boxes "
                   "of each class.")  # fmt: skip
@click.option("--precision", "--min-precision", "precision", type=float, metavar="P",
              help="The same for precision.")  # fmt: skip
@click.option("--fpr", type=float, metavar="RATE",
              help="Find thresholds that flag at most this share of normal images and pixels.")  # fmt: skip
@click.option("--stats", type=PATH, metavar="FILE", help="Existing statistics, for --retune or -o.")
@click.option("-o", "--output", type=PATH, metavar="FILE.json",
              help="JSON to write: statistics, or confidences for --confidence.")  # fmt: skip
@click.option("--retune", "retuned", type=PATH, metavar="FILE.onnx|.xml",
              help="Write a copy of MODEL (fused or converted) with the new statistics to FILE.")  # fmt: skip
@click.option("--device", metavar="CPU|GPU|NPU|AUTO|...",
              help="OpenVINO device. Without it an ONNX file runs in onnxruntime, and an IR on the CPU.")  # fmt: skip
@click.option("--inference-precision", type=click.Choice(["f32", "bf16", "f16", "default"]), default="f32",
              show_default=True, help="Precision to run in; 'default' leaves it to the device.")  # fmt: skip
@click.option("--image-method", default="f1", show_default=True, metavar="NAME[:KEY=VALUE,...]",
              help=f"Estimator of the image threshold: {METHODS} (the numbers are defaults).")  # fmt: skip
@click.option("--pixel-method", default="f1", show_default=True, metavar="NAME[:KEY=VALUE,...]",
              help=f"The same for pixels; also {PIXEL_METHODS}.")  # fmt: skip
@click.option("--image-range", default="minmax", show_default=True, metavar="NAME[:KEY=VALUE,...]",
              help="Estimator of minimum and maximum: minmax, or percentile:low=0.1,high=99.9.")  # fmt: skip
@click.option("--pixel-range", default="minmax", show_default=True, metavar="NAME[:KEY=VALUE,...]",
              help="The same for pixels.")  # fmt: skip
@click.option("--placement", type=click.Choice(["midpoint", "observed"]), default="midpoint", show_default=True,
              help="Put the threshold halfway to the next lower score, so that inference agrees with the printed "
                   "metrics, or at the score, as Anomalib does.")  # fmt: skip
@click.option(
    "--one-pass", is_flag=True, help="Stop after one pass over the pixels, with a bound instead of the exact threshold."
)
@click.option("--ignore-nonfinite", is_flag=True, help="Leave out NaN and infinite values instead of stopping.")
@click.option("--bootstrap", type=click.IntRange(min=0), default=1000, show_default=True, metavar="N",
              help="Draws for the confidence intervals; 0 for none.")  # fmt: skip
@click.option(
    "--task",
    type=click.Choice(["anomaly", "classification"]),
    default="anomaly",
    show_default=True,
    help="classification: find the temperature of a classifier and the probability below which an image is unknown. "
    "--data then holds a folder for each class, called like it, and images of no class in any other folder; or a "
    "table labels.csv; or arrays 'image' and 'label' (class indices, -1 for none; or 0 and 1 for each class). "
    "-o writes what --stats of fuse, convert and retune read.",
)
@click.option("--labels", type=PATH, metavar="FILE", help="classification: file of class names, one a line, or JSON.")
@click.option("--false-accepts", type=float, default=0.05, show_default=True, metavar="RATE",
              help="classification: share of the images of no class (if there are none: of those classified "
                   "wrongly) that may pass as known.")  # fmt: skip
@click.option("--recipe", type=PATH, metavar="FILE.yaml",
              help="Calibrate the values that this recipe compares, for example a smoothed map.")  # fmt: skip
@role_options
@click.option("--batch", type=click.IntRange(min=1), metavar="N", help="Images per batch, if the model leaves it open.")
@input_option
@image_options
@click.option(
    "--letterbox",
    is_flag=True,
    help="With --boxes: resize image files without changing their aspect ratio, and fill the rest with gray.",
)
@worker_options
@click.option("--report", "reports", type=PATH, multiple=True, metavar="FILE.html|.png",
              help="Write histograms and curves as a page or picture. Needs the extra 'report'.")  # fmt: skip
@force_option
@json_option
@click.pass_context
def calibrate(
    ctx: click.Context,
    /,
    model: Path | None,
    data: Path | None,
    boxes: Path | None,
    scores: Path | None,
    stats: Path | None,
    output: Path | None,
    retuned: Path | None,
    reports: tuple[Path, ...],
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Find thresholds, or the limits of a classifier or detector.

    MODEL is a raw ONNX file, a fused one or an OpenVINO IR; it runs on the images of --data. Calibrate on the artifact
    that ships, on its device and in its precision, and the thresholds fit its raw values. To skip running a model, pass
    saved predictions with --scores or existing statistics with --stats. --task classification calibrates a
    classifier, --boxes a detector.
    """
    if boxes is None:
        _apply_goal(ctx, options)
    if calibrated_otherwise(ctx, model, data, boxes, (output, retuned), options, force=force, as_json=as_json):
        return
    _check_sources(
        model, data, scores, stats, changes=bool(output or retuned), retunes=bool(retuned), plots=bool(reports)
    )
    _refuse_unused(ctx, options, scores, stats)
    roles = named_roles(options)
    labelled = None
    if data is not None:
        from pp_graph.data import open_labelled

        masks: Path | bool = not options["no_masks"] if options["masks"] is None else options["masks"]
        labelled = open_labelled(data, masks=masks, **image_settings(options))
    inputs = [path for path in (model, scores, stats, options["recipe"]) if path is not None]
    inputs += () if labelled is None else labelled.files
    inputs += () if model is None else further_files(model)
    outputs = [path for path in (output, retuned, *reports) if path is not None]
    check_outputs(model, outputs, retuned, reports, inputs, force)
    result = None
    if stats is not None:
        from pp_graph.statistics import Statistics

        statistics = Statistics.load(stats)
    else:
        result = _run(model, labelled, scores, roles, options)
        statistics = result.statistics
    # Built before anything is written: the statistics may lack what the model needs.
    tuned = None if retuned is None or model is None else prepare_with_notes(model, statistics)
    if output is not None:
        statistics.save(output, overwrite=force, inputs=inputs)
    if tuned is not None and retuned is not None and model is not None:
        from pp_graph.opening import kind_of

        tuned.write(retuned, overwrite=force, inputs=inputs)
        if options["device"] is not None and kind_of(model) == "onnx":
            note(
                f"Note: thresholds were calibrated on the model as converted for {options['device']}. Convert "
                f"{retuned} with --device {options['device']} before you run it."
            )
    for report in reports:
        assert result is not None
        from pp_graph.report import write_calibration_report

        write_calibration_report(result, report, overwrite=force, inputs=inputs)
    if as_json:
        import msgspec

        written = {"output": output and str(output), "retuned": retuned and str(retuned)}
        found = {"statistics": msgspec.to_builtins(statistics)} if result is None else result.to_dict()
        print_json({**written, "reports": [str(report) for report in reports], **found})
        return
    if result is not None:
        print_blocks(result.summary())
    for path in outputs:
        print_line(f"Wrote {path}")


def _apply_goal(ctx: click.Context, options: dict[str, Any]) -> None:
    """Turn a short form into the methods of the levels that have none of their own."""
    goals = [name for name in _GOALS if options[name] is not None]
    if len(goals) > 1:
        raise click.UsageError(f"Found --{' and --'.join(goals)}, expected one of them.")
    levels = [
        level
        for level in ("image_method", "pixel_method")
        if ctx.get_parameter_source(level) is not click.core.ParameterSource.COMMANDLINE
    ]
    if goals and not levels:
        raise click.UsageError(f"--{goals[0]} has no effect with --image-method and --pixel-method. Leave it out.")
    for name in goals:
        if not 0 <= options[name] <= 1:
            raise click.BadParameter(
                f"{options[name]:g} is not a share, expected a number from 0 to 1, such as "
                f"{0.01 if name == 'fpr' else 0.95}.",
                param_hint=f"--{name}",
            )
    for level in levels if goals else ():
        options[level] = f"{_GOALS[goals[0]]}={options[goals[0]]!r}"


def _check_sources(
    model: Path | None,
    data: Path | None,
    scores: Path | None,
    stats: Path | None,
    *,
    changes: bool,
    retunes: bool,
    plots: bool,
) -> None:
    given = [name for name, path in (("--data", data), ("--scores", scores), ("--stats", stats)) if path is not None]
    if len(given) != 1:
        raise click.UsageError(
            f"Found {' and '.join(given) or 'no source'}, expected one of MODEL --data, --scores and --stats."
        )
    if data is not None and model is None:
        raise click.UsageError("--data needs the MODEL to run on its images.")
    if retunes and model is None:
        raise click.UsageError("--retune needs the MODEL to write the statistics into.")
    if data is None and not retunes and model is not None:
        raise click.UsageError(f"MODEL is not used with {given[0]}: leave it out, or give --retune as well.")
    if stats is not None and not changes:
        raise click.UsageError("--stats alone changes nothing: give -o or --retune, or look with pp-graph stats show.")
    if plots and stats is not None:
        raise click.UsageError("--report plots scores, and --stats has none. Use one or the other.")


_OF_MODELS = (
    "recipe", "device", "inference_precision", "score_output", "map_output", "role", "batch", "fixed_inputs", "masks",
    "no_masks", "max_pixels", "skip_broken", "workers", "scheduler",
)  # fmt: skip


def _refuse_unused(ctx: click.Context, options: dict[str, Any], scores: Path | None, stats: Path | None) -> None:
    """Refuse options that the source does not use, and those that contradict each other."""
    unused = _OF_MODELS if scores is not None else tuple(options) if stats is not None else ()
    for name in unused:
        if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            source = "--scores" if scores is not None else "--stats"
            flag = "input" if name == "fixed_inputs" else name.replace("_", "-")
            raise click.UsageError(f"--{flag} has no effect with {source}. Leave it out.")
    if options["masks"] is not None and options["no_masks"]:
        raise click.UsageError("--masks and --no-masks contradict each other. Use one or the other.")


def _run(
    model: Path | None,
    labelled: LabelledImages | None,
    scores: Path | None,
    roles: dict[str, str],
    options: dict[str, Any],
) -> CalibrationResult:
    from pp_graph.calibration import calibrate as run
    from pp_graph.calibration import calibrate_scores, range_estimator, threshold_estimator
    from pp_graph.data import open_predictions
    from pp_graph.postprocessors import RecipePostProcessor

    settings: dict[str, Any] = {
        "image": threshold_estimator(*parsed_estimator("--image-method", options["image_method"])),
        "pixel": threshold_estimator(*parsed_estimator("--pixel-method", options["pixel_method"])),
        "image_range": range_estimator(*parsed_estimator("--image-range", options["image_range"])),
        "pixel_range": range_estimator(*parsed_estimator("--pixel-range", options["pixel_range"])),
        "placement": options["placement"],
        "ignore_nonfinite": options["ignore_nonfinite"],
        "one_pass": options["one_pass"],
        "resamples": options["bootstrap"],
    }
    if scores is not None:
        dumped = open_predictions(scores)
        with progress_bar("Calibrating", len(dumped)) as progress:
            return calibrate_scores(dumped, progress=progress, **settings)
    assert model is not None
    assert labelled is not None
    precision = options["inference_precision"]
    recipe = options["recipe"]
    with worker_client(options) as client, progress_bar("Calibrating", len(labelled)) as progress:
        return run(
            model,
            labelled,
            client=client,
            post=None if recipe is None else RecipePostProcessor.load(recipe),
            device=options["device"],
            inference_precision=None if precision == "default" else precision,
            roles=roles,
            batch_size=options["batch"],
            fixed_inputs=options["fixed_inputs"],
            progress=progress,
            **settings,
        )


def parsed_estimator(option: str, text: str) -> tuple[str, dict[str, Any]]:
    """`fpr:rate=0.001` -> `fpr`, `{"rate": 0.001}`."""
    name, _, rest = text.partition(":")
    parameters: dict[str, Any] = {}
    for part in rest.split(",") if rest else ():
        key, _, value = (piece.strip() for piece in part.partition("="))
        words = {"true": True, "false": False}
        try:
            number = words[value.lower()] if value.lower() in words else float(value)
        except ValueError:
            raise click.BadParameter(
                f"'{part}' is not a KEY=VALUE with a number, expected such as fpr:rate=0.001.", param_hint=option
            ) from None
        if key in parameters:
            raise click.BadParameter(f"'{key}' is given twice, expected once.", param_hint=option)
        parameters[key] = number
    return name.strip(), parameters
