"""Provenance of earlier versions as the present one has it.

Version 1 knew no rewritten tails, version 2 no intermediates, adjustable cutoffs and layouts; version 3 knew one score
and one map by name, and did not describe its outputs.
"""

from __future__ import annotations

from typing import Any

_CURRENT = 4


def from_earlier(record: Any) -> Any:
    """Bring a record of version 1, 2 or 3, as plain JSON values, into the form of version 4."""
    if not isinstance(record, dict) or not isinstance(record.get("raw"), dict):
        return record
    changed = {**record, "schema_version": _CURRENT, "intermediates": record.get("inner", {})}
    changed.pop("inner", None)
    raw = dict(record["raw"])
    found = {"raw_score": raw.pop("score", None), "raw_map": raw.pop("map", None)}
    raw["read"] = {role: _output(role, output) for role, output in found.items() if output is not None}
    raw["unread"] = [_output("", output) for output in raw.get("unread", [])]
    return {**changed, "raw": raw}


def _output(role: str, output: Any) -> Any:
    if not isinstance(output, dict):
        return output
    kept = dict(output)
    rank, last = kept.pop("rank", None), kept.pop("channels_last", False)
    classes, size = kept.pop("classes", 1), kept.pop("size", None)
    axes = {1: "N", 2: "NC", 3: "NHW", 4: "NHWC" if last else "NCHW"}.get(rank)
    known = axes is not None
    if axes is None:
        axes = "NCHW" if role == "raw_map" else "NC"
    height, width = size or (None, None)
    sizes = {"N": None, "C": classes, "H": height, "W": width}
    return {**kept, "axes": axes, "sizes": [sizes[axis] for axis in axes], "rank_known": known}
