"""`pp-graph retune`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pp_graph.cli.options import PATH, STATS_HELP, force_option, json_option
from pp_graph.cli.output import note, print_fields, print_json

if TYPE_CHECKING:
    from pathlib import Path

    from pp_graph.fusion import FusedModel
    from pp_graph.statistics import Statistics
    from pp_graph.targets import OpenVINOModel


@click.command()
@click.argument("model", type=PATH)
@click.option("--stats", type=PATH, metavar="FILE", help=f"{STATS_HELP}; without it MODEL keeps its own.")
@click.option("--image-sensitivity", type=float, metavar="S", help="New sensitivity for images, from 0 to 1.")
@click.option("--pixel-sensitivity", type=float, metavar="S", help="New sensitivity for pixels, from 0 to 1.")
@click.option("-o", "--output", type=PATH, required=True, metavar="FILE.onnx|.xml", help="Model to write.")
@force_option
@json_option
def retune(
    model: Path,
    stats: Path | None,
    image_sensitivity: float | None,
    pixel_sensitivity: float | None,
    output: Path,
    force: bool,
    as_json: bool,
) -> None:
    """Change the statistics or the sensitivities in MODEL, a fused ONNX file or an IR that pp-graph wrote.

    The network is not touched; decisions are those of the raw model fused anew.
    """
    if stats is None and image_sensitivity is None and pixel_sensitivity is None:
        raise click.UsageError("Nothing is to be changed: give --stats, --image-sensitivity or --pixel-sensitivity.")
    statistics = None
    if stats is not None:
        from pp_graph.statistics import Statistics

        statistics = Statistics.load(stats)
    check_ending(model, output)
    tuned = retune_with_notes(model, statistics, image_sensitivity, pixel_sensitivity)
    tuned.save(output, overwrite=force, inputs=[model] if stats is None else [model, stats])
    if as_json:
        import msgspec

        found = tuned.provenance
        statistics_now = None if found.statistics is None else msgspec.to_builtins(found.statistics)
        settings = {"cutoffs": dict(found.cutoffs), "parameters": dict(found.parameters)}
        print_json({"output": str(output), **settings, "statistics": statistics_now})
        return
    kept = {
        key: line for key, line in tuned.provenance.summary().items() if not key.startswith(("raw", "tail", "conv"))
    }
    print_fields(f"Retuned {model} -> {output}", kept)


def check_ending(model: Path, output: Path) -> None:
    """Make sure that a model is written as the kind it is."""
    if output.suffix.lower() != model.suffix.lower():
        raise click.UsageError(f"'{output}' ends in '{output.suffix}', expected '{model.suffix}' as MODEL.")


def retune_with_notes(
    model: Path,
    statistics: Statistics | None,
    image_sensitivity: float | None = None,
    pixel_sensitivity: float | None = None,
) -> FusedModel | OpenVINOModel:
    """Retune a model, and say which settings that come with the statistics it does not take."""
    from pp_graph.targets import retune as run

    tuned = run(model, statistics, image_sensitivity=image_sensitivity, pixel_sensitivity=pixel_sensitivity)
    provenance = None if statistics is None else statistics.provenance
    for name, value in ({} if provenance is None else provenance.settings).items():
        kept = tuned.provenance.parameters.get(name)
        if kept != value:
            note(f"Note: the statistics come with {name}={value}, and the model has {name}={kept}.")
    return tuned
