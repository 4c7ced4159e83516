"""Many models in one run, killed twice and resumed."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.fleet import TASKS, measure


@pytest.mark.parametrize(
    "count", [pytest.param(20, marks=pytest.mark.slow), pytest.param(200, marks=pytest.mark.sweep)]
)
def test_many_models_killed_twice(tmp_path: Path, count: int) -> None:
    found, tasks = measure(tmp_path, count), TASKS * count
    assert (found["verdict"], found["artifacts"]) == (f"PASSED: {count} artifacts of {count} models.", count)
    first, second = found["done when killed"]
    assert tasks // 3 <= first < second < tasks
    # Records of tasks whose files were just being replaced may count as not done.
    assert found["resumed: kept"] >= second - 4
    assert found["resumed: kept"] + found["resumed: done"] == tasks
    assert found["second run: done"] == 0
    assert found["new sensitivity: done"] == 2 * count
