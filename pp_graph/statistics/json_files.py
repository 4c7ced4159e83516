"""Statistics in JSON files: our own, `metadata.json` of Anomalib 0.x and 1.x, and the tiled ensemble."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pp_graph.errors import StatisticsError
from pp_graph.statistics.source import StatisticsFormat, as_number, check_known
from pp_graph.statistics.statistics import Statistics

if TYPE_CHECKING:
    from pp_graph.statistics.source import StatisticsFile


class OwnJSON(StatisticsFormat):
    """JSON written by `Statistics.save`. Recognises any JSON, to report what is wrong with it."""

    title = "pp_graph statistics JSON"

    def recognises(self, file: StatisticsFile) -> bool:
        """True if the content looks like JSON, or the file name ends in `.json`."""
        return file.text_head[:1] in (b"{", b"[") or file.path.suffix.lower() == ".json"

    def read(self, file: StatisticsFile) -> Statistics:
        """Read the statistics unchanged."""
        statistics = Statistics.from_json(file.content)
        check_known(
            number
            for level in (statistics.image, statistics.pixel)
            for number in (level.threshold, level.min, level.max)
        )
        return statistics


_RANGES: Final = {"image": "pred_scores", "pixel": "anomaly_maps"}
_THRESHOLDS: Final = ("image_threshold", "pixel_threshold")
_CDF: Final = ("image_mean", "image_std", "pixel_mean", "pixel_std")
INCLUSIVE: Final = "counts a value at the threshold itself as anomalous (>=), pp_graph counts it as normal (>)."


class AnomalibMetadata(StatisticsFormat):
    """`metadata.json`: one range for both levels until 0.7, one for each level in 1.x."""

    title = "Anomalib 0.x/1.x metadata.json"

    def recognises(self, file: StatisticsFile) -> bool:
        """True for a JSON object with a threshold and without `minmax`."""
        return file.json is not None and any(name in file.json for name in _THRESHOLDS) and "minmax" not in file.json

    def read(self, file: StatisticsFile) -> Statistics:
        """Read thresholds and ranges."""
        metadata = file.json or {}
        if cdf := [name for name in _CDF if name in metadata]:
            raise StatisticsError(
                f"it contains '{cdf[0]}', so scores were normalised with a CDF and the thresholds apply to "
                "standardised logarithms; expected min-max normalisation. Train with min-max, or calibrate the raw "
                "model."
            )
        levels, notes = {}, [f"Anomalib 0.x/1.x {INCLUSIVE}"]
        for level, prefix in _RANGES.items():
            # The exporter leaves infinities out, which a level without data has.
            has_range = any(f"{prefix}.{end}" in metadata for end in ("min", "max"))
            keys = {end: f"{prefix}.{end}" if has_range else end for end in ("min", "max")}
            keys["threshold"] = f"{level}_threshold"
            levels[level] = {field: as_number(key, metadata.get(key)) for field, key in keys.items()}
        if "min" in metadata and not any(f"{prefix}.min" in metadata for prefix in _RANGES.values()):
            notes.append("Anomalib 0.x keeps one range for both levels.")
        return self.statistics(file, levels["image"], levels["pixel"], notes=notes)


_TILED_RANGES: Final = {"image": ("pred_score", "pred_scores"), "pixel": ("anomaly_map", "anomaly_maps")}
"""Names of the ranges; Anomalib 1.x used the plural."""


class TiledEnsemble(StatisticsFormat):
    """JSON of the tiled ensemble's statistics job. It may contain NaN."""

    title = "Anomalib tiled-ensemble stats.json"

    def recognises(self, file: StatisticsFile) -> bool:
        """True for a JSON object with `minmax`."""
        return file.json is not None and "minmax" in file.json

    def read(self, file: StatisticsFile) -> Statistics:
        """Read thresholds and ranges."""
        content = file.json or {}
        ranges = _object(content, "minmax", "minmax")
        levels = {}
        for level, names in _TILED_RANGES.items():
            name = next((name for name in names if name in ranges), names[0])
            extent = _object(ranges, name, f"minmax.{name}")
            numbers = {end: as_number(f"minmax.{name}.{end}", extent.get(end)) for end in ("min", "max")}
            threshold = f"{level}_threshold"
            levels[level] = {"threshold": as_number(threshold, content.get(threshold)), **numbers}
        notes = [f"The tiled ensemble {INCLUSIVE}"]
        return self.statistics(file, levels["image"], levels["pixel"], notes=notes)


def _object(parent: dict[str, Any], key: str, name: str) -> dict[str, Any]:
    value = parent.get(key, {})
    if not isinstance(value, dict):
        raise StatisticsError(f"'{name}' is a {type(value).__name__}, expected an object with numbers.")
    return value
