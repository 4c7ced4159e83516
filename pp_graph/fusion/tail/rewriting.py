"""Apply the rules to a raw model, keep the replaced operators, and restore them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from pp_graph.errors import ProvenanceError
from pp_graph.fusion.tail.proof import disprove
from pp_graph.fusion.tail.rule import Match, Miss, Rule
from pp_graph.fusion.tail.view import GraphView
from pp_graph.model.packed_messages import pack_message, unpack_message
from pp_graph.steps import MINIMUM_OPSET, Emitter

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    import onnx
    import onnx_ir as ir

    from pp_graph.model import NameScope, RawModel

TAIL_SCOPE: Final = "tail"
"""Scope, under the prefix, of rewrites that stay in float32."""
NETWORK_SCOPE: Final = "network"
"""Scope, under the prefix, of rewrites that keep the network's precision."""
_ROUNDS: Final = 20
_LEAST_US: Final = 10.0
_LEAST_SHARE: Final = 0.1
"""Minimum saving, absolute and as a share. Smaller ones are within the error of the estimates."""

_log = logging.getLogger(__name__)
_Named = TypeVar("_Named", "onnx.NodeProto", "onnx.TensorProto")


class TailRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A rewrite of the raw model's tail.

    Attributes:
        rule: Name of the rule.
        what: Description of the change.
        reads: Names, in the fused model, of the tensors that the new operators read.
        target: Name, in the fused model, of the tensor that they compute.
        float32: True if they stay in float32 when the network runs in a different precision.
        exact: True if the results are bit-identical to those of the replaced operators.
        before_us: Estimated time of the replaced operators, in microseconds per image.
        after_us: Estimated time of the new operators, in microseconds per image.
    """

    rule: str
    what: str
    reads: list[str]
    target: str
    float32: bool
    exact: bool
    before_us: float
    after_us: float


class ReplacedPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Operators that a rewrite replaced, so that `strip` can restore them.

    Attributes:
        nodes: Positions of the replaced operators in the raw model.
        initializers: Positions in the raw model of the constants that only these operators read.
        graph: Operators and constants, with their raw names, as a zlib-compressed, base64-encoded ONNX GraphProto.
    """

    nodes: list[int]
    initializers: list[int]
    graph: str

    @classmethod
    def pack(cls, graph: onnx.GraphProto, nodes: list[int], initializers: list[int]) -> ReplacedPart:
        """Store the operators and constants at some positions of a graph."""
        import onnx

        kept = onnx.GraphProto(
            node=[graph.node[index] for index in nodes],
            initializer=[graph.initializer[index] for index in initializers],
        )
        return cls(nodes=nodes, initializers=initializers, graph=pack_message(kept))

    def unpack(self) -> onnx.GraphProto:
        """Return the operators and constants.

        Raises:
            ProvenanceError: The record is damaged.
        """
        import onnx

        try:
            return unpack_message(onnx.GraphProto, self.graph)
        except ValueError as error:
            raise ProvenanceError(
                f"The tail's original operators cannot be read back: {error}. The metadata was edited. Use the raw "
                "export."
            ) from error


@dataclass(frozen=True)
class RewrittenTail:
    """Result of rewriting a model's tail.

    Attributes:
        applied: The rewrites, each with its rule and the value that replaces its target.
        missed: Places where a rule does not apply, each with the rule.
        replaced: The replaced operators; None if there are none.
        removed_names: Names of values removed from the graph.
        moved: New value by replaced value.
    """

    applied: tuple[tuple[Rule, Match, ir.Value], ...] = ()
    missed: tuple[tuple[Rule, Miss], ...] = ()
    replaced: ReplacedPart | None = None
    removed_names: frozenset[str] = frozenset()
    moved: Mapping[ir.Value, ir.Value] = field(default_factory=dict)

    def records(self) -> list[TailRecord]:
        """Return the rewrites for the provenance, with the current names of their tensors."""
        return [
            TailRecord(
                rule=rule.name,
                what=match.what,
                reads=[self._current(value).name or "" for value in match.reads],
                target=target.name or "",
                float32=match.float32,
                exact=match.exact,
                before_us=round(match.before, 1),
                after_us=round(match.after, 1),
            )
            for rule, match, target in self.applied
        ]

    def _current(self, value: ir.Value) -> ir.Value:
        """Follow the replacements of a value by later rewrites."""
        while value in self.moved:
            value = self.moved[value]
        return value


def rewrite_tail(raw: RawModel, rules: Sequence[Rule], names: NameScope, prefix: str) -> RewrittenTail:
    """Rewrite a model in place wherever a rule saves time, the largest savings first.

    Each rewrite is first compared with the operators it replaces on random inputs, and dropped if the results differ.

    Args:
        raw: The model. Changed in place.
        rules: The rules to apply.
        names: Names in use in the graph.
        prefix: Prefix of the names of new operators.

    Returns:
        The rewrites, and the places where none applied.
    """
    graph = raw.model.graph
    if raw.opset < MINIMUM_OPSET:
        return RewrittenTail()
    nodes, constants = list(graph), list(graph.initializers.values())
    unused = {value for value in constants if not value.consumers()}
    proto: onnx.ModelProto | None = None
    applied: list[tuple[Rule, Match, ir.Value]] = []
    refused: dict[tuple[str, ir.Value], Miss] = {}
    missed: list[tuple[Rule, Miss]] = []
    moved: dict[ir.Value, ir.Value] = {}
    for _ in range(_ROUNDS):
        view = GraphView(raw.model, f"{prefix}/")
        proposals, missed = _proposals(view, rules, refused)
        touched: set[ir.Node] = set()
        changed = False
        for rule, match in proposals:
            dead = view.only_for([match.target], match.reads)
            sources = {node for value in match.reads if (node := value.producer()) is not None}
            if touched & {*dead, *sources}:
                continue  # the graph changed since this proposal; the next round repeats it
            reason = disprove(view, raw.model, match)
            if reason is not None:
                _log.info("%s: %s is not kept, because %s", rule.name, match.what, reason)
                refused[rule.name, match.target] = Miss(match.target, match.what, reason)
                missed.append((rule, refused[rule.name, match.target]))
                continue
            proto = proto or raw.to_proto()
            touched.update(dead, sources)
            moved[match.target] = _apply(raw, match, dead, names, prefix)
            applied.append((rule, match, moved[match.target]))
            changed = True
        if not changed:
            break
    if not applied:
        return RewrittenTail(missed=tuple(missed))
    assert proto is not None
    dropped = _drop_unread(raw, constants, unused)
    emitted = {node for node in graph if (node.name or "").startswith(f"{prefix}/")}
    left = set(graph)
    replaced = ReplacedPart.pack(
        proto.graph,
        [index for index, node in enumerate(nodes) if node not in left],
        [index for index, constant in enumerate(constants) if constant in dropped],
    )
    present = {value.name for node in graph for value in node.outputs} | set(graph.initializers)
    removed = {name for node in replaced.unpack().node for name in node.output} - present
    # Drop rewrites whose operators a later rewrite replaced.
    kept = [entry for entry in applied if entry[2].producer() in emitted]
    return RewrittenTail(tuple(kept), tuple(missed), replaced, frozenset(name for name in removed if name), moved)


def _proposals(
    view: GraphView, rules: Sequence[Rule], refused: Mapping[tuple[str, ir.Value], Miss]
) -> tuple[list[tuple[Rule, Match]], list[tuple[Rule, Miss]]]:
    """Return the rules' proposals, the largest savings first, and their misses."""
    matches: list[tuple[Rule, Match]] = []
    missed: list[tuple[Rule, Miss]] = []
    for rule in rules:
        for proposal in rule.find(view):
            producer = proposal.target.producer()
            if producer is None or view.is_rewritten(producer) or not view.is_live(producer):
                continue
            if isinstance(proposal, Miss):
                missed.append((rule, proposal))
            elif (rule.name, proposal.target) in refused:
                missed.append((rule, refused[rule.name, proposal.target]))
            elif proposal.tidies or proposal.saves > max(_LEAST_US, _LEAST_SHARE * proposal.before):
                matches.append((rule, proposal))
    return sorted(matches, key=lambda pair: -pair[1].saves), missed


def _apply(raw: RawModel, match: Match, dead: Sequence[ir.Node], names: NameScope, prefix: str) -> ir.Value:
    """Replace the operators of a match by the new ones. The target's name stays."""
    graph = raw.model.graph
    old = match.target
    root = old.producer()
    assert root is not None
    op = Emitter(graph, opset=raw.opset, ir_version=raw.model.ir_version, names=names, prefix=prefix)
    with op.scope(TAIL_SCOPE if match.float32 else NETWORK_SCOPE), op.before(root):
        new = match.emit(op, lambda value: value)
    new.shape, new.type, new.doc_string = old.shape, old.type, old.doc_string
    new.metadata_props.update(old.metadata_props)
    name = old.name
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove(dead, safe=True)
    old.name = None
    new.name = name
    return new


def _drop_unread(raw: RawModel, constants: Collection[ir.Value], unused: Collection[ir.Value]) -> set[ir.Value]:
    """Remove constants that are no longer read, except external ones. Returns the removed constants."""
    import onnx_ir as ir

    graph = raw.model.graph
    dropped = set()
    for value in [*constants, *graph.initializers.values()]:
        kept = value in unused or value.consumers() or value.is_graph_output() or value.is_graph_input()
        if kept or isinstance(value.const_value, ir.ExternalTensor):
            continue
        if value.name is not None and value.name in graph.initializers:
            del graph.initializers[value.name]
            dropped.add(value)
    return dropped


def restore_tail(raw: RawModel, replaced: ReplacedPart, prefix: str, fused_names: Mapping[str, str]) -> RawModel:
    """Restore the operators that rewrites replaced.

    Args:
        raw: The model with the rewrites.
        replaced: The operators that they replaced.
        prefix: Prefix of the names of the rewrites' operators.
        fused_names: Name in this model by name in the raw model, where the two differ.

    Returns:
        The model with its original tail. The post-processing stays.

    Raises:
        ProvenanceError: The model was edited after it was fused.
    """
    import onnx

    proto = raw.to_proto()
    stored = replaced.unpack()
    for node in stored.node:
        node.input[:] = [fused_names.get(name, name) for name in node.input]
        node.output[:] = [fused_names.get(name, name) for name in node.output]
    for tensor in stored.initializer:
        tensor.name = fused_names.get(tensor.name, tensor.name)
    graph = onnx.GraphProto()
    graph.CopyFrom(proto.graph)
    del graph.node[:], graph.initializer[:]
    graph.node.extend(_restored(proto.graph.node, stored.node, replaced.nodes, prefix))
    graph.initializer.extend(_restored(proto.graph.initializer, stored.initializer, replaced.initializers, prefix))
    proto.graph.CopyFrom(graph)
    return raw.with_graph(proto)


def _restored(present: Iterable[_Named], stored: Iterable[_Named], positions: list[int], prefix: str) -> list[_Named]:
    """Replace what rewrites emitted by the stored elements, at their positions among those of the raw model."""
    rewrites = (f"{prefix}/{TAIL_SCOPE}/", f"{prefix}/{NETWORK_SCOPE}/")
    kept = [element for element in present if not element.name.startswith(rewrites)]
    restored = [element for element in kept if not element.name.startswith(f"{prefix}/")]
    post_processing = [element for element in kept if element.name.startswith(f"{prefix}/")]
    for position, element in zip(positions, stored, strict=True):
        if position > len(restored):
            raise ProvenanceError(
                "The model was changed after it was fused: operators or constants are missing. Use the raw export."
            )
        restored.insert(position, element)
    return restored + post_processing
