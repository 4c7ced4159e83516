"""SIGTERM ends a command, whatever Python is at."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pp_graph.cli.interrupts import is_interrupt
from tests.conftest import DEMO, ROOT

IN_A_DESTRUCTOR = """
import sys, time
class Slow:
    def __del__(self):
        print("in a destructor", flush=True)
        time.sleep(20)
Slow()
time.sleep(20)
"""


@contextlib.contextmanager
def started(*given: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "pp_graph", *given],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def test_an_interrupt_is_not_lost_in_a_destructor(tmp_path: Path) -> None:
    (tmp_path / "plugin.py").write_text(IN_A_DESTRUCTOR)
    with started("--plugin", str(tmp_path / "plugin.py"), "stats", "show", str(DEMO / "stats.json")) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in a destructor\n"
        process.send_signal(signal.SIGTERM)
        printed, _ = process.communicate(timeout=15)
    assert process.returncode == 2
    assert printed.strip() == "Error: Interrupted; nothing was left half-written."


def test_an_error_that_an_interrupt_caused_is_an_interrupt() -> None:
    broken_off = RuntimeError("an import was broken off")
    broken_off.__cause__ = KeyboardInterrupt()
    assert is_interrupt(broken_off)
    assert not is_interrupt(RuntimeError())


@pytest.mark.slow
@pytest.mark.parametrize("part", range(6))
def test_while_workers_start_and_end(part: int, tmp_path: Path) -> None:
    """At moments of the whole run, which takes about 5 seconds on two cores."""
    given = [str(DEMO / "raw.onnx"), "--data", str(DEMO / "images"), "-o", str(tmp_path / "out.json"), "--force"]
    for step in range(3):
        with started("calibrate", *given, "--workers", "3") as process:
            time.sleep(0.7 + 0.9 * part + 0.3 * step)
            process.send_signal(signal.SIGTERM)
            sent = time.monotonic()
            printed, _ = process.communicate(timeout=30)
            assert time.monotonic() - sent < 8
            # With the results out, Python's own end is all that is left to interrupt.
            assert process.returncode in (2, 0, -signal.SIGTERM)
            if process.returncode == 2:
                before, told, _ = printed.partition("Error: Interrupted; nothing was left half-written.\n")
                assert told
                # A worker that was just starting may print its own end after that.
                assert "Traceback" not in before
            while subprocess.run(["pgrep", "-g", str(process.pid)], capture_output=True, check=False).stdout:
                assert time.monotonic() - sent < 20, "a process of the command is left"
                time.sleep(0.1)
