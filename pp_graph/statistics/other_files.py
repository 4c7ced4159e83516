"""Recognise files of numbers that other commands read, to name them where they are mixed up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

CONFIDENCES: Final = "confidences"
CLASSIFIER: Final = "classifier"
STATISTICS: Final = "statistics"

_KINDS: Final = {
    CONFIDENCES: "holds the confidences of a detector, which calibrate --boxes writes. Give it as --confidence FILE "
    "with --task detection",
    CLASSIFIER: "holds the calibration of a classifier, which calibrate --task classification writes. Give it as "
    "--stats FILE with --task classification",
    STATISTICS: "holds the statistics of an anomaly model. Give it as --stats FILE, without --task",
}


def other_kind(path: str | Path, expected: str) -> str:
    """Return a sentence that says what a file holds if it is of another kind than expected; empty otherwise."""
    try:
        content: Any = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return ""
    if not isinstance(content, dict):
        return ""
    kind = (
        CONFIDENCES
        if isinstance(content.get("confidence"), dict)
        else CLASSIFIER
        if content.get("task") == "classification"
        else STATISTICS
        if {"image", "pixel"} & set(content)
        else expected
    )
    return "" if kind == expected else f" '{path}' {_KINDS[kind]}."
