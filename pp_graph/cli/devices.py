"""`pp-graph devices`."""

from __future__ import annotations

import click

from pp_graph.cli.options import json_option
from pp_graph.cli.output import print_json, print_table


@click.command()
@json_option
def devices(as_json: bool) -> None:
    """List the devices of this machine, their precisions and what OpenVINO runs by default, and those not here."""
    from dataclasses import asdict

    from pp_graph.targets import list_devices

    found = list_devices()
    if as_json:
        print_json({"devices": [asdict(each) for each in found]})
        return
    shapes = {True: "any", False: "static only, batch included", None: "not known"}
    print_table(
        "Devices",
        ("device", "here", "what it is", "precisions", "runs by default in", "input shapes"),
        [
            (
                each.name,
                "yes" if each.here else "no",
                each.full_name or ("chooses among the others" if each.name == "AUTO" else "-"),
                ", ".join(each.precisions) or "-",
                each.default_precision or "-",
                shapes[each.dynamic_shapes],
            )
            for each in found
        ],
    )
