"""200 models in one run, killed twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.fleet import measure


@pytest.mark.slow
def test_many_models_killed_twice(tmp_path: Path) -> None:
    found = measure(tmp_path, 200)
    assert (found["verdict"], found["artifacts"]) == ("PASSED: 200 artifacts of 200 models.", 200)
    first, second = found["done when killed"]
    assert 400 <= first < second < 1200
    # Records of tasks whose files were just being replaced may count as not done.
    assert found["resumed: kept"] >= second - 4
    assert found["resumed: kept"] + found["resumed: done"] == 1200
    assert found["second run: done"] == 0
    assert found["new sensitivity: done"] == 400
