"""`pp-graph package`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pp_graph.cli.options import (
    PATH,
    examples,
    force_option,
    image_options,
    image_settings,
    input_option,
    json_option,
    letterbox_option,
)
from pp_graph.cli.output import print_blocks, print_json
from pp_graph.cli.verb import Verb

if TYPE_CHECKING:
    from pathlib import Path

_TARGETS = ("python", "cpp", "ovms", "triton")


@click.command(
    cls=Verb,
    epilog=examples(
        "pp-graph package model.xml --for python --images bottle/test -o deploy",
        "pp-graph package model.xml --for cpp --images bottle/test --raw raw.onnx -o deploy",
        "pp-graph package fused.onnx --for triton --images bottle/test -o deploy",
    ),
)
@click.argument("model", type=PATH)
@click.option("--for", "target", type=click.Choice(_TARGETS), default="python", show_default=True,
              help="What runs it: a Python or C++ program, OpenVINO Model Server or Triton.")  # fmt: skip
@click.option("--images", type=PATH, required=True, metavar="FOLDER|FILE.npz",
              help="Images; the first, one from the middle and the last become golden images.")  # fmt: skip
@click.option("-o", "--output", type=PATH, required=True, metavar="DIR", help="Folder to write.")
@click.option("--name", metavar="NAME", help="Name of the model for servers.  [default: that of its file]")
@click.option("--raw", type=PATH, metavar="RAW.onnx",
              help="Raw model, so that bench.py also times it as it was exported; adds its size.")  # fmt: skip
@input_option
@letterbox_option
@image_options
@force_option
@json_option
def package(
    model: Path, target: str, images: Path, output: Path, raw: Path | None, force: bool, as_json: bool, **options: Any
) -> None:
    """Write a folder that runs MODEL without pp_graph.

    MODEL is an IR or a fused ONNX file. The folder also holds golden images with their results; check.py, which
    compares with them on the machine where it lands; and bench.py, which measures latency there. Both need OpenVINO and
    NumPy alone. With --force, an earlier package in DIR is replaced with all that is in it.
    """
    from pp_graph.packaging import package as write

    written = write(
        model,
        output,
        images,
        target=target,
        name=options["name"],
        raw=raw,
        fixed_inputs=options["fixed_inputs"],
        overwrite=force,
        **image_settings(options),
    )
    if as_json:
        print_json(written.to_dict())
        return
    print_blocks(written.summary())
