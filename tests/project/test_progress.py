"""`progress=True` shows a bar in a terminal, and nothing in a pipe."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

import pp_graph as pp
from tests.conftest import DEMO

CODE = f"""
import pp_graph as pp
from pathlib import Path
demo = Path({str(DEMO)!r})
print(pp.calibrate(demo / "raw.onnx", demo / "images", progress=True, resamples=0).statistics.image.threshold)
"""


def in_terminal(code: str) -> tuple[str, str]:
    """Run code with a terminal as stderr; return what it wrote to stdout and to the terminal."""
    main, other = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=other, env=environment, check=True, text=True
    )
    os.close(other)
    shown = b""
    while True:
        try:
            part = os.read(main, 1 << 16)
        except OSError:  # the end of a terminal on Linux
            break
        if not part:
            break
        shown += part
    os.close(main)
    return done.stdout, shown.decode()


def test_bar_in_a_terminal() -> None:
    printed, shown = in_terminal(CODE)
    assert "Calibrating" in shown
    assert "12/12" in shown
    piped = subprocess.run([sys.executable, "-c", CODE], capture_output=True, check=True, text=True)
    assert (piped.stdout, "Calibrating" in piped.stderr) == (printed, False)


@pytest.mark.parametrize("shown", [None, False])
def test_no_bar_unless_asked(shown: bool | None, capfd: pytest.CaptureFixture[str]) -> None:
    pp.calibrate(DEMO / "raw.onnx", DEMO / "images", progress=shown, resamples=0)
    assert "Calibrating" not in capfd.readouterr().err


def test_a_function_still_gets_the_images() -> None:
    done: list[int] = []
    pp.calibrate(DEMO / "raw.onnx", DEMO / "images", progress=done.append, resamples=0)
    assert sum(done) == 12
