"""Results of a calibration."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from pp_graph.statistics import CalibrationRecord, LevelRecord, LevelStatistics, Statistics, StatisticsProvenance
from pp_graph.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pp_graph.calibration.metrics import LevelMetrics
    from pp_graph.calibration.score_counts import ScoreCounts


@dataclass(frozen=True)
class LevelResult:
    """Result of one level, image or pixel.

    Attributes:
        statistics: Threshold, minimum and maximum, float32.
        cutoff: The smallest raw value that inference calls anomalous with these, sensitivity 0.5; None without a
            threshold.
        record: How they were calibrated.
        metrics: How the decisions do on the calibration's own labels; None without a threshold.
        counts: The scores, counted.
        warnings: What a person should know.
    """

    statistics: LevelStatistics
    cutoff: float | None
    record: LevelRecord
    metrics: LevelMetrics | None
    counts: ScoreCounts
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The result as plain JSON values, without the scores."""
        metrics = None
        if self.metrics is not None:
            rates = {name: getattr(self.metrics, name) for name in ("precision", "recall", "f1")}
            metrics = {**asdict(self.metrics), **rates}
        return {"cutoff": self.cutoff, "metrics": metrics, "warnings": list(self.warnings)}


@dataclass(frozen=True)
class CalibrationResult:
    """Result of a calibration.

    Attributes:
        image: The image level; None where there were no scores.
        pixel: The pixel level; None where there were no maps.
        record: What was run on what.
        notes: Remarks about the data, such as skipped files.
    """

    image: LevelResult | None
    pixel: LevelResult | None
    record: CalibrationRecord
    notes: tuple[str, ...] = ()

    @property
    def levels(self) -> dict[str, LevelResult]:
        """Calibrated levels by name."""
        return {name: level for name, level in (("image", self.image), ("pixel", self.pixel)) if level is not None}

    @property
    def exact(self) -> bool:
        """True if every number equals that of the sorted data, bit for bit."""
        return all(level.record.exact for level in self.levels.values())

    @property
    def statistics(self) -> Statistics:
        """The calibrated numbers, with their provenance."""
        numbers = {name: level.statistics for name, level in self.levels.items()}
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
            image=numbers.get("image", unknown), pixel=numbers.get("pixel", unknown), provenance=provenance
        )

    def to_dict(self) -> dict[str, Any]:
        """The result as plain JSON values."""
        import msgspec

        statistics: dict[str, Any] = msgspec.to_builtins(self.statistics)
        return {"statistics": statistics, **{name: level.to_dict() for name, level in self.levels.items()}}

    def with_warnings(self, warnings: Mapping[str, str]) -> CalibrationResult:
        """The result with a further warning for some levels, by their names."""
        image, pixel = (
            level
            if level is None or name not in warnings
            else replace(level, warnings=(*level.warnings, warnings[name]))
            for name, level in (("image", self.image), ("pixel", self.pixel))
        )
        return replace(self, image=image, pixel=pixel)

    def with_record(self, **changes: Any) -> CalibrationResult:
        """The result with more said about where the scores came from; see `CalibrationRecord`."""
        import msgspec

        return replace(self, record=msgspec.structs.replace(self.record, **changes))
