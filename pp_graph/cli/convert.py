"""`pp-graph convert`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from pp_graph.cli.fuse import describe, fields
from pp_graph.cli.options import PATH, STATS_HELP, force_option, json_option, post_processing, post_processing_options
from pp_graph.cli.output import note, print_error, print_fields, print_json
from pp_graph.cli.quantization import NAMES, quantization, quantization_options
from pp_graph.cli.quantization import fields as quantization_fields

if TYPE_CHECKING:
    from pathlib import Path

Shapes = Sequence[int | None] | dict[str, Sequence[int | None]]


@click.command()
@click.argument("model", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, metavar="FILE.xml", help="OpenVINO IR to write.")
@click.option("--device", default="CPU", show_default=True, metavar="CPU|GPU|NPU|AUTO",
              help="Device to convert for; it need not be on this machine.")  # fmt: skip
@click.option("--precision", type=click.Choice(["f32", "f16", "int8"]), default="f32", show_default=True,
              help="Precision of the weights, for int8 of the layers; the post-processing stays f32.")  # fmt: skip
@click.option("--input-shape", "input_shapes", multiple=True, metavar="[NAME:]1,3,256,256",
              help="Sizes to fix for the input; ? for one that stays open. Once an input.")  # fmt: skip
@click.option("--stats", type=PATH, metavar="FILE", help=f"{STATS_HELP}; fuses a raw MODEL first.")
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
    stats: Path | None,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Convert MODEL, a fused ONNX file, to OpenVINO. With --stats, MODEL is raw and is fused first."""
    shapes = parse_shapes(input_shapes)
    quantising = {name: options.pop(name) for name in NAMES}
    if stats is None:
        _refuse_unused(ctx, options)

    from pp_graph import fusion, targets
    from pp_graph.errors import AccuracyError
    from pp_graph.files import check_targets

    files = {"xml": output, "bin": output.with_suffix(".bin")}
    inputs = [path for path in (model, stats, quantising["calibration_data"], quantising["labels"]) if path is not None]
    check_targets(files.values(), overwrite=force, inputs=inputs)
    fused = fusion.FusedModel.load(model) if stats is None else post_processing(options).fuse(model, stats)
    try:
        with quantization(ctx, precision, quantising) as settings:
            artifact = targets.convert(
                fused, device=device, precision=precision, input_shape=shapes, quantization=settings
            )
    except AccuracyError as error:
        print_error(type(error).__name__, str(error), as_json=as_json)
        raise click.exceptions.Exit(1) from error
    artifact.save(output, overwrite=force, inputs=inputs)
    if as_json:
        sizes = {f"{kind}_bytes": file.stat().st_size for kind, file in files.items()}
        print_json({"output": str(output), **artifact.conversion, **sizes, **describe(fused)})
        return
    size = files["bin"].stat().st_size / 2**20
    quantised = quantization_fields(artifact.conversion["quantization"]) if settings is not None else {}
    lines = {"device": device, "weights": f"{precision}, {size:,.1f} MiB", **quantised, **fields(fused)}
    print_fields(f"Converted {model} -> {output}", lines)
    raw = fused.provenance.raw.file or "RAW.onnx"
    note(f"Next: pp-graph verify {model if stats is not None else raw} {output} --data IMAGES")


def parse_shapes(texts: tuple[str, ...]) -> Shapes | None:
    """Read what was given with --input-shape; None where nothing was."""
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
            raise click.BadParameter("several shapes need the name of their input each.", param_hint="--input-shape")
        return named[""]
    return named


def _refuse_unused(ctx: click.Context, options: dict[str, Any]) -> None:
    """Options of fusing without --stats would be dropped without a word."""
    for name, value in options.items():
        if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            flag = f"--{'no-' if value is False else ''}{name.replace('_', '-')}"
            raise click.UsageError(
                f"{flag} belongs to fusing, and without --stats MODEL is taken as fused already. Add --stats FILE "
                f"to fuse a raw model, or leave out {flag}."
            )
