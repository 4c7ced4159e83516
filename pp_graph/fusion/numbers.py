"""What an old and a new program of a model are made of, and in which numbers they differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pp_graph.errors import ProvenanceError
from pp_graph.fusion.emission import Emission, emission_record, emit_alone, noted, numbers_of, structure_hash
from pp_graph.fusion.provenance import SCHEMA_VERSION, EmissionRecord, Provenance
from pp_graph.version import __version__

if TYPE_CHECKING:
    from pathlib import Path

    import onnx_ir as ir

    from pp_graph.program import Program


@dataclass(frozen=True)
class Numbers:
    """What an old and a new program of a model are made of.

    Attributes:
        old: What is in the model.
        new: What is to be there.
        provenance: What the model is to say then.
    """

    old: EmissionRecord
    new: Emission
    provenance: Provenance

    @classmethod
    def of(cls, provenance: Provenance, program: Program, *, opset: int, ir_version: int) -> Numbers:
        """Compare what is noted with what a new program writes.

        Args:
            provenance: That of the model.
            program: The new program.
            opset: Opset of the model, where its provenance does not note it.
            ir_version: Its IR version, likewise.
        """
        tensors = {role: record.tensor for role, record in provenance.raw.read.items()}
        old = provenance.emission
        if old is None:
            old = emission_record(provenance.bind(), tensors, provenance.prefix, opset=opset, ir_version=ir_version)
        new, _ = emit_alone(program, tensors, provenance.prefix, opset=old.opset, ir_version=old.ir_version)
        return cls(old, new, renewed(provenance, program, new, old))

    @property
    def only_numbers(self) -> bool:
        """Whether both are the same operators."""
        return structure_hash(self.new) == self.old.structure

    @property
    def changed(self) -> dict[str, bytes]:
        """New bytes by name."""
        return {
            name: content
            for name, content in self.new.constants.items()
            if noted(content) != self.old.constants.get(name)
        }

    def exchange(self, graph: ir.Graph) -> bool:
        """Put the new constants into a graph, after a look at the old ones. Changes the graph in place.

        Returns:
            Whether all of them are there; if not, nothing was changed.

        Raises:
            ProvenanceError: One is not what was fused.
        """
        import onnx_ir as ir

        values = {name: graph.initializers.get(name) for name in self.old.constants}
        if any(value is None or value.const_value is None for value in values.values()):
            return False
        for name, value in values.items():
            assert value is not None
            assert value.const_value is not None
            self.check(name, value.const_value.numpy().astype("<f4").tobytes(), "the model")
        for name, content in self.changed.items():
            value = graph.initializers[name]
            assert value.const_value is not None
            shape = value.const_value.shape.numpy()
            value.const_value = ir.tensor(np.frombuffer(content, "<f4").astype(np.float32).reshape(shape), name=name)
        return True

    def check(self, name: str, found: bytes, what: Path | str) -> None:
        """Make sure that a constant in the model is the one that was fused.

        Raises:
            ProvenanceError: It is not.
        """
        if noted(found) != self.old.constants[name]:
            raise ProvenanceError(
                f"Constant '{name}' of '{what}' is {numbers_of(noted(found))}, expected "
                f"{numbers_of(self.old.constants[name])} by its provenance. The file was changed after it was fused, "
                "or written by a version that computes otherwise: fuse the raw model again."
            )

    @property
    def size(self) -> int:
        """Bytes of constants and provenance that are new."""
        return sum(map(len, self.changed.values())) + len(self.provenance.to_json().encode())


def renewed(provenance: Provenance, program: Program, emission: Emission, old: EmissionRecord) -> Provenance:
    """The record of a model after its program was exchanged for another of the same post-processor."""
    return provenance.revised(
        schema_version=SCHEMA_VERSION,
        pp_graph_version=__version__,
        statistics=program.statistics,
        parameters=program.post.parameters(),
        cutoffs=program.cutoffs,
        outputs=list(program.outputs),
        emission=EmissionRecord(
            opset=old.opset,
            ir_version=old.ir_version,
            structure=structure_hash(emission),
            constants={name: noted(content) for name, content in emission.constants.items()},
        ),
    )
