"""What fails names itself and holds up nothing else; what is killed goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from pp_graph.cli import run
from pp_graph.fleet import run_fleet
from tests.conftest import ROOT
from tests.fleet.conftest import poisoned
from tests.fleet.test_running import records

Fleet = Callable[..., Path]


def test_a_broken_model_holds_up_only_itself(fleet: Fleet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = fleet(1)
    (tmp_path / "models" / "broken.onnx").write_bytes((tmp_path / "models" / "cam0.onnx").read_bytes()[:300])
    assert run(["fleet", str(file)]) == 2
    out, err = capsys.readouterr()
    assert "Failed: broken: inspect: Model file" in err
    assert "FAILED: of 2 artifacts, 1 not made or not checked." in out
    report = run_fleet(file)  # what failed is tried again, the rest is kept
    assert (report.kept, report.done) == (6, 0)
    assert [(row["model"], row["status"]) for row in report.rows] == [("broken", "error"), ("cam0", "passed")]
    (tmp_path / "models" / "broken.onnx").unlink()
    assert run_fleet(file).passed


def test_a_check_that_fails_is_a_result(fleet: Fleet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # A threshold that half of the pixels are near, in bf16: drift flips some.
    file = fleet(1)
    arrays = dict(np.load(tmp_path / "data.npz"))
    arrays["image"] = np.random.default_rng(1).uniform(0, 1, arrays["image"].shape).astype(np.float32)
    np.savez(tmp_path / "data.npz", **arrays)
    file = fleet(1, defaults={"data": "data.npz", "inference_precision": "bf16", "limits": {"pixel_flips": 0},
                              "calibrate": {"pixel": {"quantile": {"q": 0.5}}}})  # fmt: skip
    assert run(["fleet", str(file)]) == 1
    out = capsys.readouterr().out
    assert "1 over their limits" in out
    assert "drift of the network" in out
    assert run_fleet(file).done == 0
    relaxed = fleet(1, defaults={"data": "data.npz", "inference_precision": "bf16", "limits": {"pixel_flips": "100%", "label_flips": None},
                                 "calibrate": {"pixel": {"quantile": {"q": 0.5}}}})  # fmt: skip
    report = run_fleet(relaxed)
    assert (report.passed, report.done) == (True, 1)
    assert report.rows[0]["drift_pixel_flips"] > 0


@pytest.mark.slow
def test_killed_and_resumed(fleet: Fleet, tmp_path: Path) -> None:
    file, out = fleet(2), tmp_path / "out"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", "pp_graph", "fleet", str(file), "--workers", "1"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 120
        while len(records(out)) < 3 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        import psutil

        children = psutil.Process(process.pid).children(recursive=True)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert children
    assert not psutil.wait_procs(children, timeout=30)[1], "a task outlived the command"
    before = records(out)
    assert 3 <= len(before) < 12
    report = run_fleet(file)
    assert report.passed
    assert report.kept + report.done == 12
    assert report.kept >= len(before) - 1  # a record may be older than a change of its file
    after = records(out)
    assert sum(after[name] == before[name] for name in before) == report.kept
    assert run_fleet(file).done == 0


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "message"), [("memory", "more memory than 3 GiB"), ("endless", "more than 20 s")])
def test_a_poisoned_model_is_stopped(kind: str, message: str, fleet: Fleet, tmp_path: Path) -> None:
    file = fleet(2, timeout=20, memory="3 GiB")
    onnx.save(poisoned(kind), tmp_path / "models" / "a_poisoned.onnx")
    report = run_fleet(file)
    assert [row["status"] for row in report.rows] == ["error", "passed", "passed"]
    assert message in report.rows[0]["problem"]


@pytest.mark.slow
def test_a_killed_scheduler(fleet: Fleet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = fleet(3), tmp_path / "out"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    quiet = {"env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path}
    address = "tcp://127.0.0.1:28786"
    scheduler = subprocess.Popen(
        [sys.executable, "-m", "dask", "scheduler", "--port", "28786", "--no-dashboard"], **quiet
    )
    worker = subprocess.Popen(
        [sys.executable, "-m", "dask", "worker", address, "--nthreads", "1", "--no-dashboard"], **quiet
    )
    try:
        command = subprocess.Popen(
            [sys.executable, "-m", "pp_graph", "fleet", str(file), "--scheduler", address],
            env=environment, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        deadline = time.monotonic() + 120
        while len(records(out)) < 3 and command.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        scheduler.kill()
        _, err = command.communicate(timeout=120)
    finally:
        for process in (scheduler, worker):
            process.kill()
            process.wait()
    assert command.returncode == 2, err
    assert "scheduler went away" in err
    assert "Traceback" not in err
    report = run_fleet(file)
    assert report.passed
    assert report.kept >= 3
