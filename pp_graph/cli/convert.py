"""`pp-graph convert`."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from pp_graph.cli import precision as precision_cli
from pp_graph.cli.devices import print_device_check, refuse_errors
from pp_graph.cli.frames import frame_options, take_preprocessing
from pp_graph.cli.fuse import describe, fields
from pp_graph.cli.numbers import given_numbers
from pp_graph.cli.options import (
    PATH,
    STATS_HELP,
    examples,
    force_option,
    json_option,
)
from pp_graph.cli.output import note, print_error, print_fields, print_json
from pp_graph.cli.post_processing import post_processing, post_processing_options
from pp_graph.cli.precision import AUTO, precision_options
from pp_graph.cli.quantization import NAMES, quantization, quantization_options
from pp_graph.cli.quantization import fields as quantization_fields
from pp_graph.cli.tasks import TASKS
from pp_graph.cli.verb import Verb
from pp_graph.one_class_options import OPTIONS

if TYPE_CHECKING:
    from pathlib import Path

    from pp_graph.fusion import FusedModel
    from pp_graph.openvino import OpenVINOModel
    from pp_graph.openvino.device_check import DeviceCheck

Shapes = Sequence[int | None] | dict[str, Sequence[int | None]]


@click.command(
    cls=Verb,
    epilog=examples(
        "pp-graph convert fused.onnx -o model.xml",
        "pp-graph convert raw.onnx --stats stats.json -o model.xml --device GPU --precision f16",
        "pp-graph convert raw.onnx --stats stats.json -o model.xml --precision auto --data images/",
        "pp-graph convert raw.onnx --stats stats.json -o model.xml --precision int8 --data images/",
        "pp-graph convert fused.onnx -o model.xml --input-dtype u8 --scale 255 --resize bilinear_pillow",
    ),
)
@click.argument("model", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, metavar="FILE.xml", help="OpenVINO IR to write.")
@click.option("--device", default="CPU", show_default=True, metavar="CPU|GPU|NPU|AUTO|...",
              help="Device to convert for, also AUTO:GPU,CPU, HETERO:GPU,CPU, BATCH:GPU(4); need not be on this "
                   "machine.")  # fmt: skip
@click.option("--precision", type=click.Choice(["f32", "f16", "int8", AUTO]), default="f32", show_default=True,
              help="Precision of the network's weights. int8 also computes its layers in int8, which may flip labels. "
                   "auto finds the fastest mixture of int8, bf16, f16 and f32 that flips none on the images of --data. "
                   "The post-processing stays f32.")  # fmt: skip
@click.option("--input-shape", "input_shapes", multiple=True, metavar="[NAME:]1,3,256,256",
              help="Sizes of the model's own input; ? leaves one open. Repeat for each input.")  # fmt: skip
@click.option("--batch", type=click.IntRange(min=1), metavar="N",
              help="Fix the batch, and no other size. On the CPU, OpenVINO runs an open batch 1.2 to 1.36 times "
                   "slower.")  # fmt: skip
@click.option("--model-info", "entries", multiple=True, metavar="KEY=VALUE",
              help="How Intel's Model API feeds images, for example scale_values=255,255,255 or "
                   "reverse_input_channels=True (for a model that takes RGB). Repeat for each entry.")  # fmt: skip
@frame_options
@click.option("--stats", type=PATH, metavar="FILE", help=f"{STATS_HELP}; fuses a raw MODEL first, as --recipe does.")
@precision_options
@quantization_options
@post_processing_options
@force_option
@json_option
@click.pass_context
def convert(
    ctx: click.Context,
    /,
    model: Path,
    output: Path,
    device: str,
    precision: str,
    input_shapes: tuple[str, ...],
    batch: int | None,
    entries: tuple[str, ...],
    stats: Path | None,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Convert a fused ONNX model to OpenVINO.

    With --stats, numbers such as --image-threshold, --recipe or --task, MODEL is raw and is fused first. For a fused
    MODEL, --pack, --mask-dtype, --map-size, --regions, --outputs and --thresholds change its post-processing; other
    options of fuse are refused.
    """
    shapes = parse_shapes(input_shapes)
    model_info = _parse_entries(entries)
    preprocessing = take_preprocessing(options)
    quantising = {name: options.pop(name) for name in NAMES}
    searching = {name: options.pop(name) for name in precision_cli.NAMES}
    precision_cli.check_options(ctx, precision, searching, quantising)
    other_task = options["task"] in TASKS
    if other_task:
        given = quantising["labels"]
        # A folder or arrays are labelled images, a text file names the classes.
        names = given is not None and not (given.is_dir() or given.suffix.lower() == ".npz")
        options["labels"], quantising["labels"] = (given, None) if names else (None, given)
    is_raw = stats is not None or options["recipe"] is not None or other_task or bool(given_numbers(options))
    if not is_raw:
        _refuse_unused(ctx, options)

    from pp_graph.conversion import input_shape_warnings
    from pp_graph.files import check_targets
    from pp_graph.openvino.device_check import check_for_device
    from pp_graph.openvino.model import check_ir_path
    from pp_graph.openvino.usage import usage_path

    check_ir_path(output)
    files = {"usage": usage_path(output), "xml": output, "bin": output.with_suffix(".bin")}
    read = (
        model,
        stats,
        options["recipe"],
        quantising["calibration_data"],
        quantising["labels"],
        quantising["boxes"],
        options.get("labels"),
        searching["data"],
    )
    inputs = [path for path in read if path is not None]
    further = [] if searching["frontier"] is None else [searching["frontier"]]
    check_targets((*files.values(), *further), overwrite=force, inputs=inputs)
    fused = post_processing(options).fuse(model, stats) if is_raw else _load(model, options)
    settings = {
        "device": device,
        "input_shape": shapes,
        "batch": batch,
        "preprocessing": preprocessing,
        "model_info": model_info,
    }
    if precision == AUTO:
        choice = precision_cli.choose(fused, output, searching, quantising, **settings)
        artifact = choice.artifact
    else:
        choice, artifact = None, _convert(ctx, fused, precision, quantising, settings, as_json=as_json)
    remarks = [f"Note: {remark}" for remark in artifact.notes[len(fused.notes) :]]
    warnings = [] if shapes is None else input_shape_warnings(fused, shapes)
    for line in (*remarks, *(f"Warning: {warning}" for warning in warnings)):
        note(line)
    check = check_for_device(artifact, device)
    refuse_errors(check)
    artifact.save(output, overwrite=force, inputs=inputs)
    if choice is not None and further:
        choice.save(further[0], overwrite=force)
    written = {"output": output, **files}
    if as_json:
        _print_json(artifact, fused, written, check, {} if choice is None else {"choice": choice.to_dict()})
        return
    _print(model, artifact, fused, written)
    if choice is not None:
        precision_cli.print_choice(choice)
    print_device_check(check)
    raw = model if is_raw else fused.provenance.raw.file or "RAW.onnx"
    note(
        f"Next: pp-graph verify {raw} {output} --data IMAGES"
        + ("" if device == "CPU" else f" --device {shlex.quote(device)}")
    )


def _load(model: Path, options: dict[str, Any]) -> FusedModel:
    """Load a fused model, and change the form of its outputs as the options say."""
    from pp_graph.fusion import FusedModel, retuned_program

    fused = FusedModel.load(model)
    changes = post_processing(options).output_form
    return fused.with_program(retuned_program(fused.provenance, None, changes)) if changes else fused


def _convert(
    ctx: click.Context,
    fused: FusedModel,
    precision: str,
    quantising: dict[str, Any],
    settings: dict[str, Any],
    *,
    as_json: bool,
) -> OpenVINOModel:
    from pp_graph.conversion import convert as convert_model
    from pp_graph.errors import AccuracyError

    try:
        with quantization(ctx, precision, quantising, fused.provenance) as quantised:
            return convert_model(fused, precision=precision, quantization=quantised, **settings)
    except AccuracyError as error:
        print_error(type(error).__name__, str(error), as_json=as_json)
        raise click.exceptions.Exit(1) from error


def _print_json(
    artifact: OpenVINOModel, fused: FusedModel, written: dict[str, Path], check: DeviceCheck, more: dict[str, Any]
) -> None:
    frames = artifact.provenance.preprocessing
    print_json(
        {
            "output": str(written["output"]),
            "usage": str(written["usage"]),
            **artifact.conversion,
            **({} if frames is None else {"preprocessing": dataclasses.asdict(frames)}),
            **{f"{kind}_bytes": written[kind].stat().st_size for kind in ("xml", "bin")},
            **describe(fused),
            "notes": list(artifact.notes),
            "device_check": check.to_dict(),
            **more,
        }
    )


def _print(model: Path, artifact: OpenVINOModel, fused: FusedModel, written: dict[str, Path]) -> None:
    from pp_graph.summary import size_text

    conversion = artifact.conversion
    lines = {
        "device": conversion["device"],
        "weights": f"{artifact.precision}, {size_text(written['bin'].stat().st_size)}",
        **precision_cli.fields(conversion),
        **(quantization_fields(conversion["quantization"]) if "quantization" in conversion else {}),
        "usage": str(written["usage"]),
        **fields(fused),
    }
    if artifact.provenance.preprocessing is not None:
        lines["preprocessing"] = artifact.provenance.preprocessing.describe()
    if "workarounds" in conversion:
        lines["workarounds"] = "; ".join(conversion["workarounds"])
    print_fields(f"Converted {model} -> {written['output']}", lines)


def parse_shapes(texts: tuple[str, ...]) -> Shapes | None:
    """Parse --input-shape; None if it was not given."""
    if not texts:
        return None
    named: dict[str, Sequence[int | None]] = {}
    for text in texts:
        # Names may hold colons themselves, as in 'input:0'; sizes cannot.
        name, _, sizes = text.rpartition(":")
        try:
            parsed = [None if size.strip() in ("?", "-1") else int(size) for size in sizes.strip("[]()").split(",")]
        except ValueError:
            raise click.BadParameter(
                f"'{text}' is not a shape, expected sizes such as 1,3,256,256 or NAME:1,3,256,256.",
                param_hint="--input-shape",
            ) from None
        if name in named:
            raise click.BadParameter(f"'{name or text}' is given twice.", param_hint="--input-shape")
        named[name] = parsed
    if "" in named:
        if len(named) > 1:
            raise click.BadParameter(
                "with several shapes, name the input of each: NAME:1,3,256,256.", param_hint="--input-shape"
            )
        return named[""]
    return named


def _parse_entries(texts: tuple[str, ...]) -> dict[str, str] | None:
    """Parse --model-info; None if it was not given."""
    entries: dict[str, str] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or name in entries:
            problem = "is not an entry" if not separator else "is given twice"
            raise click.BadParameter(
                f"'{text if not separator else name}' {problem}, expected KEY=VALUE such as scale_values=255,255,255, "
                "one per key.",
                param_hint="--model-info",
            )
        entries[name] = value
    return entries or None


def _refuse_unused(ctx: click.Context, options: dict[str, Any]) -> None:
    """Raise if an option of fusing is given for a model that is fused already."""
    for name, value in options.items():
        if name in OPTIONS and OPTIONS[name].output_form:
            continue
        if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            flag = f"--{'no-' if value is False else ''}{name.replace('_', '-')}"
            raise click.UsageError(
                f"{flag} applies only when convert fuses a raw MODEL. Add --stats, --recipe or --task "
                f"if MODEL is raw, or leave out {flag}."
            )
