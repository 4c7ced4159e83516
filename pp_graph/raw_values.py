"""Read the raw values of any model, on any device and in any inference precision."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pp_graph.conversion import convert
from pp_graph.errors import TargetError
from pp_graph.fusion import Artifact, FusedModel, Provenance, fuse
from pp_graph.fusion.injection import refuse_foreign_decisions
from pp_graph.model import RawModel
from pp_graph.model.weights import WeightsRecord, weights_record
from pp_graph.opening import kind_of
from pp_graph.openvino.model import OpenVINOModel
from pp_graph.postprocessors import ROLES, RecipePostProcessor
from pp_graph.program import Output, Signature
from pp_graph.sessions import OnnxSession, run_in_batches
from pp_graph.steps import Keep

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pp_graph.model import ModelInput
    from pp_graph.program import Role
    from pp_graph.sessions import Session
    from pp_graph.steps import Array


@dataclass(frozen=True)
class RawValues:
    """A model in a runtime, set up to return its raw values.

    Attributes:
        session: The runtime.
        tensors: Tensor name by role (such as `raw_score`) or name of an intermediate.
        device: Device it runs on.
        weights: Precision of the network's weights in an OpenVINO model; None in onnxruntime.
        file: Name of the model's file; None for a model in memory.
        raw_sha256: Hash of the raw `.onnx` file.
        raw_weights: External weights of the raw model; None if it has none.
        provenance: Provenance of a fused or converted model; None for a raw one.
        signature: The model's raw values by role.
    """

    session: Session
    tensors: Mapping[str, str]
    device: str
    weights: str | None
    file: str | None
    raw_sha256: str
    raw_weights: WeightsRecord | None
    provenance: Provenance | None
    signature: Signature

    @property
    def inputs(self) -> tuple[ModelInput, ...]:
        """Inputs to feed."""
        return self.session.inputs

    @property
    def precision(self) -> str:
        """Inference precision of the network."""
        return self.session.precision

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the model on a batch of any size.

        Args:
            feeds: Arrays by input name, batch first.

        Returns:
            Arrays by role or name of an intermediate, in the model's shape and the element type that the steps read.

        Raises:
            TargetError: The runtime fails on this batch.
        """
        outputs = run_in_batches(self.session, feeds)
        with np.errstate(over="ignore"):
            return {
                role: outputs[tensor].astype(self.signature[role].dtype if role in self.signature else np.float32)
                for role, tensor in self.tensors.items()
            }


def open_raw_values(
    model: str | Path | RawModel | Artifact,
    *,
    device: str | None = None,
    inference_precision: str | None = "f32",
    roles: Mapping[str, str] | None = None,
    declared: Sequence[Role] = ROLES,
) -> RawValues:
    """Load a model into a runtime to read its raw values.

    Args:
        model: A raw model, a fused one or a converted one, or the path of one.
        device: OpenVINO device. An ONNX model is then converted with a rewritten tail, as for deployment, and float32
            weights. None runs ONNX models unchanged in onnxruntime, and converted ones on the CPU.
        inference_precision: Inference precision in OpenVINO: `f32`, `bf16`, `f16`; None for the device's default.
        roles: Names of a raw model's outputs by role, where axes and sizes are ambiguous.
        declared: Roles to look for among the outputs of a raw model.

    Raises:
        ModelError: The model cannot be used; `OutputRoleError` if roles are ambiguous.
        AlreadyFusedError: The model carries another tool's post-processing.
        ProvenanceError: An IR was not written by pp_graph.
        TargetError: A runtime cannot load the model; `DeviceError` if the device is missing.
    """
    if isinstance(model, str | Path) and kind_of(model) == "ir":
        model = OpenVINOModel.load(model)
    if isinstance(model, OpenVINOModel):
        session = model.session(
            device or "CPU", precision=inference_precision, probes=list(model.provenance.tensors.values())
        )
        return _of_artifact(model, session, device or "CPU", model.precision)
    opened = RawModel.open(model.network if isinstance(model, Artifact) else model)
    provenance = Provenance.from_metadata(opened.model.metadata_props)
    fused = None if provenance is None else FusedModel.of(opened, provenance)
    if device is not None:
        converted = open_raw_values(
            convert(fused or _fuse_nothing(opened, roles, declared), device=device),
            device=device,
            inference_precision=inference_precision,
        )
        return replace(converted, provenance=provenance, file=_name(opened.source))
    if inference_precision not in (None, "f32"):
        raise TargetError(
            f"Inference precision is {inference_precision} for an ONNX file without a device, expected f32, in which "
            "onnxruntime computes. Name an OpenVINO device with device=... (--device CPU)."
        )
    if fused is not None:
        return _of_artifact(fused, fused.session(probes=list(fused.provenance.tensors.values())), "CPU", None)
    refuse_foreign_decisions(opened)
    signature = Signature.of_model(opened, declared, roles)
    tensors = {role: match.output.name for role, match in signature.matches.items()}
    weights = weights_record(opened.external_tensors())
    return RawValues(
        OnnxSession(opened), tensors, "CPU", None, _name(opened.source), opened.sha256, weights, None, signature
    )


def _of_artifact(artifact: Artifact, session: Session, device: str, weights: str | None) -> RawValues:
    provenance = artifact.provenance
    file = _name(artifact.file) or (provenance.raw.file if isinstance(artifact, OpenVINOModel) else None)
    raw = provenance.raw
    return RawValues(
        session, provenance.tensors, device, weights, file, raw.sha256, raw.weights, provenance, provenance.signature
    )


def _name(path: Path | None) -> str | None:
    return None if path is None else path.name


def _fuse_nothing(raw: RawModel, roles: Mapping[str, str] | None, declared: Sequence[Role]) -> FusedModel:
    """Fuse steps that keep all raw values, so that the tail is rewritten as for deployment."""
    refuse_foreign_decisions(raw)
    signature = Signature.of_model(raw, declared, roles)
    kept = [role for role in declared if role.name in signature]
    steps = tuple(Keep(role.name, f"{role.name}_kept") for role in kept)
    outputs = tuple(Output(step.target) for step in steps)
    post = RecipePostProcessor(recipe=steps, roles=tuple(kept), declared_outputs=outputs)
    return fuse(raw, post, roles={role: match.output.name for role, match in signature.matches.items()})
