"""Verify on the workers of a cluster: the totals are those of one process, bit for bit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pp_graph.model import RawModel
from pp_graph.opening import open_artifact
from pp_graph.verification.comparison import Comparison
from pp_graph.verification.running import VerificationRun
from pp_graph.workers import Job, Work

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import numpy.typing as npt
    from distributed import Client

    from pp_graph.data import Images
    from pp_graph.fusion import Artifact
    from pp_graph.verification.totals import Totals
    from pp_graph.workers import Batches
    from pp_graph.workers.models import SentModel


@dataclass(frozen=True)
class VerificationWork(Work):
    """A verification; see `verify` for the attributes."""

    raw: SentModel
    artifact: SentModel
    device: str
    precision: str | None
    cache_dir: str | Path | None
    fixed_inputs: Mapping[str, npt.ArrayLike] | None
    batch_size: int

    def open(self, folder: Path) -> _Opened:
        """Open both models in a worker."""
        artifact = open_artifact(self.artifact.on_this_worker(folder))
        raw = RawModel.open(self.raw.on_this_worker(folder))
        run = VerificationRun(raw, artifact, self.device, self.precision, self.cache_dir, self.fixed_inputs)
        return _Opened(run, artifact, self.batch_size)


@dataclass(frozen=True)
class _Opened:
    run: VerificationRun
    artifact: Artifact
    batch_size: int


def _compare(opened: _Opened, batches: Batches, _: object) -> Totals:
    comparison = Comparison(opened.artifact.provenance, opened.artifact.program)
    images = batches.images
    for start, stop in opened.run.compare(comparison, images, batches.offset, opened.batch_size, batches.span):
        batches.done(start, stop - start)
    comparison.totals.seen = images.seen
    return comparison.totals


def verify_on_workers(
    client: Client, work: VerificationWork, images: Images, progress: Callable[[int], object] | None
) -> Totals:
    """Return the totals of all images.

    Raises:
        ClusterError: The cluster cannot share the work.
        PPGraphError: What a worker raises.
    """
    with Job(client, work, images, work.batch_size, progress) as job:
        return job.run(_compare)
