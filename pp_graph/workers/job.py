"""`Job`: cut images into shards, let workers count them, and merge the counts."""

from __future__ import annotations

import contextlib
import queue
import time
import uuid
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, TypeVar, cast

from pp_graph.errors import ClusterError, first_line
from pp_graph.workers.clients import check_client
from pp_graph.workers.on_worker import Batches, Part, Sent, Shard, Work, forget, merge_parts, work_on

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from distributed import Client

State = TypeVar("State")

_SHARDS_PER_THREAD: Final = 8
"""Fewest shards for each thread of the cluster, so that none waits long for the last."""
_MOST_IMAGES: Final = 256
"""Largest shard, as long as there are not too many: what is lost if a worker dies."""
_MOST_SHARDS: Final = 50_000
"""Shards beyond which they grow instead: the scheduler keeps each, and handles one after the other."""
_FAN_IN: Final = 8
"""Counts that one task merges."""
_POLL_SECONDS: Final = 0.5
_CHECK_SECONDS: Final = 5
"""Time between questions about the workers, which cost the scheduler something."""
_GATHER_SECONDS: Final = 30
"""Time for a result to come from its worker, after which somebody asks whether there are workers."""
_FORGET_SECONDS: Final = 5
"""Time that workers have to close what they opened; one that is paused would not come to it."""
_LONELY_SECONDS: Final = 60
"""Time without any worker after which a job is given up."""


class Cuttable(Protocol):
    """Images, with or without labels."""

    def __len__(self) -> int: ...

    def part(self, start: int, stop: int) -> object | None:
        """Return some of the images alone; None if all are to be sent together."""


def cut_into_shards(count: int, batch: int, threads: int) -> list[tuple[int, int]]:
    """Cut images into spans.

    Every span is a multiple of the batch, so that batches hold the same images as in one process: a runtime may round
    differently in another batch.

    Args:
        count: Number of images.
        batch: Images in a batch.
        threads: Number of threads of the cluster.
    """
    largest = max(_MOST_IMAGES, -(-count // _MOST_SHARDS))
    wanted = min(largest, -(-count // (_SHARDS_PER_THREAD * max(1, threads))))
    size = max(1, -(-wanted // batch)) * batch
    return [(start, min(start + size, count)) for start in range(0, count, size)]


class Job:
    """Work that the workers of a cluster share.

    Args:
        client: A Dask client.
        work: What each worker opens once.
        images: The images.
        batch: Images in a batch.
        progress: Called with the number of images just done.

    Raises:
        ClusterError: The cluster has no workers, or they have other versions.
    """

    def __init__(
        self,
        client: Client,
        work: Work,
        images: Cuttable,
        batch: int,
        progress: Callable[[int], object] | None = None,
    ) -> None:
        check_client(client)
        self._client = cast("Any", client)  # much of it has no types
        self._key = uuid.uuid4().hex
        self._topic = f"pp_graph-{self._key}"
        self._progress = progress
        self._done: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
        self._counted: set[int] = set()
        self._round = 0
        self._places: Mapping[int, str] = {}
        self._unfinished: list[Any] = []
        # Dask keeps arguments of a task on the scheduler, so that this survives the loss of any worker.
        whole = images.part(0, 0) is None
        self._work = self._send(Sent.of((work, images if whole else None), self._key))
        threads = sum(self._client.nthreads().values())
        self._shards = [
            Shard(start, stop, None if whole else images.part(start, stop))
            for start, stop in cut_into_shards(len(images), batch, threads)
        ]

    def __enter__(self) -> Self:
        self._client.subscribe_topic(self._topic, self._on_event)
        return self

    def __exit__(self, *raised: object) -> None:
        with contextlib.suppress(Exception):  # the cluster may be gone
            # After an error, nobody wants the rest; a traceback would keep it wanted.
            self._client.cancel(self._unfinished)
            self._client.unsubscribe_topic(self._topic)
            self._work.release()
            self._client.run(forget, self._key, on_error="ignore", callback_timeout=_FORGET_SECONDS)

    def run(self, function: Callable[[Any, Batches, Any], State], shared: object = None) -> State:
        """Let workers compute a state for each shard, and merge the states in the order of the images.

        A shard goes to the worker that had it in an earlier round, if that is still there.

        Args:
            function: Called with what `Work.open` returned, the `Batches` of a shard, and `shared`; returns a state.
                It can run more than once for a shard, on any worker.
            shared: An argument for all shards.

        Returns:
            The merged state. Merging calls `merge` of a state with the next one's.

        Raises:
            ClusterError: The cluster is gone, has no workers any more, or a shard ended its worker again and again.
            PPGraphError: What a worker raises.
        """
        self._round += 1
        name = f"pp_graph-{function.__name__}-{self._key}-{self._round}"
        common = self._send(Sent.of(shared, f"{name}-shared"))
        futures: list[Any] = []
        for places, some in self._by_place().items():
            futures += self._client.map(
                work_on,
                some,
                key=[f"{name}-{shard.start}" for shard in some],
                function=function,
                work=self._work,
                shared=common,
                topic=self._topic,
                workers=places,
                allow_other_workers=places is not None,
            )
        level = sorted(futures, key=lambda future: int(future.key.rsplit("-", 1)[1]))
        del futures
        depth = 0
        while len(level) > 1 or not depth:
            groups = [level[start : start + _FAN_IN] for start in range(0, len(level), _FAN_IN)]
            level = [
                self._client.submit(merge_parts, group, key=f"{name}-merge-{depth}-{place}")
                for place, group in enumerate(groups)
            ]
            depth += 1
        self._unfinished = level
        part = self._result(level[0])
        self._unfinished = []
        self._places = part.places
        return part.state.load()  # type: ignore[no-any-return]

    def _send(self, sent: Sent) -> Any:
        import dask

        # Images in memory may be large. Any other way to send them loses them with the worker that holds them.
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TB"}):
            return self._client.submit(_same, sent, key=f"pp_graph-{sent.key}")

    def _by_place(self) -> Mapping[str | None, list[Shard]]:
        found: dict[str | None, list[Shard]] = {}
        for shard in self._shards:
            found.setdefault(self._places.get(shard.start), []).append(shard)
        return found

    def _result(self, future: Any) -> Part:
        from distributed import CancelledError, KilledWorker, wait

        wait_for_it: Any = wait
        lonely = None
        check = time.monotonic() + _CHECK_SECONDS
        try:
            while True:
                if future.status == "finished":
                    # If its worker goes now, the result is computed again, or no worker is left to do so.
                    with contextlib.suppress(TimeoutError):
                        result: Part = future.result(timeout=_GATHER_SECONDS)
                        break
                elif future.done():
                    future.result()  # raises
                else:
                    with contextlib.suppress(TimeoutError):
                        wait_for_it(future, timeout=_POLL_SECONDS)
                self._report()
                if future.done() or time.monotonic() < check:
                    continue
                check = time.monotonic() + _CHECK_SECONDS
                lonely = None if self._client.nthreads() else lonely or time.monotonic()
                if lonely is not None and time.monotonic() - lonely > _LONELY_SECONDS:
                    raise ClusterError(
                        f"The cluster has had no workers for {_LONELY_SECONDS} seconds, expected at least one. Look "
                        "into the logs of the workers, and start new ones."
                    )
        except KilledWorker as error:
            raise ClusterError(
                f"Worker processes died again and again on the same images ({first_line(error)}), expected them to "
                "finish. Most often memory is too small: use fewer workers, or a smaller batch (--batch)."
            ) from error
        except (CancelledError, OSError) as error:
            if self._client.status == "running" and not isinstance(error, CancelledError):
                raise
            raise ClusterError(
                f"The connection to the scheduler is lost ({first_line(error)}), expected it to stay until the work is "
                "done. Look into the scheduler's log, and run again."
            ) from error
        except ModuleNotFoundError as error:
            raise ClusterError(
                f"A worker cannot load what it is to run ({first_line(error)}), expected the same packages as here. "
                "Install them in the worker's environment."
            ) from error
        self._report()
        return result

    def _on_event(self, event: tuple[float, tuple[int, int]]) -> None:
        start, count = event[1]
        self._done.put((start, count))

    def _report(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                start, count = self._done.get_nowait()
                # A shard that is done again was counted already.
                if start not in self._counted and self._round == 1:
                    self._counted.add(start)
                    if self._progress is not None:
                        self._progress(count)


def _same(value: Any) -> Any:
    return value
