"""`pp-graph ci`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from pp_graph.cli.options import PATH, examples, force_option, json_option
from pp_graph.cli.output import detail, print_blocks, print_json
from pp_graph.cli.verb import Verb


@click.command(
    cls=Verb,
    epilog=examples(
        "pp-graph ci --limits limits.yaml",
        "pp-graph ci --limits limits.yaml --junit pp-graph.xml --summary summary.md",
    ),
)
@click.option("--limits", type=PATH, required=True, metavar="FILE.yaml",
              help="Models and limits: a list 'checks', each with raw, model and data, and if needed name, device, "
              "inference_precision, release (benchmark JSON or artifact of the last release), seconds, and limits: "
              "label_flips (0), pixel_flips (0.1%), ratio_to_raw, ratio_to_release.")  # fmt: skip
@click.option("--junit", type=PATH, metavar="FILE.xml", help="Also write JUnit XML.")
@click.option("--summary", type=PATH, metavar="FILE.md",
              help="Also write Markdown for a pull request. By default it is appended to $GITHUB_STEP_SUMMARY, if that "
              "is set.")  # fmt: skip
@force_option
@json_option
def ci(limits: Path, junit: Path | None, summary: Path | None, force: bool, as_json: bool) -> None:
    """Check models before a release.

    Verifies every model of the file of limits, and times it against the raw model and the last release. Exit status 1
    if a limit is exceeded, 2 if a model could not be checked.
    """
    from pp_graph.files import check_targets, written_together
    from pp_graph.release_checks import check_release, read_limits

    read_limits(limits)
    targets = [file for file in (junit, summary) if file is not None]
    check_targets(targets, overwrite=force, inputs=[limits])
    report = check_release(limits, progress=lambda name: detail(f"Checking {name}"))
    for file, text in ((junit, report.to_junit()), (summary, report.to_markdown())):
        if file is not None:
            with written_together(file, overwrite=force, inputs=[limits]) as (draft,):
                draft.write_text(text, encoding="utf-8")
    step_summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary is None and step_summary:
        with Path(step_summary).open("a", encoding="utf-8") as stream:
            stream.write(report.to_markdown())
    if as_json:
        print_json(report.to_dict())
    else:
        print_blocks(report.summary())
    if not report.passed:
        raise click.exceptions.Exit(2 if report.errors else 1)
