"""Run tasks on Dask: a cluster on this machine, or a running one."""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

from pp_graph.errors import ClusterError, first_line
from pp_graph.extras import require_extra
from pp_graph.fleet.isolation import ProcessError, Seats, TaskError, run_isolated, stop_all
from pp_graph.fleet.plan import BENCHMARK
from pp_graph.workers.clients import EXTRA, check_client, open_client, refuse_too_many

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from distributed import Client

    from pp_graph.fleet.plan import Task
    from pp_graph.fleet.settings import FleetSettings
    from pp_graph.fleet.store import Store

_seats_lock = threading.Lock()


@contextlib.contextmanager
def connected(workers: int | None, scheduler: str | None) -> Iterator[Client]:
    """Yield a client of a cluster on this machine, or of a running one.

    Args:
        workers: Number of tasks at the same time on this machine; None for one for two cores.
        scheduler: Address of a running scheduler, such as `tcp://host:8786`.

    Raises:
        ClusterError: Both are given, `workers` is below 1 or far above the number of cores, the scheduler does not
            answer, or its workers have other versions than we have.
        ExtraError: Dask is not installed.
    """
    if scheduler is not None:
        with open_client(workers, scheduler) as client:
            assert client is not None
            _silence()
            check_client(client)
            yield client
        return
    if workers is not None and workers < 1:
        raise ClusterError(f"workers is {workers}, expected at least 1. Leave it out for one for two cores.")
    distributed = require_extra("distributed", EXTRA, "running a fleet")
    _silence()
    import dask
    from dask.system import CPU_COUNT

    count = workers or max(1, CPU_COUNT // 2)
    refuse_too_many(count, CPU_COUNT)
    # Tasks have processes of their own, so that the workers need not.
    with (
        dask.config.set({"distributed.worker.memory.terminate": False}),
        distributed.LocalCluster(
            n_workers=1,
            threads_per_worker=count,
            processes=False,
            memory_limit=0,
            worker_dashboard_address="127.0.0.1:0",
            dashboard_address="127.0.0.1:0",  # any free port: a second run is no reason to warn
            silence_logs=logging.CRITICAL,
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        try:
            yield client
        finally:
            stop_all()


def _silence() -> None:
    """Silence Dask's logs: failures of tasks, and a scheduler that went away, are reported in our words."""
    for name in list(logging.Logger.manager.loggerDict):
        if name.partition(".")[0] in ("distributed", "tornado"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def run_tasks(
    client: Client,
    tasks: Mapping[str, Task],
    settings: FleetSettings,
    store: Store,
    done: Callable[[Task, TaskError | None], None],
) -> dict[str, TaskError]:
    """Run tasks in the order that they need, and benchmarks after all others, one at a time on each machine.

    Args:
        client: Client of a cluster.
        tasks: The tasks, each after those that it needs.
        settings: Limits of time and memory, and retries.
        store: The output folder.
        done: Called when a task has finished or failed.

    Returns:
        Errors of the tasks that failed, by slot. A task that needs a failed one is not run, and has its error.

    Raises:
        ClusterError: The scheduler went away.
    """
    run = _Run(client, settings, store, done)
    try:
        run.graph([task for task in tasks.values() if task.kind != BENCHMARK])
        run.one_by_one([task for task in tasks.values() if task.kind == BENCHMARK])
    except ClusterError:
        raise
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("distributed", "dask", "asyncio", "concurrent"):
            raise
        raise _gone(error) from error
    return run.errors


def _gone(error: BaseException | None) -> ClusterError:
    why = f": {first_line(error)}" if error is not None and str(error) else ""
    return ClusterError(
        f"The Dask scheduler went away{why}. What was finished is kept: start it again, and run the same command."
    )


class _Run:
    """Submits tasks and collects their errors; see `run_tasks`."""

    def __init__(
        self, client: Client, settings: FleetSettings, store: Store, done: Callable[[Task, TaskError | None], None]
    ) -> None:
        self._client, self._store, self._done = client, store, done
        self._limits = (settings.timeout, settings.memory, settings.retries)
        self._completed = require_extra("distributed", EXTRA, "running a fleet").as_completed
        self.errors: dict[str, TaskError] = {}

    def graph(self, tasks: Sequence[Task]) -> None:
        """Run tasks, each after those that it needs."""
        futures: dict[str, Any] = {}
        submitted: dict[str, Task] = {}
        for rank, task in enumerate(tasks):
            after = [futures[each] for each in task.after if each in futures]
            # One model after the other, so that a run that is stopped has finished models.
            futures[task.slot] = future = self._submit(task, after, priority=-rank)
            submitted[future.key] = task
        for future in self._completed(futures.values(), loop=self._client.loop):
            self._finish(submitted[future.key], future)

    def one_by_one(self, tasks: Sequence[Task]) -> None:
        """Run tasks, one at a time on each machine."""
        waiting = []
        for task in tasks:
            failed = next((self.errors[each] for each in task.after if each in self.errors), None)
            if failed is None:
                waiting.append(task)
            else:
                self._report(task, failed)
        if not waiting:
            return
        workers = self._client.scheduler_info(n_workers=-1)["workers"]
        running: dict[str, tuple[Task, str]] = {}
        finished = self._completed(loop=self._client.loop)

        def start(address: str) -> None:
            if waiting:
                task = waiting.pop(0)
                future = self._submit(task, [], workers=[address])
                running[future.key] = task, address
                finished.add(future)

        for address in {found["host"]: address for address, found in workers.items()}.values():
            start(address)
        for future in finished:
            task, address = running.pop(future.key)
            self._finish(task, future)
            start(address)

    def _submit(self, task: Task, after: list[Any], **where: Any) -> Any:
        key = f"{task.slot}-{uuid.uuid4().hex[:8]}"
        return self._client.submit(run_task, task, self._store, *self._limits, after, key=key, pure=False, **where)

    def _finish(self, task: Task, future: Any) -> None:
        if future.status not in ("finished", "error"):  # cancelled or lost
            raise _gone(None)
        error = future.exception()
        if error is not None and not isinstance(error, TaskError):
            error = TaskError(task.slot, task.title, f"its worker was lost: {first_line(error)}")
        self._report(task, error)

    def _report(self, task: Task, error: TaskError | None) -> None:
        if error is not None:
            self.errors[task.slot] = error
        self._done(task, error)


def run_task(
    task: Task, store: Store, timeout: float, memory: int | None, retries: int, after: list[Any]
) -> dict[str, Any]:
    """Do a task in a process of its own, on a worker, and write its record.

    Args:
        task: The task.
        store: The output folder.
        timeout: Seconds that it may take.
        memory: Bytes that it may allocate; None for its share of the machine's memory.
        retries: How often to try again after a crash.
        after: Results of the tasks that it needs; Dask waits for them.

    Returns:
        The record.

    Raises:
        TaskError: It failed.
    """
    from pp_graph.fleet.work import work_on

    del after
    started = time.perf_counter()
    threads = _threads()
    limit = memory or _memory() // threads
    with _seats(threads).taken() as cores:
        for attempt in range(retries + 1):
            try:
                record = run_isolated(
                    work_on,
                    (task, store),
                    seconds=timeout,
                    memory=limit,
                    cores=frozenset() if task.kind == BENCHMARK else cores,
                    log=store.log(task.slot),
                )
                break
            except ProcessError as failure:
                if not failure.again or attempt == retries:
                    raise TaskError(task.slot, task.title, str(failure), failure.absent) from None
    found = {**record, "seconds": round(time.perf_counter() - started, 3)}
    store.write_record(task.slot, found)
    return {"slot": task.slot}


def _threads() -> int:
    from distributed import get_worker

    return max(1, int(get_worker().state.nthreads))


def _memory() -> int:
    from distributed.system import MEMORY_LIMIT

    return int(MEMORY_LIMIT)


@functools.cache
def _made_seats(threads: int) -> Seats:
    return Seats(threads)


def _seats(threads: int) -> Seats:
    with _seats_lock:
        return _made_seats(threads)
