"""Compare an exported artifact with the Anomalib model itself, run in torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from pp_graph.data import choose_batch_size
from pp_graph.integrations.anomalib.raw_export import evaluating, raw_form
from pp_graph.openvino import OpenVINOModel
from pp_graph.postprocessors import OUTPUT_NAMES
from pp_graph.raw_values import open_raw_values
from pp_graph.sessions import OnnxSession, run_in_batches
from pp_graph.verification.comparison import ErrorSum, FlipLists

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pp_graph.data import Images
    from pp_graph.fusion import Artifact
    from pp_graph.model import RawModel
    from pp_graph.steps import Array, DecidingStep
    from pp_graph.verification.report import ErrorReport, Flips

EXPORT_TOLERANCE: Final = 1e-2
"""Error of the raw export, as a part of the largest value, above which it is another function than the model. Measured
in torch 2.13: 1e-6 for PaDiM and STFPM, 2e-4 for PatchCore, whose distances to images that it remembers are the
roots of rounding errors."""


@dataclass(frozen=True)
class ModelDecision:
    """Decisions of one output compared with the Anomalib model's.

    Attributes:
        name: Name of the output, such as `pred_label`.
        total: Decisions compared.
        positive: Of these, how many the model calls anomalous.
        flips: Decisions of the artifact that differ from the model's, whatever the cause.
        rules: Flips by other rules: the model's own post-processor decides otherwise than ours about the same raw
            value. None where the model gives no such output. Values that are NaN are left out: Anomalib calls them
            normal, and `on_nan` says what we do.
        drift: Flips by rounding of the network: our post-processor decides otherwise about the raw value of the
            artifact than about that of the model in torch.
    """

    name: str
    total: int
    positive: int
    flips: int
    rules: Flips | None
    drift: Flips

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; flips as their count and margins, parts of the calibrated range."""
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
        images: Images compared.
        decisions: Labels and masks.
        errors: Differences of raw and normalised numbers; see `ErrorReport`.
        export_error: Largest difference between the raw ONNX export in onnxruntime and the model in torch, as a part of
            the largest raw value of the same output.
        incomparable: Outputs of which the model gives none, or one of another size.
    """

    images: int
    decisions: tuple[ModelDecision, ...]
    errors: tuple[ErrorReport, ...]
    export_error: float
    incomparable: tuple[str, ...]

    @property
    def rule_flips(self) -> int:
        """Flips because the model's own post-processor has other rules, over all outputs."""
        return sum(len(each.rules) for each in self.decisions if each.rules is not None)

    @property
    def drift_flips(self) -> int:
        """Flips by rounding of the network, over all outputs."""
        return sum(len(each.drift) for each in self.decisions)

    def to_dict(self) -> dict[str, Any]:
        """The comparison as plain JSON values; numbers that are not finite become None."""
        return {
            "images": self.images,
            "export_error": _finite(self.export_error),
            "errors": [
                {"name": each.name, "max_abs": _finite(each.max_abs), "max_scaled": _finite(each.max_scaled)}
                for each in self.errors
            ],
            "decisions": [each.to_dict() for each in self.decisions],
            "incomparable": list(self.incomparable),
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
        model: An `AnomalibModule`; it is put into evaluation for the while.
        raw: Its raw export.
        artifact: What was made from that.
        images: Images, as the model takes them in front of its pre-processor.
        device: OpenVINO device.
        inference_precision: Precision to run an OpenVINO model in; None leaves it to the device.
        batch_size: Images a batch; None for the default.

    Raises:
        DataError: The images do not fit.
        TargetError: A runtime cannot load or run a model.
    """
    shipped = artifact.session(device, precision=inference_precision)
    # onnxruntime runs an ONNX file; with a device, that would be converted first.
    where: Any = {"device": device, "inference_precision": inference_precision}
    inside = open_raw_values(artifact, **(where if isinstance(artifact, OpenVINOModel) else {}))
    exported = OnnxSession(raw)
    totals = ModelTotals(artifact)
    size = choose_batch_size(exported.inputs, batch_size)
    with evaluating(model):
        for start in range(0, len(images), size):
            feeds = images.read(start, min(start + size, len(images)), exported.inputs)
            (batch,) = feeds.values()
            own = run_torch(model, batch)
            with raw_form(model):
                raw_values = run_torch(model, batch)
            totals.add(
                own=own,
                own_raw=raw_values,
                exported=run_in_batches(exported, feeds),
                shipped=run_in_batches(shipped, feeds),
                shipped_raw=inside.run(feeds),
            )
    return totals.report()


def run_torch(model: Any, batch: Array) -> dict[str, Array]:
    """Run a model on a batch of images (N,C,H,W), on its device and in its mode. Returns outputs by name."""
    import torch

    parameter = next(model.parameters(), torch.zeros(()))
    with torch.no_grad():
        found = model(torch.tensor(batch).to(parameter.device, parameter.dtype))
    tensors = {name: getattr(found, name, None) for name in OUTPUT_NAMES}
    return {
        name: np.asarray(tensor.detach().cpu().float() if tensor.is_floating_point() else tensor.detach().cpu())
        for name, tensor in tensors.items()
        if tensor is not None
    }


@dataclass
class _Decided:
    step: DecidingStep | None
    total: int = 0
    positive: int = 0
    flips: int = 0
    rules: FlipLists = field(default_factory=FlipLists)
    drift: FlipLists = field(default_factory=FlipLists)


class ModelTotals:
    """Running totals over batches.

    Args:
        artifact: What is compared with the model.
    """

    def __init__(self, artifact: Artifact) -> None:
        self._provenance = artifact.provenance
        self._program = artifact.program
        self._names = [output.name for output in self._program.predicted]
        self._decided = {name: _Decided(step) for name, step in self._program.decisions.items()}
        self._errors: dict[str, ErrorSum] = {}
        self._export: dict[str, ErrorSum] = {}
        self._largest: dict[str, float] = {}
        self._images = 0
        self._incomparable: set[str] = set()

    def add(
        self,
        *,
        own: Mapping[str, Array],
        own_raw: Mapping[str, Array],
        exported: Mapping[str, Array],
        shipped: Mapping[str, Array],
        shipped_raw: Mapping[str, Array],
    ) -> None:
        """Count a batch.

        Args:
            own: What the model itself returns, by the names of `OUTPUT_NAMES`.
            own_raw: What it returns without its post-processor.
            exported: What the raw export returns, by the names of its outputs.
            shipped: What the artifact returns.
            shipped_raw: The artifact's raw values, by role.
        """
        records = self._provenance.raw.read
        raw = {}
        for role, record in records.items():
            # The exporter names outputs as the model does.
            values = own_raw[record.name].reshape(exported[record.name].shape)
            raw[role] = values
            self._export.setdefault(role, ErrorSum()).add(exported[record.name], values)
            finite = np.abs(values, where=np.isfinite(values), out=np.zeros_like(values))
            self._largest[role] = max(self._largest.get(role, 0.0), float(finite.max(initial=0.0)))
            self._errors.setdefault(role, ErrorSum()).add(shipped_raw[role], values)
        on_own = self._program.run(raw)
        on_shipped = self._program.run({role: shipped_raw[role] for role in records})
        found = self._provenance.unpacked(shipped)
        start, self._images = self._images, self._images + len(next(iter(raw.values())))
        for name in self._names:
            if name not in found:
                continue
            theirs = own.get(name)
            if theirs is not None and theirs.size == found[name].size:
                theirs = theirs.reshape(found[name].shape)
            else:
                self._incomparable.add(name)
                theirs = None
            if name in self._decided:
                self._add_decisions(name, theirs, on_own, on_shipped, found[name], start)
            elif theirs is not None:
                self._errors.setdefault(name, ErrorSum()).add(found[name], theirs)

    def _add_decisions(
        self,
        name: str,
        theirs: Array | None,
        on_own: Mapping[str, Array],
        on_shipped: Mapping[str, Array],
        found: Array,
        start: int,
    ) -> None:
        decided = self._decided[name]
        ours = on_own[name] != 0
        decided.total += ours.size
        expected = ours if theirs is None else theirs != 0
        decided.positive += int(np.count_nonzero(expected))
        decided.flips += int(((found != 0) != expected).sum())
        decided.drift.add((on_shipped[name] != 0) != ours, on_own, decided.step, start)
        if theirs is not None:
            differs = expected != ours
            values = None if decided.step is None else on_own[decided.step.source]
            if values is not None and values.shape == differs.shape:
                differs &= ~np.isnan(values)
            decided.rules.add(differs, on_own, decided.step, start)

    def report(self) -> ModelComparison:
        """The totals."""
        return ModelComparison(
            images=self._images,
            decisions=tuple(
                ModelDecision(
                    name=name,
                    total=each.total,
                    positive=each.positive,
                    flips=each.flips,
                    rules=None if name in self._incomparable else each.rules.report(),
                    drift=each.drift.report(),
                )
                for name, each in self._decided.items()
            ),
            errors=tuple(error.report(name) for name, error in self._errors.items()),
            export_error=max(
                (error.maximum / (self._largest[role] or 1.0) for role, error in self._export.items()), default=0.0
            ),
            incomparable=tuple(name for name in self._names if name in self._incomparable),
        )


def _finite(number: float) -> float | None:
    return number if np.isfinite(number) else None
