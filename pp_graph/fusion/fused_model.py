"""`FusedModel`: a raw ONNX model with its post-processing written in."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pp_graph.errors import ProvenanceError
from pp_graph.fusion.artifact import Artifact
from pp_graph.fusion.provenance import Provenance
from pp_graph.model import METADATA_KEY, RawModel
from pp_graph.program import Signature
from pp_graph.sessions import OnnxSession, require_onnxruntime

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    import onnx

    from pp_graph.program import Program


@dataclass(frozen=True, repr=False)
class FusedModel(Artifact):
    """An ONNX model that returns predictions, not raw scores.

    Attributes:
        network: The graph, with external weights still on disk. Its `source` is the file that the
            weights belong to: the raw model right after fusing, the fused file after loading.
        provenance: What was fused.
        notes: What a person should know about how the raw model was read: a size that was left open
            and taken as 1, a declaration that contradicts the graph. Empty after loading.
    """

    network: RawModel
    provenance: Provenance
    notes: tuple[str, ...] = ()
    _program: Program | None = field(default=None, repr=False, compare=False)

    @classmethod
    def load(cls, path: str | Path) -> FusedModel:
        """Open a fused model.

        Raises:
            ModelError: The file cannot be used.
            ProvenanceError: It was not written by `fuse`.
        """
        opened = RawModel.open(path)
        provenance = Provenance.from_metadata(opened.model.metadata_props)
        if provenance is None:
            raise ProvenanceError(
                f"Model '{path}' carries no pp_graph provenance, expected a model written by pp_graph. "
                "Fuse it first: pp-graph fuse MODEL --stats STATS.json -o FUSED.onnx, or give --stats to pp-graph "
                "convert."
            )
        return cls(opened, provenance)

    @property
    def file(self) -> Path | None:
        """The file it was read from; None for one in memory."""
        return None if self.network.edited else self.network.source

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of all outputs, in order."""
        return tuple(output.name or "" for output in self.network.model.graph.outputs)

    def to_proto(self) -> onnx.ModelProto:
        """The model as protobuf; external weights stay references."""
        return self.network.to_proto()

    def save(
        self,
        path: str | Path,
        *,
        overwrite: bool = False,
        copy_weights: bool = False,
        inputs: Iterable[Path] = (),
    ) -> Path:
        """Write the model to a file, whole or not at all; arguments and errors are those of `RawModel.save`."""
        return self.network.save(path, overwrite=overwrite, copy_weights=copy_weights, inputs=inputs)

    def session(self, device: str = "CPU", *, precision: str | None = "f32", probes: Sequence[str] = ()) -> OnnxSession:
        """Load the model into onnxruntime, which runs it on the CPU in float32.

        Raises:
            TargetError: Another device or precision was asked for, or onnxruntime cannot load the model.
        """
        require_onnxruntime(device, precision)
        return OnnxSession(self.network, probes=probes)

    def with_program(self, program: Program) -> FusedModel:
        """Return the same raw model with another program of the same post-processor. All other choices stay.

        Where the operators are the same, only constants differ; else the program is written into the raw model anew.

        Raises:
            ProvenanceError: The post-processing in the model is not what its provenance says.
        """
        from pp_graph.fusion.emission import Numbers
        from pp_graph.fusion.injection import write_program
        from pp_graph.fusion.stripping import strip

        self.check_program(program)
        network = RawModel.open(self.network)
        opset, ir_version = network.opset, network.model.ir_version
        numbers = Numbers.of(self.provenance, program, opset=opset, ir_version=ir_version)
        written_so = (numbers.old.opset, numbers.old.ir_version) == (opset, ir_version)
        if written_so and numbers.only_numbers and numbers.exchange(network.model.graph):
            network.model.metadata_props[METADATA_KEY] = numbers.provenance.to_json()
            changed = dataclasses.replace(network, edited=True)
            return FusedModel(changed, numbers.provenance, self.notes, program)
        record = self.provenance.raw
        raw = strip(self)
        named = {role: output.name for role, output in record.read.items()}
        left_out = {output.name for output in record.unread}
        signature = program.signature.matched_to(raw, program.post.roles, named, {*named.values(), *left_out})
        # What was left out stays out, and so does what is not read any more.
        ignored = {role: match.type for role, match in signature.matches.items() if role not in program.signature}
        matched = dataclasses.replace(program, signature=signature, ignored=Signature(ignored))
        outputs = set(self.output_names)
        return write_program(
            raw,
            matched,
            keep_raw=any(output.tensor in outputs for output in record.read.values()),
            tail=bool(self.provenance.tail),
            file=record.file,
            raise_opset=None if self.provenance.raised is None else self.provenance.raised.after,
        )
