"""Running totals over batches: errors of numbers, and flipped decisions by cause."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pp_graph.data.boxes import DETECTION_PARTS
from pp_graph.errors import TargetError
from pp_graph.plausibility import PredictionChecks
from pp_graph.program import DETECTION_OUTPUTS, check_packed, detects
from pp_graph.steps import ChoosingStep, DecidingStep
from pp_graph.verification.detections import DetectionComparison
from pp_graph.verification.parts import BoundaryReport, DecisionReport, FlipLimit, Flips, nowhere
from pp_graph.verification.report import LARGE_DRIFT, TOLERANCE, VerificationReport
from pp_graph.verification.totals import ErrorSum, FlipLists, Totals

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pp_graph.fusion import Provenance
    from pp_graph.program import Predictions, Program
    from pp_graph.steps import Array
    from pp_graph.verification.detections import DetectionReport


@dataclass(frozen=True)
class Side:
    """Raw values with intermediates, what the NumPy reference computes from them, and outputs passed through."""

    raw: dict[str, Array]
    values: dict[str, Array]
    predictions: Predictions
    passed_through: dict[str, Array]


def check_form(name: str, found: Mapping[str, Array], expected: Array) -> None:
    """Raise `TargetError` if an output is missing, or has a different shape or element type than expected."""
    if name not in found:
        raise TargetError(
            f"The artifact has no output '{name}', which its provenance lists. It was changed after it was "
            "written: convert the fused model again."
        )
    if found[name].shape != expected.shape or found[name].dtype != expected.dtype:
        raise TargetError(
            f"Output '{name}' of the artifact is {found[name].dtype} of shape {found[name].shape}, expected "
            f"{expected.dtype} of shape {expected.shape}. It was changed after it was written: convert the fused model "
            "again."
        )


def checked_predictions(provenance: Provenance, outputs: Mapping[str, Array]) -> dict[str, Array]:
    """Return an artifact's outputs, unpacked.

    Raises:
        PostProcessorError: A packed tensor is invalid; see `check_packed`.
    """
    for output in provenance.outputs:
        if output.channels and output.name in outputs:
            check_packed(outputs[output.name], output)
    return provenance.unpacked(outputs)


def _only_cutoff(step: DecidingStep | ChoosingStep | None) -> float | None:
    if not isinstance(step, DecidingStep) or step.cutoffs.size != 1 or np.isnan(step.cutoffs).all():
        return None
    return float(step.cutoffs.ravel()[0])


def _of_detections(decision: DecisionReport, detections: DetectionReport) -> DecisionReport:
    """Count lost, gained and otherwise classified detections as flips of classes, and pixels of their masks."""
    if decision.name == "masks":
        where = np.array([image for image, count in detections.drift.mask_flips for _ in range(count)], np.int64)
        none = np.full(len(where), np.nan)
        pixels = Flips(where, np.zeros(len(where), np.int64), none.astype(np.float32), none, nowhere(len(where)))
        flips = len(decision.postprocessing) + len(where)
        return replace(decision, total=detections.drift.mask_pixels, flips=flips, drift=pixels)
    if decision.name != "classes":
        return decision
    changes = detections.drift.changes
    drift = Flips(
        np.array([change.image for change in changes], np.int64),
        np.zeros(len(changes), np.int64),
        np.array([change.score for change in changes], np.float32),
        np.array([abs(change.distance) for change in changes], np.float64),
        nowhere(len(changes)),
    )
    flips = len(decision.postprocessing) + len(changes)
    return replace(decision, total=detections.drift.expected, flips=flips, drift=drift, detections=True)


class Comparison:
    """Running totals over batches.

    Attributes:
        totals: The totals so far, without what they are totals of.
    """

    def __init__(self, provenance: Provenance, program: Program) -> None:
        self._provenance = provenance
        self._program = program
        self._steps = program.decisions
        maps = [role for role, value in program.signature.items() if value.per_pixel]
        self._map = maps[0] if maps else None
        self.totals = Totals(
            largest=dict.fromkeys(program.signature.narrow, 0.0),
            checks=PredictionChecks(program.predicted),
            detections=DetectionComparison(provenance) if detects(program.predicted) else None,
            flips=dict.fromkeys(self._steps, 0),
            total=dict.fromkeys(self._steps, 0),
            positive=dict.fromkeys(self._steps, 0),
            postprocessing={name: FlipLists() for name in self._steps},
            drift={name: FlipLists() for name in self._steps},
        )
        statistics = provenance.statistics
        self._has_range = statistics is not None and any(
            level.min is not None and level.max is not None for level in (statistics.image, statistics.pixel)
        )

    def add_preprocessed(self, found: Array, expected: Array) -> None:
        """Add a batch of frames, preprocessed by the artifact and by the NumPy reference."""
        self.totals.preprocessing = self.totals.preprocessing or ErrorSum()
        self.totals.preprocessing.add_relative(found, expected)

    def add(self, reference: Side, own: Side, shipped: Mapping[str, Array], start: int) -> None:
        """Add a batch.

        Args:
            reference: Values of the raw model in float32.
            own: The artifact's own raw values, with what the NumPy reference computes from them.
            shipped: Outputs of the artifact.
            start: Index of the first image.

        Raises:
            TargetError: An output is missing, or of a different shape or element type.
        """
        signature = self._program.signature
        listed = {name for name, value in signature.items() if value.rank_known and "N" not in value.axes}
        raw = {name: own.raw[name][None] if name in listed else own.raw[name] for name in signature}
        self.totals.checks.add({**shipped, **raw})
        if self._map is not None:
            # One image of a batch is enough to detect a quantised map; sorting all takes longer than the model.
            count = len(np.unique(own.raw[self._map][:1]))
            self.totals.distinct = count if self.totals.distinct is None else min(self.totals.distinct, count)
        for step in self._program.steps:
            if step.target in self._provenance.intermediates:
                # Compare the artifact's intermediate with the NumPy reference on the artifact's own inputs.
                computed = step.reference(*(own.values[name] for name in step.reads))
                self.totals.own_errors.setdefault(step.target, ErrorSum()).add_relative(own.raw[step.target], computed)
        for role in self.totals.largest:
            finite = own.raw[role][np.isfinite(own.raw[role])]
            self.totals.largest[role] = max(self.totals.largest[role], float(np.abs(finite).max(initial=0.0)))
        for role, values in reference.raw.items():
            # A list of one image is as long as what was found, so that places of two lists do not correspond.
            if role in listed:
                continue
            self.totals.errors.setdefault(role, ErrorSum()).add(own.raw[role], values)
        for name, values in reference.passed_through.items():
            # Outputs named like a role were compared above, and unpacked predictions are not raw outputs.
            kept = name in shipped and name not in reference.raw and name not in reference.predictions
            if kept and isinstance(values, np.ndarray) and values.dtype.kind in "fiub" and not listed:
                self.totals.errors.setdefault(name, ErrorSum()).add(shipped[name], values)
        self._add_predictions(reference, own, shipped, start)
        if self.totals.detections is not None:
            self.totals.detections.add(reference.predictions, own.predictions, shipped, start)

    def _add_predictions(self, reference: Side, own: Side, shipped: Mapping[str, Array], start: int) -> None:
        for name, expected in reference.predictions.items():
            on_own = own.predictions[name]
            check_form(name, shipped, expected)
            found = shipped[name]
            # A detection that is lost moves all that follow, so lists are not compared place by place.
            listed = self.totals.detections is not None and name in (*DETECTION_OUTPUTS, *DETECTION_PARTS)
            if name not in self._steps:
                if not listed:
                    self.totals.errors.setdefault(name, ErrorSum()).add(found, expected)
                self.totals.own_errors.setdefault(name, ErrorSum()).add(found, on_own)
                continue
            decider = self._steps[name]
            if listed:
                self.totals.postprocessing[name].add(found != on_own, own.values, None, start)
                continue
            self.totals.total[name] += expected.size
            if self._program.types[name].dtype not in ("int32", "int64"):
                self.totals.positive[name] += int(np.count_nonzero(expected))
            self.totals.flips[name] += int((found != expected).sum())
            moved = isinstance(decider, ChoosingStep) and decider.target != name
            axes = self._program.types[name].axes
            for flips, flipped, values in (
                (self.totals.postprocessing, found != on_own, own.values),
                (self.totals.drift, on_own != expected, reference.values),
            ):
                flips[name].add(flipped, values, decider, start, axes=axes, moved=moved)

    def report(
        self,
        *,
        boundary: BoundaryReport,
        artifact: str,
        reference: str,
        names: tuple[str, ...],
        island: dict[str, str],
        raw_matches: bool,
        max_label_flips: FlipLimit | None,
        max_pixel_flips: FlipLimit | None,
        warnings: tuple[str, ...],
        notes: tuple[str, ...],
    ) -> VerificationReport:
        """Return the totals as a report."""
        detections = None if self.totals.detections is None else self.totals.detections.report()
        decisions = tuple(
            DecisionReport(
                name=name,
                per_pixel=self._program.types[name].per_pixel,
                total=self.totals.total[name],
                positive=self.totals.positive[name],
                compare=step.target if isinstance(step, DecidingStep) else None,
                cutoff=_only_cutoff(step),
                scale=step.scale if isinstance(step, DecidingStep) else 1.0,
                classes=isinstance(step, ChoosingStep),
                flips=self.totals.flips[name],
                postprocessing=self.totals.postprocessing[name].report(),
                drift=self.totals.drift[name].report(),
            )
            for name, step in self._steps.items()
        )
        if detections is not None:
            decisions = tuple(_of_detections(each, detections) for each in decisions)
            warnings = (*warnings, *detections.warnings)
        return VerificationReport(
            provenance=self._provenance,
            boundary=boundary,
            artifact=artifact,
            reference=reference,
            images=len(names),
            image_names=names,
            errors=tuple(error.report(name) for name, error in self.totals.errors.items()),
            postprocessing_errors=tuple(error.report(name) for name, error in self.totals.own_errors.items()),
            decisions=decisions,
            island=island,
            distinct_map_values=self.totals.distinct,
            preprocessing_error=None if self.totals.preprocessing is None else self.totals.preprocessing.scaled,
            raw_matches=raw_matches,
            max_label_flips=max_label_flips,
            max_pixel_flips=max_pixel_flips,
            tolerance=self._tolerance(),
            warnings=(*warnings, *self.totals.checks.warnings(), *self._large_drift()),
            notes=notes,
            detections=detections,
        )

    @property
    def _deciding(self) -> list[DecidingStep]:
        return [step for step in self._steps.values() if isinstance(step, DecidingStep)]

    def _tolerance(self) -> float:
        """Largest error of a number that counts as rounding.

        Runtimes may normalise a float16 or bfloat16 value before they round it. Decisions do not depend on that.
        """
        found = TOLERANCE
        for role, kind in self._program.signature.narrow.items():
            half_unit = 2.0**-9 if kind == "bfloat16" else 2.0**-11
            scales = [step.scale for step in self._deciding if step.source == role]
            found = max(found, TOLERANCE + half_unit * self.totals.largest[role] / min(scales, default=1.0))
        return found

    def _large_drift(self) -> list[str]:
        """Describe raw values that drift by more than a hundredth of the calibrated range."""
        found = []
        for name, error in self.totals.errors.items():
            steps = [step for step in self._deciding if step.source == name]
            if steps and self._has_range and error.maximum > LARGE_DRIFT * steps[0].scale:
                share = 100 * error.maximum / steps[0].scale
                if not np.isfinite(error.maximum):
                    found.append(f"Values of '{name}' are not finite, or overflow, so their drift cannot be measured.")
                    continue
                found.append(
                    f"Drift of '{name}' is up to {error.maximum:.3g}, {share:.2g} % of the calibrated range. "
                    "Decisions about other images may flip: use a higher precision, or calibrate on this artifact."
                )
        return found
