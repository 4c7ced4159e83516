"""`Calibrator`: from batches of scores, maps, labels and masks to statistics."""

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
from pp_graph.calibration.level import Estimate, LevelPlan, estimate_level
from pp_graph.calibration.metrics import cliff_warning, measure
from pp_graph.calibration.ranges import range_estimator
from pp_graph.calibration.result import CalibrationResult, LevelResult
from pp_graph.calibration.score_counts import ScoreCounts
from pp_graph.calibration.thresholds import threshold_estimator
from pp_graph.calibration.thresholds.per_region_overlap import PerRegionOverlap, RegionOverlap
from pp_graph.errors import CalibrationError, DataError, counted
from pp_graph.extras import check_extra
from pp_graph.statistics import CalibrationRecord, LevelRecord, LevelStatistics

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

    from pp_graph.calibration.estimator import RangeEstimator, ThresholdEstimator
    from pp_graph.calibration.level import Placement

FEW_IMAGES: Final = 20
"""Fewest images of a class for reliable metrics."""


class Calibrator:
    """Computes statistics from batches of scores and labels, in bounded memory.

    Image scores are kept. Pixels are counted in intervals (see `pp_graph.calibration.counting`), so after one pass the
    pixel threshold may only be known within a bound. If the data can be read again, `refine` returns a calibrator for
    another pass, until the result equals that of all pixels sorted, bit for bit:

        calibrator = Calibrator()
        while calibrator is not None:
            for scores, maps, labels, masks in batches():
                calibrator.update(scores=scores, maps=maps, labels=labels, masks=masks)
            last, calibrator = calibrator, calibrator.refine()
        result = last.result()

    Several processes can share a pass: calibrators can be pickled, and `merge` adds their counts.

    Args:
        image: Estimator of the image threshold, or its name.
        pixel: Estimator of the pixel threshold, or its name.
        image_range: Estimator of the image level's minimum and maximum, or its name.
        pixel_range: Estimator of the pixel level's minimum and maximum, or its name.
        placement: Position of a threshold that is chosen among scores. `midpoint` is halfway to the next lower score,
            so that the strict comparison of inference agrees with the metric. `observed` is at the score, as Anomalib.
        ignore_nonfinite: True leaves NaN and infinite values out and counts them. False raises an error.

    Raises:
        CalibrationError: An estimator or the placement is not known.
        ExtraError: A library that an estimator needs is not installed.
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
                "Estimator 'pro' was given for images, expected pixels: an image has no regions. Use 'fpr'."
            )
        self._ignore_nonfinite = ignore_nonfinite
        self._scores: list[npt.NDArray[np.float32]] = []
        self._labels: list[npt.NDArray[np.int8]] = []
        self._maxima: list[tuple[npt.NDArray[np.float32], npt.NDArray[np.int8]]] = []
        """Largest finite value of each map, NaN for none, and the labels of these images, by batch."""
        self._pixels: Pass = FirstPass()
        self._sketch = self._plans["pixel"].threshold.new_sketch()
        self._pixel_count = 0
        self._dropped = {"image": 0, "pixel": 0}
        self._without_mask = 0
        self._empty_masks = 0
        self._overlap: RegionOverlap | None = None
        self._first: Calibrator | None = None
        self._estimate: Estimate | None = None

    def update(
        self,
        *,
        scores: ArrayLike | None = None,
        maps: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        masks: Sequence[ArrayLike | None] | npt.NDArray[Any] | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        """Add a batch.

        Args:
            scores: Raw scores, floating point, (N,) or (N,1). None takes the largest value of each map, as inference.
            maps: Raw maps, floating point, (N,H,W), (N,1,H,W) or (N,H,W,1). Batches may differ in size.
            labels: True or 1 for anomalous images, False or 0 for normal ones, (N,). None takes the labels from the
                masks. Without masks, the images count for the range only.
            masks: True or positive for anomalous pixels, (N,H,W) or with one channel; None for an image without pixel
                labels. A normal image needs no mask.
            names: Names of the images for error messages.

        Raises:
            DataError: Shapes or types do not fit, a label contradicts a mask, or a value is not finite.
        """
        self._estimate = None
        first_index = sum(map(len, self._scores))
        batch = check_batch(
            scores, maps, labels, masks, names, ignore_nonfinite=self._ignore_nonfinite, first_index=first_index
        )
        self._scores.append(batch.scores)
        self._labels.append(batch.labels)
        self._dropped["image"] += batch.dropped_scores
        if batch.maps is not None:
            largest = np.array([self._add_map(batch, index) for index in range(len(batch.scores))], np.float32)
            if self._first is None:
                self._maxima.append((largest, batch.labels))

    def _add_map(self, batch: Batch, index: int) -> float:
        """Count the pixels of a map, and return its largest finite value, NaN for none."""
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
        if self._sketch is not None and mask is not None and mask is not True:
            self._sketch.update(anomaly_map.reshape(-1) if mask is False else anomaly_map[~mask])
        return float(anomaly_map.max()) if anomaly_map.size else np.nan

    def empty(self) -> Calibrator:
        """Return a calibrator in the same pass that has counted nothing, to count elsewhere and merge here."""
        other = copy.copy(self)
        other._first = None
        other._scores, other._labels, other._maxima = [], [], []
        other._pixels = self._pixels.empty()
        other._sketch = None if self._sketch is None else self._plans["pixel"].threshold.new_sketch()
        other._pixel_count = other._without_mask = other._empty_masks = 0
        other._dropped = {"image": 0, "pixel": 0}
        other._overlap = None if self._overlap is None else RegionOverlap(self._overlap.cutoff)
        other._estimate = None
        return other

    def merge(self, other: Self) -> None:
        """Add the counts of another calibrator with the same settings, in the same pass.

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
                "The calibrators to merge are the same object, or differ in their settings or in their pass, expected "
                "two of the same kind. Build both with the same arguments, and merge before refine()."
            )
        self._estimate = None
        self._pixels.merge(other._pixels)
        if self._overlap is not None and other._overlap is not None:
            self._overlap.merge(other._overlap)
        if self._sketch is not None and other._sketch is not None:
            self._sketch.merge(other._sketch)
        self._scores += other._scores
        self._labels += other._labels
        self._maxima += other._maxima
        self._pixel_count += other._pixel_count
        self._without_mask += other._without_mask
        self._empty_masks += other._empty_masks
        for level, dropped in other._dropped.items():
            self._dropped[level] += dropped

    @property
    def settled(self) -> bool:
        """True if no further pass is needed; see `refine`."""
        if not self._has_pixels:
            return True
        estimate = self._estimate_pixels()
        return not estimate.to_refine.any() and not self._needs_overlap(estimate)

    @property
    def _has_pixels(self) -> bool:
        """True if the first pass saw maps."""
        return (self._first or self)._pixel_count > 0

    def refine(self) -> Calibrator | None:
        """Return a calibrator for another pass over the same data; None if the result is exact.

        Raises:
            DataError: This pass saw other data than the first.
        """
        if not self._has_pixels:
            return None
        estimate = self._estimate_pixels()
        exact = not estimate.to_refine.any()
        needs_overlap = self._needs_overlap(estimate)
        if exact and not needs_overlap:
            return None
        further = copy.copy(self)
        further._first = self._first or self
        further._scores, further._labels, further._maxima = [], [], []
        further._sketch = None
        further._dropped = {"image": 0, "pixel": 0}
        further._pixel_count = 0
        further._pixels = FinerPass(self._pixels.counts(), estimate.to_refine)
        further._overlap = None
        further._estimate = None
        if needs_overlap and exact:
            assert estimate.cutoff is not None
            further._overlap = RegionOverlap(estimate.cutoff)
        return further

    def _needs_overlap(self, estimate: Estimate) -> bool:
        """True if the per-region overlap at the cutoff is not measured yet."""
        if estimate.cutoff is None or not isinstance(self._plans["pixel"].threshold, PerRegionOverlap):
            return False
        return self._overlap is None or self._overlap.cutoff != estimate.cutoff

    def _estimate_pixels(self) -> Estimate:
        first = self._first or self
        if self._pixel_count != first._pixel_count:
            raise DataError(
                f"A later pass saw {self._pixel_count:,} pixels and the first {first._pixel_count:,}, expected the "
                "same data in every pass. Read the same images each time."
            )
        if self._estimate is None:
            self._estimate = estimate_level(self._plans["pixel"], self._pixels.counts(), first._sketch)
        return self._estimate

    def result(self, *, resamples: int = RESAMPLES) -> CalibrationResult:
        """Return statistics and metrics of all scores so far.

        Args:
            resamples: Number of draws for the image level's confidence intervals; 0 for none.

        Raises:
            CalibrationError: There are no images, or their scores do not allow an estimate.
            DataError: A later pass saw other data than the first.
        """
        if resamples < 0:
            raise CalibrationError(f"resamples is {resamples}, expected at least 0. Give 0 for no intervals.")
        scores, labels = self.image_scores
        image = (self._first or self)._image_result(scores, labels, resamples) if len(scores) else None
        pixel = self._pixel_result() if self._has_pixels else None
        if image is None and pixel is None:
            raise CalibrationError("There were no images, expected at least one. Pass scores or maps to update().")
        record = CalibrationRecord(
            images=len(labels),
            anomalous_images=int((labels == 1).sum()),
            image=None if image is None else image.record,
            pixel=None if pixel is None else pixel.record,
        )
        return CalibrationResult(image, pixel, record, maxima=(self._first or self)._counted_maxima())

    @property
    def image_scores(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int8]]:
        """Scores of all images, and their labels: 1 anomalous, 0 normal, -1 unknown. (N,) each."""
        first = self._first or self
        if not first._scores:
            return np.zeros(0, np.float32), np.zeros(0, np.int8)
        return np.concatenate(first._scores), np.concatenate(first._labels)

    def _counted_maxima(self) -> ScoreCounts | None:
        if not self._maxima:
            return None
        largest, labels = (np.concatenate(column) for column in zip(*self._maxima, strict=True))
        kept = ~np.isnan(largest)
        return ScoreCounts.of(largest[kept], labels[kept] == 1, labels[kept] >= 0) if kept.any() else None

    def _image_result(
        self, scores: npt.NDArray[np.float32], labels: npt.NDArray[np.int8], resamples: int
    ) -> LevelResult:
        plan = self._plans["image"]
        kept = np.isfinite(scores)
        scores, labels = scores[kept], labels[kept]
        if not len(scores):
            raise CalibrationError("No image score is finite, expected at least one. Check what the model computes.")
        counts = ScoreCounts.of(scores, labels == 1, labels >= 0)
        estimate = estimate_level(plan, counts, plan.threshold.sketch_of(scores[labels == 0]))
        few = [
            f"only {counted(count, f'{name} image')}, and figures of fewer than {FEW_IMAGES} say little"
            for name, count in (("normal", counts.normals), ("anomalous", counts.anomalies))
            if 0 < count < FEW_IMAGES and estimate.threshold is not None
        ]
        if len(scores) > 1 and np.isin(scores, (0, 1)).all() and scores.min() != scores.max():
            few.append("all scores are 0 or 1: does the model return labels, or saturated scores, instead of raw ones?")
        result = self._level_result("image", counts, estimate, few)
        if result.metrics is None or not resamples:
            return result
        intervals = bootstrap_intervals(plan, counts, resamples=resamples)
        return replace(result, metrics=replace(result.metrics, intervals=intervals))

    def _pixel_result(self) -> LevelResult:
        estimate, counts = self._estimate_pixels(), self._pixels.counts()
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
        result = self._level_result("pixel", counts, estimate, warnings)
        if result.metrics is None or self._overlap is None:
            return result
        return replace(result, metrics=replace(result.metrics, pro=self._overlap.mean, regions=self._overlap.regions))

    def _level_result(self, name: str, counts: ScoreCounts, estimate: Estimate, warnings: Sequence[str]) -> LevelResult:
        plan, first = self._plans[name], self._first or self
        record = LevelRecord(
            method=plan.threshold.name,
            parameters=plan.threshold.parameters(),
            placement=plan.placement if isinstance(plan.threshold, CutEstimator) else None,
            range=plan.range.name,
            range_parameters=plan.range.parameters(),
            normal=counts.normals,
            anomalous=counts.anomalies,
            exact=estimate.exact,
            threshold_bound=None if estimate.exact else estimate.threshold_bound,
            dropped=first._dropped[name],
        )
        warnings = [*estimate.warnings, *warnings]
        if record.dropped:
            warnings.append(
                f"{record.dropped:,} values that are not finite were left out; the figures here do not count what "
                "inference decides about them (NaN is anomalous unless on_nan says otherwise)"
            )
        if estimate.minimum == estimate.maximum:
            warnings.append(f"all scores are {estimate.minimum:.6g}: nothing tells them apart")
        if estimate.threshold is not None and not estimate.minimum <= estimate.threshold <= estimate.maximum:
            warnings.append(
                f"the threshold {estimate.threshold:.6g} lies outside the range from {estimate.minimum:.6g} to "
                f"{estimate.maximum:.6g}, so all calibration scores are on one side of it"
            )
        metrics = None
        if estimate.cutoff is not None:
            metrics = measure(counts, estimate.cutoff)
            flagged, total = metrics.true_positives + metrics.false_positives, counts.normals + counts.anomalies
            if flagged in (0, total) and counts.normals and counts.anomalies:
                warnings.append(
                    f"{'everything' if flagged else 'nothing'} is anomalous at this threshold, although labels "
                    "name both kinds; are images preprocessed as in training (0..1 or 0..255, mean, channel order), "
                    "and is this output the anomaly score?"
                )
            cliff = cliff_warning(counts, estimate.cutoff, estimate.minimum, estimate.maximum)
            if cliff is not None:
                warnings.append(cliff)
        return LevelResult(
            LevelStatistics(threshold=estimate.threshold, min=estimate.minimum, max=estimate.maximum),
            estimate.cutoff,
            record,
            metrics,
            counts,
            tuple(warnings),
        )
