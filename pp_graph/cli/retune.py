"""`pp-graph retune`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pp_graph.cli.classification import classifier_settings
from pp_graph.cli.detection import confidence_of
from pp_graph.cli.numbers import NAMES, given_numbers, number_options, with_numbers
from pp_graph.cli.options import PATH, STATS_HELP, examples, json_option
from pp_graph.cli.output import note, print_fields, print_json
from pp_graph.cli.tasks import RETUNED_NAMES, TASKS, retuned_options
from pp_graph.cli.verb import Verb
from pp_graph.one_class_options import OPTIONS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pp_graph.retuning import Retuning
    from pp_graph.statistics import Statistics


class _RetuneVerb(Verb):
    """Explains options of `fuse` and `convert` that cannot be retuned."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the command line."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            name = error.option_name.removeprefix("--").replace("-", "_")
            if name not in (*OPTIONS, *(each for task in TASKS.values() for each in task.names)):
                raise
            raise click.UsageError(
                f"{error.option_name} cannot be retuned, because it changes operators or names. Fuse or convert the "
                f"raw model again with {error.option_name}. retune changes {', '.join(_flags())}.",
                ctx,
            ) from error


def _flags() -> list[str]:
    names = ("stats", "image_sensitivity", "pixel_sensitivity", *dict.fromkeys((*NAMES, *RETUNED_NAMES)))
    return [f"--{name.replace('_', '-')}" for name in names]


@click.command(
    cls=_RetuneVerb,
    epilog=examples(
        "pp-graph retune model.xml --image-sensitivity 0.6",
        "pp-graph retune fused.onnx --stats new.json -o tuned.onnx",
        "pp-graph retune classifier.xml --unknown-below 0.8",
        "pp-graph retune detector.xml --confidence 0.4 --iou 0.5",
    ),
)
@click.argument("model", type=PATH)
@click.option("--stats", type=PATH, metavar="FILE", help=f"{STATS_HELP}; without it MODEL keeps its own.")
@number_options
@click.option("--image-sensitivity", type=float, metavar="S", help="anomaly: new image sensitivity, from 0 to 1.")
@click.option("--pixel-sensitivity", type=float, metavar="S", help="anomaly: new pixel sensitivity, from 0 to 1.")
@retuned_options
@click.option("-o", "--output", type=PATH, metavar="FILE.onnx|.xml",
              help="Model to write; without it MODEL itself is changed.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Print the new cutoffs and write nothing.")
@click.option("--force", is_flag=True, help="Replace FILE of -o if it exists.")
@json_option
def retune(
    model: Path,
    stats: Path | None,
    image_sensitivity: float | None,
    pixel_sensitivity: float | None,
    output: Path | None,
    dry_run: bool,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Change statistics, sensitivities or limits of MODEL.

    Every other option of fuse and convert, such as --labels, --top, --head, --max-detections, --regions, --blank or
    --map-size, is fixed: fuse or convert the raw model again. A text recogniser has no limits to change.

    MODEL is a fused ONNX file or an IR that pp-graph wrote. The network is not touched, and decisions equal those of
    the raw model fused again. If no operator changes, only the constants of the post-processing are written, which
    takes milliseconds for a model of any size.

    Without -o, MODEL is changed in place. No other command changes its input. If it fails, MODEL stays as it was. The
    .bin of an IR grows by about 64 bytes each time, because its old bytes are never changed.
    """
    changes = {name: options[name] for name in RETUNED_NAMES if options[name] is not None}
    numbers = given_numbers(options)
    if stats is None and image_sensitivity is None and pixel_sensitivity is None and not changes and not numbers:
        raise click.UsageError(f"There is nothing to change, expected some of {', '.join(_flags())}.")
    if output is not None:
        check_ending(model, output)
        if output.exists() and model.exists() and output.samefile(model):
            raise click.UsageError(
                f"Output '{output}' is an input of this command, expected a different file. Leave out -o to change "
                "MODEL in place."
            )
    if "confidence" in changes:
        changes["confidence"] = confidence_of(changes["confidence"], _class_names(model))
    from pp_graph.statistics import Statistics

    statistics = None
    if stats is not None:
        from pp_graph.calibration.classification import is_classifier_calibration

        if is_classifier_calibration(stats):
            changes = classifier_settings(stats) | changes
        else:
            statistics = Statistics.load(stats)
    if numbers and _is_anomaly_model(model):
        changes.pop("pixel_threshold", None)
        statistics = with_numbers(statistics or Statistics.load(model), numbers)
    retuning = prepare_with_notes(model, statistics, image_sensitivity, pixel_sensitivity, changes)
    found = retuning.provenance
    written = None
    if not dry_run:
        written = retuning.write(output, overwrite=force, inputs=[] if stats is None else [stats])
    if as_json:
        import msgspec

        print_json(
            {
                "output": None if written is None else str(written.path),
                "path": None if written is None else str(written.path),
                "way": None if written is None else written.way,
                "bytes_changed": 0 if written is None else written.bytes_changed,
                "cutoffs": dict(found.cutoffs),
                "parameters": dict(found.parameters),
                "statistics": None if found.statistics is None else msgspec.to_builtins(found.statistics),
            }
        )
        return
    kept = {key: line for key, line in found.summary().items() if not key.startswith(("raw", "tail", "conv"))}
    if written is None:
        print_fields(f"Would retune {model}", kept)
        return
    kept["written"] = f"{written.bytes_changed:,} bytes: " + (
        "numbers of the post-processing and provenance" if written.way == "constants" else "the whole model"
    )
    print_fields(f"Retuned {model}" if output is None else f"Retuned {model} -> {output}", kept)


def _is_anomaly_model(model: Path) -> bool:
    from pp_graph.fusion.runtime_cutoffs import WITHOUT_STATISTICS
    from pp_graph.opening import open_artifact

    return open_artifact(model).provenance.post_processor not in WITHOUT_STATISTICS


def _class_names(model: Path) -> tuple[str, ...]:
    from pp_graph.opening import open_artifact

    classes = open_artifact(model).provenance.predicted.get("classes")
    return () if classes is None else classes.class_names


def check_ending(model: Path, output: Path) -> None:
    """Raise if the output's ending does not match the kind of model."""
    from pp_graph.opening import kind_of

    ending = ".xml" if kind_of(model) == "ir" else ".onnx"
    if output.suffix.lower() != ending:
        raise click.UsageError(
            f"'{output}' ends in '{output.suffix}', expected '{ending}', the ending of MODEL's kind."
        )


def prepare_with_notes(
    model: Path,
    statistics: Statistics | None,
    image_sensitivity: float | None = None,
    pixel_sensitivity: float | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Retuning:
    """Prepare retuning a file, and print which settings of the statistics do not apply."""
    from pp_graph.retuning import prepare_retuning

    retuning = prepare_retuning(
        model, statistics, image_sensitivity=image_sensitivity, pixel_sensitivity=pixel_sensitivity, **(changes or {})
    )
    raw = retuning.provenance.raw
    other = None if statistics is None else statistics.of_another_model(raw.sha256, raw.weights)
    if other is not None:
        note(f"Warning: {other}")
    provenance = None if statistics is None else statistics.provenance
    for name, value in ({} if provenance is None else provenance.settings).items():
        kept = retuning.provenance.parameters.get(name)
        if kept != value:
            note(
                f"Note: the statistics file sets {name}={value}; retuning ignores this and keeps the model's "
                f"{name}={kept}."
            )
    return retuning
