"""`pp-graph stats`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pp_graph.cli.options import PATH, examples, force_option, json_option
from pp_graph.cli.output import note, print_fields, print_json, print_table
from pp_graph.errors import counted

if TYPE_CHECKING:
    from collections.abc import Mapping
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

    FILE is pp_graph's JSON, a checkpoint or ONNX export of Anomalib 2.x, a metadata.json of Anomalib 0.x or 1.x, the
    stats.json of its tiled ensemble, an OpenVINO IR with Model API's model_info, or a model that pp_graph fused.
    """


@stats.command(
    epilog=examples(
        "pp-graph stats show model.ckpt",
    )
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
    print_table(
        f"Statistics in {file}",
        ("level", "threshold", "min", "max"),
        [
            (level, *(_number(getattr(numbers, name)) for name in ("threshold", "min", "max")))
            for level, numbers in (("image", found.image), ("pixel", found.pixel))
        ],
    )
    print_fields("Provenance", _describe(found))


@stats.command(
    epilog=examples(
        "pp-graph stats convert model.ckpt -o stats.json",
    )
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
    click.echo(f"Converted {file} -> {output}")
    for remark in [] if found.provenance is None else found.provenance.notes:
        note(f"Note: {remark}")
    note(f"Next: pp-graph fuse RAW.onnx --stats {output} -o fused.onnx")


def describe_numbers(numbers: Mapping[str, float | None]) -> str:
    """`threshold 9.96, min 7.43, max 15.98`."""
    return ", ".join(f"{name} {_number(numbers.get(name))}" for name in ("threshold", "min", "max"))


def describe_settings(settings: Mapping[str, Any]) -> str:
    """`normalize=True, image_sensitivity=0.5`."""
    return ", ".join(f"{name}={value}" for name, value in settings.items()) or "none, so the defaults apply"


def _describe(found: Statistics) -> dict[str, str]:
    provenance = found.provenance
    if provenance is None:
        return {"source": "not recorded"}
    fields = {"source": provenance.source}
    if provenance.file is not None:
        fields["file"] = provenance.file
    if provenance.sha256 is not None:
        fields["sha256"] = provenance.sha256
    if provenance.calibration is not None:
        data = provenance.calibration.data or "data in memory"
        fields["calibrated on"] = f"{counted(provenance.calibration.images, 'image')} of {data}"
    fields["settings"] = describe_settings(provenance.settings)
    return {**fields, **{"note" if index == 0 else " " * index: text for index, text in enumerate(provenance.notes)}}


def _as_json(found: Statistics) -> dict[str, Any]:
    import msgspec

    result: dict[str, Any] = msgspec.to_builtins(found)
    return result


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.9g}"
