"""The tasks of a fleet: what each depends on, and which are to be done."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from pp_graph.errors import DataError, PPGraphError
from pp_graph.fleet.downloads import Downloads
from pp_graph.fleet.post_processing import structure, wanted_numbers
from pp_graph.fleet.settings import AUTO
from pp_graph.fleet.store import Hashes, Store, variant_name
from pp_graph.statistics import Statistics
from pp_graph.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pp_graph.fleet.settings import FleetModel

BENCHMARK: Final = "benchmark"
_LIBRARIES: Final = ("onnxruntime", "openvino", "numpy")
"""Libraries whose version may change a number."""


@dataclass(frozen=True)
class Task:
    """A step of one model, or of one model for a device in a precision.

    Attributes:
        kind: Name of the step; an entry of `work.WORK`.
        model: The model.
        key: Hash of all that the result depends on.
        device: Device; empty for a step of the model itself.
        precision: Precision of the weights; empty likewise.
        numbers: Numbers that `retune` changes, for steps that need them.
        after: Slots of the tasks that must have finished.
        converted: Key of the conversion that a step of an artifact builds on.
        problem: Why it cannot be done, if that is known before.
    """

    kind: str
    model: FleetModel
    key: str
    device: str = ""
    precision: str = ""
    numbers: Mapping[str, Any] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    converted: str = ""
    problem: str = ""

    @property
    def variant(self) -> str:
        """Name of the folder of the artifact; empty for a step of the model itself."""
        return variant_name(self.device, self.precision) if self.device else ""

    @property
    def slot(self) -> str:
        """Name of the place where the record of the task is."""
        return slot_of(self.model.name, self.variant, self.kind)

    @property
    def title(self) -> str:
        """Name in messages, such as `cam7, CPU f32: verify`."""
        where = f", {self.device} {self.precision}" if self.device else ""
        return f"{self.model.name}{where}: {self.kind}"


def slot_of(model: str, variant: str, kind: str) -> str:
    """Return the slot of a task."""
    return "/".join(part for part in (model, variant, kind) if part)


def plan_tasks(
    models: Sequence[FleetModel], store: Store, overrides: Mapping[str, Mapping[str, Any]]
) -> dict[str, Task]:
    """Return all tasks of a fleet by slot, each after those that it needs.

    Args:
        models: The models.
        store: The output folder.
        overrides: Numbers that `retune_fleet` set, by `model/variant`.
    """
    hashes, downloads = Hashes(store), Downloads(store)
    tasks: dict[str, Task] = {}
    for model in models:
        for task in _Planner(model, store, hashes, downloads, overrides).tasks():
            tasks[task.slot] = task
    hashes.save()
    downloads.save()
    return tasks


class _Planner:
    """Plans the tasks of one model."""

    def __init__(
        self,
        model: FleetModel,
        store: Store,
        hashes: Hashes,
        downloads: Downloads,
        overrides: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self._store, self._overrides = store, overrides
        self._problem = ""
        try:
            model = downloads.local(model)
        except DataError as error:  # the first task reports it
            self._problem = str(error)
            model = msgspec.structs.replace(model, source=str(model.path), recipe=None, statistics=None)
        self._model = model
        try:
            self._raw = "" if self._problem else hashes.model(model.path)
        except (PPGraphError, OSError):  # the first task reports it
            self._raw = hashes.file(model.path)
        labels = model.options.get("labels")
        files = (model.data, model.boxes, model.statistics, model.recipe,
                 Path(labels) if isinstance(labels, str) else None)  # fmt: skip
        self._data, self._boxes, self._statistics, self._recipe, self._labels = (
            "" if file is None else hashes.data(file) for file in files
        )
        self._given: Statistics | None = None
        if model.statistics is not None:
            try:
                self._given = Statistics.load(model.statistics)
            except PPGraphError:  # the task that fuses reports it
                self._given = None

    def tasks(self) -> list[Task]:
        """Return the tasks, each after those that it needs."""
        model = self._model
        inspect = Task("inspect", model, _key("inspect", self._raw, self._problem), problem=self._problem)
        found = [inspect]
        source = self._statistics
        last = inspect.slot
        method = msgspec.to_builtins(model.calibrate)
        if model.calibrated:
            key = _key("calibrate", self._raw, self._data, method, model.roles)
            found.append(Task("calibrate", model, key, after=(last,)))
            source, last = key, found[-1].slot
        fuse = Task(
            "fuse",
            model,
            _key("fuse", self._raw, model.task, structure(model, self._given), self._recipe, self._labels, model.roles),
            numbers=wanted_numbers(model, self._given, {}),
            after=(last,),
        )
        found.append(fuse)
        for device in model.devices:
            for precision in model.precisions:
                found += self._variant(device, precision, fuse, source, method)
        return found

    def _variant(self, device: str, precision: str, fuse: Task, source: str, method: Any) -> list[Task]:
        model = self._model
        found: list[Task] = []
        override = self._overrides.get(f"{model.name}/{variant_name(device, precision)}", {})
        numbers = wanted_numbers(model, self._given, override)

        def add(kind: str, *parts: Any) -> Task:
            after = (found[-1] if found else fuse).slot
            converted = found[0].key if found else ""
            found.append(Task(kind, model, _key(kind, *parts), device, precision, numbers, (after,), converted))
            return found[-1]

        looks_at: tuple[Any, ...] = ()
        if precision == "int8":
            looks_at = (self._data,)
        elif precision == AUTO:  # the search decides with the thresholds, and may find others
            looks_at = (self._data, self._boxes, source, model.limits.label_flips, model.limits.pixel_flips,
                        model.search_minutes)  # fmt: skip
        convert = add("convert", fuse.key, device, precision, model.batch, model.input_shape, *looks_at)
        if model.recalibrate:
            source = add("recalibrate", convert.key, self._data, method, model.inference_precision).key
        tune = add("tune", convert.key, source, numbers)
        limits = msgspec.to_builtins(model.limits)
        add("verify", tune.key, self._data, self._boxes, model.inference_precision, limits)
        if model.packages:
            add("package", tune.key, self._data, model.packages)
        if model.benchmark_seconds is not None:
            add(BENCHMARK, convert.key, self._data, model.inference_precision, model.benchmark_seconds)
        return found


def _key(kind: str, *parts: Any) -> str:
    """Return the hash of what a result depends on."""
    versions = [__version__, *(version(name) for name in _LIBRARIES)]
    return hashlib.sha256(json.dumps([kind, versions, parts], default=str, sort_keys=True).encode()).hexdigest()


def stale_tasks(tasks: Mapping[str, Task], store: Store) -> dict[str, Task]:
    """Return the tasks whose result is missing, or depends on something that has changed since."""
    stale = {slot for slot, task in tasks.items() if not _is_current(task, tasks, store)}
    # A new artifact is tuned, verified and timed, even if it is the same as before.
    converted = {slot.rpartition("/")[0] for slot in stale if tasks[slot].kind == "convert"}
    stale |= {slot for slot, task in tasks.items() if task.device and slot.rpartition("/")[0] in converted}
    # A fused model is needed only to convert.
    wanted = {tasks[slot].model.name for slot in stale if tasks[slot].kind == "convert"}
    stale -= {slot for slot, task in tasks.items() if task.kind == "fuse" and task.model.name not in wanted}
    return {slot: task for slot, task in tasks.items() if slot in stale}


def _is_current(task: Task, tasks: Mapping[str, Task], store: Store) -> bool:
    record = store.record(task.slot)
    if record is None or record["key"] != task.key:
        return False
    if store.unchanged(record):
        return True
    # Tuning changes what converting wrote.
    tuned = store.record(slot_of(task.model.name, task.variant, "tune")) if task.kind == "convert" else None
    return tuned is not None and tuned["converted"] == task.key and store.unchanged(tuned)
