"""`pp-graph strip`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pp_graph.cli.options import PATH, examples, force_option, json_option
from pp_graph.cli.output import note, print_json, print_line
from pp_graph.cli.verb import Verb

if TYPE_CHECKING:
    from pathlib import Path


@click.command(
    cls=Verb,
    epilog=examples(
        "pp-graph strip fused.onnx -o raw.onnx",
    ),
)
@click.argument("fused", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, metavar="FILE", help="Raw ONNX file to write.")
@click.option("--copy-weights", is_flag=True, help="Copy external weights instead of referencing them.")
@force_option
@json_option
def strip(fused: Path, output: Path, copy_weights: bool, force: bool, as_json: bool) -> None:
    """Remove the post-processing from FUSED and restore the raw file."""
    from pp_graph import fusion

    raw = fusion.strip(fused)
    provenance = fusion.FusedModel.load(fused).provenance
    raw.save(output, overwrite=force, copy_weights=copy_weights)
    restored = raw.sha256 == provenance.raw.sha256
    if not restored:
        note(
            f"Note: {output} is not, byte for byte, the raw file that was fused (sha256 {provenance.raw.sha256[:12]}). "
            "The fused model was changed by another tool, or its external weights were moved; or the raw file was "
            "serialised in an unusual way."
        )
    outputs = [value.name for value in raw.model.graph.outputs]
    if as_json:
        print_json({"output": str(output), "outputs": outputs, "raw_sha256": raw.sha256, "is_raw_file": restored})
        return
    print_line(f"Stripped {fused} -> {output}, outputs {', '.join(map(str, outputs))}")
