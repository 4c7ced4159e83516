"""`pp-graph drift`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pp_graph.cli.options import PATH, check_report, examples, force_option, json_option, report_option
from pp_graph.cli.output import print_blocks, print_json, print_line, progress_bar
from pp_graph.cli.verb import Verb

if TYPE_CHECKING:
    from pathlib import Path


@click.command(
    cls=Verb,
    epilog=examples(
        "pp-graph drift model.xml --scores predictions/predictions.csv",
        "pp-graph drift model.xml --scores logs/*.parquet --defect-rate 0.02 --report drift.html",
        "pp-graph drift stats.json --scores scores.csv --column raw_score",
    ),
)
@click.argument("model", type=PATH)
@click.argument("files", type=PATH, nargs=-1, metavar="[FILE]...")
@click.option("--scores", type=PATH, multiple=True, metavar="FILE.csv|.jsonl|.parquet|.npz...",
              help="New scores, one for each image: predictions.csv of pp-graph run, or logs. Further files may "
                   "follow.")  # fmt: skip
@click.option(
    "--of",
    type=click.Choice(["scores", "maps"]),
    default="scores",
    show_default=True,
    help="Compare scores of images, or the largest value of each map, which run logs as map_max.",
)
@click.option(
    "--column",
    metavar="NAME",
    help="Column or array with the scores.  [default: pred_score, score, ...; of maps map_max]",
)
@click.option("--scale", type=click.Choice(["raw", "normalized"]),
              help="Scale of the new scores.  [default: as MODEL returns them; raw for statistics]")  # fmt: skip
@click.option("--against", type=click.Choice(["normal", "all"]),
              help="Calibration scores to compare with.  [default: normal, if any has that label]")  # fmt: skip
@click.option("--no-labels", is_flag=True,
              help="Ignore a column of labels. Without it, images labelled anomalous are left out of a comparison with "
                   "normal ones.")  # fmt: skip
@click.option("--defect-rate", type=float, default=0.0, show_default=True, metavar="RATE",
              help="Largest share of the new images that are expected to be anomalous, and thus no drift.")  # fmt: skip
@click.option("--level", type=float, default=0.01, show_default=True, metavar="RATE",
              help="Share of comparisons that may report drift though there is none.")  # fmt: skip
@report_option
@force_option
@json_option
def drift(
    model: Path,
    files: tuple[Path, ...],
    scores: tuple[Path, ...],
    no_labels: bool,
    report: Path | None,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Compare new scores with those that a model was calibrated with.

    MODEL is a fused ONNX file, an IR, or a statistics file that calibrate wrote. Reports whether scores are distributed
    as at calibration, how many alarms there are, and what to do. Exit status 1 if there is drift.
    """
    from pp_graph.monitoring import drift as run

    given = [*scores, *files]
    if not given:
        raise click.UsageError("There are no scores, expected --scores FILE, such as predictions.csv of pp-graph run.")
    inputs = [model, *given]
    check_report(report, inputs, force=force)
    with progress_bar("Reading scores", None) as progress:
        found = run(model, given, labels=not no_labels, progress=progress, **options)
    if report is not None:
        found.save(report, overwrite=force, inputs=inputs)
    if as_json:
        print_json({"report": report and str(report), **found.to_dict()})
    else:
        print_blocks(found.summary())
        if report is not None:
            print_line(f"Wrote {report}")
    if found.drifted:
        raise click.exceptions.Exit(1)
