"""`pp-graph calibrate --boxes`: confidences of a detector's classes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import click

from pp_graph.cli.options import named_roles
from pp_graph.cli.output import note, print_fields, print_json, print_line, print_table, progress_bar
from pp_graph.cli.retune import prepare_with_notes
from pp_graph.errors import counted

if TYPE_CHECKING:
    from pathlib import Path

    from pp_graph.calibration import BoxCalibration, ClassConfidence

_USED: Final = frozenset({
    "model", "data", "boxes", "precision", "recall", "output", "retuned", "force", "as_json", "device",
    "inference_precision", "role", "batch", "fixed_inputs", "letterbox",
})  # fmt: skip
"""Parameters of the verb that a detector uses."""


def calibrate_boxes(
    ctx: click.Context,
    model: Path,
    data: Path,
    boxes: Path,
    outputs: tuple[Path | None, Path | None],
    inputs: list[Path],
    options: dict[str, Any],
    *,
    force: bool,
    as_json: bool,
) -> None:
    """Find the confidences, and write them.

    Args:
        ctx: Context of the verb.
        model: The model.
        data: Folder of the images.
        boxes: Ground truth.
        outputs: JSON of the confidences, and the retuned model; None to write none.
        inputs: Files that are never overwritten.
        options: Further options of the verb.
        force: Replace existing files.
        as_json: Print JSON.
    """
    from pp_graph.calibration import ConfidenceGoal, calibrate_detector

    for name in ctx.params:
        if name not in _USED and ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            flag = {"reports": "report", "bootstrap": "bootstrap"}.get(name, name).replace("_", "-")
            raise click.UsageError(f"--{flag} has no effect with --boxes. Leave it out.")
    precision = options["inference_precision"]
    with progress_bar("Calibrating", None) as progress:
        result = calibrate_detector(
            model,
            data,
            boxes,
            goal=ConfidenceGoal(options["precision"], options["recall"]),
            device=options["device"],
            inference_precision=None if precision == "default" else precision,
            roles=named_roles(options) or None,
            letterbox=options["letterbox"],
            batch_size=options["batch"],
            fixed_inputs=options["fixed_inputs"],
            progress=progress,
        )
    output, retuned = outputs
    confidence = result.confidence
    changes = {"confidence": confidence[0] if len(set(confidence)) == 1 else confidence}
    tuned = None if retuned is None else prepare_with_notes(model, None, changes=changes)
    if output is not None:
        result.save(output, overwrite=force, inputs=inputs)
    if tuned is not None and retuned is not None:
        tuned.write(retuned, overwrite=force, inputs=inputs)
    if as_json:
        print_json({"output": output and str(output), "retuned": retuned and str(retuned), **result.to_dict()})
        return
    _print(result)
    for path in (output, retuned):
        if path is not None:
            print_line(f"Wrote {path}")


def _print(result: BoxCalibration) -> None:
    total = result.total
    print_fields(
        f"Calibrated on {counted(result.images, 'image')} with {counted(total.marked, 'box')}",
        {
            **({} if result.model is None else {"model": result.model}),
            "confidence": f"of the {result.goal}, with matches of an overlap of at least {result.overlap:g}",
            "AP50": f"{result.ap50:.4f}",
            "AP50-95": f"{result.ap50_95:.4f}",
        },
    )
    print_table(
        "Classes, with metrics at this confidence on this data",
        ("class", "confidence", "precision", "recall", "F1", "AP50", "AP50-95"),
        [_rates(each) for each in (*result.classes, total)],
    )
    print_table(
        "Boxes at this confidence",
        ("class", "boxes", "right", "wrong"),
        [_counts(each) for each in (*result.classes, total)],
    )
    if result.truncated:
        note(
            f"Warning: {result.truncated:,} of {result.images:,} images have more candidates than the post-processing "
            "compares at this low confidence, so boxes of low scores may be missing in these figures."
        )
    for remark in result.notes:
        note(f"Note: {remark}.")


def _rates(each: ClassConfidence) -> tuple[str, ...]:
    rates = (each.precision, each.recall, each.f1, each.ap50, each.ap50_95)
    return (
        each.name,
        f"{each.confidence:.6g}" if math.isfinite(each.confidence) else "-",
        *("-" if rate is None else f"{rate:.4f}" for rate in rates),
    )


def _counts(each: ClassConfidence) -> tuple[str, ...]:
    return (each.name, *(f"{count:,}" for count in (each.marked, each.right, each.wrong)))
