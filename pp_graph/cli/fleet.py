"""`pp-graph fleet`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pp_graph.cli.options import PATH, examples, json_option
from pp_graph.cli.output import note, print_blocks, print_json, progress_bar
from pp_graph.cli.verb import Verb

if TYPE_CHECKING:
    from pathlib import Path


class _WithoutRun(click.Group):
    """Reads `pp-graph fleet fleet.yaml` as `pp-graph fleet run fleet.yaml`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse arguments."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group(
    cls=_WithoutRun,
    epilog=examples(
        "pp-graph fleet fleet.yaml",
        "pp-graph fleet retune out/ --image-sensitivity 0.6 --where camera=7",
        "pp-graph fleet diff before/ after/",
    ),
)
def fleet() -> None:
    """Bring many models up to date in one run, and change or compare them.

    'run' may be left out: pp-graph fleet fleet.yaml. Needs the extra 'fleet'.
    """


@fleet.command(
    cls=Verb,
    epilog=examples(
        "pp-graph fleet fleet.yaml",
        "pp-graph fleet fleet.yaml --workers 8",
        "pp-graph fleet fleet.yaml --scheduler tcp://10.0.0.5:8786",
    ),
)
@click.argument("file", type=PATH, metavar="FLEET.yaml")
@click.option("--workers", type=click.IntRange(min=1), metavar="N",
              help="Tasks at the same time on this machine.  [default: one for two cores]")  # fmt: skip
@click.option("--scheduler", metavar="ADDRESS",
              help="Run on the workers of a Dask cluster that see the same files: tcp://host:8786.")  # fmt: skip
@click.option("--force", is_flag=True, help="Write to an output folder that holds files of others.")
@json_option
def run(file: Path, workers: int | None, scheduler: str | None, force: bool, as_json: bool) -> None:
    """Fuse, convert, tune and verify all models of FLEET.yaml.

    Only what has changed since the last run is done. A run that was ended in any way goes on where it was. Results are
    in the folder 'output' of the file: artifacts, fleet.parquet and fleet.html.

    Exit status 1 if an artifact exceeds a limit, 2 if one could not be made or checked.
    """
    from pp_graph.fleet import run_fleet

    with progress_bar("Tasks", None) as progress:
        report = run_fleet(file, workers=workers, scheduler=scheduler, overwrite=force, progress=progress, say=note)
    if as_json:
        print_json(report.to_dict())
    else:
        print_blocks(report.summary())
    if not report.passed:
        raise click.exceptions.Exit(2 if report.errors else 1)
