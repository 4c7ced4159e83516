"""Raise a raw model to a later opset, for steps whose operators its own opset lacks, and undo it.

`onnx.version_converter` rewrites operators; everything else stays as it is. The result is kept only if it computes the
same bits, and the replaced operators are recorded, so that the original file can be restored to the byte.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import msgspec

from pp_graph.errors import OpsetError, ProvenanceError
from pp_graph.model import fidelity
from pp_graph.model.detached_weights import LOCATION_PREFIX, attach_weights, detached_weights
from pp_graph.model.opset_conversion import convert_opset, set_operators
from pp_graph.model.opset_trial import difference
from pp_graph.model.packed_messages import pack_message, unpack_message

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import onnx
    import onnx_ir as ir

    from pp_graph.model.raw_model import RawModel

HOW_TO_RAISE: Final = "raise_opset=18 (--raise-opset 18)"
"""Suggestion for messages about an opset that is too old. From 18 on, every step has its fastest operators."""

_SEARCH_SECONDS: Final = 20.0
"""Time to look for a lower opset that an error message can suggest."""


class RaisedOpset(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Record of raising a raw model's opset, and of the operators to restore.

    Attributes:
        before: Opset of the raw model.
        after: Opset it was raised to.
        added: An output of each operator that the converter wrote; `undo` removes these operators.
        nodes: Index of each replaced operator in the raw model.
        graph: The replaced operators, as a compressed ONNX GraphProto in base64.
    """

    before: int
    after: int
    added: list[str]
    nodes: list[int]
    graph: str

    @property
    def summary(self) -> str:
        """One-line summary for people."""
        return f"raised from {self.before} to {self.after}, which replaced {len(self.nodes)} operators"

    def notes(self) -> Iterator[str]:
        """Remarks for people."""
        yield (
            f"The opset was {self.summary}; on random inputs onnxruntime computes the same bits. strip restores the "
            f"file of opset {self.before}."
        )
        if any(node.op_type == "If" for node in replaced_operators(self)):
            yield (
                "Branches of an If were rewritten, and random inputs take only one of them: compare the model with "
                "the original on inputs that take the other."
            )


def raise_opset(raw: RawModel, target: int | None) -> tuple[RawModel, RaisedOpset | None]:
    """Raise a raw model to a later opset.

    Weights are neither copied nor given to the converter; the result shares them with `raw`.

    Args:
        raw: The model; it is not changed.
        target: The opset; None keeps the model's own.

    Returns:
        The raised model and the record for `undo`; `raw` and None if its opset is `target` or later.

    Raises:
        OpsetError: The converter fails, onnxruntime cannot run the model on random inputs, the raised model computes
            other numbers, or the original file could not be restored from it.
    """
    import onnx

    if target is None:
        return raw, None
    newest = onnx.defs.onnx_opset_version()
    if isinstance(target, bool) or not isinstance(target, int) or not 1 <= target <= newest:
        raise OpsetError(
            f"raise_opset (--raise-opset) is {target!r}, expected an opset up to {newest}, the newest that onnx "
            f"{onnx.__version__} knows. Use 18."
        )
    name = "The model" if raw.source is None else f"Model '{raw.source.name}'"
    if raw.opset >= target:
        return raw, None
    if raw.opset == 0:
        domains = ", ".join(raw.model.opset_imports) or "nothing"
        raise OpsetError(
            f"{name} imports only {domains}, expected an opset of ONNX itself, because only that can be raised. Leave "
            "out raise_opset (--raise-opset)."
        )
    if raw.model.functions:
        raise OpsetError(
            f"{name} has {len(raw.model.functions)} local functions, which onnx.version_converter does not convert. "
            f"Export it again with opset_version={target}, or inline them first (onnx.inliner.inline_local_functions)."
        )
    with detached_weights(raw.model) as weights:
        original = raw.to_proto()
    start = time.monotonic()
    raised, record, deviation = _raised_and_compared(raw, original, weights, target)
    if deviation is None:
        return raised, record
    rewritten = ", ".join(sorted({node.op_type for node in replaced_operators(record)})) or "nothing"
    for lower in range(target - 1, raw.opset, -1):
        if time.monotonic() - start <= _SEARCH_SECONDS and _is_exact(raw, original, weights, lower):
            remedy = f"Opset {lower} works: use raise_opset={lower}"
            break
    else:
        remedy = "Leave out the step that needs it"
    raise OpsetError(
        f"{name} does not compute the same at opset {target} as at its own, {raw.opset}: {deviation}, expected the "
        f"same bits. onnx.version_converter rewrote {rewritten}. {remedy}, or export the model again with "
        f"opset_version={target}."
    )


def _raised_and_compared(
    raw: RawModel, original: onnx.ModelProto, weights: Mapping[str, ir.TensorProtocol], target: int
) -> tuple[RawModel, RaisedOpset, str | None]:
    """Return the raised model, the record for `undo`, and how its outputs differ; None if they are equal."""
    import onnx

    proto, added, replaced = convert_opset(original, weights, raw.opset, target)
    graph = onnx.GraphProto(node=replaced.values())
    record = RaisedOpset(
        before=raw.opset,
        after=target,
        added=added,
        nodes=list(replaced),
        graph=pack_message(graph),
    )
    raised = attach_weights(raw, proto, weights)
    try:
        undone = undo(raised, record)
    except ProvenanceError:  # a weight in a file beside the model belongs to an operator that was replaced
        restored = False
    else:
        with detached_weights(undone.model) as weights_undone:
            restored = undone.to_proto().SerializeToString() == original.SerializeToString()
        restored &= weights_undone == weights
    if not restored:
        raise OpsetError(
            f"strip could not restore the original file to the byte once the opset is raised to {target}. Raise it "
            "yourself (onnx.version_converter.convert_version), and keep the original."
        )
    return raised, record, difference(raw, raised)


def _is_exact(raw: RawModel, original: onnx.ModelProto, weights: Mapping[str, ir.TensorProtocol], target: int) -> bool:
    """True if the model can be raised to an opset and computes the same there."""
    try:
        return _raised_and_compared(raw, original, weights, target)[2] is None
    except OpsetError:
        return False


def undo(raw: RawModel, record: RaisedOpset) -> RawModel:
    """Restore the model as it was before its opset was raised.

    Args:
        raw: The raised model, without post-processing; it is not changed.
        record: The record that `raise_opset` returned.

    Returns:
        The model at its own opset, with the current weights of `raw`.

    Raises:
        ProvenanceError: The record is damaged, or the model was changed since.
    """
    replaced = replaced_operators(record)
    with detached_weights(raw.model) as weights:
        proto = raw.to_proto()
    added = set(record.added)
    missing = added.difference(name for node in proto.graph.node for name in node.output)
    if missing:
        raise _changed(f"the operator that computes '{min(missing)}' is missing")
    nodes = [node for node in proto.graph.node if not added.intersection(node.output)]
    for index, node in zip(record.nodes, replaced, strict=True):
        if index > len(nodes):
            raise _changed("operators are missing")
        nodes.insert(index, node)
    set_operators(proto, nodes, record.before)
    locations = {fidelity.reference_of(tensor)[0] for tensor in fidelity.external_protos(proto)}
    lost = {location for location in locations if location.startswith(LOCATION_PREFIX)}.difference(weights)
    if lost:
        raise _changed(f"weight '{min(lost).removeprefix(LOCATION_PREFIX)}' is missing")
    return attach_weights(raw, proto, weights)


def replaced_operators(record: RaisedOpset) -> list[onnx.NodeProto]:
    """Read the replaced operators from a record.

    Raises:
        ProvenanceError: The record is damaged.
    """
    import onnx

    try:
        graph = unpack_message(onnx.GraphProto, record.graph)
        if len(graph.node) != len(record.nodes):
            raise ValueError(f"expected {len(record.nodes)} operators")
    except ValueError as error:
        raise ProvenanceError(
            f"The operators that were replaced to raise the opset cannot be read: {error}. The metadata was edited: "
            "use the raw export."
        ) from error
    return list(graph.node)


def _changed(how: str) -> ProvenanceError:
    return ProvenanceError(f"The model was changed after its opset was raised: {how}. Use the raw export.")
