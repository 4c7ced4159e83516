"""Where the time goes: in the network, in its tail, or in the post-processing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pp_graph.fusion.tail import NETWORK_SCOPE, TAIL_SCOPE, tail_names
from pp_graph.model import RawModel
from pp_graph.openvino.island.float32 import PREPROCESSING_SCOPE

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from pp_graph.fusion import Provenance
    from pp_graph.openvino.compiling import OperatorTime

GROUPS: Final = ("network", "tail", "post-processing", PREPROCESSING_SCOPE)
_SHOWN: Final = 8


@dataclass(frozen=True)
class Parts:
    """Names of operators in an ONNX model, and of their outputs.

    Attributes:
        tail: Those behind the last layer that mixes channels.
        network: All others.
    """

    tail: frozenset[str]
    network: frozenset[str]


def parts_of(path: Path) -> Parts:
    """Split an ONNX model into network and tail."""
    model = RawModel.open(path).model
    tail = tail_names(model)
    names = {name for node in model.graph for name in (node.name, *(value.name for value in node.outputs)) if name}
    return Parts(tail, frozenset(names - tail))


def group_times(
    times: Iterable[OperatorTime], parts: Parts | None, provenance: Provenance | None
) -> tuple[dict[str, float], list[tuple[str, str, float]]]:
    """Add up times by group.

    Args:
        times: Time of each executed operator.
        parts: What of the raw model is network and tail; None where that is not known, as for an IR of another program.
        provenance: What was fused; None for a model that pp_graph did not make, whose own post-processing, if it has
            any, counts as tail.

    Returns:
        Microseconds by group, none where they cannot be told, and the slowest operators: name, kernel, microseconds.
    """
    takes_frames = provenance is not None and provenance.preprocessing is not None
    groups = dict.fromkeys(GROUPS if takes_frames else GROUPS[:-1], 0.0)
    rows = []
    for each in times:
        if parts is not None:
            groups[_group(each.name, parts, provenance)] += each.microseconds
        rows.append((each.name, each.implementation, round(each.microseconds, 1)))
    rows.sort(key=lambda row: -row[2])
    return {name: round(total, 1) for name, total in groups.items()} if parts else {}, rows[:_SHOWN]


def _group(names: str, parts: Parts, provenance: Provenance | None) -> str:
    """The group of an executed operator; a layer of the network that took others in is a layer still."""
    found = {_group_of_one(name, parts, provenance) for name in names.split(",")}
    return next((group for group in GROUPS if group in found), "network")


def _group_of_one(name: str, parts: Parts, provenance: Provenance | None) -> str | None:
    if provenance is not None:
        prefix = f"{provenance.prefix}/"
        # What the runtime puts in between is named by what is on both sides.
        if f"{prefix}{NETWORK_SCOPE}/" in name:
            return "network"
        if f"{prefix}{PREPROCESSING_SCOPE}/" in name:
            return PREPROCESSING_SCOPE
        if f"{prefix}{TAIL_SCOPE}/" in name:
            return "tail"
        if prefix in name or re.split(r"[./]", name)[0] in provenance.output_names:
            return "post-processing"
    if name in parts.tail:
        return "tail"
    return "network" if name.split("/WithoutBiases", maxsplit=1)[0] in parts.network else None
