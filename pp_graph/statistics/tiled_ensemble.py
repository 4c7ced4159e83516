"""The `stats.json` of Anomalib's tiled ensemble."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pp_graph.errors import StatisticsError
from pp_graph.statistics.anomalib_metadata import INCLUSIVE
from pp_graph.statistics.source import StatisticsFormat, as_number

if TYPE_CHECKING:
    from pp_graph.statistics.source import StatisticsFile
    from pp_graph.statistics.statistics import Statistics

_RANGES: Final = {"image": "pred_score", "pixel": "anomaly_map"}


class TiledEnsemble(StatisticsFormat):
    """What the ensemble's statistics job writes, `NaN` included."""

    title = "Anomalib tiled-ensemble stats.json"

    def recognises(self, file: StatisticsFile) -> bool:
        """Whether a JSON has ranges under `minmax`."""
        return file.json is not None and "minmax" in file.json

    def read(self, file: StatisticsFile) -> Statistics:
        """Read thresholds and ranges."""
        found = file.json or {}
        levels = {}
        for level, name in _RANGES.items():
            extent = _object(_object(found, "minmax", "minmax"), name, f"minmax.{name}")
            numbers = {end: as_number(f"minmax.{name}.{end}", extent.get(end)) for end in ("min", "max")}
            threshold = f"{level}_threshold"
            levels[level] = {"threshold": as_number(threshold, found.get(threshold)), **numbers}
        notes = [f"The tiled ensemble {INCLUSIVE}"]
        return self.statistics(file, levels["image"], levels["pixel"], notes=notes)


def _object(parent: dict[str, Any], key: str, name: str) -> dict[str, Any]:
    found = parent.get(key, {})
    if not isinstance(found, dict):
        raise StatisticsError(f"'{name}' holds a {type(found).__name__}, expected an object with numbers.")
    return found
