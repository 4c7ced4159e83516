"""Compare an exported artifact with the Anomalib model itself, run in torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pp_graph.data import choose_batch_size
from pp_graph.errors import TargetError
from pp_graph.integrations.anomalib.raw_export import without_post_processor
from pp_graph.integrations.exporting import evaluating
from pp_graph.openvino import OpenVINOModel
from pp_graph.postprocessors import OUTPUT_NAMES
from pp_graph.raw_values import open_raw_values
from pp_graph.sessions import OnnxSession, run_in_batches
from pp_graph.verification.totals import ErrorSum, FlipLists

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pp_graph.data import Images
    from pp_graph.fusion import Artifact
    from pp_graph.model import RawModel
    from pp_graph.steps import Array, ChoosingStep, DecidingStep
    from pp_graph.verification.parts import ErrorReport, Flips

EXPORT_TOLERANCE: Final = 1e-2
"""Largest error of the raw export to accept, as a fraction of the largest value. Measured with torch 2.13: 1e-6 for
PaDiM and STFPM, 2e-4 for PatchCore, which takes square roots of rounding errors for images it has memorised."""
_BATCH_TOLERANCE: Final = 1e-4
"""Largest error of a batch of another size than the exported one, as a fraction of the largest value."""
_OTHER_BATCHES: Final = (1, 3)
"""Numbers of images that Anomalib does not export with."""


@dataclass(frozen=True)
class ModelDecision:
    """Decisions of one output compared with the Anomalib model's.

    Attributes:
        name: Name of the output, such as `pred_label`.
        total: Number of decisions compared.
        positive: Number of these that the model calls anomalous.
        flips: Decisions of the artifact that differ from the model's, for any reason.
        rules: Flips by other rules: for the same raw value, the model's post-processor decides differently from ours.
            None if the model lacks this output. NaN values are excluded: Anomalib calls them normal, and `on_nan`
            chooses for ours.
        drift: Flips by rounding of the network: our post-processor decides differently for the raw value of the
            artifact and for that of the model in torch.
    """

    name: str
    total: int
    positive: int
    flips: int
    rules: Flips | None
    drift: Flips

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values: flips as their count and margins, which are fractions of the calibrated range."""
        return {
            "name": self.name,
            "total": self.total,
            "positive": self.positive,
            "flips": self.flips,
            "rules": None if self.rules is None else self.rules.summary(),
            "drift": self.drift.summary(),
        }


@dataclass(frozen=True)
class ModelComparison:
    """Comparison of an artifact with the Anomalib model in torch.

    Attributes:
        images: Number of images.
        decisions: Labels and masks.
        errors: Differences of raw and normalised values; see `ErrorReport`.
        export_error: Largest difference between the raw ONNX export in onnxruntime and the model in torch, as a
            fraction of the largest raw value of the same output.
        incomparable: Outputs that the model lacks or returns in another size.
        rule_errors: Differences of scores and maps between the model's post-processor and ours, on the same raw values;
            images with raw values that are not finite are left out. `max_scaled` is a fraction of the output's scale: 1
            if it is normalised, else its largest absolute value.
    """

    images: int
    decisions: tuple[ModelDecision, ...]
    errors: tuple[ErrorReport, ...]
    export_error: float
    incomparable: tuple[str, ...]
    rule_errors: tuple[ErrorReport, ...] = ()

    @property
    def rule_flips(self) -> int:
        """Number of flips by other rules, over all outputs."""
        return sum(len(decision.rules) for decision in self.decisions if decision.rules is not None)

    @property
    def drift_flips(self) -> int:
        """Number of flips by rounding of the network, over all outputs."""
        return sum(len(decision.drift) for decision in self.decisions)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; None for numbers that are not finite."""
        return {
            "images": self.images,
            "export_error": _finite(self.export_error),
            "errors": [
                {"name": error.name, "max_abs": _finite(error.max_abs), "max_scaled": _finite(error.max_scaled)}
                for error in self.errors
            ],
            "decisions": [decision.to_dict() for decision in self.decisions],
            "incomparable": list(self.incomparable),
            "rule_errors": [
                {"name": error.name, "max_abs": _finite(error.max_abs), "max_scaled": _finite(error.max_scaled)}
                for error in self.rule_errors
            ],
        }


def compare_with_model(
    model: Any,
    raw: RawModel,
    artifact: Artifact,
    images: Images,
    *,
    device: str,
    inference_precision: str | None,
    batch_size: int | None,
) -> ModelComparison:
    """Run a model in torch and its artifact on the same images.

    Args:
        model: An `AnomalibModule`; it runs in evaluation mode and is not changed.
        raw: Its raw export.
        artifact: The artifact made from the raw export.
        images: Images before the model's pre-processor.
        device: OpenVINO device.
        inference_precision: Precision to run an OpenVINO model in; None for the device's default.
        batch_size: Images per batch; None for the default.

    Raises:
        DataError: The images do not fit.
        TargetError: A runtime cannot load or run a model.
    """
    artifact_session = artifact.session(device, precision=inference_precision)
    # Without a device, onnxruntime runs a fused ONNX model; with one, it would be converted first.
    target: Any = {"device": device, "inference_precision": inference_precision}
    artifact_raw_values = open_raw_values(artifact, **(target if isinstance(artifact, OpenVINOModel) else {}))
    export_session = OnnxSession(raw)
    totals = ModelTotals(artifact)
    size = choose_batch_size(export_session.inputs, batch_size)
    with evaluating(model):
        for start in range(0, len(images), size):
            feeds = images.read(start, min(start + size, len(images)), export_session.inputs)
            (batch,) = feeds.values()
            model_outputs = _run_torch(model, batch)
            with without_post_processor(model):
                model_raw = _run_torch(model, batch)
            totals.add(
                model_outputs=model_outputs,
                model_raw=model_raw,
                export_raw=run_in_batches(export_session, feeds),
                artifact_outputs=run_in_batches(artifact_session, feeds),
                artifact_raw=artifact_raw_values.run(feeds),
            )
    return totals.report()


def _run_torch(model: Any, batch: Array) -> dict[str, Array]:
    """Run a model on a batch of images (N,C,H,W), on its device and in its dtype. Return its outputs by name."""
    import torch

    parameter = next(model.parameters(), torch.zeros(()))
    outputs = model(torch.tensor(batch).to(parameter.device, parameter.dtype))
    tensors = {name: getattr(outputs, name, None) for name in OUTPUT_NAMES}
    return {
        name: np.asarray(tensor.detach().cpu().float() if tensor.is_floating_point() else tensor.detach().cpu())
        for name, tensor in tensors.items()
        if tensor is not None
    }


def batch_is_open(model: Any, raw: RawModel, size: tuple[int, int]) -> bool:
    """True if a raw export computes batches of other sizes as the model in torch does. Call it inside `evaluating`.

    A symbolic first axis is not enough: a loop over the images that the exporter unrolled fixes the batch, too.

    Args:
        model: An `AnomalibModule`.
        raw: Its raw export.
        size: Height and width of the images.
    """
    shape = raw.inputs[0].shape
    if not shape or isinstance(shape[0], int):
        return False
    session = OnnxSession(raw)
    rng = np.random.default_rng(0)
    for count in _OTHER_BATCHES:
        batch = rng.random((count, 3, *size), np.float32)
        with without_post_processor(model):
            expected = _run_torch(model, batch)
        try:
            found = session.run({raw.inputs[0].name: batch})
        except TargetError:
            return False
        for name, values in found.items():
            wanted = expected.get(name)
            error = ErrorSum()
            if wanted is None or wanted.size != values.size:
                return False
            error.add_relative(values.reshape(wanted.shape), wanted)
            if error.scaled > _BATCH_TOLERANCE:
                return False
    return True


@dataclass
class _DecisionTotals:
    step: DecidingStep | ChoosingStep | None
    total: int = 0
    positive: int = 0
    flips: int = 0
    rules: FlipLists = field(default_factory=FlipLists)
    drift: FlipLists = field(default_factory=FlipLists)


class ModelTotals:
    """Totals of a comparison over batches."""

    def __init__(self, artifact: Artifact) -> None:
        self._provenance = artifact.provenance
        self._program = artifact.program
        self._names = [output.name for output in self._program.predicted]
        self._decisions = {name: _DecisionTotals(step) for name, step in self._program.decisions.items()}
        self._errors: dict[str, ErrorSum] = {}
        self._export_errors: dict[str, ErrorSum] = {}
        self._rule_errors: dict[str, ErrorSum] = {}
        self._largest: dict[str, float] = {}
        self._normalizes = bool(self._provenance.parameters.get("normalize"))
        self._images = 0
        self._incomparable: set[str] = set()

    def add(
        self,
        *,
        model_outputs: Mapping[str, Array],
        model_raw: Mapping[str, Array],
        export_raw: Mapping[str, Array],
        artifact_outputs: Mapping[str, Array],
        artifact_raw: Mapping[str, Array],
    ) -> None:
        """Count a batch.

        Args:
            model_outputs: Outputs of the model in torch, by the names of `OUTPUT_NAMES`.
            model_raw: Its outputs without its post-processor.
            export_raw: Outputs of the raw export, by output name.
            artifact_outputs: Outputs of the artifact.
            artifact_raw: Raw values of the artifact, by role.
        """
        records = self._provenance.raw.read
        raw = {}
        for role, record in records.items():
            # The exporter keeps the model's output names.
            values = model_raw[record.name].reshape(export_raw[record.name].shape)
            raw[role] = values
            self._export_errors.setdefault(role, ErrorSum()).add(export_raw[record.name], values)
            self._measure(role, values)
            self._errors.setdefault(role, ErrorSum()).add(artifact_raw[role], values)
        reference_on_model = self._program.run(raw)
        reference_on_artifact = self._program.run({role: artifact_raw[role] for role in records})
        found = self._provenance.unpacked(artifact_outputs)
        start, self._images = self._images, self._images + len(next(iter(raw.values())))
        finite = np.all([np.isfinite(values).reshape(len(values), -1).all(axis=1) for values in raw.values()], axis=0)
        for name in self._names:
            if name not in found:
                continue
            from_model = model_outputs.get(name)
            if from_model is not None and from_model.size == found[name].size:
                from_model = from_model.reshape(found[name].shape)
            else:
                self._incomparable.add(name)
                from_model = None
            if name in self._decisions:
                self._add_decisions(name, from_model, reference_on_model, reference_on_artifact, found[name], start)
            elif from_model is not None:
                self._errors.setdefault(name, ErrorSum()).add(found[name], from_model)
                # Anomalib passes NaN on, and ours decides about it.
                own = reference_on_model[name].reshape(from_model.shape)
                self._measure(name, own)
                self._rule_errors.setdefault(name, ErrorSum()).add(from_model[finite], own[finite])

    def _measure(self, name: str, values: Array) -> None:
        """Keep the largest absolute value of an output or role."""
        finite = np.abs(values, where=np.isfinite(values), out=np.zeros_like(values))
        self._largest[name] = max(self._largest.get(name, 0.0), float(finite.max(initial=0.0)))

    def _rule_error(self, name: str, error: ErrorSum) -> ErrorReport:
        scale = 1.0 if self._normalizes else self._largest[name] or 1.0
        return replace(error.report(name), max_scaled=error.maximum / scale)

    def _add_decisions(
        self,
        name: str,
        from_model: Array | None,
        reference_on_model: Mapping[str, Array],
        reference_on_artifact: Mapping[str, Array],
        found: Array,
        start: int,
    ) -> None:
        totals = self._decisions[name]
        reference = reference_on_model[name] != 0
        totals.total += reference.size
        expected = reference if from_model is None else from_model != 0
        totals.positive += int(np.count_nonzero(expected))
        totals.flips += int(((found != 0) != expected).sum())
        totals.drift.add((reference_on_artifact[name] != 0) != reference, reference_on_model, totals.step, start)
        if from_model is not None:
            differs = expected != reference
            values = None if totals.step is None else reference_on_model[totals.step.source]
            if values is not None and values.shape == differs.shape:
                differs &= ~np.isnan(values)
            totals.rules.add(differs, reference_on_model, totals.step, start)

    def report(self) -> ModelComparison:
        """Return the totals."""
        return ModelComparison(
            images=self._images,
            decisions=tuple(
                ModelDecision(
                    name=name,
                    total=totals.total,
                    positive=totals.positive,
                    flips=totals.flips,
                    rules=None if name in self._incomparable else totals.rules.report(),
                    drift=totals.drift.report(),
                )
                for name, totals in self._decisions.items()
            ),
            errors=tuple(error.report(name) for name, error in self._errors.items()),
            export_error=max(
                (error.maximum / (self._largest[role] or 1.0) for role, error in self._export_errors.items()),
                default=0.0,
            ),
            incomparable=tuple(name for name in self._names if name in self._incomparable),
            rule_errors=tuple(self._rule_error(name, error) for name, error in self._rule_errors.items()),
        )


def _finite(number: float) -> float | None:
    return number if np.isfinite(number) else None
