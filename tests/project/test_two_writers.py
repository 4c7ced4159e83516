"""Two processes that write the same files at once: what can be read is one's or the other's, or an error that tells."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pp_graph as pp
from pp_graph.errors import PPGraphError
from tests.conftest import ROOT
from tests.models import STATS, conv_model

_TURNS = 25
_WRITE = """
import sys
import pp_graph as pp
model = pp.open(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for _ in range(int(sys.argv[3])):
    model.save(sys.argv[2], overwrite=True)
"""


@pytest.mark.sample(every=2)
@pytest.mark.parametrize("ending", ["onnx", "xml"])
def test_two_processes_write_the_same_files(tmp_path: Path, ending: str) -> None:
    image = np.random.default_rng(0).random((1, 3, 16, 16), np.float32)
    models, expected = [], []
    for seed in range(2):
        fused = pp.fuse(conv_model(seed=seed), pp.OneClassPostProcessor(STATS))
        models.append((fused if ending == "onnx" else pp.convert(fused)).save(tmp_path / str(seed) / f"model.{ending}"))
        expected.append(_results(models[-1], image))
    assert expected[0] != expected[1]
    out = tmp_path / "out" / f"model.{ending}"
    out.parent.mkdir()
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", _WRITE, model, out, str(_TURNS)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for model in models
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    # The two files of an IR are replaced one after the other.
    told: tuple[type[Exception], ...] = (PPGraphError,) if ending == "xml" else ()
    read = 0
    while any(writer.poll() is None for writer in writers):
        if not out.exists():
            continue
        try:
            found = _results(out, image)
        except told:
            continue
        assert found in expected
        read += 1
    for writer in writers:
        assert writer.communicate()[1] == ""
        assert writer.returncode == 0
    assert read > 0
    assert [path.name for path in out.parent.iterdir() if path.name.startswith(".")] == []
    try:
        assert _results(out, image) in expected
    except told:
        pp.open(models[0]).save(out, overwrite=True)
        assert _results(out, image) == expected[0]


def _results(path: Path, image: np.ndarray) -> bytes:
    found = pp.open(path).session("CPU", precision="f32").run({"image": image})
    return found["pred_score"].tobytes() + found["anomaly_map"].tobytes()
