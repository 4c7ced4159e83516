"""`pp-graph benchmark --remote`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pp_graph.cli.options import refuse_given
from pp_graph.cli.output import note, print_blocks, print_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pp_graph.packaging.remote import RemoteBenchmark

_ELSEWHERE = (
    "batch", "input_shapes", "dynamic", "hint", "against", "data", "fixed_inputs", "frame_size", "no_memory",
    "cache_dir", "report",
)  # fmt: skip
"""Options about a benchmark on this machine."""


def measure_remotely(
    context: click.Context, packages: Sequence[Path], json_output: str | None, force: bool, options: dict[str, Any]
) -> None:
    """Run the verb with --remote."""
    refuse_given(context, _ELSEWHERE, "is about this machine, and --remote runs a package elsewhere. Leave it out.")
    if len(packages) != 1:
        raise click.UsageError("--remote takes one package: pp-graph benchmark DEPLOY --remote user@host")
    hosts = options["remote"]
    targets = _targets(json_output, hosts)

    from pp_graph.files import check_targets
    from pp_graph.openvino.devices import split_devices
    from pp_graph.packaging.remote import benchmark_remote

    check_targets(targets.values(), overwrite=force)
    given = {
        name: context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        for name in ("device", "inference_precision")
    }
    precisions = [part.strip() for part in options["inference_precision"].split(",") if part.strip()]
    found = benchmark_remote(
        packages[0],
        hosts,
        devices=split_devices(options["device"]) if given["device"] else (),
        precisions=precisions,
        seconds=options["seconds"],
        python=options["remote_python"],
        ssh_options=options["ssh_option"],
        progress=note,
    )
    _write(found, targets, force=force)
    if json_output == "-":
        print_json(found.to_dict())
    else:
        print_blocks(found.summary())
    if found.failed:
        raise click.exceptions.Exit(2)
    if not found.passed:
        raise click.exceptions.Exit(1)


def _targets(json_output: str | None, hosts: Sequence[str]) -> dict[str, Path]:
    """Return the report to write for each host: `bench.json`, or `bench.HOST.json` for several."""
    if json_output is None or json_output == "-":
        return {}
    target = Path(json_output)
    if target.suffix != ".json":
        raise click.BadParameter(
            f"'{target}' is not a report file, expected a name ending in .json, or - for stdout.", param_hint="--json"
        )
    if len(hosts) == 1:
        return {hosts[0]: target}
    return {host: target.with_name(f"{target.stem}.{re.sub(r'[^A-Za-z0-9.-]+', '_', host)}.json") for host in hosts}


def _write(found: RemoteBenchmark, targets: dict[str, Path], *, force: bool) -> None:
    for each in found.hosts:
        if each.host in targets and each.report is not None:
            each.report.save(targets[each.host], overwrite=force)
            note(f"Wrote {targets[each.host]}")
