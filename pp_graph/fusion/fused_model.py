"""`FusedModel`, and `fuse`, which makes one from a raw model and a post-processor."""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from pp_graph.errors import AlreadyFusedError, PostProcessorError, ProvenanceError, StatisticsError, StatisticsWarning
from pp_graph.fusion.artifact import Artifact
from pp_graph.fusion.emission import Numbers
from pp_graph.fusion.injection import refuse_foreign_decisions, write_program
from pp_graph.fusion.provenance import Provenance
from pp_graph.fusion.stripping import check_weights, restore_raw
from pp_graph.model import METADATA_KEY, RawModel
from pp_graph.model.image_size import declare_image_size, fix_image_size
from pp_graph.model.weights import weights_record
from pp_graph.postprocessors import PostProcessor, merged_roles
from pp_graph.postprocessors.hints import task_hint
from pp_graph.program import Signature
from pp_graph.sessions import OnnxSession, require_onnxruntime

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    import onnx
    import onnx_ir as ir

    from pp_graph.program import Program


class Convertible(Protocol):
    """Anything that can be turned into a post-processor, such as a torch module."""

    def to_post_processor(self) -> PostProcessor:
        """Return the post-processor."""


@dataclass(frozen=True, repr=False)
class FusedModel(Artifact):
    """An ONNX model with post-processing, which returns predictions instead of raw values.

    Attributes:
        network: The graph; external weights stay on disk. `network.source` is the file that the weights belong to:
            the raw model right after fusing, the fused file after loading.
        provenance: Record of the post-processor, its parameters and the raw model.
        notes: Assumptions made about the raw model, such as an open size taken as 1, or a declaration that contradicts
            the graph. Empty after loading.
    """

    network: RawModel
    provenance: Provenance
    notes: tuple[str, ...] = ()
    _program: Program | None = field(default=None, repr=False, compare=False)

    @classmethod
    def load(cls, path: str | Path) -> FusedModel:
        """Open a fused model.

        Raises:
            ModelError: The file is not a usable ONNX model.
            ProvenanceError: The model was not written by pp_graph.
        """
        opened = RawModel.open(path)
        provenance = Provenance.from_metadata(opened.model.metadata_props)
        if provenance is None:
            raise ProvenanceError(
                f"Model '{path}' has no post-processing by pp_graph, expected a model written by pp_graph. "
                "Fuse or convert it first: with --stats STATS.json for an anomaly model, with --task for another "
                f"family.{task_hint(opened) or ' pp-graph inspect MODEL names the command.'}"
            )
        return cls.of(opened, provenance)

    @classmethod
    def of(cls, opened: RawModel, provenance: Provenance) -> FusedModel:
        """Return an opened model as a fused one.

        Raises:
            ProvenanceError: Its external weights are those of a different model, an input or output that its provenance
                lists is missing, or another operator was appended to an output.
        """
        check_weights(opened, provenance)
        graph = opened.model.graph
        for kind, wanted, values in (
            ("input", provenance.adjustable, graph.inputs),
            ("output", provenance.output_names, graph.outputs),
        ):
            names = {value.name for value in values}
            missing = next((name for name in wanted if name not in names), None)
            if missing is not None:
                raise ProvenanceError(
                    f"Model '{opened.source or '(in memory)'}' was changed after it was fused: its {kind} '{missing}' "
                    "is missing. Fuse the raw model again, if need be with fewer outputs (outputs=..., --outputs). "
                    "Apply tools that simplify or optimise a model to the raw export."
                )
        for output in graph.outputs:
            if output.name in provenance.output_names and (appended := _appended(output, f"{provenance.prefix}/")):
                raise ProvenanceError(
                    f"Model '{opened.source or '(in memory)'}' was changed after it was fused: operator '{appended}' "
                    f"of another program computes output '{output.name}' from the post-processing. Fuse the raw model "
                    "again; write further operators as a step of the post-processor."
                )
        return cls(opened, provenance)

    @property
    def file(self) -> Path | None:
        """The file the model was read from; None if it exists only in memory."""
        return None if self.network.edited else self.network.source

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of all outputs, in order."""
        return tuple(output.name or "" for output in self.network.model.graph.outputs)

    def to_proto(self) -> onnx.ModelProto:
        """Return the model as protobuf. External weights stay references."""
        return self.network.to_proto()

    def save(
        self,
        path: str | Path,
        *,
        overwrite: bool = False,
        copy_weights: bool = False,
        inputs: Iterable[Path] = (),
    ) -> Path:
        """Save the model atomically. Arguments and errors are those of `RawModel.save`."""
        return self.network.save(path, overwrite=overwrite, copy_weights=copy_weights, inputs=inputs)

    def session(self, device: str = "CPU", *, precision: str | None = "f32", probes: Sequence[str] = ()) -> OnnxSession:
        """Load the model into onnxruntime, which runs it on the CPU in float32.

        Raises:
            TargetError: The device is not the CPU, the precision is not f32, or onnxruntime cannot load the model.
        """
        require_onnxruntime(device, precision)
        return OnnxSession(self.network, probes=probes)

    def with_program(self, program: Program) -> FusedModel:
        """Return the same raw model with another program of the same post-processor and unchanged options.

        If both programs emit the same operators, only constants are replaced. Otherwise the old program is stripped and
        the new one fused.

        Raises:
            PostProcessorError: The program has another post-processor, or was bound to another raw model.
            ProvenanceError: The post-processing in the model contradicts its provenance.
        """
        self.check_program(program)
        network = RawModel.open(self.network)
        opset, ir_version = network.opset, network.model.ir_version
        numbers = Numbers.of(self.provenance, program, opset=opset, ir_version=ir_version)
        same_versions = (numbers.old.opset, numbers.old.ir_version) == (opset, ir_version)
        if same_versions and numbers.only_numbers and numbers.exchange(network.model.graph):
            network.model.metadata_props[METADATA_KEY] = numbers.provenance.to_json()
            changed = dataclasses.replace(network, edited=True)
            return FusedModel(changed, numbers.provenance, self.notes, program)
        record = self.provenance.raw
        raw, _ = restore_raw(network, self.provenance)
        named = {role: output.name for role, output in record.read.items()}
        dropped = {output.name: output.type for output in record.unread}
        signature = program.signature.matched_to(raw, program.post.roles, named, dropped)
        # Raw outputs that were dropped stay out, and so do those that the new program does not read.
        ignored = {role: match.type for role, match in signature.matches.items() if role not in program.signature}
        matched = dataclasses.replace(program, signature=signature, ignored=Signature(ignored))
        outputs = set(self.output_names)
        written = write_program(
            declare_image_size(raw, program.signature.input_size),
            matched,
            keep_raw=any(output.tensor in outputs for output in record.read.values()),
            tail=bool(self.provenance.tail),
            file=record.file,
            raise_opset=None if self.provenance.raised is None else self.provenance.raised.after,
        )
        return FusedModel(*written, matched)


def fuse(
    model: str | Path | onnx.ModelProto | ir.Model | RawModel | FusedModel,
    post: PostProcessor | Convertible,
    *,
    roles: Mapping[str, str] | None = None,
    score_output: str | None = None,
    map_output: str | None = None,
    keep_raw: bool = False,
    replace: bool = False,
    tail: bool = True,
    raise_opset: int | None = None,
    strict: bool = False,
    input_size: tuple[int, int] | None = None,
) -> FusedModel:
    """Write a post-processor into a raw model.

    The post-processed outputs come first. For an anomaly model these are `pred_score` float32, `pred_label` bool,
    `anomaly_map` float32 and `pred_mask` bool, depending on the model and the settings. Outputs that post-processing
    does not read follow under their own names, or as `raw_<name>` if a post-processed output has that name.

    Args:
        model: Path of a raw ONNX export, or a model in memory, which is not modified.
        post: The post-processor, with statistics; or a `PostProcessor` of `pp_graph.integrations.torch`.
        roles: Output names by role, needed if axes and sizes match several outputs.
        score_output: Short form of `roles={"raw_score": ...}`.
        map_output: Short form of `roles={"raw_map": ...}`.
        keep_raw: True to keep the raw values as outputs, under their own names, or as `raw_<name>` if a post-processed
            output has that name.
        replace: True to strip an existing post-processing first.
        tail: True to rewrite the raw model's tail where that saves time (see `pp_graph.fusion.tail`). Raw values then
            differ by rounding, by at most 1e-5 of the largest, and parts of the rewritten tail stay in float32 in
            OpenVINO.
        raise_opset: Opset to convert the model to first if its own is earlier, for steps that need newer operators.
            Raises if the converted model would not compute the same bits.
        strict: True to raise if the statistics were calibrated on a different model. By default a note reports it.
        input_size: Height and width of the images in pixels, for a model that leaves them open. Some heads of detectors
            need them. The fused model then takes this size only.

    Returns:
        The fused model. Nothing is written until `save`.

    Raises:
        ModelError: The model is not usable; `OutputRoleError` if roles are ambiguous, `OpsetError` if its opset is too
            old or cannot be raised.
        StatisticsError: Required statistics are missing, or `strict` is True and they belong to a different model.
        PostProcessorError: `post` is not a post-processor.
        FusionError: A name in the model conflicts with an output; `AlreadyFusedError` if the model already has
            post-processing.
    """
    if hasattr(post, "to_post_processor"):
        post = post.to_post_processor()
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
                "or pass replace=True (--replace) to strip the old post-processing first."
            )
        provenance = Provenance.from_json(raw.model.metadata_props[METADATA_KEY])
        file = provenance.raw.file
        raw, _ = restore_raw(raw, provenance)
    refuse_foreign_decisions(raw)
    raw = raw if input_size is None else fix_image_size(raw, input_size)
    program = post.bind(raw, merged_roles(roles, score_output=score_output, map_output=map_output))
    weights = weights_record(raw.external_tensors())
    other = None if post.statistics is None else post.statistics.of_another_model(raw.sha256, weights)
    if other is not None:
        if strict:
            raise StatisticsError(other)
        warnings.warn(other, StatisticsWarning, stacklevel=2)
    network, record, notes = write_program(
        raw, program, keep_raw=keep_raw, tail=tail, file=file, raise_opset=raise_opset
    )
    return FusedModel(network, record, notes if other is None else (other, *notes), program)


def _appended(output: ir.Value, scope: str) -> str | None:
    """Return the operator of another program between the post-processing and an output.

    Converters of element types add casts there, which change no decision.
    """
    node = output.producer()
    if node is None or node.op_type in ("Cast", "Identity") or (node.name or "").startswith(scope):
        return None
    sources = [value.producer() for value in node.inputs if value is not None]
    ours = any(source is not None and (source.name or "").startswith(scope) for source in sources)
    return node.op_type if ours else None
