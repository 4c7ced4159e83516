"""`pp-graph calibrate --boxes`: confidences of a detector's classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from pp_graph.cli.options import named_roles, worker_client
from pp_graph.cli.output import print_blocks, print_json, print_line, progress_bar
from pp_graph.cli.retune import prepare_with_notes

if TYPE_CHECKING:
    from pathlib import Path


_USED: Final = frozenset({
    "model", "data", "boxes", "precision", "recall", "output", "retuned", "force", "as_json", "device",
    "inference_precision", "role", "batch", "fixed_inputs", "letterbox", "workers", "scheduler",
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
    with worker_client(options) as client, progress_bar("Calibrating", None) as progress:
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
            client=client,
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
    print_blocks(result.summary())
    for path in (output, retuned):
        if path is not None:
            print_line(f"Wrote {path}")
