"""Hostile files through every verb end in exit 0, 1 or 2 and a typed message, in bounded time and memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def _check(folder: Path, *options: str) -> None:
    # In a process of its own: commands run in forks, which a process with threads cannot make.
    result = folder / "result.json"
    subprocess.run([sys.executable, "-m", "tests.sweeps.hostile", *options, "--json", result], check=True)
    records = json.loads(result.read_text())
    assert len(records) > 5
    assert [record for record in records if record["kind"] not in ("0", "1", "2")] == []


def test_sample_of_the_hostile_files(tmp_path: Path) -> None:
    _check(tmp_path, "--small", "--every", "67")


@pytest.mark.sweep
@pytest.mark.parametrize("part", range(4))
def test_every_twelfth_command(tmp_path: Path, part: int) -> None:
    # All of them, `python -m tests.sweeps.hostile`, take hours.
    _check(tmp_path, "--every", "48", "--first", str(12 * part), "--workers", "1")
