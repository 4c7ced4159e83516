"""`pp-graph stats`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pp_graph.cli.options import PATH, examples, force_option, json_option
from pp_graph.cli.output import note, print_blocks, print_json, print_line
from pp_graph.cli.verb import Verb

if TYPE_CHECKING:
    from pathlib import Path

    from pp_graph.statistics import Statistics


@click.group(
    epilog=examples(
        "pp-graph stats show model.ckpt",
        "pp-graph stats convert model.ckpt -o stats.json",
    )
)
def stats() -> None:
    """Show or convert statistics of any known format.

    FILE is JSON or YAML with the six numbers, a checkpoint or ONNX export of Anomalib 2.x, a metadata.json of Anomalib
    0.x or 1.x, the stats.json of its tiled ensemble, an OpenVINO IR with Model API's model_info, or a model that
    pp_graph fused.
    """


@stats.command(
    cls=Verb,
    epilog=examples(
        "pp-graph stats show model.ckpt",
    ),
)
@click.argument("file", type=PATH)
@json_option
def show(file: Path, as_json: bool) -> None:
    """Show thresholds, minima and maxima, their origin, and notes."""
    from pp_graph.statistics import Statistics

    found = Statistics.load(file)
    if as_json:
        print_json(_as_json(found))
        return
    print_blocks(found.summary(f"Statistics in {file}"))


@stats.command(
    cls=Verb,
    epilog=examples(
        "pp-graph stats convert model.ckpt -o stats.json",
    ),
)
@click.argument("file", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, metavar="FILE.json", help="Statistics JSON to write.")
@force_option
@json_option
def convert(file: Path, output: Path, force: bool, as_json: bool) -> None:
    """Write the statistics of FILE as pp_graph's JSON."""
    from pp_graph.statistics import Statistics

    found = Statistics.load(file)
    found.save(output, overwrite=force, inputs=[file])
    if as_json:
        print_json({"output": str(output), "statistics": _as_json(found)})
        return
    print_line(f"Converted {file} -> {output}")
    for remark in [] if found.provenance is None else found.provenance.notes:
        note(f"Note: {remark}")
    note(f"Next: pp-graph fuse RAW.onnx --stats {output} -o fused.onnx")


def _as_json(found: Statistics) -> dict[str, Any]:
    import msgspec

    result: dict[str, Any] = msgspec.to_builtins(found)
    return result
