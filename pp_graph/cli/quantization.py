"""Options of `pp-graph convert --precision int8`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pp_graph.cli.classification import LABELS_HELP
from pp_graph.cli.options import PATH, input_option
from pp_graph.cli.output import note, progress_bar
from pp_graph.errors import counted

if TYPE_CHECKING:
    from pathlib import Path

    from pp_graph.fusion import Provenance
    from pp_graph.quantization import Quantization
    from pp_graph.quantization.truth import Truth

_Function = TypeVar("_Function", bound=Callable[..., Any])

NAMES = ("calibration_data", "preset", "subset_size", "float_from", "max_drop", "labels", "boxes", "fixed_inputs")

_OPTIONS = (
    click.option("--calibration-data", type=PATH, metavar="FOLDER|FILE.npz",
                 help="int8: images that set the ranges of activations.  [default: those of --data]"),
    click.option("--preset", type=click.Choice(["performance", "mixed"]), default="performance", show_default=True,
                 help="int8: symmetric (performance) or asymmetric (mixed) activations."),
    click.option("--subset-size", type=int, default=300, show_default=True, metavar="N",
                 help="int8: maximum number of images, spread evenly over all."),
    click.option("--float-from", multiple=True, metavar="TENSOR",
                 help="int8: keep everything after this tensor of the raw model in float32. Default: everything after "
                      "the last layers. Repeat for each tensor."),
    click.option("--max-drop", type=float, metavar="D",
                 help="int8: maximum loss of balanced accuracy of labels or F1 of masks, of right classes, or of the "
                      "average precision of a detector, for example 0.01. Layers that lose more stay float32. Needs "
                      "--labels or --boxes."),
    click.option("--labels", type=PATH, metavar="FOLDER|FILE.npz",
                 help="int8: labelled images for --max-drop, as pp-graph calibrate --data takes them. "
                      f"Or for {LABELS_HELP}"),
    click.option("--boxes", type=PATH, metavar="COCO.json|FOLDER",
                 help="int8: boxes of the objects in --data, for --max-drop of a detector, as pp-graph calibrate "
                      "--boxes takes them."),
)  # fmt: skip


def quantization_options(function: _Function) -> _Function:
    """Add the options of quantising to a verb."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return input_option(function, value_of="int8: value of an input of the calibration images that is not an image")


@contextlib.contextmanager
def quantization(
    ctx: click.Context, precision: str, options: dict[str, Any], provenance: Provenance
) -> Iterator[Quantization | None]:
    """Parse the options for a fused model and show progress while it is converted. None without int8."""
    given = [
        "--input" if name == "fixed_inputs" else f"--{name.replace('_', '-')}"
        for name in NAMES
        if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE and options[name] is not None
    ]
    if precision != "int8":
        if given:
            raise click.UsageError(
                f"{given[0]} applies only to --precision int8, and the precision is {precision}. Add --precision int8, "
                f"or leave out {given[0]}."
            )
        yield None
        return
    data: Path | None = options["calibration_data"]
    if data is None:
        raise click.UsageError("--precision int8 needs images to set its ranges. Give --data FOLDER|FILE.npz.")
    if options["labels"] is not None and options["boxes"] is not None:
        raise click.UsageError("--labels and --boxes are given, expected one of them. --boxes is for a detector.")
    from pp_graph.quantization import Quantization
    from pp_graph.quantization.truth import LabelledTruth, open_truth

    settings = {
        "preset": options["preset"],
        "subset_size": options["subset_size"],
        "float_from": options["float_from"],
        "max_drop": options["max_drop"],
        "fixed_inputs": options["fixed_inputs"],
    }
    # Settings are checked before files are opened.
    Quantization(data, labelled=options["labels"] or options["boxes"], **settings)
    truth: Truth | None = None
    if options["boxes"] is not None:
        if "classes" not in provenance.predicted:
            raise click.UsageError("--boxes is for a detector, and the model is none. Give --labels instead.")
        from pp_graph.calibration import BoxTruth

        truth = BoxTruth.open(options["boxes"], data, provenance)
    elif options["labels"] is not None:
        truth = open_truth(options["labels"], provenance)
    for remark in truth.labelled.notes if isinstance(truth, LabelledTruth) else ():
        note(f"Note: {remark}")
    with progress_bar("Quantising", None) as progress:
        yield Quantization(data, labelled=truth, progress=progress, **settings)


def fields(record: dict[str, Any]) -> dict[str, str]:
    """The record of a quantisation as lines for people."""
    lines = {
        "int8": f"{record['layers'].removesuffix(' in int8')} layers, preset {record['preset']}, ranges from "
        f"{counted(record['images'], 'image')}" + (f" in '{record['data']}'" if record["data"] else ""),
    }
    if record["float_from"]:
        lines["float32 from"] = ", ".join(record["float_from"])
    if "drop" in record:
        lines["right decisions"] = ", ".join(
            f"{name.replace('_', ' ')} {before:.4f} in float32, {record['rates_int8'][name]:.4f} in int8"
            for name, before in record["rates_f32"].items()
        )
        lines["worst drop"] = f"{record['drop']:.4f}, at most {record['max_drop']} allowed"
    return lines
