"""What runs in a worker process."""

from __future__ import annotations

import pickle
import socket
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from pp_graph.errors import ClusterError, PPGraphError
from pp_graph.sessions.threads import limited_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


_MOST_OPEN: Final = 4
"""Jobs that a worker keeps open, should a client end without saying so."""


class Work(ABC):
    """What each worker opens once. It is pickled."""

    @abstractmethod
    def open(self, folder: Path) -> Any:
        """Open models in a worker.

        Args:
            folder: Folder of the worker, which goes with it.

        Returns:
            What tasks work with. Its `close` is called at the end, if it has one.
        """


@dataclass(frozen=True)
class Shard:
    """Consecutive images, which one task works on.

    Attributes:
        start: Index of the first image.
        stop: Exclusive end index.
        data: These images; None if all images are sent with the `Work`.
    """

    start: int
    stop: int
    data: Any = None


@dataclass(frozen=True)
class Sent:
    """A pickled object. Whoever loads it may change it: what Dask holds stays the same, and may be used again.

    Attributes:
        data: The pickled object.
        key: What a worker process keeps the object under, if it loads it only once.
    """

    data: bytes
    key: str = ""

    @classmethod
    def of(cls, value: object, key: str = "") -> Self:
        """Pickle an object, with functions and classes of the main module by value."""
        import cloudpickle

        return cls(cloudpickle.dumps(value), key)

    def load(self) -> Any:
        """Return a new copy of the object."""
        return pickle.loads(self.data)  # noqa: S301 - whoever reaches a Dask worker can run code there anyway


@dataclass(frozen=True)
class Part:
    """The state of consecutive shards, and the worker that had each, by its first image."""

    state: Sent
    places: Mapping[int, str]


class Batches:
    """A shard on its worker.

    Attributes:
        start: Index of its first image, among all images.
        stop: Exclusive end index.
        images: Images that hold those of the shard.
        offset: Index of the first of these.
    """

    def __init__(self, shard: Shard, images: Any, topic: str, worker: Any) -> None:
        self.start, self.stop = shard.start, shard.stop
        self.images = shard.data if images is None else images
        self.offset = shard.start if images is None else 0
        self._topic = topic
        self._worker = worker

    @property
    def span(self) -> tuple[int, int]:
        """Start and exclusive end of the shard among `images`."""
        return self.start - self.offset, self.stop - self.offset

    def done(self, start: int, count: int) -> None:
        """Tell the client that images are done.

        Args:
            start: Index of the first.
            count: Number of images.
        """
        self._worker.log_event(self._topic, (start, count))


_open: OrderedDict[str, tuple[Any, Any]] = OrderedDict()
_opening: dict[str, threading.Lock] = {}
_lock = threading.Lock()


def _opened(work: Sent, folder: Path) -> tuple[Any, Any]:
    with _lock:
        own = _opening.setdefault(work.key, threading.Lock())
    with own:
        found = _open.get(work.key)
        if found is None:
            described, images = work.load()
            found = described.open(folder), images
            with _lock:
                _open[work.key] = found
                while len(_open) > _MOST_OPEN:
                    key, oldest = _open.popitem(last=False)
                    _opening.pop(key, None)
                    _close(oldest[0])
        return found


def forget(key: str) -> None:
    """Close what a job opened in this process."""
    with _lock:
        found = _open.pop(key, None)
        _opening.pop(key, None)
    if found is not None:
        _close(found[0])


def _close(opened: Any) -> None:
    close = getattr(opened, "close", None)
    if close is not None:
        close()


def work_on(
    shard: Shard, *, function: Callable[[Any, Batches, Any], Any], work: Sent, shared: Sent, topic: str
) -> Part:
    """Compute the state of a shard."""
    from distributed import get_worker

    worker: Any = get_worker()
    threads = worker.state.nthreads
    try:
        # Sessions are also opened later, for images of another size.
        with limited_threads(threads):
            opened, images = _opened(work, Path(worker.local_directory))
            state = function(opened, Batches(shard, images, topic, worker), shared.load())
    except PPGraphError as error:
        missing = _unseen(shard)
        if missing is None:
            raise
        raise ClusterError(
            f"'{missing}' is not on worker {worker.address} (host '{socket.gethostname()}'), expected every worker to "
            "see it under this path. Use a folder that all machines share, or a URL such as s3://bucket/folder."
        ) from error
    return Part(Sent.of(state), {shard.start: worker.address})


def _unseen(shard: Shard) -> Path | None:
    """Return a file of the shard that this machine does not have."""
    files: Sequence[Path] = getattr(shard.data, "files", ())
    return next((file for file in files if not file.exists()), None)


def merge_parts(parts: Sequence[Part]) -> Part:
    """Merge the states of neighbours."""
    if len(parts) == 1:
        return parts[0]
    # One after the other, because a state in use may take much more memory than its bytes.
    state = parts[0].state.load()
    for part in parts[1:]:
        state.merge(part.state.load())
    return Part(Sent.of(state), {start: place for part in parts for start, place in part.places.items()})
