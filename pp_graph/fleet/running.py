"""`run_fleet`: bring all models of a file up to date."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pp_graph.errors import counted
from pp_graph.extras import check_extra
from pp_graph.fleet.cluster import connected, run_tasks
from pp_graph.fleet.history import overridden
from pp_graph.fleet.manifest import FleetReport, fleet_rows, write_manifest
from pp_graph.fleet.plan import plan_tasks, stale_tasks
from pp_graph.fleet.settings import read_fleet
from pp_graph.fleet.store import Store
from pp_graph.progress import expect, shows_progress

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pp_graph.fleet.isolation import TaskError
    from pp_graph.fleet.plan import Task


@shows_progress("Tasks")
def run_fleet(
    fleet: str | Path,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    overwrite: bool = False,
    progress: Callable[[float], object] | bool | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> FleetReport:
    """Fuse, convert, tune and verify all models of a file, as far as their results are not up to date.

    Results are kept with a hash of all that they depend on. A run that was ended in any way goes on where it was. A
    task that fails holds up only those that need it.

    Args:
        fleet: YAML file that describes the fleet; see `docs/fleet.md`.
        workers: Tasks at the same time on this machine; None for one for two cores.
        scheduler: Address of a running Dask scheduler whose workers see the same files under the same paths.
        overwrite: Write to an output folder that holds files of others.
        progress: Called with the number of tasks just done; True shows a progress bar.
        say: Called with a line about each task that failed.

    Returns:
        What came out, also in the output folder: a row for each model, device and precision in `fleet.parquet`, and the
        page `fleet.html`.

    Raises:
        SettingsError: The file cannot be read, or a field does not fit.
        ClusterError: The cluster cannot be used, or went away.
        ExtraError: The extra `fleet` is not installed.
        OutputFileError: The output folder cannot be written, or is in use by another run.
    """
    for module in ("distributed", "pyarrow"):
        check_extra(module, "fleet", "running a fleet")
    started = time.perf_counter()
    settings = read_fleet(fleet)
    store = Store(settings.output)
    store.check(overwrite=overwrite)
    with store.in_use():
        overrides = overridden(store)
        tasks = plan_tasks(settings.models, store, overrides)
        stale = stale_tasks(tasks, store)
        errors: dict[str, TaskError] = {}
        expect(progress, len(stale))

        def done(task: Task, error: TaskError | None) -> None:
            if callable(progress):
                progress(1)
            if error is not None and error.slot == task.slot:
                say(f"Failed: {error}")

        if stale:
            with connected(workers, scheduler) as client:
                errors = run_tasks(client, stale, settings, store, done)
        rows = fleet_rows(tasks, store, errors)
        report = FleetReport(
            folder=store.folder,
            rows=tuple(rows),
            done=len(stale) - len(errors),
            kept=len(tasks) - len(stale),
            seconds=time.perf_counter() - started,
            notes=_notes(len({f"{task.model.name}/{task.variant}" for task in tasks.values()} & set(overrides))),
        )
        write_manifest(report)
    return report


def _notes(overridden: int) -> tuple[str, ...]:
    if not overridden:
        return ()
    note = (
        f"{counted(overridden, 'artifact')} have numbers that pp-graph fleet retune set, which win over those of the "
        "file. pp-graph fleet retune --undo takes them back."
    )
    return (note,)
