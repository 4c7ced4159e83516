"""Raw scores and maps of any model, on any device and in any precision: what its post-processing decides about."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pp_graph.errors import TargetError
from pp_graph.fusion import FusedModel, Provenance, fuse
from pp_graph.fusion.injection import refuse_foreign_decisions
from pp_graph.model import RawModel, find_outputs
from pp_graph.postprocessors import OneClassPostProcessor
from pp_graph.postprocessors.layout import RAW_MAP, RAW_SCORE
from pp_graph.targets.conversion import convert
from pp_graph.targets.onnxruntime_session import OnnxSession
from pp_graph.targets.openvino_model import OpenVINOModel
from pp_graph.targets.session import Array, Session, run_in_batches

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pp_graph.model import ModelInput


@dataclass(frozen=True)
class RawValues:
    """A model loaded into a runtime, seen through its raw score and map.

    Attributes:
        session: The runtime.
        tensors: Names of the tensors that hold them, under `raw_score` and `raw_map`, as far as the model has them, and
            under the names of inner values from which decisions follow.
        device: Device it runs on.
        weights: Precision of the network's weights in an OpenVINO model; None in onnxruntime.
        file: The model's file, without folders; None for one in memory.
        raw_sha256: Hash of the raw `.onnx` in it.
        provenance: What is fused into the model; None for a raw one.
    """

    session: Session
    tensors: Mapping[str, str]
    device: str
    weights: str | None
    file: str | None
    raw_sha256: str
    provenance: Provenance | None

    @property
    def inputs(self) -> tuple[ModelInput, ...]:
        """What to feed."""
        return self.session.inputs

    @property
    def precision(self) -> str:
        """Precision that the network runs in."""
        return self.session.precision

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run a batch of any size.

        Args:
            feeds: Input name to array, batch first.

        Returns:
            Float32 values in the shapes that the model gives them, under `raw_score`, `raw_map` and the names of inner
            values.

        Raises:
            TargetError: The runtime fails on this batch.
        """
        outputs = run_in_batches(self.session, feeds)
        with np.errstate(over="ignore"):
            return {role: outputs[tensor].astype(np.float32) for role, tensor in self.tensors.items()}


def open_raw_values(
    model: str | Path | RawModel | FusedModel | OpenVINOModel,
    *,
    device: str | None = None,
    inference_precision: str | None = "f32",
    score_output: str | None = None,
    map_output: str | None = None,
    classes: bool = False,
) -> RawValues:
    """Load a model to read its raw scores and maps.

    Args:
        model: A raw model, a fused one or a converted one, or the path of an `.onnx` or `.xml`.
        device: OpenVINO device. An ONNX model is then converted as it would ship, its tail rewritten, with weights in
            float32. None runs an ONNX model as it is in onnxruntime, in float32, and a converted one on the CPU.
        inference_precision: Precision to run an OpenVINO model in: `f32`, `bf16`, `f16`; None leaves it to the device.
        score_output: Name of the raw score of a raw model, where shapes leave a choice.
        map_output: Name of its raw map.
        classes: Whether scores (N,C) and maps (N,C,H,W) of a raw model are taken.

    Raises:
        ModelError: The model cannot be used; `OutputRoleError` where score and map cannot be told apart.
        AlreadyFusedError: The model carries another tool's post-processing.
        ProvenanceError: An `.xml` was not written by pp_graph.
        TargetError: A runtime cannot load the model; `DeviceError` where the device is absent.
    """
    if isinstance(model, str | Path) and Path(model).suffix.lower() == ".xml":
        model = OpenVINOModel.load(model)
    if isinstance(model, OpenVINOModel):
        tensors = model.provenance.tensors
        session: Session = model.session(device or "CPU", precision=inference_precision, probes=list(tensors.values()))
        file = model.source.name if model.source is not None else model.provenance.raw.file
        return RawValues(
            session, tensors, device or "CPU", model.precision, file, model.provenance.raw.sha256, model.provenance
        )
    opened = RawModel.open(model.opened if isinstance(model, FusedModel) else model)
    provenance = Provenance.from_metadata(opened.model.metadata_props)
    file = None if opened.source is None else opened.source.name
    if device is not None:
        fused = (
            _fuse_nothing(opened, score_output, map_output) if provenance is None else FusedModel(opened, provenance)
        )
        converted = open_raw_values(
            convert(fused, device=device), device=device, inference_precision=inference_precision
        )
        return replace(converted, provenance=provenance, file=file)
    if inference_precision not in (None, "f32"):
        raise TargetError(
            f"Inference precision {inference_precision} was asked for an ONNX file without a device, expected f32: "
            "onnxruntime runs it, in float32. Name the OpenVINO device to run it on, with device=... (--device CPU)."
        )
    if provenance is not None:
        tensors = provenance.tensors
        session = OnnxSession(opened, probes=list(tensors.values()))
        return RawValues(session, tensors, "CPU", None, file, provenance.raw.sha256, provenance)
    refuse_foreign_decisions(opened)
    found = find_outputs(opened, score_output=score_output, map_output=map_output, classes=classes)
    roles = {RAW_SCORE: found.score, RAW_MAP: found.map}
    tensors = {role: info.name for role, info in roles.items() if info is not None}
    return RawValues(OnnxSession(opened), tensors, "CPU", None, file, opened.sha256, None)


def _fuse_nothing(raw: RawModel, score_output: str | None, map_output: str | None) -> FusedModel:
    """The model with its tail as it ships, and a post-processing that leaves its values as they are."""
    post = OneClassPostProcessor(normalize=False, threshold=False)
    return fuse(raw, post, score_output=score_output, map_output=map_output)
