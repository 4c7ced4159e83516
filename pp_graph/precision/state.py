"""Measurements of a search, kept in a file so that a later run goes on where an earlier one stopped."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pp_graph.files import written_together
from pp_graph.precision.measured import Measured

if TYPE_CHECKING:
    from pathlib import Path

    from pp_graph.precision.plan import Plan


class State:
    """Measurements by plan, and times of operators by precision.

    Args:
        path: File to keep them in; None for none.
        key: Hash of all that the measurements depend on. A file with another key is replaced.

    Attributes:
        measured: Measurements by plan.
        times: Microseconds of executed operators by precision and name.
        resumed: Number of plans that an earlier run measured.
    """

    def __init__(self, path: Path | None, key: str) -> None:
        self._path = path
        self._key = key
        record: dict[str, Any] = {}
        if path is not None and path.is_file():
            try:
                record = json.loads(path.read_text(encoding="utf-8"))
            except ValueError:
                record = {}
        if not isinstance(record, dict) or record.get("key") != key:
            record = {}
        self.times: dict[str, dict[str, float]] = record.get("times", {})
        found = map(Measured.from_dict, record.get("measured", []))
        self.measured: dict[Plan, Measured] = {each.plan: each for each in found}
        self.resumed = len(self.measured)

    def keep(self, measured: Measured) -> None:
        """Add a measurement and write the file."""
        self.measured[measured.plan] = measured
        self.save()

    def save(self) -> None:
        """Write the file.

        Raises:
            OutputFileError: The file cannot be written.
        """
        if self._path is None:
            return
        record = {
            "key": self._key,
            "times": self.times,
            "measured": [each.to_dict() for each in self.measured.values()],
        }
        with written_together(self._path, overwrite=True) as (draft,):
            draft.write_text(json.dumps(record), encoding="utf-8")
