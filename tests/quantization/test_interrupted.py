"""A signal while NNCF is imported, which takes seconds: one line, and no file."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.models import STATS, conv_model

pytest.importorskip("nncf", reason="nncf, of the extra quantize, is not installed")


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("modules", [1, 60])
def test_a_signal_while_nncf_is_imported(tmp_path: Path, sent: signal.Signals, modules: int) -> None:
    onnx.save(conv_model(), tmp_path / "raw.onnx")
    STATS.save(tmp_path / "stats.json")
    np.savez(tmp_path / "images.npz", image=np.zeros((2, 3, 16, 16), np.float32))
    before = {path.name for path in tmp_path.iterdir()}
    command = "convert raw.onnx --stats stats.json --precision int8 --data images.npz -o model.xml"
    imported, said = 0, []
    with subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "pp_graph", *command.split()],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if not line.startswith("import time:"):
                said.append(line)
            elif "nncf" in line:
                imported += 1
                if imported == modules:
                    process.send_signal(sent)
    assert process.returncode == 2
    assert "".join(said).strip() == "Error: Interrupted; nothing was left half-written."
    assert {path.name for path in tmp_path.iterdir()} == before
