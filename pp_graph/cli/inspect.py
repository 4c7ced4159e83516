"""`pp-graph inspect`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pp_graph.cli.options import PATH, examples, json_option, named_roles, role_options
from pp_graph.cli.output import print_blocks, print_json
from pp_graph.cli.verb import Verb

if TYPE_CHECKING:
    from pathlib import Path


@click.command(
    cls=Verb,
    epilog=examples(
        "pp-graph inspect raw.onnx",
        "pp-graph inspect raw.onnx --tail",
    ),
)
@click.argument("model", type=PATH)
@click.option("--recipe", type=PATH, metavar="FILE.yaml", help="Look for the roles that this recipe reads.")
@role_options
@click.option("--tail", is_flag=True, help="Show what fusing would rewrite in the raw model's tail, and why.")
@json_option
def inspect(model: Path, recipe: Path | None, tail: bool, as_json: bool, **options: Any) -> None:
    """Show inputs, outputs, roles and post-processing of a model.

    MODEL is an ONNX file, raw or fused, or an OpenVINO IR (.xml).
    """
    roles = named_roles(options)

    from pp_graph import inspection
    from pp_graph.postprocessors import RecipePostProcessor

    post = None if recipe is None else RecipePostProcessor.load(recipe)
    found = inspection.inspect(model, post=post, roles=roles, tail=tail)
    if found.provenance is not None and (roles or recipe is not None):
        raise click.UsageError("--role and --recipe apply to raw models only, and this model is fused. Leave them out.")
    if as_json:
        print_json(found.to_dict())
        return
    print_blocks(found.summary())
