"""`pp-graph fleet`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from pp_graph.cli.options import PATH, examples, json_option
from pp_graph.cli.output import note, print_blocks, print_json, progress_bar
from pp_graph.cli.tasks import RETUNED_NAMES, retuned_options
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
    """Bring many models up to date in one run; retune or compare them.

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


@fleet.command(cls=Verb, epilog=examples("pp-graph fleet diff before/ after/"))
@click.argument("before", type=PATH)
@click.argument("after", type=PATH)
@json_option
def diff(before: Path, after: Path, as_json: bool) -> None:
    """Show which thresholds, decisions, latencies and sizes moved between two runs.

    BEFORE and AFTER are output folders of fleets, or copies of their fleet.parquet.
    """
    from pp_graph.fleet import diff_fleets

    found = diff_fleets(before, after)
    if as_json:
        print_json(found.to_dict())
    else:
        print_blocks(found.summary())


@fleet.command(
    cls=Verb,
    epilog=examples(
        "pp-graph fleet retune out/ --image-sensitivity 0.6 --where camera=7",
        "pp-graph fleet retune out/ --confidence 0.4 --where kind=detector --where precision=int8",
        "pp-graph fleet retune out/ --undo",
    ),
)
@click.argument("folder", type=PATH)
@click.option("--image-sensitivity", type=float, metavar="S", help="anomaly: new image sensitivity, from 0 to 1.")
@click.option("--pixel-sensitivity", type=float, metavar="S", help="anomaly: new pixel sensitivity, from 0 to 1.")
@retuned_options
@click.option("--where", "conditions", multiple=True, metavar="TAG=VALUE",
              help="Only artifacts with this tag, model, device or precision. Repeat to narrow further.")  # fmt: skip
@click.option("--undo", is_flag=True, help="Take back the last change.")
@click.option("--dry-run", is_flag=True, help="Check, and write nothing.")
@json_option
def retune(
    folder: Path,
    image_sensitivity: float | None,
    pixel_sensitivity: float | None,
    conditions: tuple[str, ...],
    undo: bool,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Change numbers of the artifacts in FOLDER, in milliseconds each.

    Each artifact changes whole or not at all, and none if a value does not fit one of them. The next run of the fleet
    keeps the numbers and verifies these artifacts again.
    """
    from pp_graph.fleet import retune_fleet, undo_retuning

    given = {"image_sensitivity": image_sensitivity, "pixel_sensitivity": pixel_sensitivity,
             **{name: options[name] for name in RETUNED_NAMES}}  # fmt: skip
    numbers = {name: value for name, value in given.items() if value is not None}
    if isinstance(options["confidence"], os.PathLike):
        raise click.UsageError(
            f"--confidence is the file '{options['confidence']}', expected numbers: models of a fleet may have other "
            "classes. Use pp-graph retune for one model."
        )
    if undo and (numbers or conditions or dry_run):
        raise click.UsageError("--undo takes back the last change as a whole. Leave out the other options.")
    if not undo and not numbers:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise click.UsageError(f"There is nothing to change, expected some of {flags}, or --undo.")
    found = undo_retuning(folder) if undo else retune_fleet(folder, numbers, where=_parsed(conditions), dry_run=dry_run)
    if as_json:
        print_json(found.to_dict())
        return
    print_blocks(found.summary())
    if found.written:
        note("Next: pp-graph fleet FLEET.yaml verifies them, and measures F1 and flips again.")


def _parsed(conditions: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in conditions:
        key, separator, value = text.partition("=")
        if not separator or key in found:
            problem = "is given twice" if separator else "is no condition"
            raise click.BadParameter(f"'{text}' {problem}, expected TAG=VALUE, one a tag.", param_hint="--where")
        found[key] = value
    return found
