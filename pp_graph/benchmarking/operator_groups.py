"""Split the time of a model among the network, its tail and the post-processing."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from pp_graph.fusion.tail import NETWORK_SCOPE, TAIL_SCOPE, tail_names
from pp_graph.model import RawModel
from pp_graph.openvino.island.float32 import PREPROCESSING_SCOPE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from pp_graph.fusion import Provenance
    from pp_graph.openvino.timed_session import OperatorTime

GROUPS: Final = ("network", "tail", "post-processing", PREPROCESSING_SCOPE)
_SHOWN: Final = 8


def parts_of(path: Path) -> dict[str, str]:
    """Return `network` or `tail` for each operator of an ONNX model, by its name and those of its outputs."""
    model = RawModel.open(path).model
    names = {name for node in model.graph for name in (node.name, *(value.name for value in node.outputs)) if name}
    return dict.fromkeys(names, "network") | dict.fromkeys(tail_names(model), "tail")


def group_times(
    times: Iterable[OperatorTime], parts: Mapping[str, str] | None, provenance: Provenance | None
) -> tuple[dict[str, float], list[tuple[str, str, float]]]:
    """Add up the times of each group.

    Args:
        times: Time of each executed operator.
        parts: Result of `parts_of`; None if it is not known, as for the IR of another program.
        provenance: The model's provenance; None for another program's model. Its post-processing counts as tail.

    Returns:
        Microseconds by group, empty without `parts`; and the slowest operators: name, kernel, microseconds.
    """
    takes_frames = provenance is not None and provenance.preprocessing is not None
    groups = dict.fromkeys(GROUPS if takes_frames else GROUPS[:-1], 0.0)
    rows = []
    for each in times:
        if parts is not None:
            groups[group_of(each.name, parts, provenance)] += each.microseconds
        rows.append((each.name, each.implementation, round(each.microseconds, 1)))
    rows.sort(key=lambda row: -row[2])
    return {name: round(total, 1) for name, total in groups.items()} if parts is not None else {}, rows[:_SHOWN]


def group_of(names: str, parts: Mapping[str, str], provenance: Provenance | None) -> str:
    """Return the group of an executed operator; a layer that OpenVINO merged with others counts as network."""
    groups = {_group_of_one(name, parts, provenance) for name in names.split(",")}
    return next((group for group in GROUPS if group in groups), "network")


def _group_of_one(name: str, parts: Mapping[str, str], provenance: Provenance | None) -> str | None:
    if provenance is not None:
        prefix = f"{provenance.prefix}/"
        # OpenVINO names an operator that it inserts after both of its neighbours.
        if f"{prefix}{NETWORK_SCOPE}/" in name:
            return "network"
        if f"{prefix}{PREPROCESSING_SCOPE}/" in name:
            return PREPROCESSING_SCOPE
        if f"{prefix}{TAIL_SCOPE}/" in name:
            return "tail"
        if prefix in name or re.split(r"[./]", name)[0] in provenance.output_names:
            return "post-processing"
    if parts.get(name) == "tail":
        return "tail"
    return "network" if parts.get(name.split("/WithoutBiases", maxsplit=1)[0]) == "network" else None
