"""`pp-graph fuse`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pp_graph.cli.classification import LABELS_HELP
from pp_graph.cli.options import (
    PATH,
    STATS_HELP,
    examples,
    force_option,
    json_option,
)
from pp_graph.cli.output import note, print_fields, print_json
from pp_graph.cli.post_processing import post_processing, post_processing_options
from pp_graph.cli.verb import Verb

if TYPE_CHECKING:
    from pathlib import Path

    from pp_graph.fusion import FusedModel


@click.command(
    cls=Verb,
    epilog=examples(
        "pp-graph fuse raw.onnx --stats stats.json -o fused.onnx",
        "pp-graph fuse raw.onnx --recipe post.yaml -o fused.onnx",
        "pp-graph fuse classifier.onnx --task classification --labels names.txt --top 5 -o fused.onnx",
        "pp-graph fuse yolo.onnx --task detection --confidence 0.25 --iou 0.45 -o fused.onnx",
        "pp-graph fuse recogniser.onnx --task sequence --labels characters.txt -o fused.onnx",
    ),
)
@click.argument("raw", type=PATH)
@click.option("--stats", type=PATH, metavar="FILE", help=f"{STATS_HELP}.")
@click.option("-o", "--output", type=PATH, required=True, metavar="FILE", help="Fused ONNX file to write.")
@post_processing_options
@click.option("--labels", type=PATH, metavar="FILE", help=LABELS_HELP)
@click.option("--replace", is_flag=True, help="If RAW is fused already, strip it first.")
@click.option("--copy-weights", is_flag=True, help="Copy external weights instead of referencing them.")
@force_option
@json_option
def fuse(
    raw: Path,
    stats: Path | None,
    output: Path,
    replace: bool,
    copy_weights: bool,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Write post-processing into a raw ONNX model.

    The fused model returns scores, labels, maps and masks, or what another --task names. strip restores RAW to the
    byte.
    """
    fused = post_processing(options).fuse(raw, stats, replace=replace)
    inputs = [path for path in (raw, stats, options["recipe"], options["labels"]) if path is not None]
    fused.save(output, overwrite=force, copy_weights=copy_weights, inputs=inputs)
    if as_json:
        print_json({"output": str(output), **describe(fused)})
        return
    print_fields(f"Fused {raw} -> {output}", fields(fused))
    note(f"Next: pp-graph convert {output} -o {output.with_suffix('.xml')}")


def describe(fused: FusedModel) -> dict[str, Any]:
    """Describe the fused model as JSON values."""
    import msgspec

    read = {role: output.name for role, output in fused.provenance.raw.read.items()}
    raised = fused.provenance.raised
    return {
        "outputs": list(fused.output_names),
        "raw_score": read.get("raw_score"),
        "raw_map": read.get("raw_map"),
        "roles": read,
        "cutoffs": dict(fused.provenance.cutoffs),
        "notes": list(fused.notes),
        "raised_opset": None if raised is None else {"before": raised.before, "after": raised.after},
        "tail": [msgspec.to_builtins(record) for record in fused.provenance.tail],
    }


def fields(fused: FusedModel) -> dict[str, str]:
    """Describe the fused model for people."""
    from pp_graph.fusion.runtime_cutoffs import WITHOUT_STATISTICS

    lines = {role.replace("_", " "): f"'{output.name}'" for role, output in fused.provenance.raw.read.items()}
    lines["outputs"] = ", ".join(fused.output_names)
    parameters = fused.provenance.parameters
    for name in ("confidence", "iou"):
        if name in parameters:
            limits = parameters[name]
            by_class = isinstance(limits, list)
            lines[name] = f"{min(limits)} to {max(limits)}, for each class" if by_class else f"above {limits}"
    for name, cutoff in fused.provenance.cutoffs.items():
        if name not in fused.output_names and "confidence" in parameters:
            continue  # a detector's own steps
        # Other tasks may compare a probability.
        anomalies = fused.provenance.post_processor not in WITHOUT_STATISTICS
        what = "anomalous from a raw value" if anomalies else "true from a value"
        lines[name] = f"{what} of {cutoff:.9g}" if isinstance(cutoff, float) else f"{cutoff}"
    for index, record in enumerate(fused.provenance.tail):
        saved = (record.before_us - record.after_us) / 1000
        lines["tail" if index == 0 else " " * index] = f"{record.what} (saves about {saved:.2g} ms)"
    return lines
