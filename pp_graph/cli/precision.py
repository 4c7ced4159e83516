"""Options and output of `pp-graph convert --precision auto`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pp_graph.cli.options import PATH
from pp_graph.cli.output import note, print_blocks, progress_bar

if TYPE_CHECKING:
    from pathlib import Path

    from pp_graph.fusion import FusedModel
    from pp_graph.precision import PrecisionChoice

_Function = TypeVar("_Function", bound=Callable[..., Any])

AUTO = "auto"
NAMES = ("data", "max_label_flips", "max_pixel_flips", "budget", "frontier")

_OPTIONS = (
    click.option("--data", type=PATH, metavar="FOLDER|FILE.npz",
                 help="Images: --precision int8 sets the ranges of activations by them, auto also compares decisions "
                      "on them and uses their labels and masks. Include anomalous ones."),
    click.option("--max-label-flips", default="0", show_default=True, metavar="N|P%",
                 help="auto: labels that may differ from those of the f32 model."),
    click.option("--max-pixel-flips", default="0.1%", show_default=True, metavar="N|P%",
                 help="auto: pixels of masks that may differ."),
    click.option("--budget", type=float, default=10.0, show_default=True, metavar="MINUTES",
                 help="auto: time to search for. Run again to go on where it stopped."),
    click.option("--frontier", type=PATH, metavar="FILE.svg|.json",
                 help="auto: write what was measured as a picture or as JSON."),
)  # fmt: skip


def precision_options(function: _Function) -> _Function:
    """Add the options of `--precision auto`."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def check_options(ctx: click.Context, precision: str, options: dict[str, Any], quantising: dict[str, Any]) -> None:
    """Raise if options of `--precision auto` are given without it, or are missing or malformed with it.

    With int8, --data becomes the calibration data.
    """
    if precision == "int8" and quantising["calibration_data"] is None:
        quantising["calibration_data"], options["data"] = options["data"], None
    given = [
        name
        for name in NAMES
        if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE and options[name] is not None
    ]
    if precision != AUTO:
        if given == ["data"]:
            raise click.UsageError(
                f"--data applies only to --precision int8 and auto, and the precision is {precision}. Leave out --data."
                if precision != "int8"
                else "--data and --calibration-data are given, expected one of them: both set the ranges of int8."
            )
        if given:
            given = [name for name in given if name != "data"]
            flag = f"--{given[0].replace('_', '-')}"
            raise click.UsageError(
                f"{flag} applies only to --precision auto, which uses int8, bf16 and f32 within this limit, and the "
                f"precision is {precision}. Give --precision auto, or leave out {flag}."
            )
        return
    if options["data"] is None:
        raise click.UsageError("--precision auto needs images to compare decisions on. Give --data FOLDER|FILE.npz.")
    if options["frontier"] is not None:
        from pp_graph.precision.choice import check_report

        check_report(options["frontier"])


def search_file(output: Path) -> Path:
    """Return the file that keeps the measurements of a search, beside the output."""
    return output.with_suffix(".search.json")


def choose(
    fused: FusedModel, output: Path, options: dict[str, Any], quantising: dict[str, Any], **conversion: Any
) -> PrecisionChoice:
    """Search with a progress bar.

    Args:
        fused: The model.
        output: The `.xml` to write later.
        options: The options of `--precision auto`.
        quantising: The options of int8.
        conversion: Further arguments of `pp_graph.convert`, with the device.
    """
    from pp_graph.precision import choose_precision
    from pp_graph.quantization import Quantization

    quantization = Quantization(
        quantising["calibration_data"] or options["data"],
        **{name: quantising[name] for name in ("preset", "subset_size", "float_from", "fixed_inputs")},
    )
    seconds = 60 * options["budget"]
    total = max(1, round(seconds)) if seconds < float("inf") else 1
    with progress_bar("Searching", total, seconds=True) as progress:
        return choose_precision(
            fused,
            options["data"],
            labels=_truth(fused, options["data"], quantising),
            max_label_flips=options["max_label_flips"],
            max_pixel_flips=options["max_pixel_flips"],
            max_drop=quantising["max_drop"],
            budget=options["budget"],
            quantization=quantization,
            state=search_file(output),
            fixed_inputs=quantising["fixed_inputs"],
            progress=progress,
            **conversion,
        )


def _truth(fused: FusedModel, images: Path, quantising: dict[str, Any]) -> Any:
    if quantising["boxes"] is None:
        return quantising["labels"]
    if "classes" not in fused.provenance.predicted:
        raise click.UsageError("--boxes is for a detector, and the model is none. Give --labels instead.")
    from pp_graph.calibration import BoxTruth

    return BoxTruth.open(quantising["boxes"], images, fused.provenance)


def fields(conversion: dict[str, Any]) -> dict[str, str]:
    """The record of a choice as lines for people."""
    if "precision_choice" not in conversion:
        return {}
    record = conversion["precision_choice"]
    return {
        "precision": f"{record['plan']}; compile with inference precision {conversion['inference_precision']}",
        "measured": record["measured"],
        "flipped": f"labels {record['labels flipped']}, pixels {record['pixels flipped']}",
        "thresholds": record["thresholds"],
    }


def print_choice(choice: PrecisionChoice) -> None:
    """Write the table of plans, and how to compile the chosen one."""
    print_blocks(choice.summary())
    for remark in choice.notes:
        note(f"Note: {remark}")
