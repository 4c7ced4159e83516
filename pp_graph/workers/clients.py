"""Start or reach a Dask cluster, and check that its workers compute as this process does."""

from __future__ import annotations

import atexit
import contextlib
import logging
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final

from pp_graph.errors import ClusterError, counted, first_line
from pp_graph.extras import require_extra
from pp_graph.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from distributed import Client

EXTRA: Final = "fleet"
_ANSWER_SECONDS: Final = 10
_WORKER_SECONDS: Final = 30
_WORKERS_PER_CORE: Final = 4
_FEWEST_ALLOWED: Final = 8
"""Workers that any machine may start, so that it can be tried with few cores."""
_SETTINGS: Final = {
    # Maps lie on the disk of the worker that computed them, which Dask does not know: work that it moves is done twice.
    "distributed.scheduler.work-stealing": False,
    # A paused worker holds up everything until it counts as lost. It gives signs of life during a long batch, too: a
    # thread of its own sends them, and runtimes do not hold Python's lock for more than some seconds.
    "distributed.scheduler.worker-ttl": "30s",
    # Dask's own settings suit tasks that seldom compute; here the cores have nothing to spare. It watches itself 50
    # times a second, and the stacks of all threads 100 times. With pages that are given back after each image, that
    # took a third of the time of one core.
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "500ms",
    "distributed.admin.system-monitor.interval": "5s",
    "distributed.admin.system-monitor.gil.enabled": False,
    "distributed.worker.memory.monitor-interval": "500ms",
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None,
}
"""Settings of Dask for workers of this machine; docs/scale.md has them as environment variables."""
_LIBRARIES: Final = ("numpy", "onnxruntime", "openvino", "pillow")
"""Libraries whose version may change a number."""


@contextlib.contextmanager
def open_client(workers: int | None = None, scheduler: str | None = None) -> Iterator[Client | None]:
    """Start worker processes on this machine, or connect to a running Dask cluster.

    Args:
        workers: Number of processes to start; they share the cores, and end with the context.
        scheduler: Address of a Dask scheduler, such as `tcp://host:8786`.

    Yields:
        The client; None if neither is given.

    Raises:
        ClusterError: Both are given, `workers` is below 1 or far above the number of cores, or the scheduler does not
            answer.
        ExtraError: Dask is not installed.
    """
    if workers is not None and scheduler is not None:
        raise ClusterError(
            f"Found workers={workers} (--workers) and scheduler='{scheduler}' (--scheduler), expected one of them: a "
            "running cluster has its own workers. Leave one out."
        )
    if workers is not None and workers < 1:
        raise ClusterError(f"workers is {workers}, expected at least 1. Leave it out to run in this process.")
    if workers is None and scheduler is None:
        yield None
        return
    distributed = require_extra("distributed", EXTRA, "sharing images among workers")
    if scheduler is not None:
        with _connected(distributed, scheduler) as client:
            yield client
        return
    with _local_cluster(distributed, workers or 1) as client:
        yield client


@contextlib.contextmanager
def _local_cluster(distributed: Any, workers: int) -> Iterator[Client]:
    import dask
    from dask.system import CPU_COUNT

    refuse_too_many(workers, CPU_COUNT)
    try:
        with dask.config.set(_SETTINGS):
            cluster = distributed.LocalCluster(
                n_workers=workers,
                threads_per_worker=max(1, CPU_COUNT // workers),
                processes=True,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL,
            )
        with cluster, distributed.Client(cluster) as client:
            yield client
    except KeyboardInterrupt:
        # Dask would fail to close what has not started, or wait for what is closing. Its processes end with this one.
        atexit.unregister(distributed.deploy.spec.close_clusters)
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        raise


def refuse_too_many(workers: int, cores: int) -> None:
    """Raise `ClusterError` for so many workers that they would hardly start."""
    most = max(_FEWEST_ALLOWED, _WORKERS_PER_CORE * cores)
    if workers > most:
        raise ClusterError(
            f"workers is {workers}, expected at most {most} on this machine, which has "
            f"{counted(cores, 'core')}: each loads the model into a process of its own. Start one for each core, or "
            "use the workers of several machines (--scheduler)."
        )


@contextlib.contextmanager
def _connected(distributed: Any, scheduler: str) -> Iterator[Client]:
    logger = logging.getLogger("distributed")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        try:
            client = distributed.Client(scheduler, timeout=_ANSWER_SECONDS)
        except (OSError, TimeoutError, ValueError, TypeError, AssertionError) as error:
            asserted = isinstance(error, AssertionError)
            why = "Dask's own thread did not start within 10 seconds" if asserted else first_line(error)
            raise ClusterError(
                f"Scheduler '{scheduler}' does not answer ({why}), expected a running Dask scheduler. "
                "Start one (dask scheduler) and workers for it (dask worker ADDRESS), and give the address that it "
                "prints, such as tcp://host:8786."
            ) from error
        with client:
            yield client
    finally:
        logger.setLevel(level)


def check_client(client: Client) -> None:
    """Raise if a cluster cannot share the work.

    Raises:
        ClusterError: It has no workers, or a worker lacks pp_graph or has other versions than this process.
    """
    distributed = require_extra("distributed", EXTRA, "sharing images among workers")
    if not isinstance(client, distributed.Client) or client.asynchronous:
        raise ClusterError(
            f"The client is {type(client).__name__}, expected a synchronous distributed.Client. Create one: "
            "distributed.Client(n_workers=2)."
        )
    try:
        client.wait_for_workers(1, timeout=_WORKER_SECONDS)
    except (OSError, TimeoutError, ValueError) as error:
        raise ClusterError(
            f"No worker answers ({first_line(error)}), expected at least one. Start some (dask worker ADDRESS); with "
            "--workers, start fewer, at most one for each core."
        ) from error
    try:
        found: dict[str, Any] = client.run(_described(), on_error="return", callback_timeout=_WORKER_SECONDS)
    except (OSError, TimeoutError) as error:
        raise ClusterError(
            f"Not every worker answers within {_WORKER_SECONDS} seconds ({first_line(error)}), expected each to say "
            "what is installed. One may be paused, or its machine busy: end it, or start it again."
        ) from error
    expected = {"pp_graph": __version__, **{name: _version(name) for name in _LIBRARIES}}
    for address, versions in sorted(found.items()):
        _check_versions(address, versions, expected)


def _check_versions(address: str, found: object, expected: Mapping[str, str | None]) -> None:
    if not isinstance(found, dict):
        why = first_line(found) if isinstance(found, BaseException) else str(found)
        raise ClusterError(f"Worker {address} cannot say what is installed ({why}), expected pp_graph. Restart it.")
    where = f"Worker {address} on host '{found['host']}'"
    if found["pp_graph"] is None:
        raise ClusterError(
            f"{where} cannot import pp_graph ({found['why']}), expected pp_graph {expected['pp_graph']}. Install it in "
            f"the worker's environment: pip install 'pp_graph[fleet]=={expected['pp_graph']}'."
        )
    for name, wanted in expected.items():
        if found[name] != wanted:
            raise ClusterError(
                f"{where} has {name} {found[name] or 'not installed'}, expected {wanted} as in this process: another "
                "version may compute other numbers. Install the same version on both."
            )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _described() -> Any:
    """Return a function that Dask sends by value, because a worker may not have pp_graph."""
    names = _LIBRARIES

    def describe() -> dict[str, str | None]:
        import socket
        from importlib.metadata import PackageNotFoundError, version

        found: dict[str, str | None] = {"host": socket.gethostname(), "pp_graph": None, "why": None}
        try:
            from pp_graph.version import __version__

            found["pp_graph"] = __version__
        except Exception as error:
            found["why"] = str(error)
        for name in names:
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                found[name] = None
        return found

    return describe
