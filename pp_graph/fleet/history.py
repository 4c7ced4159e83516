"""Change numbers of many artifacts at once, and undo it."""

from __future__ import annotations

import contextlib
import datetime
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pp_graph.errors import DataError, PPGraphError, SettingsError, counted
from pp_graph.fleet.manifest import BEFORE_RETUNE, DECIDED, RETUNED, FleetReport, read_manifest, write_manifest
from pp_graph.fleet.plan import slot_of
from pp_graph.fleet.store import STATE, Store, variant_name, write_json
from pp_graph.fleet.tuned import identity_of, number_columns, numbers_of
from pp_graph.retuning import prepare_retuning
from pp_graph.saving import Saved
from pp_graph.summary import Line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pp_graph.retuning.files import Retuning
    from pp_graph.summary import Block

_OWN: Final = ("model", "device", "precision")


@dataclass(frozen=True, repr=False)
class RetunedFleet(Saved):
    """Artifacts that were retuned.

    Attributes:
        folder: The output folder of the fleet.
        artifacts: Names of the artifacts, `model/variant`.
        numbers: The new numbers; empty if a change was undone.
        where: What selected the artifacts.
        written: False if nothing was written.
    """

    folder: Path
    artifacts: tuple[str, ...]
    numbers: dict[str, Any]
    where: dict[str, str]
    written: bool

    @property
    def verdict(self) -> str:
        """A sentence."""
        done = "Took back the last change of" if not self.numbers else "Retuned" if self.written else "Would retune"
        return f"{done} {counted(len(self.artifacts), 'artifact')}."

    def summary(self) -> list[Block]:
        """Return the artifacts, and what was done."""
        return [*map(Line, self.artifacts), Line(self.verdict)]

    def __repr__(self) -> str:
        """Return what was done."""
        return f"<RetunedFleet, {self.verdict}>"

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return {
            "folder": str(self.folder),
            "artifacts": list(self.artifacts),
            "numbers": self.numbers,
            "where": self.where,
            "written": self.written,
        }


def overridden(store: Store) -> dict[str, dict[str, Any]]:
    """Return the numbers that `retune_fleet` set, by `model/variant`; they win over those of the fleet's file."""
    found: dict[str, dict[str, Any]] = {}
    for change in _history(store):
        for name in change["before"]:
            found[name] = {**found.get(name, {}), **change["numbers"]}
    return found


def retune_fleet(
    folder: str | Path, numbers: Mapping[str, Any], *, where: Mapping[str, str] | None = None, dry_run: bool = False
) -> RetunedFleet:
    """Change numbers of artifacts of a fleet. Each file changes whole or not at all.

    The next `run_fleet` keeps the numbers and verifies the artifacts again. `undo_retuning` takes the change back.

    Args:
        folder: Output folder of a fleet.
        numbers: New values by parameter, such as `image_sensitivity` or `confidence`.
        where: Select artifacts by tag, or by `model`, `device` and `precision`; None for all.
        dry_run: Check, and write nothing.

    Raises:
        SettingsError: Nothing is selected, or the folder is not that of a fleet.
        PostProcessorError: A value does not fit a selected model; nothing is written then.
        OutputFileError: A file cannot be written, or the folder is in use.
    """
    store = _store(folder)
    if not numbers:
        raise SettingsError("There is nothing to change, expected numbers such as image_sensitivity=0.6.")
    with store.in_use():
        rows = read_manifest(store.folder)
        chosen = _selected(rows, dict(where or {}))
        retunings = {_name(row): _prepare(store, row, numbers) for row in chosen}
        result = RetunedFleet(store.folder, tuple(retunings), dict(numbers), dict(where or {}), not dry_run)
        if dry_run:
            return result
        before = {}
        for row in chosen:
            current = _prepare(store, row, {}).provenance.parameters
            before[_name(row)] = {name: current.get(name) for name in numbers}
        change = {
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "numbers": dict(numbers),
            "where": dict(where or {}),
            "before": before,
        }
        # Written first: a run that is ended halfway can be undone, or repeated.
        write_json(_path(store), [*_history(store), change])
        _write(store, rows, retunings)
    return result


def undo_retuning(folder: str | Path) -> RetunedFleet:
    """Take back the last change that `retune_fleet` made.

    Args:
        folder: Output folder of a fleet.

    Raises:
        SettingsError: There is no change, or the folder is not that of a fleet.
        OutputFileError: A file cannot be written, or the folder is in use.
    """
    store = _store(folder)
    with store.in_use():
        history = _history(store)
        if not history:
            raise SettingsError(f"Fleet '{folder}' has no change to undo: fleet retune made none, or all are undone.")
        change = history[-1]
        rows = read_manifest(store.folder)
        known = {_name(row): row for row in rows}
        retunings = {name: _prepare(store, known[name], before)
                     for name, before in change["before"].items() if name in known}  # fmt: skip
        _write(store, rows, retunings)
        write_json(_path(store), history[:-1])
    return RetunedFleet(store.folder, tuple(retunings), {}, change["where"], written=True)


def _store(folder: str | Path) -> Store:
    from pathlib import Path

    store = Store(Path(folder).absolute())
    if not (store.folder / STATE).is_dir():
        raise SettingsError(
            f"Folder '{folder}' is not that of a fleet, expected the 'output' of a file that pp-graph fleet has run."
        )
    return store


def _path(store: Store) -> Path:
    return store.folder / STATE / "history.json"


def _history(store: Store) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    with contextlib.suppress(FileNotFoundError):
        found = json.loads(_path(store).read_bytes())
    return found


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['model']}/{variant_name(row['device'], row['precision'])}"


def _selected(rows: Sequence[dict[str, Any]], where: Mapping[str, str]) -> list[dict[str, Any]]:
    columns = {name: name for name in _OWN} | {
        name.removeprefix("tag_"): name for row in rows for name in row if name.startswith("tag_")
    }
    found = [row for row in rows if row["artifact"] is not None]
    for key, value in where.items():
        if key not in columns:
            raise SettingsError(f"'{key}' is no tag of this fleet, expected some of: {', '.join(columns)}.")
        matching = [row for row in found if str(row[columns[key]]) == value]
        if not matching:
            there = ", ".join(dict.fromkeys(str(row[columns[key]]) for row in found))
            raise SettingsError(f"No artifact has {key}={value}, expected one of: {there or 'nothing, none was made'}.")
        found = matching
    if not found:
        raise SettingsError("The fleet has no artifact to retune. Run it first: pp-graph fleet FLEET.yaml.")
    return found


def _prepare(store: Store, row: Mapping[str, Any], numbers: Mapping[str, Any]) -> Retuning:
    path = store.folder / row["artifact"]
    if not path.is_file():
        raise DataError(f"Artifact '{path}' is missing. Run the fleet again: pp-graph fleet FLEET.yaml.")
    try:
        return prepare_retuning(path, **numbers)
    except PPGraphError as error:
        raise type(error)(f"Model '{row['model']}': {error}") from error


def _write(store: Store, rows: list[dict[str, Any]], retunings: Mapping[str, Retuning]) -> None:
    chosen = [row for row in rows if _name(row) in retunings]
    for row in chosen:
        known = any(row[name] is not None for name in DECIDED)
        row.update({"status": RETUNED, "measured": BEFORE_RETUNE if known else None})
    # Before the first artifact changes, so that a command that is ended halfway leaves no old number as current.
    write_manifest(FleetReport(folder=store.folder, rows=tuple(rows)))
    for row in chosen:
        written = retunings[_name(row)].write()
        result = {**numbers_of(written.provenance), **identity_of(written.path)}
        model, variant = row["model"], variant_name(row["device"], row["precision"])
        slot = slot_of(model, variant, "tune")
        record = store.record(slot) or {"converted": ""}
        files = store.stamps((written.path, written.path.with_suffix(".bin")))
        store.write_record(slot, {**record, "key": "", "result": result, "files": files})
        verified = store.result(slot_of(model, variant, "verify")).get("numbers")
        # An undone change brings back the numbers that were verified.
        same = verified == json.loads(json.dumps(numbers_of(written.provenance)))
        row.update({**number_columns(result), "measured": None if same else row["measured"]})
    write_manifest(FleetReport(folder=store.folder, rows=tuple(rows)))
