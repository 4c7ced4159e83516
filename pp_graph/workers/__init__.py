"""Share the images of one call among worker processes, on Dask."""

from __future__ import annotations

from pp_graph.workers.clients import open_client
from pp_graph.workers.job import Job, cut_into_shards
from pp_graph.workers.on_worker import Batches, Work

__all__ = ["Batches", "Job", "Work", "cut_into_shards", "open_client"]
