"""A cluster that cannot share the work says why."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster

import pp_graph as pp
from pp_graph.cli import run
from pp_graph.data import open_labelled
from pp_graph.errors import ClusterError
from pp_graph.workers import clients, job, open_client
from pp_graph.workers.models import SentModel
from tests.conftest import DEMO
from tests.workers.conftest import running_cluster

RAW = DEMO / "raw.onnx"
IMAGES = DEMO / "images"


@pytest.fixture(scope="module")
def thread_cluster() -> Iterator[Client]:
    """A cluster in this process, which starts at once."""
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        yield client


def test_a_scheduler_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(clients, "_ANSWER_SECONDS", 1)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{listening.getsockname()[1]}"
        assert run(["calibrate", str(RAW), "--data", str(IMAGES), "--scheduler", address]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert f"Scheduler '{address}' does not answer" in message
    assert "expected a running Dask scheduler" in message
    for wrong in ("nonsense", "foo://host:1"):
        with pytest.raises(ClusterError, match="does not answer"), open_client(scheduler=wrong):
            pass


def test_options_that_contradict(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["calibrate", str(RAW), "--data", str(IMAGES)]
    assert run([*given, "--workers", "0"]) == 2
    assert run([*given, "--workers", "2", "--scheduler", "tcp://host:8786"]) == 2
    assert "Found --workers and --scheduler, expected one of them" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(ClusterError, match="workers is 0, expected at least 1"), open_client(0):
        pass


def test_more_workers_than_would_start(capsys: pytest.CaptureFixture[str]) -> None:
    most = max(8, 4 * CPU_COUNT)
    assert run(["calibrate", str(RAW), "--data", str(IMAGES), "--workers", str(most + 1)]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert f"workers is {most + 1}, expected at most {most} on this machine, which has" in message


def test_a_cluster_without_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "_WORKER_SECONDS", 1)
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
        pytest.raises(ClusterError, match="No worker answers .* expected at least one"),
    ):
        pp.calibrate(RAW, IMAGES, client=client)


def test_another_version(thread_cluster: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    own = clients._version
    monkeypatch.setattr(clients, "_version", lambda name: "1.2.3" if name == "openvino" else own(name))
    with pytest.raises(ClusterError, match=r"Worker inproc://\S+ on host '.*' has openvino .*, expected 1.2.3"):
        pp.calibrate(RAW, IMAGES, client=thread_cluster)


@pytest.mark.slow
def test_a_worker_without_pp_graph(tmp_path: Path) -> None:
    (tmp_path / "pp_graph").mkdir()
    (tmp_path / "pp_graph" / "__init__.py").write_text("raise ImportError('not here')")
    with (
        running_cluster(tmp_path) as address,
        open_client(scheduler=address) as client,
        pytest.raises(ClusterError, match=r"cannot import pp_graph \(not here\), expected pp_graph"),
    ):
        pp.calibrate(RAW, IMAGES, client=client)


def test_files_that_a_worker_does_not_see(thread_cluster: Client, tmp_path: Path) -> None:
    shutil.copytree(IMAGES, tmp_path / "images")
    labelled = open_labelled(tmp_path / "images", masks=False)
    (tmp_path / "images" / "good" / "03.png").unlink()
    with pytest.raises(ClusterError, match=r"03.png' is not on worker inproc://.* expected every worker to see it"):
        pp.calibrate(RAW, labelled, client=thread_cluster)
    model = tmp_path / "raw.onnx"
    shutil.copy(RAW, model)
    sent = SentModel.of(model)
    model.write_bytes(b"another")
    with pytest.raises(ClusterError, match="is another file"):
        sent.on_this_worker(tmp_path)
    model.unlink()
    with pytest.raises(ClusterError, match="cannot be read on host"):
        sent.on_this_worker(tmp_path)


def test_what_is_not_a_client() -> None:
    with pytest.raises(ClusterError, match=r"The client is str, expected a synchronous distributed\.Client"):
        pp.calibrate(RAW, IMAGES, client="tcp://host:8786")  # type: ignore[arg-type]


@pytest.mark.slow
def test_all_workers_go_and_none_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "_LONELY_SECONDS", 1)
    monkeypatch.setattr(job, "_CHECK_SECONDS", 0.2)
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
        pytest.raises(ClusterError, match="has had no workers for 1 seconds"),
    ):
        pp.calibrate(RAW, IMAGES, batch_size=1, client=client, progress=lambda _: cluster.scale(0))
