"""The JSON of pp_graph itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pp_graph.statistics.source import StatisticsFormat
from pp_graph.statistics.statistics import Statistics

if TYPE_CHECKING:
    from pp_graph.statistics.source import StatisticsFile


class OwnJSON(StatisticsFormat):
    """What `Statistics.save` writes; any other JSON is taken for one with mistakes, which are named."""

    title = "pp_graph statistics JSON"

    def recognises(self, file: StatisticsFile) -> bool:
        """Whether the file looks like JSON, or is called so."""
        return file.text_head[:1] in (b"{", b"[") or file.path.suffix.lower() == ".json"

    def read(self, file: StatisticsFile) -> Statistics:
        """Read the statistics as they are."""
        return Statistics.from_json(file.content)
