"""`diff_fleets`: what moved between two runs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pp_graph.errors import counted
from pp_graph.fleet.manifest import DECIDED, read_manifest
from pp_graph.saving import Saved
from pp_graph.summary import Line, Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pp_graph.summary import Block

_COMPARED: Final = (
    "status", "inference_precision", "plan", "image_threshold", "pixel_threshold", "image_cutoff", "pixel_cutoff",
    *DECIDED, "images", "bytes", "pp_graph_version",
)  # fmt: skip
_LISTED: Final = 40


@dataclass(frozen=True)
class Moved:
    """A number of an artifact that differs.

    Attributes:
        model: The model.
        device: The device.
        precision: Precision of the weights.
        what: Name of the number: a column of the manifest, or a parameter of the post-processor.
        before: Its value in the first run.
        after: Its value in the second run.
    """

    model: str
    device: str
    precision: str
    what: str
    before: Any
    after: Any


@dataclass(frozen=True)
class FleetDifference(Saved):
    """What moved between two runs.

    Attributes:
        moved: Numbers that differ.
        added: Artifacts of the second run alone, as model, device and precision.
        removed: Artifacts of the first run alone.
        same: Number of artifacts of which nothing moved.
    """

    moved: tuple[Moved, ...]
    added: tuple[tuple[str, str, str], ...]
    removed: tuple[tuple[str, str, str], ...]
    same: int

    @property
    def verdict(self) -> str:
        """A sentence."""
        artifacts = len({(each.model, each.device, each.precision) for each in self.moved})
        return (
            f"{counted(len(self.moved), 'number')} of {counted(artifacts, 'artifact')} moved; artifacts that are new: "
            f"{len(self.added):,}, gone: {len(self.removed):,}, the same: {self.same:,}."
        )

    def summary(self) -> list[Block]:
        """Return the numbers as a table."""
        rows = [
            *((each.model, each.device, each.precision, each.what, _text(each.before), _text(each.after))
              for each in self.moved),
            *((*each, "artifact", "", "new") for each in self.added),
            *((*each, "artifact", "", "gone") for each in self.removed),
        ]  # fmt: skip
        blocks: list[Block] = []
        if rows:
            heads = ("model", "device", "precision", "what", "before", "after")
            blocks.append(Table("What moved", heads, rows[:_LISTED]))
        if len(rows) > _LISTED:
            blocks.append(Line(f"... and {len(rows) - _LISTED:,} more (--json lists all)"))
        return [*blocks, Line(self.verdict, bold=True)]

    def __repr__(self) -> str:
        """Return the verdict."""
        return f"<FleetDifference, {self.verdict}>"

    def to_dict(self) -> dict[str, Any]:
        """Return the difference as JSON values."""
        names = ("model", "device", "precision")
        return {
            "moved": [
                {name: getattr(each, name) for name in (*names, "what", "before", "after")} for each in self.moved
            ],
            "added": [dict(zip(names, each, strict=True)) for each in self.added],
            "removed": [dict(zip(names, each, strict=True)) for each in self.removed],
            "same": self.same,
        }


def diff_fleets(before: str | Path, after: str | Path) -> FleetDifference:
    """Compare two runs of fleets: thresholds, cutoffs, decisions, F1, latency and size.

    A latency has moved if the confidence intervals of its ratio to the raw model do not overlap.

    Args:
        before: Output folder of the first run, or a copy of its `fleet.parquet`.
        after: The same of the second run.

    Raises:
        SettingsError: A folder has no manifest.
        ExtraError: The extra `fleet` is not installed.
    """
    first, second = (_by_artifact(read_manifest(Path(each))) for each in (before, after))
    moved, same = [], 0
    for artifact in first.keys() & second.keys():
        found = list(_moved(first[artifact], second[artifact]))
        moved += [Moved(*artifact, *each) for each in found]
        same += not found
    order = {artifact: index for index, artifact in enumerate(second)}
    moved.sort(key=lambda each: order[each.model, each.device, each.precision])
    return FleetDifference(
        moved=tuple(moved),
        added=tuple(each for each in second if each not in first),
        removed=tuple(each for each in first if each not in second),
        same=same,
    )


def _by_artifact(rows: list[dict[str, Any]]) -> dict[tuple[str, str, str], dict[str, Any]]:
    return {(row["model"], row["device"], row["precision"]): row for row in rows}


def _moved(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    # Numbers of before a retune say nothing about the artifact as it is.
    measured = one["measured"] is None and other["measured"] is None
    for name in _COMPARED:
        if one[name] != other[name] and (measured or name not in DECIDED):
            yield name, one[name], other[name]
    for column in ("parameters", "cutoffs"):
        found = [json.loads(row[column] or "{}") for row in (one, other)]
        for name in dict.fromkeys((*found[0], *found[1])):
            values = tuple(each.get(name) for each in found)
            # Single cutoffs of an anomaly model have columns of their own.
            if values[0] != values[1] and not (column == "cutoffs" and name in ("pred_label", "pred_mask")):
                yield name, *values
    latencies = [row["latency_ratio"] for row in (one, other)]
    if None not in latencies and (
        one["latency_ratio_high"] < other["latency_ratio_low"] or other["latency_ratio_high"] < one["latency_ratio_low"]
    ):
        yield "latency_ratio", *latencies


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "-" if value is None else str(value)
