"""The notebooks run from the first cell to the last, and what they hold is what they return."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

EXAMPLES = ROOT / "examples"


def _said(notebook: Path) -> str:
    """Text of all outputs."""
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return "\n".join("".join(each.get("text") or each["data"]["text/plain"]) for each in outputs)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["detector", "anomaly_model"])
def test_notebook(tmp_path: Path, name: str) -> None:
    pytest.importorskip("nbclient", reason="nbclient, which runs notebooks, is not installed")
    notebook = tmp_path / f"{name}.ipynb"
    shutil.copy(EXAMPLES / notebook.name, notebook)
    shutil.copy(EXAMPLES / "detection.py", tmp_path)
    before = _said(notebook)
    done = subprocess.run(
        [sys.executable, "-m", "jupyter", "execute", "--inplace", notebook.name],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = _said(notebook)
    assert "<VerificationReport passed" in said
    # All but times and the address of an object.
    changing = re.compile(r"times over raw: .*|0x[0-9a-f]+|\d+\.\d+ ms")
    assert changing.sub("", said) == changing.sub("", before), "run `jupyter execute --inplace` in examples/"


def test_every_notebook_is_run() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.ipynb")} == {"detector", "anomaly_model"}
