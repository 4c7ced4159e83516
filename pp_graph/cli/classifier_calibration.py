"""`pp-graph calibrate --task classification`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from pp_graph.cli.options import image_settings, named_roles, refuse_given
from pp_graph.cli.output import note, print_fields, print_json, print_line, print_table
from pp_graph.cli.retune import prepare_with_notes
from pp_graph.errors import counted

if TYPE_CHECKING:
    from pathlib import Path

_UNUSED: Final = (
    "masks", "no_masks", "pixel_method", "image_range", "pixel_range", "placement", "one_pass", "ignore_nonfinite",
    "bootstrap", "recipe", "reports", "score_output", "map_output", "scores", "stats",
)  # fmt: skip
_WORDS: Final = {
    "accuracy": "accuracy",
    "nll_before": "negative log-likelihood before",
    "nll_after": "negative log-likelihood after",
    "ece_before": "expected calibration error before",
    "ece_after": "expected calibration error after",
    "false_accepts": "images to reject, called known",
    "kept": "right images, called known",
}
"""Metrics, as people read them."""


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
        **image_settings(options),
    )
    if output is not None:
        result.save(output, overwrite=force, inputs=inputs)
    if retuned is not None:
        prepare_with_notes(model, None, changes=result.settings).write(retuned, overwrite=force, inputs=inputs)
    if as_json:
        print_json({"output": output and str(output), "retuned": retuned and str(retuned), **result.to_dict()})
        return
    figures = {words: f"{result.metrics[name]:.4f}" for name, words in _WORDS.items() if name in result.metrics}
    print_fields(
        f"Calibrated on {counted(result.metrics['images'], 'image')}",
        {
            "temperature": f"{result.temperature:g}",
            **(
                {}
                if result.unknown_below is None
                else {"unknown below": f"a probability of {result.unknown_below:.9g}"}
            ),
            **figures,
        },
    )
    if result.multi_label is not None:
        names = labels or tuple(map(str, range(len(result.multi_label))))
        rates = ("f1", "precision", "recall")
        print_table(
            "Classes",
            ("class", "threshold", *rates),
            [
                (name, f"{level:.6g}", *(_rate(result.metrics[rate][place]) for rate in rates))
                for place, (name, level) in enumerate(zip(names, result.multi_label, strict=True))
            ],
        )
    for remark in result.notes:
        note(f"Note: {remark}.")
    for path in (output, retuned):
        if path is not None:
            print_line(f"Wrote {path}")
    if output is not None and kind_of(model) == "onnx":
        named = "" if options["labels"] is None else f" --labels {options['labels']}"
        note(f"Next: pp-graph convert {model} --task classification{named} --stats {output} -o MODEL.xml")


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
