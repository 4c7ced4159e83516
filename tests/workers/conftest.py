from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from distributed import Client, LocalCluster
from PIL import Image

from pp_graph.workers import open_client
from tests.conftest import DEMO


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's images with noise, twice, with their masks: enough for several shards of every worker."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(5)
    for source in sorted((DEMO / "images").rglob("*.png")):
        kind = source.parent.name
        for copy in range(2):
            name = f"{source.stem}_{copy}"
            pixels = np.asarray(Image.open(source).convert("RGB"), np.int16)
            noisy = pixels + rng.integers(-20 * copy, 20 * copy + 1, pixels.shape)
            target = folder / "test" / kind / f"{name}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(target, compress_level=1)
            mask = DEMO / "ground_truth" / kind / f"{source.stem}_mask.png"
            if mask.exists():
                (folder / "ground_truth" / kind).mkdir(parents=True, exist_ok=True)
                (folder / "ground_truth" / kind / f"{name}_mask.png").write_bytes(mask.read_bytes())
    return folder / "test"


@pytest.fixture(scope="session")
def two_workers() -> Iterator[Client]:
    with open_client(2) as client:
        assert client is not None
        yield client


def kill_one(client: Client) -> int:
    """End a worker as the system does if memory is short. Dask starts another in its place."""
    pid = min(client.run(os.getpid).values())
    os.kill(pid, signal.SIGKILL)
    return pid


@contextlib.contextmanager
def running_cluster(python_path: Path, *options: str) -> Iterator[str]:
    """A scheduler with a worker that somebody else started, as with `dask worker ADDRESS`."""
    with LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster:
        command = [sys.executable, "-m", "distributed.cli.dask_worker", cluster.scheduler_address]
        options = ("--nworkers", "1", "--nthreads", "2", "--no-dashboard", *options)
        environment = {**os.environ, "PYTHONPATH": str(python_path)}
        # Python finds modules in the working folder, too.
        worker = subprocess.Popen([*command, *options], env=environment, cwd=python_path, stderr=subprocess.DEVNULL)
        try:
            yield cluster.scheduler_address
        finally:
            worker.kill()  # it may be paused; its own processes end with it
            worker.wait(20)
