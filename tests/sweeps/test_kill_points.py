"""Whatever ends or interrupts a command that writes: old or new is whole, or the next verb tells."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sweeps.kill_points import CASES


def _check(folder: Path, *options: str) -> None:
    result = folder / "result.json"
    subprocess.run([sys.executable, "-m", "tests.sweeps.kill_points", *options, "--json", result], check=True)
    records = json.loads(result.read_text())
    assert {record["kind"] for record in records} >= {"old", "new"}
    assert [record for record in records if record["kind"] == "wrong"] == []


def test_sample_of_the_kill_points(tmp_path: Path) -> None:
    _check(tmp_path, "--match", "fuse", "--every", "4")


@pytest.mark.sweep
@pytest.mark.parametrize("case", [case.name for case in CASES])
def test_every_kill_point(tmp_path: Path, case: str) -> None:
    _check(tmp_path, "--match", case)
