"""A signal while NNCF is imported, which takes seconds: one line, and no file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.conftest import ROOT
from tests.models import STATS, conv_model

pytest.importorskip("nncf", reason="nncf, of the extra quantize, is not installed")


_SIGNAL_AND_RUN = """
import os, sys

sent, modules = map(int, sys.argv[1:3])

class Counter:
    left = modules

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "nncf":
            Counter.left -= 1
            if Counter.left == 0:
                os.kill(os.getpid(), sent)

sys.meta_path.insert(0, Counter())
from pp_graph.cli import main
sys.argv = ["pp-graph", *sys.argv[3:]]
main()
"""
"""Sends itself a signal at the n-th import of a module of NNCF."""


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("modules", [1, 60, 200])
def test_a_signal_while_nncf_is_imported(tmp_path: Path, sent: signal.Signals, modules: int) -> None:
    onnx.save(conv_model(), tmp_path / "raw.onnx")
    STATS.save(tmp_path / "stats.json")
    np.savez(tmp_path / "images.npz", image=np.zeros((2, 3, 16, 16), np.float32))
    before = {path.name for path in tmp_path.iterdir()}
    command = "convert raw.onnx --stats stats.json --precision int8 --data images.npz -o model.xml"
    done = subprocess.run(
        [sys.executable, "-c", _SIGNAL_AND_RUN, str(int(sent)), str(modules), *command.split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 2
    assert done.stderr.strip() == "Error: Interrupted; nothing was left half-written."
    assert {path.name for path in tmp_path.iterdir()} == before
