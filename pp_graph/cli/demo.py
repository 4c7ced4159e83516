"""`pp-graph demo`."""

from __future__ import annotations

from pathlib import Path

import click

from pp_graph.cli.options import PATH, examples, force_option, json_option
from pp_graph.cli.output import note, print_json, print_line, print_table
from pp_graph.cli.verb import Verb


@click.command(
    cls=Verb,
    epilog=examples(
        "pp-graph demo",
    ),
)
@click.option("-o", "--output", type=PATH, default=Path("pp_graph_demo"), show_default=True, metavar="DIR",
              help="Folder to write the models and pictures to.")  # fmt: skip
@force_option
@json_option
def demo(output: Path, force: bool, as_json: bool) -> None:
    """Fuse, convert and verify a demo model, and draw its predictions.

    The model is a small PaDiM trained on photographs of brick; anomalies are pieces of grass and gravel. It comes with
    the package and needs no network.
    """
    from pp_graph.demo import run_demo

    result = run_demo(output, overwrite=force, say=note)
    failed = not all(report.passed for report in result.reports.values())
    if as_json:
        print_json(
            {
                "files": {kind: str(file) for kind, file in result.files.items()},
                "verification": {name: report.to_dict() for name, report in result.reports.items()},
                "images": [vars(image) for image in result.images],
            }
        )
    else:
        print_table(
            "Predictions of the OpenVINO model",
            ("image", "score", "label", "anomalous pixels"),
            [
                (
                    image.name,
                    f"{image.pred_score:.3f}",
                    "anomalous" if image.pred_label else "normal",
                    f"{image.anomalous_pixels:,}",
                )
                for image in result.images
            ],
        )
        print_table(
            "Decisions changed, against the raw model and NumPy in float32",
            ("weights and execution", "decisions", "by post-processing", "by drift of the network"),
            [
                (
                    name,
                    f"{sum(each.total for each in report.decisions):,}",
                    f"{report.postprocessing_flips:,}",
                    f"{report.drift_flips:,}",
                )
                for name, report in result.reports.items()
            ],
        )
        print_line(f"Wrote {', '.join(str(file) for file in result.files.values())}")
        note(f"Next, by hand: cd {result.files['inputs']} && pp-graph fuse raw.onnx --stats stats.json -o fused.onnx")
    if failed:
        raise click.exceptions.Exit(1)
