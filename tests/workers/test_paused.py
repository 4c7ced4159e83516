"""A worker that is paused holds up nothing for good."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import dask
import pytest
from distributed import Client

import pp_graph as pp
from pp_graph.errors import ClusterError
from pp_graph.workers import clients, job, open_client
from tests.conftest import DEMO, ROOT
from tests.workers.conftest import running_cluster

RAW = DEMO / "raw.onnx"


class Pauser:
    """Progress that pauses a worker as soon as something is done."""

    def __init__(self, client: Client) -> None:
        self.client, self.paused = client, 0

    def __call__(self, _: int) -> None:
        if not self.paused:
            self.paused = min(self.client.run(os.getpid).values())
            os.kill(self.paused, signal.SIGSTOP)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_another_takes_its_place(photos: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(clients._SETTINGS, "distributed.scheduler.worker-ttl", "5s")
    one = pp.calibrate(RAW, photos, resamples=0, batch_size=2)
    with open_client(workers) as client:
        pause = Pauser(client)
        assert pp.calibrate(RAW, photos, resamples=0, batch_size=2, client=client, progress=pause).to_dict() == (
            one.to_dict()
        )
        assert pause.paused
        with pytest.raises(ProcessLookupError):
            os.kill(pause.paused, 0)


@pytest.mark.slow
def test_the_only_worker_of_a_running_cluster(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "_LONELY_SECONDS", 1)
    monkeypatch.setattr(job, "_CHECK_SECONDS", 0.2)
    with (
        dask.config.set({"distributed.scheduler.worker-ttl": "5s"}),
        running_cluster(ROOT, "--no-nanny") as address,
        open_client(scheduler=address) as client,
        pytest.raises(ClusterError, match="has had no workers for 1 seconds, expected at least one"),
    ):
        pp.calibrate(RAW, photos, batch_size=2, client=client, progress=Pauser(client))


@pytest.mark.slow
def test_a_worker_that_is_paused_already(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "_WORKER_SECONDS", 2)
    with open_client(2) as client:
        pause = Pauser(client)
        pause(0)
        try:
            with pytest.raises(ClusterError, match=r"Not every worker answers within 2 seconds .* One may be paused"):
                pp.calibrate(RAW, photos, client=client)
        finally:
            os.kill(pause.paused, signal.SIGCONT)
