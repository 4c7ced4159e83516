"""The default run of the tests is the same every time."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st


def examples() -> list[str]:
    drawn = []

    @settings(max_examples=300, derandomize=True, database=None)
    @given(st.floats(), st.integers())
    def draw(number: float, whole: int) -> None:
        drawn.append(repr((number, whole)))

    draw()
    return drawn


def test_examples_do_not_follow_which_modules_are_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = examples()
    numbers = [1000.5 + 7 * index for index in range(300)]
    (tmp_path / "full_of_numbers.py").write_text(f"NUMBERS = {numbers, [int(each) for each in numbers]}")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("full_of_numbers")
    assert examples() == before
    del sys.modules["full_of_numbers"]


def test_profiles() -> None:
    assert settings.get_profile("default").derandomize
    sweep = settings.get_profile("sweep")
    assert not sweep.derandomize
    assert sweep.print_blob
