"""`Calibrator`: scores, maps, labels and masks in, in batches; statistics out."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import numpy.typing as npt

from pp_graph.calibration.batch import Batch, check_batch
from pp_graph.calibration.bootstrap import RESAMPLES, bootstrap_intervals
from pp_graph.calibration.counting import FinerPass, FirstPass, Pass
from pp_graph.calibration.estimator import CutEstimator
from pp_graph.calibration.estimators import range_estimator, threshold_estimator
from pp_graph.calibration.level import LevelPlan, Settlement, settle
from pp_graph.calibration.metrics import cliff, measure
from pp_graph.calibration.result import CalibrationResult, LevelResult
from pp_graph.calibration.score_counts import ScoreCounts
from pp_graph.calibration.sketches import Sketch
from pp_graph.calibration.thresholds import PerRegionOverlap
from pp_graph.calibration.thresholds.per_region_overlap import RegionOverlap
from pp_graph.errors import CalibrationError, DataError
from pp_graph.extras import check_extra
from pp_graph.statistics import CalibrationRecord, LevelRecord, LevelStatistics

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

    from pp_graph.calibration.estimator import RangeEstimator, ThresholdEstimator
    from pp_graph.calibration.placement import Placement

_Sketches = dict[type[Sketch], Sketch]

FEW_IMAGES: Final = 20
"""Images of a class below which its figures say little."""


class Calibrator:
    """Takes in scores and labels in batches, in bounded memory, and gives statistics.

    Image scores are kept; of pixels it is counted how many lie where (see `pp_graph.calibration.counting`). After one
    pass the pixel level's answer may come with a bound. Where the data can be read again, `refine` gives a calibrator
    for a further pass, and the answer becomes the one of all pixels sorted, bit for bit:

        calibrator = Calibrator()
        while calibrator is not None:
            for scores, maps, labels, masks in batches():
                calibrator.update(scores=scores, maps=maps, labels=labels, masks=masks)
            last, calibrator = calibrator, calibrator.refine()
        result = last.result()

    States of one pass that several processes counted add up with `merge`; they can be pickled.

    Args:
        image: Estimator of the image threshold, or its name.
        pixel: Estimator of the pixel threshold, or its name.
        image_range: Estimator of the image level's minimum and maximum, or its name.
        pixel_range: The same for pixels.
        placement: `midpoint` puts a threshold that is chosen among scores halfway to the next lower one, so that the
            strict comparison of inference decides as the metric counted; `observed` puts it at the score, as Anomalib.
        ignore_nonfinite: Leave NaN and infinite values out, and count them, instead of raising.

    Raises:
        CalibrationError: An estimator or the placement is not known.
        ExtraError: An estimator needs a library that is not installed.
    """

    def __init__(
        self,
        *,
        image: str | ThresholdEstimator = "f1",
        pixel: str | ThresholdEstimator = "f1",
        image_range: str | RangeEstimator = "minmax",
        pixel_range: str | RangeEstimator = "minmax",
        placement: Placement = "midpoint",
        ignore_nonfinite: bool = False,
    ) -> None:
        if placement not in ("midpoint", "observed"):
            raise CalibrationError(f"Placement is {placement!r}, expected 'midpoint' or 'observed'.")
        self._plans = {
            "image": LevelPlan(threshold_estimator(image), range_estimator(image_range), placement),
            "pixel": LevelPlan(threshold_estimator(pixel), range_estimator(pixel_range), placement),
        }
        for plan in self._plans.values():
            if plan.threshold.needs_scipy:
                check_extra("scipy", "calibration", f"the '{plan.threshold.name}' estimator")
        if isinstance(self._plans["image"].threshold, PerRegionOverlap):
            raise CalibrationError(
                "Estimator 'pro' was asked for images, expected pixels: an image has no regions. Use 'fpr'."
            )
        self._ignore_nonfinite = ignore_nonfinite
        self._scores: list[npt.NDArray[np.float32]] = []
        self._labels: list[npt.NDArray[np.int8]] = []
        self._pixels: Pass = FirstPass()
        self._sketches: _Sketches = {kind: kind() for kind in self._plans["pixel"].threshold.sketches()}
        self._pixel_count = 0
        self._dropped = {"image": 0, "pixel": 0}
        self._without_mask = 0
        self._empty_masks = 0
        self._overlap: RegionOverlap | None = None
        self._first: Calibrator | None = None
        self._settlement: Settlement | None = None

    def update(
        self,
        *,
        scores: ArrayLike | None = None,
        maps: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        masks: Sequence[ArrayLike | None] | npt.NDArray[Any] | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        """Take in a batch.

        Args:
            scores: Raw scores, floating point, (N,) or (N,1); None takes the largest value of each map, as inference.
            maps: Raw maps, floating point, (N,H,W), (N,1,H,W) or (N,H,W,1); sizes may differ from batch to batch.
            labels: Whether each image is anomalous, bool or 0 and 1, (N,); None takes it from the masks, and without
                these leaves it open: then the images count for the range only.
            masks: Anomalous pixels, bool or 0 and more, (N,H,W) or with one channel; None for an image whose pixels
                have no labels. An image labelled normal needs no mask.
            names: What to call each image in errors.

        Raises:
            DataError: Shapes or types do not fit, a label contradicts a mask, or a value is not finite.
        """
        self._settlement = None
        seen = sum(map(len, self._scores))
        batch = check_batch(
            scores, maps, labels, masks, names, ignore_nonfinite=self._ignore_nonfinite, first_index=seen
        )
        self._scores.append(batch.scores)
        self._labels.append(batch.labels)
        self._dropped["image"] += batch.dropped_scores
        for index in range(batch.images) if batch.maps is not None else ():
            self._add_map(batch, index)

    def _add_map(self, batch: Batch, index: int) -> None:
        assert batch.maps is not None
        anomaly_map, mask = batch.maps[index], batch.masks[index]
        self._without_mask += mask is None
        self._empty_masks += batch.labels[index] == 1 and isinstance(mask, np.ndarray) and not mask.any()
        self._dropped["pixel"] += batch.dropped_pixels[index]
        if self._overlap is not None and isinstance(mask, np.ndarray):
            self._overlap.update(anomaly_map, mask)
        if batch.dropped_pixels[index]:
            finite = np.isfinite(anomaly_map)
            anomaly_map = anomaly_map[finite]
            mask = mask[finite] if isinstance(mask, np.ndarray) else mask
        self._pixel_count += anomaly_map.size
        self._pixels.update(anomaly_map, mask)
        if self._sketches and mask is not None and mask is not True:
            normal = anomaly_map.reshape(-1) if mask is False else anomaly_map[~mask]
            for sketch in self._sketches.values():
                sketch.update(normal)

    def merge(self, other: Self) -> None:
        """Add the counts of another calibrator with the same settings and pass.

        Raises:
            DataError: Settings or pass differ.
        """
        if (
            not isinstance(other, Calibrator)
            or other is self
            or self._plans != other._plans
            or self._ignore_nonfinite != other._ignore_nonfinite
            or type(self._pixels) is not type(other._pixels)
            or (self._overlap is None) != (other._overlap is None)
        ):
            raise DataError(
                "The calibrators to merge are one and the same, or differ in their settings or in their pass, expected "
                "two of the same kind. Build both with the same arguments, and merge before refine()."
            )
        self._settlement = None
        self._pixels.merge(other._pixels)
        if self._overlap is not None and other._overlap is not None:
            self._overlap.merge(other._overlap)
        for kind, sketch in self._sketches.items():
            sketch.merge(other._sketches[kind])
        self._scores += other._scores
        self._labels += other._labels
        self._pixel_count += other._pixel_count
        self._without_mask += other._without_mask
        self._empty_masks += other._empty_masks
        for level, dropped in other._dropped.items():
            self._dropped[level] += dropped

    @property
    def settled(self) -> bool:
        """True if the answer is exact already; see `refine`."""
        if not self._has_pixels:
            return True
        settlement = self._settle_pixels()
        return not settlement.unsettled.any() and not self._overlap_wanted(settlement)

    @property
    def _has_pixels(self) -> bool:
        """True if the first pass saw maps. A later pass without any is not complete."""
        return (self._first or self)._pixel_count > 0

    def refine(self) -> Calibrator | None:
        """Return a calibrator for another pass over the same data; None if the answer is exact.

        Raises:
            DataError: This pass saw other data than the one before.
        """
        if not self._has_pixels:
            return None
        settlement = self._settle_pixels()
        settled = not settlement.unsettled.any()
        wants_overlap = self._overlap_wanted(settlement)
        if settled and not wants_overlap:
            return None
        further = copy.copy(self)
        further._first = self._first or self
        further._scores, further._labels = [], []
        further._sketches = {}
        further._dropped = {"image": 0, "pixel": 0}
        further._pixel_count = 0
        further._pixels = FinerPass(self._pixels.counts(), settlement.unsettled)
        further._overlap = None
        further._settlement = None
        if wants_overlap and settled:
            assert settlement.cutoff is not None
            further._overlap = RegionOverlap(settlement.cutoff)
        return further

    def _overlap_wanted(self, settlement: Settlement) -> bool:
        measured = self._overlap is not None and settlement.cutoff == self._overlap.cutoff
        return (
            isinstance(self._plans["pixel"].threshold, PerRegionOverlap)
            and settlement.cutoff is not None
            and not measured
        )

    def _settle_pixels(self) -> Settlement:
        first = self._first or self
        if self._pixel_count != first._pixel_count:
            raise DataError(
                f"A later pass saw {self._pixel_count:,} pixels and the first {first._pixel_count:,}, expected the "
                "same data in every pass. Read the same images each time."
            )
        if self._settlement is None:
            self._settlement = settle(self._plans["pixel"], self._pixels.counts(), first._sketches)
        return self._settlement

    def result(self, *, resamples: int = RESAMPLES) -> CalibrationResult:
        """Return statistics and metrics of the scores counted so far.

        Args:
            resamples: Draws for the image level's confidence intervals; 0 for none.

        Raises:
            CalibrationError: There were no images, or their scores do not allow an estimate.
            DataError: A later pass saw other data than the first.
        """
        if resamples < 0:
            raise CalibrationError(f"resamples is {resamples}, expected at least 0. Give 0 for no intervals.")
        first = self._first or self
        scores, labels = first._image_scores()
        image = first._image_result(scores, labels, resamples) if len(scores) else None
        pixel = self._pixel_result() if self._has_pixels else None
        if image is None and pixel is None:
            raise CalibrationError("There were no images, expected at least one to calibrate with.")
        record = CalibrationRecord(
            images=len(labels),
            anomalous_images=int((labels == 1).sum()),
            image=None if image is None else image.record,
            pixel=None if pixel is None else pixel.record,
        )
        return CalibrationResult(image, pixel, record)

    @property
    def image_scores(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int8]]:
        """Scores of all images and their labels: 1 anomalous, 0 normal, -1 unknown. (N,) each."""
        return (self._first or self)._image_scores()

    def _image_scores(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int8]]:
        if not self._scores:
            return np.zeros(0, np.float32), np.zeros(0, np.int8)
        return np.concatenate(self._scores), np.concatenate(self._labels)

    def _image_result(
        self, scores: npt.NDArray[np.float32], labels: npt.NDArray[np.int8], resamples: int
    ) -> LevelResult:
        plan = self._plans["image"]
        kept = np.isfinite(scores)
        scores, labels = scores[kept], labels[kept]
        if not len(scores):
            raise CalibrationError("No image score is finite, expected at least one. Does the model compute NaN?")
        counts = ScoreCounts.of(scores, labels == 1, labels >= 0)
        sketches = {kind: kind() for kind in plan.threshold.sketches()}
        for sketch in sketches.values():
            sketch.update(scores[labels == 0])
        settlement = settle(plan, counts, sketches)
        few = [
            f"{name} images: only {count}, and the figures of fewer than {FEW_IMAGES} say little"
            for name, count in (("normal", counts.normals), ("anomalous", counts.anomalies))
            if 0 < count < FEW_IMAGES and settlement.threshold is not None
        ]
        if len(scores) > 1 and np.isin(scores, (0, 1)).all() and scores.min() != scores.max():
            few.append("all scores are 0 or 1: does the model return labels, or saturated scores, instead of raw ones?")
        result = self._level_result("image", counts, settlement, few)
        if result.metrics is None or not resamples or settlement.cutoff is None:
            return result
        intervals = bootstrap_intervals(plan, counts, resamples=resamples)
        return replace(result, metrics=replace(result.metrics, intervals=intervals))

    def _pixel_result(self) -> LevelResult:
        settlement, counts = self._settle_pixels(), self._pixels.counts()
        warnings = []
        first = self._first or self
        if first._without_mask:
            warnings.append(
                f"images without a mask: {first._without_mask}; their pixels count for the range, not for the threshold"
            )
        if first._empty_masks:
            warnings.append(
                f"anomalous images with nothing in their mask: {first._empty_masks}; all their pixels count as normal"
            )
        result = self._level_result("pixel", counts, settlement, warnings)
        if result.metrics is None or self._overlap is None:
            return result
        return replace(result, metrics=replace(result.metrics, pro=self._overlap.mean, regions=self._overlap.regions))

    def _level_result(
        self, name: str, counts: ScoreCounts, settlement: Settlement, warnings: Sequence[str]
    ) -> LevelResult:
        plan, first = self._plans[name], self._first or self
        record = LevelRecord(
            method=plan.threshold.name,
            parameters=plan.threshold.parameters(),
            placement=plan.placement if isinstance(plan.threshold, CutEstimator) else None,
            range=plan.range.name,
            range_parameters=plan.range.parameters(),
            normal=counts.normals,
            anomalous=counts.anomalies,
            exact=settlement.exact,
            threshold_bound=None if settlement.exact else settlement.threshold_bound,
            dropped=first._dropped[name],
        )
        found = [*settlement.warnings, *warnings]
        if record.dropped:
            found.append(
                f"{record.dropped:,} values that are not finite were left out; the figures here do not count what "
                "inference decides about them (NaN is anomalous unless on_nan says otherwise)"
            )
        if settlement.minimum == settlement.maximum:
            found.append(f"all scores are {settlement.minimum:.6g}: nothing tells them apart")
        if settlement.threshold is not None and not settlement.minimum <= settlement.threshold <= settlement.maximum:
            found.append(
                f"the threshold {settlement.threshold:.6g} lies outside the range from {settlement.minimum:.6g} to "
                f"{settlement.maximum:.6g}, so nothing that was calibrated on is on one side of it"
            )
        metrics = None
        if settlement.cutoff is not None:
            metrics = measure(counts, settlement.cutoff)
            flagged, total = metrics.true_positives + metrics.false_positives, counts.normals + counts.anomalies
            if flagged in (0, total) and counts.normals and counts.anomalies:
                found.append(
                    f"{'everything' if flagged else 'nothing'} is anomalous at this threshold, although labels "
                    "name both kinds; are images preprocessed as in training (0..1 or 0..255, mean, channel order), "
                    "and is this output the anomaly score?"
                )
            steep = cliff(counts, settlement.cutoff, settlement.minimum, settlement.maximum)
            if steep.steep:
                found.append(
                    f"the threshold stands on a cliff: moving it by 1 % of the range flips {steep.flips:,} decisions, "
                    f"where {steep.flagged:,} of {steep.total:,} are anomalous"
                )
        return LevelResult(
            LevelStatistics(threshold=settlement.threshold, min=settlement.minimum, max=settlement.maximum),
            settlement.cutoff,
            record,
            metrics,
            counts,
            tuple(found),
        )
