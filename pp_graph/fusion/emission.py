"""What a program writes into a graph: which operators, and which numbers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pp_graph.fusion.provenance import EmissionRecord
from pp_graph.model import NameScope
from pp_graph.steps import Emitter

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx_ir as ir

    from pp_graph.program import Program

_LISTED_BYTES: Final = 64
"""Size up to which a constant is noted byte by byte."""
_HASHED: Final = "sha256:"


@dataclass(frozen=True)
class Emission:
    """Operators and constants of a post-processing.

    Attributes:
        structure: Everything but the float32 constants' numbers. Where two emissions have the same, they differ in
            those numbers only.
        constants: Bytes of each float32 constant, little-endian, by name.
        readers: How many operators read each.
        tensors: Name in the graph of each value that was written, by name.
    """

    structure: tuple[object, ...]
    constants: Mapping[str, bytes]
    readers: Mapping[str, int]
    tensors: Mapping[str, str]


def emit_alone(
    program: Program,
    tensors: Mapping[str, str],
    prefix: str,
    *,
    opset: int,
    ir_version: int,
    dtypes: Mapping[str, ir.DataType] | None = None,
) -> tuple[Emission, ir.Graph]:
    """Write a program into an empty graph, under the names that it has in a fused model.

    Args:
        program: The program.
        tensors: Names of the raw values in the fused model, by role; they become the graph's inputs.
        prefix: What the names of its operators and constants begin with.
        opset: Opset at which to write.
        ir_version: IR version; before 4, constants are operators and part of the structure.
        dtypes: Element types of the raw values in the fused model, by role; None where they are as the steps read them.

    Returns:
        What was written, and the graph, whose outputs are those of the program.
    """
    import onnx_ir as ir

    raw = {}
    for role, kind in program.signature.items():
        shape = ir.Shape([None] * kind.rank) if kind.rank_known else None
        dtype = (dtypes or {}).get(role, ir.DataType.from_numpy(np.dtype(kind.dtype)))
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
    """An attribute or a tensor as something that compares by all that it holds."""
    import onnx_ir as ir

    if isinstance(value, ir.Graph):
        # Numbers inside the body of an If are not looked up by name, so they are part of the structure.
        return ir.to_proto(value).SerializeToString(deterministic=True)
    if hasattr(value, "numpy"):
        array = value.numpy()
        return str(array.dtype), array.shape, array.tobytes()
    return repr(value)


def emission_record(
    program: Program, tensors: Mapping[str, str], prefix: str, *, opset: int, ir_version: int
) -> EmissionRecord:
    """What provenance notes about how a program was written; arguments are those of `emit_alone`."""
    emission, _ = emit_alone(program, tensors, prefix, opset=opset, ir_version=ir_version)
    return EmissionRecord(
        opset=opset,
        ir_version=ir_version,
        structure=structure_hash(emission),
        constants={name: noted(content) for name, content in emission.constants.items()},
    )


def structure_hash(emission: Emission) -> str:
    """A hash of everything but the float32 constants' numbers."""
    return hashlib.sha256(repr(emission.structure).encode()).hexdigest()


def noted(content: bytes) -> str:
    """The bytes of a constant as provenance notes them."""
    return content.hex() if len(content) <= _LISTED_BYTES else f"{_HASHED}{hashlib.sha256(content).hexdigest()}"


def numbers_of(note: str) -> str:
    """What a note says, for people."""
    if note.startswith(_HASHED):
        return f"numbers with the hash {note[: len(_HASHED) + 16]}…"
    return ", ".join(f"{number:.9g}" for number in np.frombuffer(bytes.fromhex(note), "<f4"))
