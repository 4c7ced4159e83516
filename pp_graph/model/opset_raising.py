"""Raise a raw model to a later opset, for steps whose operators its own does not have, and take that back.

`onnx.version_converter` rewrites operators; all else of the model stays as it is. What it wrote is tried out before it
is kept, and what it replaced is noted, so that the file it came from can be given back to the byte.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import logging
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from pp_graph.errors import OpsetError, ProvenanceError
from pp_graph.model import fidelity
from pp_graph.model.opset_trial import difference, first_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import onnx
    import onnx_ir as ir

    from pp_graph.model.raw_model import RawModel

HOW_TO_RAISE: Final = "raise_opset=18 (--raise-opset 18)"
"""What to ask for where a model's opset is too old, for messages. From 18 on every step is at its fastest."""

_DEFAULT_DOMAINS: Final = ("", "ai.onnx")
_HELD: Final = "pp_graph.held/"
_LEAST_HELD: Final = 1024
"""Bytes from which a weight is not given to the converter, which needs to read sizes, scales and axes alone."""
_ASYMMETRIC_UNTIL: Final = 10
_MOST_STORED: Final = 1 << 26
"""Bytes of replaced operators; a record that holds more was edited."""
_PATIENCE_S: Final = 20.0
"""How long to look for an opset that would do, for a message."""


class RaisedOpset(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Record of raising a raw model's opset, and of the operators to restore.

    Attributes:
        before: Opset of the raw model.
        after: Opset that it was brought to.
        added: An output of each operator that was written; these go.
        nodes: Position of each operator that was replaced, among the raw model's.
        graph: These operators, as a compressed ONNX GraphProto in base64.
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
            f"The opset was {self.summary}; on random inputs onnxruntime computes the same bits. strip gives the file "
            f"of opset {self.before} back."
        )
        if any(node.op_type == "If" for node in replaced_operators(self)):
            yield (
                "Branches of an If were rewritten for that, and random inputs take only one: compare the model with "
                "the original on inputs that take the other."
            )


def raise_opset(raw: RawModel, target: int | None) -> tuple[RawModel, RaisedOpset | None]:
    """Bring a raw model to a later opset, where it has an earlier one.

    Weights are neither copied nor given to the converter; the result shares them with the model it came from.

    Args:
        raw: The model; it is not changed.
        target: The opset; None to leave the model at its own.

    Returns:
        The model at that opset and what `undo` needs; the model itself and None where it is there already.

    Raises:
        OpsetError: The converter cannot bring it there, onnxruntime cannot try it out, it computes something else
            there, or the file could not be given back from it.
    """
    import onnx

    if target is None:
        return raw, None
    newest = onnx.defs.onnx_opset_version()
    if isinstance(target, bool) or not isinstance(target, int) or not 1 <= target <= newest:
        raise OpsetError(
            f"raise_opset (--raise-opset) is {target!r}, expected an opset up to {newest}, the newest that onnx "
            f"{onnx.__version__} knows. Take 18."
        )
    name = "The model" if raw.source is None else f"Model '{raw.source.name}'"
    if raw.opset >= target:
        return raw, None
    if raw.opset == 0:
        raise OpsetError(
            f"{name} imports no opset of ONNX itself, only {_listed(raw.model.opset_imports)}, and only the former can "
            "be raised. Leave out raise_opset (--raise-opset)."
        )
    if raw.model.functions:
        raise OpsetError(
            f"{name} holds {len(raw.model.functions)} local functions, which onnx.version_converter does not convert. "
            f"Export it again with opset_version={target}, or inline them first (onnx.inliner.inline_local_functions)."
        )
    with _weights_aside(raw.model) as held:
        own = raw.to_proto()
    start = time.monotonic()
    result, record, different = _tried(raw, own, held, target)
    if different is None:
        return result, record
    rewritten = sorted({node.op_type for node in replaced_operators(record)})
    lower = next((each for each in range(target - 1, raw.opset, -1) if _would_do(raw, own, held, each, start)), None)
    instead = "Leave out what needs it" if lower is None else f"It does at {lower}: take raise_opset={lower}"
    raise OpsetError(
        f"{name} does not compute the same at opset {target} as at its own, {raw.opset}: {different}, expected the "
        f"same bits. onnx.version_converter rewrote {_listed(rewritten)}. {instead}, or export the model again with "
        f"opset_version={target}."
    )


def _tried(
    raw: RawModel, own: onnx.ModelProto, held: Mapping[str, ir.TensorProtocol], target: int
) -> tuple[RawModel, RaisedOpset, str | None]:
    """Return a model at another opset, the record to undo it, and the difference in what it computes."""
    raised, record = _converted(own, held, target)
    result = _rebuilt(raw, raised, held)
    undone = undo(result, record)
    with _weights_aside(undone.model) as left:
        same = undone.to_proto().SerializeToString() == own.SerializeToString()
    if not same or left != held:
        raise OpsetError(
            f"The model could not be given back to the byte by strip once its opset is raised to {target}. Raise it "
            "yourself (onnx.version_converter.convert_version), and keep the original."
        )
    return result, record, difference(raw, result)


def _would_do(
    raw: RawModel, own: onnx.ModelProto, held: Mapping[str, ir.TensorProtocol], target: int, start: float
) -> bool:
    """True if a model computes the same at another opset, within the time limit of the check."""
    if time.monotonic() - start > _PATIENCE_S:
        return False
    try:
        return _tried(raw, own, held, target)[2] is None
    except OpsetError:
        return False


def undo(raw: RawModel, record: RaisedOpset) -> RawModel:
    """Give back the model that was raised.

    Args:
        raw: The model at the later opset, without anything that was fused into it; it is not changed.
        record: What `raise_opset` noted.

    Returns:
        The model at its own opset, with the weights that `raw` has now.

    Raises:
        ProvenanceError: The record is damaged, or the model was changed since.
    """
    stored = replaced_operators(record)
    with _weights_aside(raw.model) as held:
        proto = raw.to_proto()
    added = set(record.added)
    missing = added.difference(name for node in proto.graph.node for name in node.output)
    if missing:
        raise _changed(f"the operator that computes '{min(missing)}' is not there any more")
    nodes = [node for node in proto.graph.node if not added.intersection(node.output)]
    for position, node in zip(record.nodes, stored, strict=True):
        if position > len(nodes):
            raise _changed("operators are not there any more")
        nodes.insert(position, node)
    _exchange_nodes(proto, nodes, record.before)
    wanted = {_location(tensor) for tensor in fidelity.external_protos(proto)}
    lost = {location for location in wanted if location.startswith(_HELD)}.difference(held)
    if lost:
        raise _changed(f"weight '{min(lost).removeprefix(_HELD)}' is not there any more")
    return _rebuilt(raw, proto, held)


def replaced_operators(record: RaisedOpset) -> list[onnx.NodeProto]:
    """The operators that were replaced.

    Raises:
        ProvenanceError: The record is damaged.
    """
    import onnx

    try:
        unpacking = zlib.decompressobj()
        graph = onnx.GraphProto.FromString(unpacking.decompress(base64.b64decode(record.graph), _MOST_STORED))
        if unpacking.unconsumed_tail or len(graph.node) != len(record.nodes):
            raise ValueError(f"it is not that of {len(record.nodes)} operators")
    except Exception as error:
        raise ProvenanceError(
            f"What raising the opset replaced cannot be read back: {error}. The metadata was edited: use the raw "
            "export."
        ) from error
    return list(graph.node)


def _changed(how: str) -> ProvenanceError:
    return ProvenanceError(f"The model was changed after its opset was raised: {how}. Use the raw export.")


# Weights: the graph is worked on with names in their places


def _weights(model: ir.Model) -> Iterator[tuple[str, ir.TensorProtocol, Callable[[ir.TensorProtocol], None]]]:
    """Weights of a model: a stable name for each, the tensor, and a function that replaces it."""
    import onnx_ir as ir

    def in_value(value: ir.Value) -> Callable[[ir.TensorProtocol], None]:
        return lambda tensor: setattr(value, "const_value", tensor)

    def in_attribute(node: ir.Node, old: ir.Attr) -> Callable[[ir.TensorProtocol], None]:
        def put(tensor: ir.TensorProtocol) -> None:
            node.attributes[old.name] = ir.Attr(old.name, old.type, tensor, doc_string=old.doc_string)

        return put

    counts: dict[str, int] = {}

    def unique(name: str) -> str:
        # The branches of an If may both have a weight of a name; their order does not change.
        counts[name] = counts.get(name, 0) + 1
        return name if counts[name] == 1 else f"{name}#{counts[name]}"

    for graph in {id(each): each for each in (model.graph, *model.graph.subgraphs())}.values():
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield unique(f"{value.name}"), value.const_value, in_value(value)
    for node in model.graph.all_nodes():
        first = next((output.name for output in node.outputs if output.name), "")
        for attribute in list(node.attributes.values()):
            if not attribute.is_ref() and attribute.type == ir.AttributeType.TENSOR:
                yield unique(f"{first}.{attribute.name}"), attribute.as_tensor(), in_attribute(node, attribute)


@contextlib.contextmanager
def _weights_aside(model: ir.Model) -> Iterator[dict[str, ir.TensorProtocol]]:
    """Replace large and external weights by names while the graph is serialised.

    Yields:
        What was put aside, by the name that stands for it as a location of external data.
    """
    import onnx_ir as ir

    held: dict[str, ir.TensorProtocol] = {}
    back: list[tuple[Callable[[ir.TensorProtocol], None], ir.TensorProtocol]] = []
    try:
        for name, tensor, put in list(_weights(model)):
            if tensor.nbytes < _LEAST_HELD and not isinstance(tensor, ir.ExternalTensor):
                continue
            location = f"{_HELD}{name}"
            back.append((put, tensor))
            held[location] = tensor
            stand_in = ir.ExternalTensor(
                location, None, None, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=tensor.name or name
            )
            put(stand_in)
        yield held
    finally:
        for put, tensor in back:
            put(tensor)


def _rebuilt(raw: RawModel, proto: onnx.ModelProto, held: Mapping[str, ir.TensorProtocol]) -> RawModel:
    """A model of another graph, with the weights that were put aside."""
    import onnx_ir as ir

    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        model = ir.from_proto(proto)
    finally:
        logger.setLevel(level)
    fidelity.remember(proto, model)
    model.meta.update(raw.model.meta)
    for _, tensor, put in list(_weights(model)):
        if isinstance(tensor, ir.ExternalTensor) and str(tensor.location) in held:
            put(held[str(tensor.location)])
    return dataclasses.replace(raw, model=model, edited=True)


def _location(tensor: onnx.TensorProto) -> str:
    return fidelity.reference_of(tensor)[0]


# Conversion


def _converted(
    own: onnx.ModelProto, held: Mapping[str, ir.TensorProtocol], target: int
) -> tuple[onnx.ModelProto, RaisedOpset]:
    """A model whose weights were put aside, at another opset; only operators that had to change did."""
    import onnx
    from onnx import version_converter

    before = next(entry.version for entry in own.opset_import if entry.domain in _DEFAULT_DOMAINS)
    try:
        found = version_converter.convert_version(_with_small_weights(own, held), target)
    except Exception as error:  # C++ raises errors of many kinds
        raise OpsetError(
            f"The model is at opset {before} and cannot be raised to {target}: onnx.version_converter says "
            f"'{first_line(error)}'. Raise it less, or export it again with opset_version={target}."
        ) from error
    if before <= _ASYMMETRIC_UNTIL < target:
        _keep_asymmetric(found.graph.node)
    originals = {tuple(node.output): node for node in own.graph.node}
    kept: set[tuple[str, ...]] = set()
    added: list[str] = []
    known = {tensor.name for tensor in own.graph.initializer}
    # Before IR version 4 an initializer must be an input as well, and the inputs stay as they are.
    nodes = [
        onnx.helper.make_node("Constant", [], [tensor.name], value=tensor)
        for tensor in found.graph.initializer
        if tensor.name not in known
    ]
    added += [node.output[0] for node in nodes]
    for node in found.graph.node:
        key = tuple(node.output)
        original = originals.get(key)
        if original is not None and _same(original, node):
            kept.add(key)
            nodes.append(original)
        else:
            _forget_inferred(node)
            added.append(next(filter(None, key)))
            nodes.append(node)
    replaced = [(index, node) for index, node in enumerate(own.graph.node) if tuple(node.output) not in kept]
    graph = onnx.GraphProto(node=[node for _, node in replaced])
    record = RaisedOpset(
        before=before,
        after=target,
        added=added,
        nodes=[index for index, _ in replaced],
        graph=base64.b64encode(zlib.compress(graph.SerializeToString(deterministic=True), 9)).decode(),
    )
    raised = onnx.ModelProto()
    raised.CopyFrom(own)
    _exchange_nodes(raised, nodes, target)
    return raised, record


def _with_small_weights(own: onnx.ModelProto, held: Mapping[str, ir.TensorProtocol]) -> onnx.ModelProto:
    """A copy for the converter, which cannot read other files, and needs sizes and scales from there."""
    import onnx
    import onnx_ir as ir

    proto = onnx.ModelProto()
    proto.CopyFrom(own)
    for tensor in fidelity.external_protos(proto):
        weight = held.get(_location(tensor))
        if isinstance(weight, ir.ExternalTensor) and weight.nbytes < _LEAST_HELD:
            with Path(weight.path).open("rb") as stream:
                stream.seek(weight.offset or 0)
                tensor.raw_data = stream.read(weight.nbytes)
            del tensor.external_data[:]
            tensor.data_location = onnx.TensorProto.DEFAULT
    return proto


def _keep_asymmetric(nodes: Iterable[onnx.NodeProto]) -> None:
    """Let Resize place its points as it did up to opset 10, which the converter forgets."""
    import onnx

    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _keep_asymmetric(attribute.g.node)
        names = {attribute.name for attribute in node.attribute}
        if (
            node.op_type == "Resize"
            and node.domain in _DEFAULT_DOMAINS
            and "coordinate_transformation_mode" not in names
        ):
            node.attribute.append(onnx.helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
            node.attribute.append(onnx.helper.make_attribute("nearest_mode", "floor"))


def _same(original: onnx.NodeProto, node: onnx.NodeProto) -> bool:
    """True if the converter left an operator unchanged, except for doc strings."""
    if original.op_type != node.op_type or (original.domain or "ai.onnx") != (node.domain or "ai.onnx"):
        return False
    if original.op_type == "Constant":
        return True  # small ones were read from other files, and none changes its meaning
    return list(original.input) == list(node.input) and _attributes(original) == _attributes(node)


def _attributes(node: onnx.NodeProto) -> dict[str, bytes]:
    import onnx

    plain = onnx.NodeProto()
    plain.CopyFrom(node)
    _forget_inferred(plain)
    for attribute in plain.attribute:
        attribute.ClearField("doc_string")
    return {attribute.name: attribute.SerializeToString(deterministic=True) for attribute in plain.attribute}


def _forget_inferred(node: onnx.NodeProto) -> None:
    """Remove the converter's declarations of values inside an operator's bodies."""
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
            del body.value_info[:]
            for inner in body.node:
                _forget_inferred(inner)


def _exchange_nodes(proto: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], opset: int) -> None:
    """Give a model other operators, of another opset."""
    import onnx

    graph = onnx.GraphProto(node=nodes)
    del proto.graph.node[:]
    proto.graph.node.extend(graph.node)
    for entry in proto.opset_import:
        if entry.domain in _DEFAULT_DOMAINS:
            entry.version = opset


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "nothing"
