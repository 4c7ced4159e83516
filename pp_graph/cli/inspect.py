"""`pp-graph inspect`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pp_graph.cli.options import PATH, examples, json_option, named_roles, role_options
from pp_graph.cli.output import note, print_fields, print_json, print_table
from pp_graph.cli.verb import Verb

if TYPE_CHECKING:
    from pathlib import Path

    from pp_graph.inspection import Inspection, TailInspection
    from pp_graph.statistics.anomalib_onnx import GraphStatistics


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
    _print(found)
    if found.tail is not None:
        _print_tail(found.tail)


def _print(found: Inspection) -> None:
    from pp_graph.model import format_shape

    fields = {"file": found.path or "", "kind": found.kind}
    if found.opset is not None:
        fields["opset"] = str(found.opset)
    if found.domains:
        fields["domains"] = ", ".join(f"{domain} {version}" for domain, version in found.domains.items())
    fields["IR version"] = str(found.ir_version)
    fields["producer"] = found.producer or "(not named)"
    functions = f", {found.functions} local functions" if found.functions else ""
    fields["graph"] = f"{found.nodes:,} operators{functions}"
    where = f" in {', '.join(found.weight_files)}" if found.weight_files else ", embedded"
    fields["weights"] = f"{found.weight_bytes / 2**20:,.1f} MiB{where}"
    if found.metadata:
        fields["metadata"] = ", ".join(found.metadata)
    print_fields("Model", fields)
    print_table(
        "Inputs",
        ("name", "type", "shape"),
        [(port.name, port.dtype or "?", format_shape(port.shape)) for port in found.inputs],
    )
    print_table(
        "Outputs",
        ("name", "type", "shape", "role", "why"),
        [
            (
                port.name,
                port.dtype or "?",
                format_shape(port.shape),
                port.role or "-",
                "; ".join(part for part in (port.why, port.note) if part),
            )
            for port in found.outputs
        ],
    )
    if found.provenance is not None:
        print_fields("Post-processing by pp_graph", found.provenance.summary())
    if found.post_processing is not None:
        print_fields("Post-processing by Anomalib 2.x found", _describe(found.post_processing))
        note(f"Next: pp-graph stats convert {found.path or 'MODEL.onnx'} -o stats.json")
    if found.families:
        _print_families(found)
    elif found.problem is not None:
        note(f"Note: {found.problem}")


def _print_families(found: Inspection) -> None:
    path = found.path or "MODEL.onnx"
    several = " (several fit; choose by what the model was trained for)" if len(found.families) > 1 else ""
    click.secho(f"Likely family{several}", bold=True)
    for family in found.families:
        click.echo(f"  {family.model}: {family.why}\n    pp-graph convert {path} {family.options} -o model.xml")
    click.echo()


def _describe(found: GraphStatistics) -> dict[str, str]:
    from pp_graph.cli.stats import describe_numbers, describe_settings

    fields = {f"{level} level": describe_numbers(numbers) for level, numbers in found.numbers.items()}
    fields["settings"] = describe_settings(found.settings)
    return {**fields, **{"note" if index == 0 else " " * index: text for index, text in enumerate(found.notes)}}


def _print_tail(tail: TailInspection) -> None:
    if tail.rewrites:
        print_table(
            "Tail: what is rewritten",
            ("value", "rule", "change", "estimate before", "after", "numbers"),
            [
                (
                    each.target,
                    each.rule,
                    each.what,
                    f"{each.before_us:,.0f} µs",
                    f"{each.after_us:,.0f} µs",
                    "the same" if each.exact else "up to rounding",
                )
                for each in tail.rewrites
            ],
        )
        saved = sum(each.before_us - each.after_us for each in tail.rewrites) / 1000
        click.echo(f"Estimated saving: {saved:.1f} ms per image. Measure it with pp-graph benchmark.\n")
    else:
        click.echo("Tail: nothing is rewritten.\n")
    if tail.missed:
        print_table(
            "Tail: what is not rewritten, and why",
            ("value", "rule", "what", "why not"),
            [(each.target, each.rule, each.what, each.why) for each in tail.missed],
        )
