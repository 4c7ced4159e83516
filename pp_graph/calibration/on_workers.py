"""Calibrate on the workers of a cluster: the counts are those of one process, bit for bit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pp_graph.calibration.running import CalibrationRun, recount
from pp_graph.calibration.spilled_maps import SpilledMaps
from pp_graph.raw_values import open_raw_values
from pp_graph.workers import Job, Work

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from typing import Self

    import numpy.typing as npt
    from distributed import Client

    from pp_graph.calibration.calibrator import Calibrator
    from pp_graph.data import LabelledImages
    from pp_graph.data.image_files import SeenFiles
    from pp_graph.postprocessors import PostProcessor
    from pp_graph.workers import Batches
    from pp_graph.workers.models import SentModel


@dataclass(frozen=True)
class CalibrationWork(Work):
    """A calibration, as `calibrate` describes it.

    Attributes:
        model: The model.
        reading: Keyword arguments of `open_raw_values`.
        post: Post-processor of a raw model.
        fixed_inputs: Values of inputs other than the images.
        batch_size: Images in a batch.
        one_pass: True if no maps are kept.
    """

    model: SentModel
    reading: Mapping[str, Any]
    post: PostProcessor | None
    fixed_inputs: Mapping[str, npt.ArrayLike] | None
    batch_size: int
    one_pass: bool

    def open(self, folder: Path) -> _Opened:
        """Open the model, and a file for maps, in a worker."""
        values = open_raw_values(self.model.on_this_worker(folder), **self.reading)
        spilled = None if self.one_pass else SpilledMaps(folder=folder)
        return _Opened(CalibrationRun(values, self.post, self.fixed_inputs), self, spilled)


@dataclass(frozen=True)
class _Opened:
    run: CalibrationRun
    work: CalibrationWork
    spilled: SpilledMaps | None

    def close(self) -> None:
        """Close the file of maps."""
        if self.spilled is not None:
            self.spilled.close()

    def count(self, batches: Batches, calibrator: Calibrator) -> SeenFiles | None:
        """Run the model on a shard."""
        images, size = batches.images, self.work.batch_size
        for start, stop in self.run.count(calibrator, images, batches.offset, size, self.spilled, batches.span):
            batches.done(start, stop - start)
        seen: SeenFiles | None = images.images.seen
        return seen


@dataclass
class _Counts:
    """Counts of consecutive shards, and what was noticed in their files."""

    calibrator: Calibrator
    seen: SeenFiles | None = None

    def merge(self, other: Self) -> None:
        self.calibrator.merge(other.calibrator)
        if self.seen is not None:
            self.seen.merge(other.seen)


def _count(opened: _Opened, batches: Batches, calibrator: Calibrator) -> _Counts:
    return _Counts(calibrator, opened.count(batches, calibrator))


def _count_again(opened: _Opened, batches: Batches, given: tuple[Calibrator, Calibrator]) -> _Counts:
    """Count a later pass, on maps that lie here, or else computed again."""
    calibrator, discarded = given
    assert opened.spilled is not None
    if not opened.spilled.holds(batches.start, batches.stop):
        opened.count(batches, discarded)
    maps = opened.spilled.read(batches.start, batches.stop)
    recount(calibrator, batches.images, batches.span[0], maps)
    return _Counts(calibrator)


def calibrate_on_workers(
    client: Client,
    work: CalibrationWork,
    calibrator: Calibrator,
    labelled: LabelledImages,
    progress: Callable[[int], object] | None,
) -> Calibrator:
    """Give the values of all images to a calibrator, in as many passes as it needs.

    Returns:
        The calibrator of the last pass.

    Raises:
        ClusterError: The cluster cannot share the work.
        PPGraphError: What a worker raises.
    """
    with Job(client, work, labelled, work.batch_size, progress) as job:
        blank = calibrator.empty()
        counts = job.run(_count, blank)
        calibrator.merge(counts.calibrator)
        if labelled.images.seen is not None:
            labelled.images.seen.merge(counts.seen)
        while not work.one_pass and (further := calibrator.refine()) is not None:
            further.merge(job.run(_count_again, (further.empty(), blank)).calibrator)
            calibrator = further
    return calibrator
