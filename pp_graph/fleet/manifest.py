"""`FleetReport` and the manifest: a row for each model, device and precision."""

from __future__ import annotations

import textwrap
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pp_graph.errors import SettingsError, counted, first_line
from pp_graph.extras import require_extra
from pp_graph.files import written_together
from pp_graph.fleet.plan import BENCHMARK, slot_of
from pp_graph.fleet.settings import AUTO
from pp_graph.fleet.tuned import number_columns
from pp_graph.saving import Saved
from pp_graph.summary import Line, Remark, Table, size_text
from pp_graph.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from pp_graph.fleet.isolation import TaskError
    from pp_graph.fleet.plan import Task
    from pp_graph.fleet.store import Store
    from pp_graph.summary import Block

MANIFEST: Final = "fleet.parquet"
PAGE: Final = "fleet.html"
RATES: Final = {
    "f1_image": "image", "f1_pixel": "mask", "f1_class": "class", "f1_box": "box", "class_accuracy": "class_accuracy",
    "average_precision_50": "average_precision_50", "average_precision_50_95": "average_precision_50_95",
}  # fmt: skip
"""Columns of rates of right decisions, by the names of these rates; see `rates.measure_rates`."""
PASSED, FAILED, ERROR, NOT_HERE, RETUNED = "passed", "failed", "error", "not here", "retuned"
"""Status of an artifact: within its limits; over them; not made or not checked; not checked because the machine lacks
the device; with numbers that changed after it was verified."""
BEFORE_RETUNE: Final = "before the last retune"
"""`measured` of a row whose `DECIDED` columns are those of other numbers than the artifact has now."""
DECIDED: Final = (
    *RATES, "postprocessing_flips", "drift_label_flips", "drift_pixel_flips",
)  # fmt: skip
"""Columns that change with the numbers an artifact decides with, and are measured by verifying it."""
_LISTED: Final = 20
_PROBLEM: Final = 120
COLUMNS: Final = {
    "model": "string", "device": "string", "precision": "string", "inference_precision": "string", "plan": "string",
    "status": "string",
    "problem": "string", "artifact": "string", "artifact_sha256": "string", "raw": "string", "key": "string",
    "pp_graph_version": "string", "image_threshold": "double", "pixel_threshold": "double", "image_cutoff": "double",
    "pixel_cutoff": "double", "image_sensitivity": "double", "pixel_sensitivity": "double", "cutoffs": "string",
    "parameters": "string", **dict.fromkeys(RATES, "double"), "measured": "string", "images": "int64",
    "postprocessing_flips": "int64", "drift_label_flips": "int64", "labels": "int64", "drift_pixel_flips": "int64",
    "pixels": "int64", "latency_ms": "double", "raw_latency_ms": "double", "latency_ratio": "double",
    "latency_ratio_low": "double", "latency_ratio_high": "double", "bytes": "int64", "seconds": "double",
}  # fmt: skip
"""Columns of the manifest and their types in Arrow. Tags follow, as columns `tag_<name>`."""
_NEVER_MISSING: Final = ("model", "device", "precision", "status", "artifact", "parameters", "cutoffs")


@dataclass(frozen=True)
class FleetReport(Saved):
    """What came out of a fleet.

    Attributes:
        folder: The output folder.
        rows: A row for each model, device and precision; see `COLUMNS`.
        done: Number of tasks that were done in this run.
        kept: Number of tasks whose results were up to date.
        seconds: Duration of the run.
        notes: Remarks for the user.
    """

    folder: Path
    rows: tuple[dict[str, Any], ...]
    done: int = 0
    kept: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """True if every artifact was made and is within its limits."""
        return all(row["status"] == PASSED for row in self.rows)

    @property
    def errors(self) -> tuple[str, ...]:
        """What failed, once for each task."""
        return tuple(dict.fromkeys(row["problem"] for row in self.rows if row["status"] in (ERROR, NOT_HERE)))

    @property
    def verdict(self) -> str:
        """A sentence."""
        counts = Counter(row["status"] for row in self.rows)
        total = counted(len(self.rows), "artifact")
        if self.passed:
            return f"PASSED: {total} of {counted(len({row['model'] for row in self.rows}), 'model')}."
        found = [
            text
            for status, text in ((FAILED, "over their limits"), (ERROR, "not made or not checked"),
                                 (NOT_HERE, "for a device that is not here"))
            for text in ([f"{counts[status]:,} {text}"] if counts[status] else [])
        ]  # fmt: skip
        if not found:
            changed = sum(row["status"] != PASSED for row in self.rows)
            return f"NOT VERIFIED: of {total}, {changed:,} retuned. pp-graph fleet FLEET.yaml verifies them."
        return f"FAILED: of {total}, {' and '.join(filter(None, (', '.join(found[:-1]), found[-1])))}."

    @property
    def remarks(self) -> tuple[str, ...]:
        """Notes for the user, also about numbers that are not current."""
        old = sum(row["measured"] is not None for row in self.rows)
        if not old:
            return self.notes
        note = (
            f"F1 and flips of {counted(old, 'artifact')} are those {BEFORE_RETUNE}, and marked so, as are their "
            "verification.html and packages. pp-graph fleet FLEET.yaml measures and writes them again."
        )
        return (*self.notes, note)

    def summary(self) -> list[Block]:
        """Return the artifacts that did not pass as a table, and totals."""
        bad = [row for row in self.rows if row["status"] != PASSED]
        shown = bad if bad or len(self.rows) > _LISTED else self.rows
        blocks: list[Block] = []
        if shown:
            columns = ("model", "device", "precision", "status", "F1", "flips by drift", "latency", "size", "problem")
            cells = [_cells(row) for row in shown[:_LISTED]]
            blocks.append(Table("Fleet", columns, cells))
            if len(shown) > _LISTED:
                blocks.append(Line(f"... and {len(shown) - _LISTED:,} more: {self.folder / PAGE}"))
        blocks += [Remark(f"Note: {note}") for note in self.remarks]
        blocks.append(Line(self.verdict, bold=True))
        blocks.append(
            Line(f"{self.done:,} tasks done, {self.kept:,} up to date, {self.seconds:.1f} s. See {self.folder / PAGE}.")
        )
        return blocks

    def __repr__(self) -> str:
        """Return the verdict."""
        return f"<FleetReport, {self.verdict}>"

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "passed": self.passed,
            "verdict": self.verdict,
            "errors": list(self.errors),
            "notes": list(self.remarks),
            "folder": str(self.folder),
            "manifest": str(self.folder / MANIFEST),
            "page": str(self.folder / PAGE),
            "tasks_done": self.done,
            "tasks_kept": self.kept,
            "seconds": round(self.seconds, 3),
            "artifacts": list(self.rows),
        }


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    rate = next((row[name] for name in RATES if row[name] is not None), None)
    precision = row["average_precision_50"]
    flips = [f"{row[f'drift_{kind}_flips']:,} {kind}s" for kind in ("label", "pixel")
             if row[f"drift_{kind}_flips"] is not None]  # fmt: skip
    when = "" if row["measured"] is None else f" ({row['measured']})"
    return (
        row["model"],
        row["device"],
        row["precision"],
        row["status"],
        "" if rate is None else f"{rate:.3f}{'' if precision is None else f', AP50 {precision:.3f}'}{when}",
        f"{', '.join(flips)}{when}" if flips else "",
        "" if row["latency_ratio"] is None else f"{row['latency_ratio']:.2f} of raw",
        "" if row["bytes"] is None else size_text(row["bytes"]),
        textwrap.shorten(row["problem"] or "", _PROBLEM, placeholder=" ..."),
    )


def fleet_rows(tasks: Mapping[str, Task], store: Store, errors: Mapping[str, TaskError]) -> list[dict[str, Any]]:
    """Return the rows of all artifacts, from the records of their tasks.

    Args:
        tasks: All tasks by slot.
        store: The output folder.
        errors: Errors of the tasks that failed.
    """
    seconds: dict[str, float] = {}
    shared: dict[str, dict[str, Any]] = {}
    rows = []
    for slot, task in tasks.items():
        record = store.record(slot)
        current = record is not None and record["key"] == task.key and slot not in errors
        where = slot.rpartition("/")[0]
        own = shared.setdefault(where, {"results": {}, "errors": [], "task": task})
        if current and record is not None:
            own["results"][task.kind] = record["result"]
            seconds[where] = seconds.get(where, 0.0) + record["seconds"]
        elif slot in errors:
            own["errors"].append(errors[slot])
    for where, own in shared.items():
        if own["task"].device:
            rows.append(_row(own["task"], own["results"], own["errors"], store, seconds.get(where, 0.0)))
    return rows


def _row(
    task: Task, results: Mapping[str, Any], errors: Sequence[TaskError], store: Store, seconds: float
) -> dict[str, Any]:
    model = task.model
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    row |= {f"tag_{name}": value for name, value in model.tags.items()}
    row |= {
        "model": model.name,
        "device": task.device,
        "precision": task.precision,
        "inference_precision": model.inference_precision,
        "raw": model.source or str(model.path),
        "pp_graph_version": __version__,
        "seconds": round(seconds, 3),
        "key": (store.record(slot_of(model.name, task.variant, "tune")) or {}).get("key"),
    }
    converted, tuned, verified, timed = (results.get(kind) for kind in ("convert", "tune", "verify", BENCHMARK))
    if task.precision == AUTO:
        row |= {name: (converted or {}).get(name) for name in ("plan", "inference_precision")}
    if tuned is not None:
        path = store.artifact(model.name, task.variant)
        row |= {**number_columns(tuned), "artifact": path.relative_to(store.folder).as_posix()}
    if verified is not None:
        row |= _verified(verified)
    if timed is not None:
        row |= {
            "latency_ms": timed["median_ms"],
            "raw_latency_ms": timed["raw_median_ms"],
            "latency_ratio": timed["ratio"],
            "latency_ratio_low": timed["ratio_low"],
            "latency_ratio_high": timed["ratio_high"],
        }
    problems = list(dict.fromkeys(f"{error}" for error in errors))
    if problems or verified is None:
        absent = errors and all(error.absent for error in errors)
        return row | {"status": NOT_HERE if absent else ERROR, "problem": " ".join(problems) or "was not verified"}
    found = list(verified["failures"])
    limit = model.limits.ratio_to_raw
    if timed is not None and limit is not None and timed["ratio_low"] > limit:
        found.append(f"latency is {timed['ratio']:.3f} of that of the raw model, more than the limit of {limit:g}")
    return row | {"status": FAILED if found else PASSED, "problem": "; ".join(found) or None}


def _verified(verified: Mapping[str, Any]) -> dict[str, Any]:
    drift, rates = verified["drift"], verified["rates"]
    labels = drift.get("labels") or drift.get("detections") or {}
    pixels = drift.get("pixels") or {}
    return {
        "images": verified["images"],
        "postprocessing_flips": verified["postprocessing_flips"],
        "drift_label_flips": labels.get("flips"),
        "labels": labels.get("total"),
        "drift_pixel_flips": pixels.get("flips"),
        "pixels": pixels.get("total"),
        **{column: rates.get(name) for column, name in RATES.items()},
    }


def write_manifest(report: FleetReport) -> None:
    """Write manifest and page into the output folder.

    Raises:
        OutputFileError: They cannot be written.
        ExtraError: pyarrow is not installed.
    """
    from pp_graph.fleet.page import fleet_page

    arrow = require_extra("pyarrow", "fleet", "writing the manifest of a fleet")
    parquet = require_extra("pyarrow.parquet", "fleet", "writing the manifest of a fleet")
    tags = list(_tags(report.rows))
    columns = {name: arrow.array([row[name] for row in report.rows], arrow.type_for_alias(kind))
               for name, kind in COLUMNS.items()}  # fmt: skip
    for name in tags:
        values = [row.get(name) for row in report.rows]
        kinds = {type(value) for value in values if value is not None}
        # A column has one type; a tag may be a number of one model and a word of another.
        columns[name] = arrow.array(
            values if len(kinds) < 2 else [None if each is None else str(each) for each in values]
        )
    table = arrow.table(columns)
    page = fleet_page(report)
    with written_together(report.folder / MANIFEST, report.folder / PAGE, overwrite=True) as (manifest, shown):
        parquet.write_table(table, manifest)
        shown.write_text(page, encoding="utf-8")


def _tags(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield from dict.fromkeys(name for row in rows for name in row if name.startswith("tag_"))


def read_manifest(folder: Path) -> list[dict[str, Any]]:
    """Read the rows of a fleet.

    Args:
        folder: Its output folder, or its manifest.

    Raises:
        SettingsError: There is no manifest, or it is not one.
        ExtraError: pyarrow is not installed.
    """
    parquet = require_extra("pyarrow.parquet", "fleet", "reading the manifest of a fleet")
    path = folder / MANIFEST if folder.is_dir() else folder
    try:
        rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    except FileNotFoundError as error:
        raise SettingsError(f"'{folder}' has no {MANIFEST}, expected the output folder of pp-graph fleet.") from error
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"'{path}' is not the manifest of a fleet: {first_line(error)}. Run pp-graph fleet again."
        ) from error
    missing = [name for name in _NEVER_MISSING if rows and name not in rows[0]]
    if missing:
        raise SettingsError(f"'{path}' is not the manifest of a fleet: it has no column '{missing[0]}'.")
    return [{**dict.fromkeys(COLUMNS), **row} for row in rows]  # earlier versions had fewer columns
