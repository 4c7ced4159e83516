"""`pp-graph inspect`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pp_graph.cli.options import (
    PATH,
    examples,
    force_option,
    input_option,
    json_option,
    named_roles,
    role_options,
    worker_client,
    worker_options,
)
from pp_graph.cli.output import note, print_blocks, print_json
from pp_graph.cli.verb import Verb
from pp_graph.errors import OutputFileError
from pp_graph.files import check_targets

if TYPE_CHECKING:
    from pathlib import Path


@click.command(
    cls=Verb,
    epilog=examples(
        "pp-graph inspect raw.onnx",
        "pp-graph inspect raw.onnx --data bottle/test",
        "pp-graph inspect model.xml --sketch model.svg",
        "pp-graph inspect raw.onnx --tail",
    ),
)
@click.argument("model", type=PATH)
@click.option("--recipe", type=PATH, metavar="FILE.yaml", help="Look for the roles that this recipe reads.")
@role_options
@click.option("--data", type=PATH, metavar="FOLDER|FILE.npz",
              help="Run MODEL on these images and show range, histogram and, with labels, AUROC of each output; "
                   "folders as for calibrate.")  # fmt: skip
@click.option("--masks", type=PATH, metavar="DIR", help="Folder of the masks, if --data does not hold them.")
@input_option
@worker_options
@click.option(
    "--sketch",
    type=PATH,
    metavar="FILE.svg",
    help="Also draw the end of the graph: last layers, raw outputs, post-processing, outputs.",
)
@force_option
@click.option("--tail", is_flag=True, help="Show what fusing would rewrite in the raw model's tail, and why.")
@json_option
def inspect(
    model: Path,
    recipe: Path | None,
    data: Path | None,
    masks: Path | None,
    tail: bool,
    as_json: bool,
    sketch: Path | None,
    force: bool,
    **options: Any,
) -> None:
    """Show inputs, outputs, roles and post-processing of a model.

    MODEL is an ONNX file, raw or fused, an OpenVINO IR (.xml), or a folder that pp-graph package wrote.
    """
    roles = named_roles(options)
    fixed_inputs = options["fixed_inputs"]
    used = {
        "--masks": masks,
        "--input": fixed_inputs,
        **{f"--{name}": options[name] for name in ("workers", "scheduler")},
    }
    option = next((name for name, value in used.items() if value), None)
    if data is None and option is not None:
        raise click.UsageError(f"{option} has no effect without --data. Add --data, or leave it out.")

    if sketch is not None:
        check_targets([_drawing(sketch)], overwrite=force, inputs=_files(model))

    from pp_graph import inspection
    from pp_graph.postprocessors import RecipePostProcessor

    post = None if recipe is None else RecipePostProcessor.load(recipe)
    with worker_client(options) as client:
        found = inspection.inspect(
            model,
            post=post,
            roles=roles,
            tail=tail,
            data=data,
            masks=True if masks is None else masks,
            fixed_inputs=fixed_inputs,
            client=client,
        )
    if found.provenance is not None and (roles or recipe is not None):
        raise click.UsageError("--role and --recipe apply to raw models only, and this model is fused. Leave them out.")
    if sketch is not None:
        found.save(sketch, overwrite=force, inputs=_files(model))
        note(f"Wrote {sketch}")
    if as_json:
        print_json(found.to_dict())
        return
    print_blocks(found.summary())


def _files(model: Path) -> list[Path]:
    """Return files never to overwrite: the model, or all files of a package."""
    return [each for each in model.rglob("*") if each.is_file()] if model.is_dir() else [model]


def _drawing(path: Path) -> Path:
    if path.suffix.lower() != ".svg":
        raise OutputFileError(f"Sketch '{path}' ends in '{path.suffix}', expected '.svg'. Name it model.svg.")
    return path
