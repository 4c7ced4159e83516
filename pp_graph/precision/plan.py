"""A precision for each block of a network, and the artifact that has them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from pp_graph.conversion import convert
from pp_graph.openvino.island.float32 import mark_float32
from pp_graph.openvino.island.network_marks import keep_network_marked

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pp_graph.fusion import FusedModel
    from pp_graph.openvino import OpenVINOModel
    from pp_graph.precision.blocks import Block
    from pp_graph.program import Program
    from pp_graph.quantization import Quantization

BASE = "f32"
HALVES = ("bf16", "f16")
INT8 = "int8"
_KEPT = 4


@dataclass(frozen=True)
class Plan:
    """A precision for each block.

    Attributes:
        precisions: `f32`, `bf16`, `f16` or `int8` for each block, with one of `bf16` and `f16` at most.
    """

    precisions: tuple[str, ...]

    @classmethod
    def uniform(cls, precision: str, blocks: Sequence[Block], rest: str = BASE) -> Plan:
        """Return the plan with one precision, and another for blocks that cannot have it."""
        return cls(tuple(rest if precision == INT8 and not block.quantisable else precision for block in blocks))

    def having(self, block: int, precision: str) -> Plan:
        """Return this plan with another precision for a block."""
        return Plan((*self.precisions[:block], precision, *self.precisions[block + 1 :]))

    @property
    def inference_precision(self) -> str:
        """Precision to compile with. Blocks in f32 are marked to stay in it."""
        return next((precision for precision in self.precisions if precision in HALVES), BASE)

    @property
    def is_base(self) -> bool:
        """True if every block is in f32."""
        return set(self.precisions) == {BASE}

    def __str__(self) -> str:
        """Return for example `bf16 in 1-3, f32 in 4`, or only the precision if there is one."""
        places: dict[str, list[str]] = {}
        numbered = enumerate(self.precisions, 1)
        for precision, run in groupby(numbered, lambda each: each[1]):
            numbers = [number for number, _ in run]
            span = f"{numbers[0]}-{numbers[-1]}" if len(numbers) > 1 else str(numbers[0])
            places.setdefault(precision, []).append(span)
        if len(places) == 1:
            return self.precisions[0]
        return ", ".join(f"{precision} in {' '.join(spans)}" for precision, spans in places.items())


@dataclass
class Builder:
    """Builds the artifact of a plan.

    Attributes:
        fused: The model.
        settings: Arguments of `convert`, besides precision and quantisation.
        quantization: Settings of int8.
        base: The artifact in f32.
        blocks: Blocks of the network; set once their times are known.
    """

    fused: FusedModel
    settings: Mapping[str, Any]
    quantization: Quantization
    base: OpenVINOModel = field(init=False)
    blocks: list[Block] = field(init=False)
    _built: dict[tuple[str, ...], OpenVINOModel] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.base = convert(self.fused, **self.settings)

    def build(self, plan: Plan, program: Program | None = None) -> OpenVINOModel:
        """Return the artifact of a plan.

        Args:
            plan: The plan.
            program: Program with other statistics; None for the model's own.

        Raises:
            TargetError: The network cannot be quantised like that.
        """
        artifact = self._quantised(plan) if INT8 in plan.precisions else self.base
        if program is not None:
            artifact = artifact.with_program(program)
        # Marks come last: OpenVINO reads them from a file only, and rewriting a model may lose them.
        marked = set(self._names(plan, BASE)) if plan.inference_precision != BASE else set()
        if not marked:
            return artifact
        network = artifact.network.clone()
        known = {name for block in self.blocks for name in block.names}
        for node in reversed(network.get_ordered_ops()):
            # Quantising folds operators into new ones, which belong to the block that reads them.
            name, readers = (
                node.get_friendly_name(),
                [each for out in node.outputs() for each in out.get_target_inputs()],
            )
            if name not in known and readers and all(each.get_node().get_friendly_name() in marked for each in readers):
                marked.add(name)
        keep_network_marked(network, marked)
        return replace(artifact, network=mark_float32(network, marked))

    def _quantised(self, plan: Plan) -> OpenVINOModel:
        kept = tuple(self._names(plan, *HALVES, BASE))
        if kept not in self._built:
            quantization = replace(self.quantization, float_operators=kept, progress=None)
            built = convert(self.fused, precision=INT8, quantization=quantization, **self.settings)
            # The same artifact is run, timed and perhaps saved; calibrating it takes the longest.
            self._built = dict([*self._built.items(), (kept, built)][-_KEPT:])
        return self._built[kept]

    def _names(self, plan: Plan, *precisions: str) -> list[str]:
        chosen = zip(self.blocks, plan.precisions, strict=True)
        return [name for block, precision in chosen if precision in precisions for name in block.names]


def runs_otherwise(blocks: Sequence[Block], plan: Plan, executed: Mapping[str, str]) -> list[str]:
    """Describe operators that a device runs in another precision than planned.

    In a block of bf16, f16 or int8 the device may keep operators in f32 that gain nothing, so only a block without any
    operator in its precision is reported.

    Args:
        blocks: The blocks.
        plan: The plan.
        executed: Precision of executed operators by the names of the original ones, joined by commas.
    """
    block_of = {name: index for index, block in enumerate(blocks) for name in block.names}
    found: list[dict[str, str]] = [{} for _ in blocks]
    for names, precision in executed.items():
        index = next((block_of[name] for name in names.split(",") if name in block_of), None)
        if index is not None:
            found[index][names] = precision
    remarks = []
    for number, (own, precision) in enumerate(zip(found, plan.precisions, strict=True), 1):
        other = {names.split(",")[0]: each for names, each in own.items() if each in (*HALVES, INT8)}
        if precision == BASE and other:
            listed = ", ".join(f"'{name}' in {each}" for name, each in other.items())
            remarks.append(f"block {number}, planned in f32: {len(other)} of {len(own)} operators are not, {listed}")
        elif precision != BASE and own and precision not in own.values():
            remarks.append(f"block {number}, planned in {precision}: none of {len(own)} operators is")
    return remarks
