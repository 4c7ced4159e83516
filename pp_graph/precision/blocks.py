"""Cut a network into blocks of about equal time, where few tensors cross."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pp_graph.openvino.island.float32 import PREPROCESSING_SCOPE
from pp_graph.quantization.network_cut import is_quantisable, split_network

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import openvino as ov

    from pp_graph.fusion import Provenance

BLOCKS: Final = 8
"""Blocks of layers. More blocks follow flips more closely, and take longer to search."""


@dataclass(frozen=True)
class Block:
    """Operators that get one precision.

    Attributes:
        names: Their names, in topological order.
        quantisable: True if one of them can compute in int8.
    """

    names: tuple[str, ...]
    quantisable: bool


def cut_into_blocks(model: ov.Model, provenance: Provenance, times: Mapping[str, float]) -> list[Block]:
    """Cut a converted model's network into up to nine blocks: eight of layers, and one of what follows the last layer.

    A cut lies near an equal share of the time, at the place that the fewest tensors cross. Tensors that only the
    operators after the last layer read do not count: a model that reads features of several depths can then be cut
    between them.

    Args:
        model: The converted model.
        provenance: Its provenance.
        times: Time of executed operators, by the names of the original ones, joined by commas.
    """
    scope = f"{provenance.prefix}/{PREPROCESSING_SCOPE}/"
    layers, behind = (
        [node for node in part if not node.get_friendly_name().startswith(scope)]
        for part in split_network(model, provenance)
    )
    known = {node.get_friendly_name() for node in (*layers, *behind)}
    spent: dict[str, float] = defaultdict(float)
    for names, microseconds in times.items():
        name = next((name for name in names.split(",") if name in known), None)
        if name is not None:
            spent[name] += microseconds
    ends = [*_ends(layers, [spent[node.get_friendly_name()] for node in layers]), len(layers)]
    parts = [layers[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    block_of = {node.get_friendly_name(): index for index, part in enumerate((*parts, behind)) for node in part}
    # Operators that the device merges run in one precision, that of the first.
    for names in times:
        merged = [name for name in names.split(",") if name in block_of]
        block_of.update((name, block_of[merged[0]]) for name in merged)
    quantisable = {node.get_friendly_name() for node in layers if is_quantisable(node)}
    blocks = []
    for index in sorted(set(block_of.values())):
        own = [name for name, block in block_of.items() if block == index]
        blocks.append(Block(tuple(own), not quantisable.isdisjoint(own)))
    return blocks


def _ends(layers: Sequence[ov.Node], times: Sequence[float]) -> list[int]:
    """Return the index after the last operator of each block but the last."""
    crossing = _crossing(layers)
    total, share = sum(times), sum(times) / BLOCKS
    done = 0.0
    # Places within half a block of each equal share: (tensors that cross, distance, last operator of the block). Of
    # equal places the last one wins, because biases and activations run with the layer before them and take no time.
    near: list[list[tuple[int, float, int]]] = [[] for _ in range(BLOCKS + 1)]
    for index, time in enumerate(times[:-1]):
        done += time
        nearest = round(done / share) if total else 0
        near[nearest].append((crossing[index], abs(done - nearest * share), -index))
    return [1 - min(places)[2] for places in near[1:BLOCKS] if places]


def _crossing(layers: Sequence[ov.Node]) -> list[int]:
    """Return how many tensors lead from the operators up to each one to later ones."""
    places = {node.get_instance_id(): index for index, node in enumerate(layers)}
    change = [0] * (len(layers) + 1)
    for index, node in enumerate(layers):
        for output in node.outputs():
            readers = (target.get_node().get_instance_id() for target in output.get_target_inputs())
            last = max((places[reader] for reader in readers if reader in places), default=index)
            change[index] += 1
            change[last] -= 1
    counts, crossing = 0, []
    for each in change[:-1]:
        counts += each
        crossing.append(counts)
    return crossing


def block_times(blocks: Sequence[Block], times: Mapping[str, float]) -> list[float]:
    """Return the time of each block in microseconds; an operator merged from several blocks counts for its first."""
    block_of = {name: index for index, block in enumerate(blocks) for name in block.names}
    spent = [0.0] * len(blocks)
    for names, microseconds in times.items():
        index = next((block_of[name] for name in names.split(",") if name in block_of), None)
        if index is not None:
            spent[index] += microseconds
    return spent
