"""Totals of a comparison, which can be merged."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pp_graph.steps import ChoosingStep, DecidingStep
from pp_graph.values.exact_sum import ExactSum
from pp_graph.verification.parts import ErrorReport, Flips, nowhere

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pp_graph.data.image_files import SeenFiles
    from pp_graph.plausibility import PredictionChecks
    from pp_graph.steps import Array
    from pp_graph.verification.detections import DetectionComparison


@dataclass
class ErrorSum:
    """Running totals of an `ErrorReport`."""

    maximum: float = 0.0
    total: ExactSum = field(default_factory=ExactSum)
    scaled: float = 0.0
    count: int = 0

    def add_relative(self, found: Array, expected: Array) -> None:
        """Add a batch; `scaled` is relative to its largest number. Pairs that are not finite count as equal."""
        both = np.isfinite(found) & np.isfinite(expected)
        wanted = np.where(both, expected, 0).astype(np.float64)
        difference = np.abs(np.where(both, found, 0).astype(np.float64) - wanted)
        self.maximum = max(self.maximum, float(difference.max(initial=0.0)))
        largest = max(float(np.abs(wanted).max(initial=0.0)), float(np.finfo(np.float32).tiny))
        self.scaled = max(self.scaled, float(difference.max(initial=0.0)) / largest)
        self.total.add(float(difference.sum()))
        self.count += difference.size

    def add(self, found: Array, expected: Array) -> None:
        """Add a batch."""
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
        self.total.add(total)
        with np.errstate(invalid="ignore"):
            scaled = float((difference / np.maximum(1.0, np.abs(expected))).max(initial=0.0))
        # NaN comes from inf / inf: one of the two numbers is infinite and the other is not.
        self.scaled = max(self.scaled, np.inf if np.isnan(scaled) else scaled)

    def merge(self, other: ErrorSum) -> None:
        """Add the batches of another sum."""
        self.maximum = max(self.maximum, other.maximum)
        self.scaled = max(self.scaled, other.scaled)
        self.total.merge(other.total)
        self.count += other.count

    def report(self, name: str) -> ErrorReport:
        """Return the totals, under the name of an output."""
        return ErrorReport(name, self.maximum, self.total.total / max(self.count, 1), self.scaled, self.count)


class FlipLists:
    """Flipped decisions over batches; see `Flips`."""

    def __init__(self) -> None:
        self._batches: list[Flips] = []

    def add(
        self,
        flipped: Array,
        values: Mapping[str, Array],
        step: DecidingStep | ChoosingStep | None,
        start: int,
        *,
        axes: str = "",
        moved: bool = False,
    ) -> None:
        """Add the flips of a batch, with the raw values that were compared.

        With the `axes` of the decisions, such as `NHW`, pixels get their row and column.
        If later steps have `moved` the choices of a step, each flip of an image gets the smallest of its margins.
        """
        if not flipped.any():
            return
        flat = flipped.reshape(len(flipped), -1)
        image, pixel = np.nonzero(flat)
        raw_value = margin = np.full(len(image), np.nan)
        if step is not None:
            decided = values[step.source]
            if isinstance(step, ChoosingStep):
                decided, margins = step.margins(decided)
                if moved:
                    clearest = np.fmin.reduce(margins.reshape(len(flat), -1), axis=1)
                    margins = np.broadcast_to(clearest[:, None], flat.shape).reshape(flipped.shape)
                    decided = np.full(flipped.shape, np.nan)
            else:
                margins = _margins(decided, step)
            if decided.shape == flipped.shape:
                raw_value = decided.reshape(flat.shape)[image, pixel]
                margin = margins.reshape(flat.shape)[image, pixel]
        place = nowhere(len(image))
        if "H" in axes and "W" in axes and len(axes) == flipped.ndim:
            where = np.unravel_index(pixel, flipped.shape[1:])
            place = np.stack([where[axes.index(each) - 1] for each in "HW"], 1)
        self._batches.append(Flips(image + start, pixel, raw_value.astype(np.float32), margin, place))

    def merge(self, other: FlipLists) -> None:
        """Add the flips of images that follow."""
        self._batches += other._batches

    def report(self) -> Flips:
        """Return the flips of all batches."""
        return Flips.joined(self._batches)


def _margins(values: Array, step: DecidingStep) -> npt.NDArray[np.float64]:
    """Distance of each value from its cutoff, relative to the scale; infinite if nothing is anomalous."""
    cutoffs = step.cutoffs.astype(np.float64)
    with np.errstate(invalid="ignore"):
        margins: npt.NDArray[np.float64] = np.abs(values.astype(np.float64) - cutoffs) / step.scale
    return np.where(np.isnan(cutoffs), np.inf, margins)


@dataclass
class Totals:
    """Totals of a `Comparison`, of consecutive images.

    Attributes:
        largest: Largest magnitude of each raw value of 16 bits.
        checks: What looks wrong in the predictions.
        detections: Comparison of detections; None for other models.
        flips: Decisions that differ, for any cause, by output.
        total: Decisions compared.
        positive: Decisions that are anomalous in the reference.
        postprocessing: Flips caused by the post-processing.
        drift: Flips caused by drift of the network.
        errors: Errors of raw values and of predictions.
        own_errors: Errors of the post-processing alone.
        distinct: Fewest distinct values in a map.
        preprocessing: Error of preprocessed frames; None without preprocessing in the artifact.
        frames: Smallest and largest number among frames.
        seen: What was noticed in the files, if another process read them.
    """

    largest: dict[str, float]
    checks: PredictionChecks
    detections: DetectionComparison | None
    flips: dict[str, int]
    total: dict[str, int]
    positive: dict[str, int]
    postprocessing: dict[str, FlipLists]
    drift: dict[str, FlipLists]
    errors: dict[str, ErrorSum] = field(default_factory=dict)
    own_errors: dict[str, ErrorSum] = field(default_factory=dict)
    distinct: int | None = None
    preprocessing: ErrorSum | None = None
    frames: tuple[float, float] = (np.inf, -np.inf)
    seen: SeenFiles | None = None

    def add_frames(self, frames: Array) -> None:
        """Add a batch of frames that the artifact preprocesses."""
        self.frames = min(self.frames[0], float(frames.min())), max(self.frames[1], float(frames.max()))

    def merge(self, other: Totals) -> None:
        """Add the totals of the images that follow."""
        for role, largest in other.largest.items():
            self.largest[role] = max(self.largest[role], largest)
        self.checks.merge(other.checks)
        if self.detections is not None and other.detections is not None:
            self.detections.merge(other.detections)
        for ours, theirs in ((self.flips, other.flips), (self.total, other.total), (self.positive, other.positive)):
            for name, count in theirs.items():
                ours[name] += count
        for mine, added in ((self.postprocessing, other.postprocessing), (self.drift, other.drift)):
            for name, flips in added.items():
                mine[name].merge(flips)
        for sums, further in ((self.errors, other.errors), (self.own_errors, other.own_errors)):
            for name, error in further.items():
                sums.setdefault(name, ErrorSum()).merge(error)
        counts = [count for count in (self.distinct, other.distinct) if count is not None]
        self.distinct = min(counts, default=None)
        if other.preprocessing is not None:
            self.preprocessing = self.preprocessing or ErrorSum()
            self.preprocessing.merge(other.preprocessing)
        self.frames = min(self.frames[0], other.frames[0]), max(self.frames[1], other.frames[1])
        if self.seen is None:
            self.seen = other.seen
        else:
            self.seen.merge(other.seen)
