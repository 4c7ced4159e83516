"""`progress=True` shows a bar in a terminal, and nothing in a pipe."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

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


STREAMING = f"""
import pp_graph as pp
runner = pp.load(pp.fuse({str(DEMO / "raw.onnx")!r}, pp.OneClassPostProcessor(pp.Statistics.load({str(DEMO / "stats.json")!r}))))
print(sum(each.pred_label.sum() for each in runner.stream({str(DEMO / "images")!r}, progress=True)))
"""


def test_stream() -> None:
    printed, shown = in_terminal(STREAMING)
    assert "Running" in shown
    assert "12/12" in shown
    assert printed == "6\n"


def test_stream_tells_a_function(demo_fused_path: Path) -> None:
    done: list[int] = []
    for count, _ in enumerate(pp.load(demo_fused_path).stream(DEMO / "images", progress=done.append)):
        assert len(done) == count
    assert len(done) == 12


@pytest.mark.slow
def test_quantising_in_a_terminal() -> None:
    pytest.importorskip("nncf")
    code = f"""
import pp_graph as pp
fused = pp.fuse({str(DEMO / "raw.onnx")!r}, pp.OneClassPostProcessor(pp.Statistics.load({str(DEMO / "stats.json")!r})))
settings = pp.Quantization({str(DEMO / "images")!r}, subset_size=4, progress=True)
print(pp.convert(fused, precision="int8", quantization=settings).precision)
"""
    printed, shown = in_terminal(code)
    assert "Quantising" in shown
    assert "4/4" in shown
    assert printed == "int8\n"
