"""Run a model on the workers of a cluster, which write the pictures."""

from __future__ import annotations

import socket
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pp_graph.errors import ClusterError
from pp_graph.report.predicting import PlannedPictures, predict_and_draw
from pp_graph.running import Source, load
from pp_graph.workers import Job, Work
from pp_graph.workers.models import SentModel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from distributed import Client

    from pp_graph.data import Images
    from pp_graph.report.predicting import Predicted
    from pp_graph.running import Runner
    from pp_graph.workers import Batches


@dataclass(frozen=True)
class RunWork(Work):
    """A model to run, and pictures to draw.

    Attributes:
        model: The model.
        loading: Keyword arguments of `load`.
        thresholds: Keyword arguments of `Runner.set_thresholds`; empty if they were not changed.
        batch_size: Images in a batch.
        frames: See `Source`.
        draft: Folder to write to.
    """

    model: SentModel
    loading: Mapping[str, Any]
    thresholds: Mapping[str, Any]
    batch_size: int
    frames: bool
    draft: Path

    def open(self, folder: Path) -> tuple[Runner, RunWork]:
        """Load the model in a worker."""
        if not self.draft.is_dir():
            raise ClusterError(
                f"Folder '{self.draft.parent}' is not on host '{socket.gethostname()}', expected every worker to see "
                "the output folder, because workers write the pictures. Use a folder that all machines share."
            )
        runner = load(self.model.on_this_worker(folder), **self.loading)
        if self.thresholds:
            runner.set_thresholds(**self.thresholds)
        return runner, self


@dataclass(frozen=True)
class _Pictured:
    """Images and the pictures that belong to each."""

    images: Images
    planned: PlannedPictures

    def __len__(self) -> int:
        return len(self.images)

    @property
    def files(self) -> Sequence[Path]:
        return self.images.files or ()

    def part(self, start: int, stop: int) -> _Pictured | None:
        some = self.images.part(start, stop)
        return None if some is None else _Pictured(some, self.planned.part(start, stop))


def _predict(opened: tuple[Runner, RunWork], batches: Batches, _: object) -> Predicted:
    runner, work = opened
    images: _Pictured = batches.images
    source = Source(images.images, work.batch_size, frames=work.frames, span=batches.span)
    start = batches.start

    def tell(count: int) -> None:
        nonlocal start
        batches.done(start, count)
        start += count

    found = predict_and_draw(runner, source, images.planned, tell)
    found.seen = images.images.seen
    return found


def run_on_workers(
    client: Client,
    runner: Runner,
    source: Source,
    planned: PlannedPictures,
    progress: Callable[[int], object] | None,
) -> Predicted:
    """Run a model on images, and write pictures; see `predict_and_draw`.

    Raises:
        ClusterError: The cluster cannot share the work.
        PPGraphError: What a worker raises.
    """
    planned = replace(planned, draft=Path.cwd() / planned.draft)
    work = RunWork(
        SentModel.of(runner.artifact),
        runner.loading,
        runner.thresholds,
        source.batch_size,
        source.frames,
        planned.draft,
    )
    with Job(client, work, _Pictured(source.images, planned), source.batch_size, progress) as job:
        found = job.run(_predict)
    if source.images.seen is not None:
        source.images.seen.merge(found.seen)
    return found
