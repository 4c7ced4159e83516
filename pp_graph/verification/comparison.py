"""Running totals over batches: how far numbers are off, which decisions differ, and whose fault it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pp_graph.errors import TargetError
from pp_graph.program import check_packed
from pp_graph.verification.report import BoundaryReport, DecisionReport, ErrorReport, Flips, VerificationReport

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pp_graph.fusion import Provenance
    from pp_graph.program import Predictions, Program
    from pp_graph.steps import Array, DecidingStep


@dataclass(frozen=True)
class Side:
    """Raw values and intermediates, all that the reference makes of them, and outputs that nothing was done to."""

    raw: dict[str, Array]
    values: dict[str, Array]
    predictions: Predictions
    passed_through: dict[str, Array]


def check_form(name: str, found: Mapping[str, Array], expected: Array) -> None:
    """Make sure that an output is there, of the promised shape and type.

    Raises:
        TargetError: It is not.
    """
    if name not in found:
        raise TargetError(
            f"The artifact has no output '{name}', which its provenance promises. It was changed after it was "
            "written: convert the fused model again."
        )
    if found[name].shape != expected.shape or found[name].dtype != expected.dtype:
        raise TargetError(
            f"Output '{name}' of the artifact is {found[name].dtype} of shape {found[name].shape}, expected "
            f"{expected.dtype} of shape {expected.shape}. It was changed after it was written: convert the fused model "
            "again."
        )


def checked_predictions(provenance: Provenance, outputs: Mapping[str, Array]) -> dict[str, Array]:
    """An artifact's outputs under their own names; of a packed one, after a look at all that it holds.

    Raises:
        PostProcessorError: The packed tensor is not what it promises.
    """
    for output in provenance.outputs:
        if output.channels and output.name in outputs:
            check_packed(outputs[output.name], output)
    return provenance.unpacked(outputs)


@dataclass
class ErrorSum:
    """How far numbers are off, over batches; see `ErrorReport`."""

    maximum: float = 0.0
    total: float = 0.0
    scaled: float = 0.0
    count: int = 0

    def add_relative(self, found: Array, expected: Array) -> None:
        """Count the differences of a batch as parts of its largest number; where one is not finite, none."""
        both = np.isfinite(found) & np.isfinite(expected)
        wanted = np.where(both, expected, 0).astype(np.float64)
        difference = np.abs(np.where(both, found, 0).astype(np.float64) - wanted)
        self.maximum = max(self.maximum, float(difference.max(initial=0.0)))
        largest = max(float(np.abs(wanted).max(initial=0.0)), float(np.finfo(np.float32).tiny))
        self.scaled = max(self.scaled, float(difference.max(initial=0.0)) / largest)
        self.total += float(difference.sum())
        self.count += difference.size

    def add(self, found: Array, expected: Array) -> None:
        """Count the differences of a batch."""
        self.count += found.size
        if np.array_equal(found, expected):
            return
        with np.errstate(invalid="ignore", over="ignore"):
            difference = np.abs(np.subtract(found, expected, dtype=np.float64))
            total = float(difference.sum())
        if not np.isfinite(total):
            same = (found == expected) | (np.isnan(found) & np.isnan(expected))
            difference = np.where(same, 0.0, np.where(np.isnan(difference), np.inf, difference))
            total = float(difference.sum())
            expected = np.nan_to_num(expected.astype(np.float64), nan=1.0)
        self.maximum = max(self.maximum, float(difference.max(initial=0.0)))
        self.total += total
        with np.errstate(invalid="ignore"):
            scaled = float((difference / np.maximum(1.0, np.abs(expected))).max(initial=0.0))
        # Infinity by infinity: one of the two is not what it should be.
        self.scaled = max(self.scaled, np.inf if np.isnan(scaled) else scaled)

    def report(self, name: str) -> ErrorReport:
        """The totals, under the name of an output."""
        return ErrorReport(name, self.maximum, self.total / max(self.count, 1), self.scaled, self.count)


@dataclass
class FlipLists:
    """Decisions that came out differently, over batches; see `Flips`."""

    image: list[npt.NDArray[np.int64]] = field(default_factory=list)
    pixel: list[npt.NDArray[np.int64]] = field(default_factory=list)
    raw_value: list[npt.NDArray[np.float32]] = field(default_factory=list)
    margin: list[npt.NDArray[np.float64]] = field(default_factory=list)

    def add(self, flipped: Array, values: Mapping[str, Array], step: DecidingStep | None, start: int) -> None:
        """Note where decisions of a batch differ, and the values that they were about."""
        if not flipped.any():
            return
        flat = flipped.reshape(len(flipped), -1)
        image, pixel = np.nonzero(flat)
        decided = None if step is None else values[step.source]
        if step is None or decided is None or decided.shape != flipped.shape:
            raw_value = margin = np.full(len(image), np.nan)
        else:
            raw_value = decided.reshape(flat.shape)[image, pixel]
            margin = _margins(decided, step).reshape(flat.shape)[image, pixel]
        self.image.append(image + start)
        self.pixel.append(pixel)
        self.raw_value.append(raw_value.astype(np.float32))
        self.margin.append(margin)

    def report(self) -> Flips:
        """All that were noted."""
        return Flips(
            np.concatenate(self.image or [np.empty(0, np.int64)]),
            np.concatenate(self.pixel or [np.empty(0, np.int64)]),
            np.concatenate(self.raw_value or [np.empty(0, np.float32)]),
            np.concatenate(self.margin or [np.empty(0, np.float64)]),
        )


def _margins(values: Array, step: DecidingStep) -> npt.NDArray[np.float64]:
    """Distance of each value from its cutoff; infinite where nothing is anomalous."""
    cutoffs = step.cutoffs.astype(np.float64)
    with np.errstate(invalid="ignore"):
        margins: npt.NDArray[np.float64] = np.abs(values.astype(np.float64) - cutoffs) / step.scale
    return np.where(np.isnan(cutoffs), np.inf, margins)


def _only_cutoff(step: DecidingStep | None) -> float | None:
    if step is None or step.cutoffs.size != 1 or np.isnan(step.cutoffs).all():
        return None
    return float(step.cutoffs.ravel()[0])


class Comparison:
    """Running totals over batches."""

    def __init__(self, provenance: Provenance, program: Program) -> None:
        self._provenance = provenance
        self._program = program
        self._steps = program.decisions
        maps = [role for role, value in program.signature.items() if value.per_pixel]
        self._map = maps[0] if maps else None
        self._errors: dict[str, ErrorSum] = {}
        self._own_errors: dict[str, ErrorSum] = {}
        self._distinct: int | None = None
        self._preprocessing: ErrorSum | None = None
        self._flips = dict.fromkeys(self._steps, 0)
        self._total = dict.fromkeys(self._steps, 0)
        self._positive = dict.fromkeys(self._steps, 0)
        self._postprocessing = {name: FlipLists() for name in self._steps}
        self._drift = {name: FlipLists() for name in self._steps}

    def add_preprocessed(self, found: Array, expected: Array) -> None:
        """Count what the artifact's preprocessing makes of a batch of frames, against the same by hand."""
        self._preprocessing = self._preprocessing or ErrorSum()
        self._preprocessing.add_relative(found, expected)

    def add(self, reference: Side, own: Side, shipped: Mapping[str, Array], start: int) -> None:
        """Count a batch.

        Args:
            reference: The raw model in float32.
            own: The artifact's own raw values.
            shipped: What the artifact returns.
            start: Index of the first image.

        Raises:
            TargetError: An output is missing or of another form.
        """
        if self._map is not None:
            # One image of a batch tells a map that was quantised; sorting all would take longer than the model.
            count = len(np.unique(own.raw[self._map][:1]))
            self._distinct = count if self._distinct is None else min(self._distinct, count)
        for step in self._program.steps:
            if step.target in self._provenance.intermediates:
                # What the artifact's own step makes of its own values, before anything is decided about it.
                computed = step.reference(*(own.values[name] for name in step.reads))
                self._own_errors.setdefault(step.target, ErrorSum()).add_relative(own.raw[step.target], computed)
        for role, values in reference.raw.items():
            self._errors.setdefault(role, ErrorSum()).add(own.raw[role], values)
        for name, values in reference.passed_through.items():
            # A kept output with the name of a role is that role's raw value, and compared above; a prediction that came
            # packed is no raw output of that name.
            kept = name in shipped and name not in reference.raw and name not in reference.predictions
            if kept and isinstance(values, np.ndarray) and values.dtype.kind in "fiub":
                self._errors.setdefault(name, ErrorSum()).add(shipped[name], values)
        for name, expected in reference.predictions.items():
            on_own = own.predictions[name]
            check_form(name, shipped, expected)
            found = shipped[name]
            if name in self._steps:
                self._add_decisions(name, found, expected, on_own, reference.values, own.values, start)
            else:
                self._errors.setdefault(name, ErrorSum()).add(found, expected)
                self._own_errors.setdefault(name, ErrorSum()).add(found, on_own)

    def _add_decisions(
        self,
        name: str,
        found: Array,
        expected: Array,
        on_own: Array,
        reference_values: Mapping[str, Array],
        own_values: Mapping[str, Array],
        start: int,
    ) -> None:
        step = self._steps[name]
        self._total[name] += expected.size
        self._positive[name] += int(np.count_nonzero(expected))
        self._flips[name] += int((found != expected).sum())
        self._postprocessing[name].add(found != on_own, own_values, step, start)
        self._drift[name].add(on_own != expected, reference_values, step, start)

    def report(
        self,
        *,
        boundary: BoundaryReport,
        artifact: str,
        reference: str,
        names: tuple[str, ...],
        island: dict[str, str],
        raw_matches: bool,
        max_flips: int | None,
    ) -> VerificationReport:
        """The totals as a report."""
        decisions = tuple(
            DecisionReport(
                name=name,
                total=self._total[name],
                positive=self._positive[name],
                compare=None if step is None else step.target,
                cutoff=_only_cutoff(step),
                scale=1.0 if step is None else step.scale,
                flips=self._flips[name],
                postprocessing=self._postprocessing[name].report(),
                drift=self._drift[name].report(),
            )
            for name, step in self._steps.items()
        )
        return VerificationReport(
            provenance=self._provenance,
            boundary=boundary,
            artifact=artifact,
            reference=reference,
            images=len(names),
            image_names=names,
            errors=tuple(error.report(name) for name, error in self._errors.items()),
            postprocessing_errors=tuple(error.report(name) for name, error in self._own_errors.items()),
            decisions=decisions,
            island=island,
            distinct_map_values=self._distinct,
            preprocessing_error=None if self._preprocessing is None else self._preprocessing.scaled,
            raw_matches=raw_matches,
            max_flips=max_flips,
        )
