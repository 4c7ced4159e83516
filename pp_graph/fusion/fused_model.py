"""`FusedModel`: a raw ONNX model with its post-processing written in."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pp_graph.errors import AlreadyFusedError, PostProcessorError, ProvenanceError
from pp_graph.fusion.artifact import Artifact
from pp_graph.fusion.emission import Numbers
from pp_graph.fusion.injection import refuse_foreign_decisions, write_program
from pp_graph.fusion.provenance import Provenance
from pp_graph.fusion.stripping import strip
from pp_graph.model import METADATA_KEY, RawModel
from pp_graph.postprocessors import PostProcessor, merged_roles
from pp_graph.program import Signature
from pp_graph.sessions import OnnxSession, require_onnxruntime

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    import onnx
    import onnx_ir as ir

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
        written = write_program(
            raw,
            matched,
            keep_raw=any(output.tensor in outputs for output in record.read.values()),
            tail=bool(self.provenance.tail),
            file=record.file,
            raise_opset=None if self.provenance.raised is None else self.provenance.raised.after,
        )
        return FusedModel(*written, matched)


def fuse(
    model: str | Path | onnx.ModelProto | ir.Model | RawModel | FusedModel,
    post: PostProcessor,
    *,
    roles: Mapping[str, str] | None = None,
    score_output: str | None = None,
    map_output: str | None = None,
    keep_raw: bool = False,
    replace: bool = False,
    tail: bool = True,
    raise_opset: int | None = None,
) -> FusedModel:
    """Write a post-processor into a raw model.

    The post-processed outputs come first: of an anomaly model `pred_score` float32, `pred_label` bool, `anomaly_map`
    float32, `pred_mask` bool, as far as the model and the settings give them. Outputs that
    post-processing does not read follow under their own names, or as `raw_<name>` where a post-processed output has
    that name.

    Args:
        model: Path of a raw ONNX export, or a model in memory. It is never modified.
        post: The post-processor, with statistics.
        roles: Names of outputs by the role that the post-processor reads them in, where axes and sizes leave a choice.
        score_output: Short form of `roles={"raw_score": ...}`.
        map_output: Short form of `roles={"raw_map": ...}`.
        keep_raw: Also keep the raw values that are read as outputs, under their own names, or
            `raw_<name>` where that is one of a post-processed output.
        replace: If the model is fused already, take the old post-processing out first.
        tail: Rewrite the raw model's own tail where that saves time (see `pp_graph.fusion.tail`): raw
            values differ by rounding, at most 1e-5 of the largest, and the rewritten part stays in
            float32 in OpenVINO.
        raise_opset: If the model is at an earlier opset, bring it to this one first, for steps whose operators its own
            does not have. It is refused where the model would not compute the same bits there.

    Returns:
        The fused model. Nothing is written until `save`.

    Raises:
        ModelError: The model cannot be used; `OutputRoleError` where roles cannot be told
            apart, `OpsetError` where its opset is too old or cannot be raised.
        StatisticsError: The post-processor lacks a number that it needs.
        PostProcessorError: `post` is no post-processor.
        FusionError: A name of the model stands in the way, or (`AlreadyFusedError`) the model
            carries a post-processing already.
    """
    if not isinstance(post, PostProcessor):
        raise PostProcessorError(
            f"The post-processor is {type(post).__name__}, expected a PostProcessor such as "
            "OneClassPostProcessor(Statistics.load('stats.json'))."
        )
    raw = RawModel.open(model.network if isinstance(model, FusedModel) else model)
    file = None if raw.source is None else raw.source.name
    if METADATA_KEY in raw.model.metadata_props:
        if not replace:
            raise AlreadyFusedError(
                "The model carries a pp_graph post-processing already, expected a raw export. Fuse the raw model, "
                "or pass replace=True (--replace) to take the old post-processing out first."
            )
        earlier = Provenance.from_metadata(raw.model.metadata_props)
        file = None if earlier is None else earlier.raw.file
        raw = strip(raw)
    refuse_foreign_decisions(raw)
    # This refuses missing statistics before anything is built.
    program = post.bind(raw, merged_roles(roles, score_output=score_output, map_output=map_output))
    written = write_program(raw, program, keep_raw=keep_raw, tail=tail, file=file, raise_opset=raise_opset)
    return FusedModel(*written, program)
