"""Run a model that gives a result for each image, in this process or on the workers of a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

from pp_graph.workers import Job, Work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from distributed import Client

    from pp_graph.data.image_files import SeenFiles
    from pp_graph.workers import Batches
    from pp_graph.workers.models import SentModel


class PerImageRun(Protocol):
    """A model in a runtime."""

    def batches(
        self, images: Any, size: int, span: tuple[int, int] | None = None
    ) -> Iterator[tuple[int, int, list[Any]]]:
        """Run the model.

        Args:
            images: The images.
            size: Images in a batch.
            span: First and exclusive last image to run; None for all.

        Yields:
            Index of the first image of each batch, index after the last one, and the result of each image.
        """


class CountedImages(Protocol):
    """Images that can be cut, and what was noticed in their files."""

    def __len__(self) -> int: ...

    def part(self, start: int, stop: int) -> object | None:
        """Return some of the images alone; None if all are to be sent together."""

    @property
    def seen(self) -> SeenFiles | None:
        """What was noticed in the files read so far; None for arrays."""


@dataclass(frozen=True)
class PerImageWork(Work):
    """A model for workers.

    Attributes:
        model: The model.
        opening: Opens the model by its path.
        batch_size: Images in a batch.
    """

    model: SentModel
    opening: Callable[[Path], PerImageRun]
    batch_size: int

    def open(self, folder: Path) -> tuple[PerImageRun, int]:
        """Open the model in a worker."""
        return self.opening(self.model.on_this_worker(folder)), self.batch_size


@dataclass
class _Results:
    """Results of consecutive images, and what was noticed in their files."""

    each: list[Any]
    seen: SeenFiles | None

    def merge(self, other: Self) -> None:
        self.each += other.each
        if self.seen is not None:
            self.seen.merge(other.seen)


def _collect(opened: tuple[PerImageRun, int], batches: Batches, _: object) -> _Results:
    run, size = opened
    found = []
    for start, stop, results in run.batches(batches.images, size, batches.span):
        found += results
        batches.done(batches.offset + start, stop - start)
    return _Results(found, batches.images.seen)


def collect(run: PerImageRun, images: CountedImages, size: int, progress: Callable[[int], object] | None) -> list[Any]:
    """Return the result of each image, in order."""
    found = []
    for start, stop, results in run.batches(images, size):
        found += results
        if progress is not None:
            progress(stop - start)
    return found


def collect_on_workers(
    client: Client, work: PerImageWork, images: CountedImages, progress: Callable[[int], object] | None
) -> list[Any]:
    """Return the result of each image, in order, as `collect` does.

    Raises:
        ClusterError: The cluster cannot share the work.
        PPGraphError: What a worker raises.
    """
    with Job(client, work, images, work.batch_size, progress) as job:
        found = job.run(_collect)
    if images.seen is not None:
        images.seen.merge(found.seen)
    return found.each
