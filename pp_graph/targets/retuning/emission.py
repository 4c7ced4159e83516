"""What a post-processor writes into a graph: which operators, and which numbers; and what becomes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pp_graph.errors import ProvenanceError
from pp_graph.model import NameScope
from pp_graph.steps import Emitter
from pp_graph.targets.retuning.retuning import post_processor, renewed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pp_graph.fusion import Provenance
    from pp_graph.postprocessors import PostProcessor
    from pp_graph.statistics import Statistics


@dataclass(frozen=True)
class Emission:
    """Operators and constants of a post-processing.

    Attributes:
        structure: Everything but the float32 constants' numbers. Where two emissions have the same, they differ in
            those numbers only.
        constants: Bytes of each float32 constant, little-endian, by name.
        readers: How many operators read each.
    """

    structure: tuple[object, ...]
    constants: Mapping[str, bytes]
    readers: Mapping[str, int]


def emit_alone(post: PostProcessor, provenance: Provenance, *, opset: int, ir_version: int) -> Emission:
    """Write a post-processor into an empty graph, under the names that it has in a fused model.

    Args:
        post: The post-processor.
        provenance: That of the fused model.
        opset: Opset of the fused model; it decides how operators are written.
        ir_version: Its IR version; before 4, constants are operators and part of the structure.

    Raises:
        StatisticsError: The post-processor lacks a number that it needs.
    """
    import onnx_ir as ir

    raw = {
        role: ir.Value(
            name=record.tensor,
            shape=None if record.rank is None else ir.Shape([None] * record.rank),
            type=ir.TensorType(ir.DataType.FLOAT),
        )
        for role, record in provenance.raw.read.items()
    }
    graph = ir.Graph(list(raw.values()), [], nodes=[], opset_imports={"": opset})
    op = Emitter(graph, opset=opset, ir_version=ir_version, names=NameScope(graph), prefix=provenance.prefix)
    outputs = post.emit(op, raw, provenance.layout)
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
    named = [(name, value.name) for name, value in outputs.items()]
    inputs = [value.name for value in graph.inputs]
    readers = {name: len(graph.initializers[name].uses()) for name in constants}
    return Emission((inputs, others, operators, named), constants, readers)


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


@dataclass(frozen=True)
class Numbers:
    """What an old and a new post-processing of a model are made of.

    Attributes:
        old: What is in the file.
        new: What is to be there.
        provenance: What the file is to say then.
    """

    old: Emission
    new: Emission
    provenance: Provenance

    @classmethod
    def of(
        cls,
        provenance: Provenance,
        statistics: Statistics | None,
        changes: Mapping[str, float],
        *,
        opset: int,
        ir_version: int,
    ) -> Numbers:
        """Write both; arguments as of `emit_alone` and `post_processor`.

        Raises:
            ProvenanceError: The post-processor is not known to this version.
            PostProcessorError: A parameter is outside its range, or not one of this post-processor.
            StatisticsError: The statistics lack a number that the post-processing needs.
        """
        before, after = post_processor(provenance, None, {}), post_processor(provenance, statistics, changes)
        return cls(
            emit_alone(before, provenance, opset=opset, ir_version=ir_version),
            emit_alone(after, provenance, opset=opset, ir_version=ir_version),
            renewed(provenance, after),
        )

    @property
    def only_numbers(self) -> bool:
        """Whether both are the same operators."""
        return self.old.structure == self.new.structure

    @property
    def changed(self) -> dict[str, bytes]:
        """New bytes by name."""
        return {name: content for name, content in self.new.constants.items() if content != self.old.constants[name]}

    def check(self, name: str, found: bytes, path: Path) -> None:
        """Make sure that a constant in the file is the one that was fused.

        Raises:
            ProvenanceError: It is not.
        """
        if found != self.old.constants[name]:
            expected = self.old.constants[name]
            raise ProvenanceError(
                f"Constant '{name}' of '{path}' is {_numbers(found)}, expected {_numbers(expected)} by its provenance. "
                "The file was changed after it was fused, or written by a version that computes otherwise: fuse the "
                "raw model again."
            )

    @property
    def size(self) -> int:
        """Bytes of constants and provenance that are new."""
        return sum(map(len, self.changed.values())) + len(self.provenance.to_json().encode())


def _numbers(content: bytes) -> str:
    return ", ".join(f"{number:.9g}" for number in np.frombuffer(content[: len(content) // 4 * 4], "<f4"))
