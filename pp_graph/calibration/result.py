"""Results of a calibration."""

from __future__ import annotations

import importlib
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import msgspec

from pp_graph.calibration.histogram import histogram_of
from pp_graph.errors import CalibrationError
from pp_graph.reprs import short_repr
from pp_graph.saving import page_of, save_result
from pp_graph.statistics import CalibrationRecord, LevelRecord, LevelStatistics, Statistics, StatisticsProvenance
from pp_graph.summary import Summarised
from pp_graph.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from pp_graph.calibration.metrics import LevelMetrics
    from pp_graph.calibration.score_counts import ScoreCounts
    from pp_graph.data import LabelledImages
    from pp_graph.summary import Block


@dataclass(frozen=True)
class LevelResult:
    """Result of one level, image or pixel.

    Attributes:
        statistics: Threshold, minimum and maximum, float32.
        cutoff: Smallest raw value that inference calls anomalous at sensitivity 0.5; None without a threshold.
        record: Method and data of the calibration.
        metrics: Metrics on the calibration data; None without a threshold.
        counts: Counts of the scores.
        warnings: Warnings for the user.
    """

    statistics: LevelStatistics
    cutoff: float | None
    record: LevelRecord
    metrics: LevelMetrics | None
    counts: ScoreCounts
    warnings: tuple[str, ...]

    __repr__ = short_repr

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain JSON values, without the scores."""
        metrics = None
        if self.metrics is not None:
            rates = {name: getattr(self.metrics, name) for name in ("precision", "recall", "f1")}
            metrics = {**asdict(self.metrics), **rates}
        return {"cutoff": self.cutoff, "metrics": metrics, "warnings": list(self.warnings)}


@dataclass(frozen=True, repr=False)
class CalibrationResult(Summarised):
    """Result of a calibration.

    Attributes:
        image: The image level; None without scores.
        pixel: The pixel level; None without maps.
        record: Model and data of the calibration.
        notes: Remarks about the data, such as skipped files.
        maxima: Largest value of each map, counted; None without maps.
        subject: Model, images and settings, for `explore`; None without a model, or with a given post-processor.
    """

    image: LevelResult | None
    pixel: LevelResult | None
    record: CalibrationRecord
    notes: tuple[str, ...] = ()
    maxima: ScoreCounts | None = field(default=None, repr=False, compare=False)
    subject: tuple[Any, LabelledImages, dict[str, Any]] | None = field(default=None, repr=False, compare=False)

    @property
    def levels(self) -> dict[str, LevelResult]:
        """Calibrated levels by name."""
        return {name: level for name, level in (("image", self.image), ("pixel", self.pixel)) if level is not None}

    @property
    def exact(self) -> bool:
        """True if all statistics equal those of the sorted scores, bit for bit."""
        return all(level.record.exact for level in self.levels.values())

    @property
    def statistics(self) -> Statistics:
        """The calibrated numbers, with their provenance."""
        calibrated = {name: level.statistics for name, level in self.levels.items()}
        provenance = StatisticsProvenance(
            source="calibration",
            pp_graph_version=__version__,
            notes=[
                *self.notes,
                *(f"{name}: {warning}" for name, level in self.levels.items() for warning in level.warnings),
            ],
            calibration=self.record,
        )
        unknown = LevelStatistics()
        return Statistics(
            image=calibrated.get("image", unknown),
            pixel=calibrated.get("pixel", unknown),
            provenance=provenance,
            histogram=None if self.image is None else histogram_of(self.image.counts, self.image.cutoff),
            map_histogram=None
            if self.pixel is None or self.maxima is None
            else histogram_of(self.maxima, self.pixel.cutoff),
        )

    def summary(self) -> list[Block]:
        """Return statistics, metrics and warnings as tables."""
        from pp_graph.calibration.summary import blocks_of

        return list(blocks_of(self))

    def __repr__(self) -> str:
        """Return the thresholds in a line."""
        found = ", ".join(f"{name} threshold {level.statistics.threshold}" for name, level in self.levels.items())
        return f"<CalibrationResult of {self.record.images:,} images: {found}>"

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        statistics: dict[str, Any] = msgspec.to_builtins(self.statistics)
        return {"statistics": statistics, **{name: level.to_dict() for name, level in self.levels.items()}}

    def save(self, path: str | Path, *, overwrite: bool = False, inputs: Iterable[Path] = ()) -> Path:
        """Write the statistics as JSON, which `--stats` and `Statistics.load` read, or an HTML page with all curves.

        The page needs the extra `report`.

        Raises:
            ExtraError: matplotlib is not installed.
            OutputFileError: The path has another ending, is an input, exists, or cannot be written.
        """
        forms = {".json": self.statistics.to_json, ".html": page_of("calibration.calibration_page", self)}
        return save_result(path, forms, overwrite=overwrite, inputs=inputs)

    def explore(self, **settings: Any) -> Any:
        """Make a page to move the calibrated thresholds, on the images they were found with.

        The model runs as `pp_graph.load` runs it, converted for its device.

        Args:
            **settings: Keyword arguments of `pp_graph.explore`.

        Returns:
            The `pp_graph.Exploration`.

        Raises:
            CalibrationError: No model was run, or with a post-processor that the page does not serve.
            PPGraphError: See `pp_graph.explore`.
        """
        if self.subject is None:
            raise CalibrationError(
                "The calibration has no model to run, expected the result of calibrate(model, images) without "
                "post=... Call pp_graph.explore(model, images, statistics=calibration.statistics)."
            )
        # Packages import downwards, and the page is above this one.
        explore = importlib.import_module("pp_graph.exploring").explore
        model, images, own = self.subject
        return explore(model, images, statistics=self.statistics, **{**own, **settings})

    def with_warnings(self, warnings: Mapping[str, str]) -> CalibrationResult:
        """Return the result with one more warning for each level named."""
        changed: dict[str, Any] = {
            name: replace(level, warnings=(*level.warnings, warnings[name]))
            for name, level in self.levels.items()
            if name in warnings
        }
        return replace(self, **changed)

    def with_record(self, **changes: Any) -> CalibrationResult:
        """Return the result with some fields of its `CalibrationRecord` replaced."""
        return replace(self, record=msgspec.structs.replace(self.record, **changes))
