"""Record the operators and constants that a program emits, and replace the constants of an artifact."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pp_graph.errors import ProvenanceError
from pp_graph.fusion.provenance import SCHEMA_VERSION, EmissionRecord, Provenance
from pp_graph.model import NameScope
from pp_graph.model.light_onnx_ir import import_onnx_ir
from pp_graph.steps import Emitter
from pp_graph.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import onnx
    import onnx_ir as ir

    from pp_graph.program import Program

_LISTED_BYTES: Final = 64
"""Provenance stores constants up to this size in full, and the hash of larger ones."""
_HASHED: Final = "sha256:"


@dataclass(frozen=True)
class Emission:
    """Operators and constants of a program.

    Attributes:
        structure: Everything except the values of float32 constants. Two emissions with equal structures differ only
            in those values.
        constants: Bytes of each float32 constant, little-endian, by name.
        readers: Number of operators that read each float32 constant, by name.
        tensors: Tensor name of each computed value, by the value's name.
    """

    structure: tuple[object, ...]
    constants: Mapping[str, bytes]
    readers: Mapping[str, int]
    tensors: Mapping[str, str]

    def record(self, opset: int, ir_version: int) -> EmissionRecord:
        """Return the record for the provenance."""
        return EmissionRecord(
            opset=opset,
            ir_version=ir_version,
            structure=hashlib.sha256(repr(self.structure).encode()).hexdigest(),
            constants={name: _encode(content) for name, content in self.constants.items()},
        )


def emit_alone(
    program: Program,
    tensors: Mapping[str, str],
    prefix: str,
    *,
    opset: int,
    ir_version: int,
    dtypes: Mapping[str, ir.DataType] | None = None,
) -> tuple[Emission, ir.Graph]:
    """Emit a program into an empty graph, with the names it has in a fused model.

    Args:
        program: The program to emit.
        tensors: Tensor names of the raw values in the fused model, by role. They become the graph's inputs.
        prefix: Prefix of the names of all operators and constants.
        opset: Opset of the graph.
        ir_version: IR version. Before 4, constants are operators and belong to the structure.
        dtypes: Element types of the raw values in the fused model, by role. Roles left out have the element type that
            the steps read.

    Returns:
        The emission, and the graph, whose outputs are those of the program.
    """
    import_onnx_ir()
    import onnx_ir as ir

    raw = {}
    for role, value_type in program.signature.items():
        shape = ir.Shape([None] * value_type.rank) if value_type.rank_known else None
        dtype = (dtypes or {}).get(role, ir.DataType.from_numpy(np.dtype(value_type.dtype)))
        raw[role] = ir.Value(name=tensors[role], shape=shape, type=ir.TensorType(dtype))
    graph = ir.Graph(list(raw.values()), [], nodes=[], opset_imports={"": opset}, name="post_processing")
    op = Emitter(graph, opset=opset, ir_version=ir_version, names=NameScope(graph), prefix=prefix)
    read = {}
    for role, value in raw.items():
        with op.scope(role):
            wanted = np.dtype(program.signature[role].dtype)
            read[role] = value if value.dtype is not None and value.dtype.numpy() == wanted else op.cast(value, wanted)
    written = program.emit(op, read)
    constants: dict[str, bytes] = {}
    others: list[tuple[str, object]] = []
    for name, value in graph.initializers.items():
        assert value.const_value is not None
        array = value.const_value.numpy()
        if array.dtype == np.float32:
            constants[name] = array.astype("<f4").tobytes()
            others.append((name, array.shape))
        else:
            others.append((name, _plain(value.const_value)))
    operators = [
        (
            node.domain,
            node.op_type,
            tuple(None if value is None else value.name for value in node.inputs),
            tuple(value.name for value in node.outputs),
            tuple((name, _plain(attribute.value)) for name, attribute in node.attributes.items()),
        )
        for node in graph
    ]
    named = [(name, value.name) for name, value in written.items()]
    inputs = [value.name for value in graph.inputs]
    readers = {name: len(graph.initializers[name].uses()) for name in constants}
    for output in program.outputs:
        written[output.name].name = output.name
        graph.outputs.append(written[output.name])
    tensors_of = {name: value.name or "" for name, value in written.items()}
    return Emission((inputs, others, operators, named), constants, readers, tensors_of), graph


def _plain(value: Any) -> object:
    """Convert an attribute or a tensor to a value that compares by content."""
    import onnx_ir as ir

    if isinstance(value, ir.Graph):
        # Constants inside the body of an If cannot be replaced by name, so they belong to the structure.
        return ir.to_proto(value).SerializeToString(deterministic=True)
    if hasattr(value, "numpy"):
        array = value.numpy()
        return str(array.dtype), array.shape, array.tobytes()
    return repr(value)


def _comparable(node: onnx.NodeProto) -> object:
    """Return what an operator computes, without its name and texts."""
    attributes: dict[str, object] = {}
    for attribute in node.attribute:
        bodies = [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]
        if bodies:
            # Declarations in a body may be written in several ways.
            attributes[attribute.name] = [
                ([_comparable(inner) for inner in body.node], [tensor.name for tensor in body.initializer])
                for body in bodies
            ]
            continue
        plain = type(attribute)()
        plain.CopyFrom(attribute)
        plain.ClearField("doc_string")
        attributes[attribute.name] = plain.SerializeToString(deterministic=True)
    domain = "" if node.domain == "ai.onnx" else node.domain
    return domain, node.op_type, list(node.input), list(node.output), attributes


def emission_record(
    program: Program, tensors: Mapping[str, str], prefix: str, *, opset: int, ir_version: int
) -> EmissionRecord:
    """Record how a program was emitted, for the provenance. Arguments are those of `emit_alone`."""
    emission, _ = emit_alone(program, tensors, prefix, opset=opset, ir_version=ir_version)
    return emission.record(opset, ir_version)


def _encode(content: bytes) -> str:
    """Encode the bytes of a constant as provenance stores them: hexadecimal, or a hash if they are many."""
    return content.hex() if len(content) <= _LISTED_BYTES else f"{_HASHED}{hashlib.sha256(content).hexdigest()}"


def _format(encoded: str) -> str:
    """Format the values of a stored constant for messages."""
    if encoded.startswith(_HASHED):
        return f"numbers with the hash {encoded[: len(_HASHED) + 16]}…"
    return ", ".join(f"{number:.9g}" for number in np.frombuffer(bytes.fromhex(encoded), "<f4"))


@dataclass(frozen=True)
class Numbers:
    """Replacement of an artifact's constants by those of a new program.

    Attributes:
        old: Record of the present constants.
        new: Emission of the new program.
        operators: Operators of the new program, with the names they have in the artifact.
        only_numbers: True if both programs have the same operators.
        provenance: Provenance of the artifact after the replacement.
    """

    old: EmissionRecord
    new: Emission
    operators: tuple[ir.Node, ...]
    only_numbers: bool
    provenance: Provenance

    @classmethod
    def of(cls, provenance: Provenance, program: Program, *, opset: int, ir_version: int) -> Numbers:
        """Compare the recorded emission of an artifact with that of a new program.

        Args:
            provenance: Provenance of the artifact.
            program: The new program.
            opset: Opset of the artifact, used if its provenance has none.
            ir_version: IR version of the artifact, used if its provenance has none.
        """
        tensors = {role: record.tensor for role, record in provenance.raw.read.items()}
        old = provenance.emission
        if old is None:
            old = emission_record(provenance.bind(), tensors, provenance.prefix, opset=opset, ir_version=ir_version)
        new, graph = emit_alone(program, tensors, provenance.prefix, opset=old.opset, ir_version=old.ir_version)
        record = new.record(old.opset, old.ir_version)
        updated = provenance.revised(
            schema_version=SCHEMA_VERSION,
            pp_graph_version=__version__,
            statistics=program.statistics,
            parameters=program.post.parameters(),
            cutoffs=program.cutoffs,
            outputs=list(program.outputs),
            emission=record,
        )
        return cls(old, new, tuple(graph), record.structure == old.structure, updated)

    @property
    def changed(self) -> dict[str, bytes]:
        """New bytes of each constant that changes, by name."""
        return {
            name: content
            for name, content in self.new.constants.items()
            if _encode(content) != self.old.constants.get(name)
        }

    def are_operators(self, found: Mapping[str, onnx.NodeProto]) -> bool:
        """Return True if a model holds the operators of the new program, unchanged.

        Tools that simplify or optimise a model may replace operators and leave unread constants in the file.

        Args:
            found: Operators of the model, by the name of their first output.
        """
        import onnx_ir as ir

        for operator in self.operators:
            node = found.get(operator.outputs[0].name or "")
            if node is None or _comparable(node) != _comparable(ir.to_proto(operator)):
                return False
        return True

    def exchange(self, graph: ir.Graph) -> bool:
        """Replace the constants in a graph, in place, after checking the old ones.

        Returns:
            False if a constant is missing or an operator was changed; the graph is then unchanged.

        Raises:
            ProvenanceError: A constant differs from its record.
        """
        import onnx_ir as ir

        values = {name: graph.initializers.get(name) for name in self.old.constants}
        if any(value is None or value.const_value is None for value in values.values()):
            return False
        for name, value in values.items():
            assert value is not None
            assert value.const_value is not None
            self.check(name, value.const_value.numpy().astype("<f4").tobytes(), "the model")
        wanted = {operator.outputs[0].name for operator in self.operators}
        present = {node.outputs[0].name or "": ir.to_proto(node) for node in graph if node.outputs[0].name in wanted}
        if not self.are_operators(present):
            return False
        for name, content in self.changed.items():
            value = graph.initializers[name]
            assert value.const_value is not None
            shape = value.const_value.shape.numpy()
            value.const_value = ir.tensor(np.frombuffer(content, "<f4").astype(np.float32).reshape(shape), name=name)
        return True

    def check(self, name: str, found: bytes, what: Path | str) -> None:
        """Raise if a constant differs from its record.

        Raises:
            ProvenanceError: The bytes `found` in `what` are not those that were fused.
        """
        if _encode(found) != self.old.constants[name]:
            raise ProvenanceError(
                f"Constant '{name}' of '{what}' is {_format(_encode(found))}, expected "
                f"{_format(self.old.constants[name])} as in its provenance. The file was edited after fusing, or "
                "written by a version that computes differently: fuse the raw model again."
            )

    @property
    def size(self) -> int:
        """Size in bytes of the changed constants and the new provenance."""
        return sum(map(len, self.changed.values())) + len(self.provenance.to_json().encode())
