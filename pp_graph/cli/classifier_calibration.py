"""`pp-graph calibrate --task classification`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from pp_graph.cli.options import image_settings, named_roles, refuse_given, worker_client
from pp_graph.cli.output import note, print_blocks, print_json, print_line, progress_bar
from pp_graph.cli.retune import prepare_with_notes

if TYPE_CHECKING:
    from pathlib import Path

_UNUSED: Final = (
    "masks", "no_masks", "pixel_method", "image_range", "pixel_range", "placement", "one_pass", "ignore_nonfinite",
    "bootstrap", "recipe", "reports", "score_output", "map_output", "scores", "stats",
)  # fmt: skip


def calibrate_classifier(
    ctx: click.Context,
    model: Path | None,
    data: Path | None,
    output: Path | None,
    retuned: Path | None,
    options: dict[str, Any],
    *,
    force: bool,
    as_json: bool,
) -> None:
    """Calibrate a classifier."""
    from pp_graph import calibration
    from pp_graph.calibration.family_summaries import classifier_blocks
    from pp_graph.cli.calibrate import parsed_estimator
    from pp_graph.cli.other_calibrations import check_outputs
    from pp_graph.opening import kind_of
    from pp_graph.postprocessors import ClassificationPostProcessor
    from pp_graph.postprocessors.class_names import read_class_names

    if model is None or data is None:
        raise click.UsageError("--task classification needs the MODEL and --data to run it on.")
    refuse_given(ctx, _UNUSED, "does not apply to --task classification. Leave it out.")
    inputs = [path for path in (model, data, options["labels"]) if path is not None]
    check_outputs(model, [path for path in (output, retuned) if path is not None], retuned, (), inputs, force)
    labels = () if options["labels"] is None else read_class_names(options["labels"])
    precision = options["inference_precision"]
    with worker_client(options) as client, progress_bar("Calibrating", None) as progress:
        result = calibration.calibrate_classifier(
            model,
            data,
            post=ClassificationPostProcessor(labels=labels),
            false_accepts=options["false_accepts"],
            thresholds=calibration.threshold_estimator(*parsed_estimator("--image-method", options["image_method"])),
            device=options["device"],
            inference_precision=None if precision == "default" else precision,
            roles=named_roles(options),
            batch_size=options["batch"],
            fixed_inputs=options["fixed_inputs"],
            client=client,
            progress=progress,
            **image_settings(options),
        )
    if output is not None:
        result.save(output, overwrite=force, inputs=inputs)
    if retuned is not None:
        prepare_with_notes(model, None, changes=result.settings).write(retuned, overwrite=force, inputs=inputs)
    if as_json:
        print_json({"output": output and str(output), "retuned": retuned and str(retuned), **result.to_dict()})
        return
    print_blocks(list(classifier_blocks(result, labels)))
    for path in (output, retuned):
        if path is not None:
            print_line(f"Wrote {path}")
    if output is not None and kind_of(model) == "onnx":
        named = "" if options["labels"] is None else f" --labels {options['labels']}"
        note(f"Next: pp-graph convert {model} --task classification{named} --stats {output} -o MODEL.xml")
