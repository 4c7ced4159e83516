"""What could be checked of a model for a device, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pp_graph.cli.output import note, print_fields

if TYPE_CHECKING:
    from pp_graph.openvino.device_check import DeviceCheck


def refuse_errors(check: DeviceCheck) -> None:
    """Stop where the model cannot run on the device.

    Raises:
        TargetError: It cannot; the message says why.
    """
    from pp_graph.errors import TargetError

    if check.errors:
        raise TargetError(f"The model cannot run on {check.device}: {check.errors[0].message}")


def print_device_check(check: DeviceCheck) -> None:
    """Write a report: what was checked on stdout, what speaks against the device on stderr."""
    where = "" if check.here else ", which is not on this machine"
    print_fields(
        f"Checked for {check.device}{where}",
        {"passed": ", ".join(check.passed) or "-", "not run": ", ".join(check.not_run)},
    )
    for finding in check.findings:
        note(f"Warning ({finding.check}): {finding.message}")
