"""`pp-graph benchmark`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from pp_graph.cli.convert import parse_shapes
from pp_graph.cli.frames import parse_frame_size
from pp_graph.cli.options import (
    PATH,
    cache_option,
    check_report,
    examples,
    force_option,
    input_option,
    refuse_given,
    report_option,
)
from pp_graph.cli.output import note, print_blocks, print_json, print_line, print_table, progress_bar
from pp_graph.cli.verb import Verb

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


_STDOUT = "-"


@click.command(
    cls=Verb,
    epilog=examples(
        "pp-graph benchmark raw.onnx model.xml",
        "pp-graph benchmark raw.onnx model.xml --device CPU,GPU --json report.json",
        "pp-graph benchmark deploy --remote pi@192.168.0.7 --remote lab@box:2222 --json bench.json",
    ),
)
@click.argument("models", nargs=-1, type=PATH, metavar="RAW ARTIFACT...")
@click.option("--device", default="CPU", show_default=True, metavar="CPU,GPU,...",
              help="Comma-separated devices. Put meta devices with members last: CPU,HETERO:GPU,CPU. Devices that are "
                   "not on this machine are skipped and reported.")  # fmt: skip
@click.option("--inference-precision", default="f32,default", show_default=True, metavar="f32,bf16,f16,default",
              help="Precisions to run in; 'default' leaves it to the device.")  # fmt: skip
@click.option("--batch", type=click.IntRange(min=1), metavar="N",
              help="Images per run, if RAW leaves it open.  [default: 1]")  # fmt: skip
@click.option("--input-shape", "input_shapes", multiple=True, metavar="[NAME:]1,3,256,256",
              help="Sizes of the input, where RAW leaves more open than the batch.")  # fmt: skip
@click.option(
    "--dynamic", is_flag=True, help="Compile with open sizes left open, instead of fixing them for all models."
)
@click.option("--hint", type=click.Choice(["latency", "throughput"]), default="latency", show_default=True,
              help="Performance hint for the device.")  # fmt: skip
@click.option("--against", multiple=True, metavar="host-numpy|host-torch|MODEL",
              help="Post-processing on the host, or another model; repeatable. Default: host-numpy, and host-torch "
              "where torch is installed.")  # fmt: skip
@click.option("--data", type=PATH, metavar="FILE.npz|FOLDER", help="Images to run on.  [default: random numbers]")
@input_option
@click.option("--frame-size", metavar="HxW",
              help="Size of random frames for an artifact that resizes frames of any size.")  # fmt: skip
@click.option("--seconds", type=float, default=10.0, show_default=True, metavar="T",
              help="Seconds to measure for each device and precision.")  # fmt: skip
@click.option("--no-memory", is_flag=True, help="Do not measure peak memory (one process for each model).")
@cache_option
@click.option("--compare", nargs=2, type=PATH, metavar="A.json B.json", help="Compare two earlier runs instead.")
@click.option("--remote", multiple=True, metavar="USER@HOST[:PORT]",
              help="Run the package DEPLOY (pp-graph package) on another machine over SSH, on every device there; "
                   "repeatable. --json FILE.json then writes a report for each.")  # fmt: skip
@click.option("--remote-python", default="python3", show_default=True, metavar="PATH",
              help="Python there, with OpenVINO and NumPy.")  # fmt: skip
@click.option("--ssh-option", multiple=True, metavar="KEY=VALUE", help="Option of ssh, as after ssh -o; repeatable.")
@click.option("--json", "json_output", is_flag=False, flag_value="-", metavar="[OUT.json]",
              help="Write the report to a file, or as one JSON object to stdout, all else to stderr.")  # fmt: skip
@report_option
@force_option
@click.pass_context
def benchmark(
    context: click.Context,
    /,
    models: tuple[Path, ...],
    compare: tuple[Path, Path] | None,
    json_output: str | None,
    report: Path | None,
    force: bool,
    **options: Any,
) -> None:
    """Measure latency of models against RAW.

    Compares artifacts of pp_graph (an IR or a fused .onnx) with RAW, with post-processing on the host, and with other
    models. All run interleaved in one process, with the same sizes. A ratio is the median over rounds, with its 95 %
    confidence interval. With --remote, a package of pp-graph package is checked and timed on other machines.
    """
    if compare is not None:
        if models:
            raise click.UsageError("--compare takes two reports and no models.")
        if report is not None:
            raise click.UsageError("--report shows a new benchmark, and --compare runs none. Leave out one of them.")
        _compare(*compare, json_output)
        return
    if options["remote"]:
        from pp_graph.cli.remote import measure_remotely

        measure_remotely(context, models, json_output, force, {**options, "report": report})
        return
    refuse_given(context, ["remote_python", "ssh_option"], "is about other machines. Name them with --remote.")
    if len(models) < 2:
        raise click.UsageError("Give the raw model and at least one artifact: pp-graph benchmark RAW.onnx MODEL.xml")
    target = _target(json_output, models, force)
    check_report(report, models, force=force)

    from pp_graph import benchmarking
    from pp_graph.files import written_together
    from pp_graph.openvino.devices import split_devices

    precisions = _split(options["inference_precision"])
    devices = split_devices(options["device"])
    total = options["seconds"] * len(precisions) * len(devices)
    if not 0 < total < float("inf"):
        total = 1  # the function raises the error
    with progress_bar("Measuring", max(1, round(total)), seconds=True) as advance:
        result = benchmarking.benchmark(
            models[0],
            models[1:],
            devices=devices,
            inference_precisions=precisions,
            batch=options["batch"],
            dynamic=options["dynamic"],
            input_shape=_sizes(options["input_shapes"]),
            hint=options["hint"],
            against=options["against"] or None,
            images=options["data"],
            frame_size=parse_frame_size(options["frame_size"]),
            fixed_inputs=options["fixed_inputs"],
            seconds=options["seconds"],
            memory=not options["no_memory"],
            cache_dir=options["cache_dir"],
            progress=advance,
        )
    if target is not None:
        with written_together(target, overwrite=force, inputs=models) as (draft,):
            draft.write_bytes(result.to_json())
    if report is not None:
        from pp_graph.report import write_benchmark_report

        write_benchmark_report(result, report, overwrite=force, inputs=models)
        note(f"Wrote {report}")
    if json_output == _STDOUT:
        click.echo(result.to_json().decode())
        return
    print_blocks(result.summary())
    if target is not None:
        note(f"Wrote {target}")


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _sizes(texts: tuple[str, ...]) -> Any:
    shapes = parse_shapes(texts)
    each = list(shapes.values()) if isinstance(shapes, dict) else [] if shapes is None else [shapes]
    if any(size is None for sizes in each for size in sizes):
        raise click.BadParameter(
            f"'{' '.join(texts)}' leaves a size open, expected every size, such as 1,3,256,256.",
            param_hint="--input-shape",
        )
    return shapes


def _target(json_output: str | None, models: Sequence[Path], force: bool) -> Path | None:
    """Return the file to write, or None for stdout; raise before measuring if it cannot be written."""
    from pathlib import Path

    from pp_graph.files import refuse_inputs

    if json_output is None or json_output == _STDOUT:
        return None
    target = Path(json_output)
    if target.suffix != ".json":
        raise click.BadParameter(
            f"'{target}' is not a report file, expected a name ending in .json, or - for stdout.", param_hint="--json"
        )
    refuse_inputs([target], models)
    if target.exists() and not force:
        raise click.BadParameter(f"'{target}' exists already. Use --force to replace it.", param_hint="--json")
    if not target.absolute().parent.is_dir():
        raise click.BadParameter(f"Folder '{target.parent}' does not exist. Make it first.", param_hint="--json")
    if target.is_dir() or not os.access(target.absolute().parent, os.W_OK):
        raise click.BadParameter(f"'{target}' cannot be written. Choose another path.", param_hint="--json")
    return target


def _compare(first: Path, second: Path, json_output: str | None) -> None:
    from pp_graph.benchmarking import compare_reports, load_report

    changes, differences = compare_reports(load_report(first), load_report(second))
    if json_output is not None:
        import msgspec

        if json_output != _STDOUT:
            raise click.BadParameter(
                f"a comparison goes to stdout only, and '{json_output}' is a file. Use --json alone, and redirect it.",
                param_hint="--json",
            )
        print_json({"changes": msgspec.to_builtins(changes), "differences": differences})
        return
    print_table(
        f"{first} → {second}: ratio to the raw model of the same run",
        ("model", "device", "precision", "before", "after", "verdict"),
        [
            (
                each.name,
                each.device,
                each.precision,
                *("-" if side is None else f"{side.ratio:.3f} ({side.ratio_low:.3f}–{side.ratio_high:.3f})"
                  for side in (each.before, each.after)),
                each.verdict,
            )
            for each in changes
            if each.name != "raw"  # always 1
        ],
    )  # fmt: skip
    print_line("Parentheses hold 95 % confidence intervals. Same: the two overlap.")
    for difference in differences:
        note(f"Note: {difference}")
