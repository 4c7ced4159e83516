"""`pp-graph devices`, and the device report of `convert`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pp_graph.cli.options import examples, json_option
from pp_graph.cli.output import note, print_fields, print_json, print_line, print_table
from pp_graph.cli.verb import Verb, spelled

if TYPE_CHECKING:
    from pp_graph.openvino.device_check import DeviceCheck
    from pp_graph.openvino.devices import DeviceInfo


def refuse_errors(check: DeviceCheck) -> None:
    """Stop where the model cannot run on the device.

    Raises:
        TargetError: It cannot; the message gives the reason.
    """
    from pp_graph.errors import TargetError

    if check.errors:
        raise TargetError(f"The model cannot run on {check.device}: {check.errors[0].message}")


def print_device_check(check: DeviceCheck) -> None:
    """Print a report: checks on stdout, warnings on stderr."""
    where = "" if check.here else ", which is not on this machine"
    print_fields(
        f"Checked for {check.device}{where}",
        {"passed": "\n".join(check.passed) or "-", "not run": "\n".join(check.not_run)},
    )
    for finding in check.findings:
        note(f"Warning ({finding.check}): {finding.message}")


_SHAPES = {True: "any", False: "static only, batch included", None: "not known"}


@click.command(
    cls=Verb,
    epilog=examples(
        "pp-graph devices",
        "pp-graph devices HETERO:GPU,CPU",
    ),
)
@click.argument("device", required=False)
@json_option
def devices(device: str | None, as_json: bool) -> None:
    """List known devices and meta devices, on this machine or not.

    Shows the precisions of each device, its default, and the properties to compile with. With DEVICE, such as GPU or
    HETERO:GPU,CPU, shows all known facts about it.
    """
    from pp_graph.openvino.devices import describe_device, list_devices

    if device is not None:
        info = describe_device(device)
        if as_json:
            print_json({"device": info.to_dict()})
        else:
            _print_one(info)
        return
    found = list_devices()
    if as_json:
        print_json({"devices": [each.to_dict() for each in found]})
        return
    metas = [each for each in found if each.profile is not None and each.profile.meta]
    plain = [each for each in found if each not in metas]
    print_table(
        "Devices",
        ("device", "here", "what it is", "precisions", "runs by default in", "input shapes"),
        [
            (
                each.name,
                "yes" if each.here else "no",
                each.full_name or (each.profile.summary if each.profile else "-"),
                ", ".join(map(spelled, each.precisions or (each.profile.precisions if each.profile else ()))) or "-",
                each.default_precision or "-",
                _SHAPES[each.dynamic_shapes],
            )
            for each in plain
        ],
    )
    print_table(
        "Meta devices (combinations of the above)",
        ("device", "what it does", "write"),
        [
            (each.name, each.profile.summary, " or ".join(each.profile.written))
            for each in metas
            if each.profile is not None
        ],
    )
    print_table(
        "Properties to compile with",
        ("device", "latency", "throughput"),
        [
            (
                str(each["example"]),
                _properties(each["properties"]["latency"]),
                _properties(each["properties"]["throughput"]),
            )
            for each in (info.to_dict() for info in found)
            if each["profile"] is not None
        ],
    )
    print_line("For all known facts about a device: pp-graph devices DEVICE")


def _properties(properties: dict[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in properties.items())


def _print_one(info: DeviceInfo) -> None:
    known = info.to_dict()
    profile = known["profile"] or {}
    print_fields(
        f"{info.name}",
        {
            "here": "yes" if info.here else "no",
            "what it is": info.full_name or profile.get("summary", "-"),
            "write": " or ".join(profile.get("written", [])) or "-",
            "computes in": ", ".join(map(spelled, info.precisions)) or "-",
            "supported precisions": ", ".join(profile.get("precisions", [])) or "-",
            "runs by default in": info.default_precision or "differs",
            "input shapes": _SHAPES[info.dynamic_shapes],
            "states": "yes" if profile.get("states") else "no",
            "missing operators": ", ".join(profile.get("unsupported", [])) or "none known",
            "for latency": _properties(known["properties"].get("latency", {})) or "-",
            "for throughput": _properties(known["properties"].get("throughput", {})) or "-",
        },
    )
    for remark in profile.get("remarks", []):
        print_line(f"- {remark}")
