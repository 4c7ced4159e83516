"""Where the time goes: in the network, in its tail, or in the post-processing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pp_graph.fusion.tail import NETWORK_SCOPE, TAIL_SCOPE, tail_names
from pp_graph.model import RawModel
from pp_graph.postprocessors import OUTPUT_NAMES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

    from pp_graph.fusion import Provenance
    from pp_graph.targets.openvino_timing import OperatorTime

GROUPS: Final = ("network", "tail", "post-processing")
_SHOWN: Final = 8


def tail_of(path: Path) -> frozenset[str]:
    """Names in the tail of an ONNX model: what runs behind the last layer that mixes channels."""
    return tail_names(RawModel.open(path).model)


def group_times(
    times: Iterable[OperatorTime], tail: Collection[str], provenance: Provenance | None
) -> tuple[dict[str, float], list[tuple[str, str, float]]]:
    """Add up times by group.

    Args:
        times: Time of each executed operator.
        tail: Names of the operators in the raw model's tail.
        provenance: What was fused; None for a model that pp_graph did not make, whose own post-processing, if it has
            any, counts as tail.

    Returns:
        Microseconds by group, and the slowest operators: name, kernel, microseconds.
    """
    groups = dict.fromkeys(GROUPS, 0.0)
    rows = []
    for each in times:
        groups[_group(each.name, tail, provenance)] += each.microseconds
        rows.append((each.name, each.implementation, round(each.microseconds, 1)))
    rows.sort(key=lambda row: -row[2])
    return {name: round(total, 1) for name, total in groups.items()}, rows[:_SHOWN]


def _group(names: str, tail: Collection[str], provenance: Provenance | None) -> str:
    # The runtime merges operators, and names what it puts in between by what is on both sides.
    for name in names.split(","):
        if provenance is not None:
            prefix = f"{provenance.prefix}/"
            if name.startswith((f"{prefix}{NETWORK_SCOPE}/",)):
                return "network"
            if name.startswith(f"{prefix}{TAIL_SCOPE}/"):
                return "tail"
            if name.startswith(prefix) or name.split(".")[0] in OUTPUT_NAMES:
                return "post-processing"
        if name in tail:
            return "tail"
    return "network"
