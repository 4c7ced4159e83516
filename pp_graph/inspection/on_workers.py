"""Collect the values of outputs on the workers of a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pp_graph.inspection.collecting import ValueCollector, batch_size, open_either, open_session
from pp_graph.workers import Job, Work
from pp_graph.workers.models import SentModel

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt
    from distributed import Client

    from pp_graph.data import LabelledSource
    from pp_graph.inspection.output_values import OutputValues
    from pp_graph.model import RawModel
    from pp_graph.sessions import Session
    from pp_graph.workers import Batches


@dataclass(frozen=True)
class CollectionWork(Work):
    """A model to run, and values of its inputs that are not images."""

    model: SentModel
    fixed_inputs: Mapping[str, npt.ArrayLike] | None

    def open(self, folder: Path) -> tuple[Session, CollectionWork]:
        """Open the model in a worker."""
        return open_session(self.model.on_this_worker(folder)), self


def _collect(opened: tuple[Session, CollectionWork], batches: Batches, kinds: Mapping[str, str]) -> ValueCollector:
    session, work = opened
    collector = ValueCollector(kinds)
    start = batches.start
    for count in collector.collect(session, batches.images, batch_size(session), work.fixed_inputs, batches.span):
        batches.done(start, count)
        start += count
    return collector


def collect_on_workers(
    client: Client,
    model: str | Path | RawModel,
    session: Session,
    data: LabelledSource,
    *,
    masks: str | Path | bool,
    fixed_inputs: Mapping[str, npt.ArrayLike] | None,
) -> tuple[OutputValues, ...]:
    """Run a model on images and describe each output; see `collect_values`.

    Raises:
        ClusterError: The cluster cannot share the work.
        PPGraphError: What a worker raises.
    """
    images, size = open_either(data, masks), batch_size(session)
    first = ValueCollector()
    # A last batch of one image would not tell values of images from other values.
    for _ in first.collect(session, images, size, fixed_inputs, (0, min(size, len(images)))):
        pass
    with Job(client, CollectionWork(SentModel.of(model), fixed_inputs), images, size) as job:
        return job.run(_collect, first.kinds).results()
