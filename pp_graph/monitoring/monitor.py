"""`DriftMonitor`: counts later scores in batches, in a few KB of memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import numpy.typing as npt

from pp_graph.errors import DataError, SettingsError, counted
from pp_graph.monitoring.reference import reference_of
from pp_graph.monitoring.report import DriftReport, compare

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import ArrayLike

    from pp_graph.fusion import Artifact
    from pp_graph.monitoring.reference import Against, Of, Scale
    from pp_graph.statistics import Statistics

LEVEL: Final = 0.01
"""Default of the share of comparisons that report drift though there is none."""


class DriftMonitor:
    """Counts scores of images as they come, to compare them with those that a model was calibrated with.

        monitor = pp.DriftMonitor("model.xml")
        monitor.update(predictions.pred_score)  # as often as there are predictions
        print(monitor.report())

    It can be pickled, and monitors of several machines merge: the result is that of one monitor that saw all scores.

    Args:
        model: A fused ONNX file, an IR, an artifact, or statistics (also a file), with a histogram of the calibration.
        of: `scores` of images, or the largest value of each map (`maps`): `predictions.anomaly_map.max((1, 2))`.
        scale: `normalized` or `raw` scores; None means as the model returns them, and raw for statistics.
        against: Calibration scores to compare with: `normal` or `all`; None means the normal ones, if there are any.

    Raises:
        StatisticsError: There are no statistics, or they have no histogram.
        SettingsError: An option is not known, or the model does not normalise.
    """

    def __init__(
        self,
        model: str | Path | Statistics | Artifact,
        *,
        of: Of = "scores",
        scale: Scale | None = None,
        against: Against | None = None,
    ) -> None:
        self._reference = reference_of(model, of=of, scale=scale, against=against)
        self._counts = np.zeros(len(self._reference.counts), np.int64)
        self._alarms = 0
        self._not_finite = 0
        self._left_out = 0
        self._smallest, self._largest = np.inf, -np.inf

    def __repr__(self) -> str:
        """Return the number of scores."""
        return f"<DriftMonitor of {self._reference.name}: {counted(int(self._counts.sum()), 'score')}>"

    def update(self, scores: ArrayLike, *, labels: ArrayLike | None = None) -> None:
        """Count scores.

        Args:
            scores: One score for each image, of any shape. NaN and infinite ones are counted and left out.
            labels: True or 1 for images that are known to be anomalous, of the same shape. Their scores are left out if
                the monitor compares with normal ones. None if nothing is known.

        Raises:
            DataError: Scores are not numbers, do not fit the labels, or a normalised one is not within 0 and 1.
        """
        values = _floats(scores)
        if labels is not None and self._reference.against == "normal":
            anomalous = np.asarray(labels).reshape(-1)
            if anomalous.shape != values.shape or not np.isin(anomalous, (0, 1)).all():
                raise DataError(
                    f"labels have the shape {anomalous.shape} for {values.shape} scores, or are not 0 and 1, expected "
                    "True or 1 for anomalous images and False or 0 for others, one for each score."
                )
            anomalous = anomalous.astype(np.bool_)
        else:
            anomalous = np.zeros(len(values), np.bool_)
        kept = values[~anomalous]
        finite = kept[np.isfinite(kept)]
        if len(finite):
            smallest, largest = float(finite.min()), float(finite.max())
            if self._reference.scale == "normalized" and not (smallest >= 0 and largest <= 1):
                outside = smallest if smallest < 0 else largest
                raise DataError(
                    f"A score is {outside:.6g}, and '{self._reference.name}' returns normalised ones, expected 0 to 1. "
                    "If these are raw scores: --scale raw (scale='raw')."
                )
            self._smallest, self._largest = min(self._smallest, smallest), max(self._largest, largest)
        self._left_out += len(values) - len(kept)
        self._not_finite += len(kept) - len(finite)
        cells = np.searchsorted(self._reference.ends, finite)
        self._counts += np.bincount(cells, minlength=len(self._counts))
        self._alarms += int((finite >= np.float32(self._reference.cutoff)).sum())

    def merge(self, other: Self) -> None:
        """Add the scores that another monitor of the same model counted.

        Raises:
            DataError: The other one is the same object, or compares with other scores.
        """
        if not isinstance(other, DriftMonitor) or other is self or not self._reference.same_as(other._reference):
            raise DataError(
                "The monitors to merge are the same object, or differ in model, scale or against, expected two of the "
                "same kind. Build both with the same arguments."
            )
        self._counts += other._counts
        self._alarms += other._alarms
        self._not_finite += other._not_finite
        self._left_out += other._left_out
        self._smallest = min(self._smallest, other._smallest)
        self._largest = max(self._largest, other._largest)

    def report(self, *, level: float = LEVEL, defect_rate: float = 0.0) -> DriftReport:
        """Compare the scores so far with those of the calibration.

        Args:
            level: Share of comparisons that may report drift though there is none, in (0, 0.5].
            defect_rate: Largest share of the new images that are expected to be anomalous, in [0, 1). They are not
                drift.

        Raises:
            DataError: There is no finite score.
            SettingsError: An option is out of range.
        """
        for name, value, fits, expected in (
            ("level", level, 0 < level <= 0.5, "above 0 and at most 0.5, such as 0.01"),
            ("defect_rate", defect_rate, 0 <= defect_rate < 1, "from 0 to below 1, such as 0.02"),
        ):
            if not fits:
                raise SettingsError(f"{name} is {value!r}, expected a number {expected}.")
        if not self._counts.any():
            left_out = {"are not finite": self._not_finite, "are of images labelled anomalous": self._left_out}
            found = ", ".join(f"{number:,} {why}" for why, number in left_out.items() if number) or "none"
            raise DataError(
                f"There is no score to compare (found {found}), expected at least one finite number. Check what the "
                "model returns, and the column."
            )
        return compare(
            self._reference,
            self._counts,
            alarms=self._alarms,
            not_finite=self._not_finite,
            left_out=self._left_out,
            extent=(self._smallest, self._largest),
            level=level,
            defect_rate=defect_rate,
        )


def _floats(scores: Any) -> npt.NDArray[np.float32]:
    array = np.asarray(scores)
    if array.dtype.kind not in "fiu":
        raise DataError(f"Scores are of type {array.dtype}, expected numbers, one for each image.")
    with np.errstate(over="ignore"):
        return array.astype(np.float32).reshape(-1)
