from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pp_graph as pp
from pp_graph.errors import OutputFileError, StatisticsError

finite = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**100), max_value=2.0**100)


@given(st.none() | finite, st.none() | finite, st.none() | finite)
def test_json_round_trip(threshold: float | None, a: float | None, b: float | None) -> None:
    low, high = sorted((a, b)) if a is not None and b is not None else (a, b)
    stats = pp.Statistics(image=pp.LevelStatistics(threshold=threshold, min=low, max=high))
    assert pp.Statistics.from_json(stats.to_json()) == stats


def test_file_round_trip(tmp_path: Path) -> None:
    stats = pp.Statistics(pixel=pp.LevelStatistics(threshold=np.float32(0.1), min=0, max=2))
    stats.save(tmp_path / "stats.json")
    assert pp.Statistics.load(tmp_path / "stats.json") == stats
    assert json.loads((tmp_path / "stats.json").read_text())["pixel"]["threshold"] == float(np.float32(0.1))
    with pytest.raises(OutputFileError, match="exists already"):
        stats.save(tmp_path / "stats.json")
    assert [file.name for file in tmp_path.iterdir()] == ["stats.json"]


def test_schema_version_defaults_and_null_is_unknown() -> None:
    stats = pp.Statistics.from_json('{"image": {"threshold": null, "min": 1, "max": 2}}')
    assert stats.schema_version == 1
    assert stats.image == pp.LevelStatistics(threshold=None, min=1.0, max=2.0)
    assert stats.pixel == pp.LevelStatistics()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"image": {"thresh": 1}}', r"unknown field 'image\.thresh', expected only threshold, min, max"),
        ('{"img": 1}', "unknown field 'img', expected only schema_version, image, pixel, provenance"),
        ('{"image": {"threshold": "a"}}', r"field 'image\.threshold' holds a text, expected number or null"),
        ('{"image": {"threshold": true}}', r"field 'image\.threshold' holds true or false"),
        ('{"image": {"min": 3, "max": 2}}', r"in 'image': 'max' is 2, expected at least 'min', 3"),
        ('{"pixel": {"threshold": 1e39}}', r"in 'pixel': 'threshold' is 1e\+39, expected a number within float32"),
        ('{"pixel": {"threshold": 1e400}}', r"pixel\.threshold"),
        ('{"image": {"min": -3e38, "max": 3e38}}', "expected a range within float32"),
        ('{"image": {"min": NaN}}', "NaN and Infinity are not JSON"),
        ('{"schema_version": 2}', "'schema_version' is 2, expected 1"),
        ("[1]", "the file holds a list, expected object"),
        ("", "not valid JSON"),
        ('{"image": null}', "field 'image' holds null, expected object"),
    ],
)
def test_errors_name_the_field(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "stats.json"
    file.write_text(text)
    with pytest.raises(StatisticsError, match=message) as caught:
        pp.Statistics.load(file)
    assert "stats.json" in str(caught.value)


def test_missing_file() -> None:
    with pytest.raises(StatisticsError, match=r"'nowhere\.json' cannot be read: No such file"):
        pp.Statistics.load("nowhere.json")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "1.0", True, 1e39])
def test_invalid_values(value: object) -> None:
    with pytest.raises(StatisticsError, match="'threshold' is"):
        pp.LevelStatistics(threshold=value)  # type: ignore[arg-type]


def test_statistics_cannot_change() -> None:
    stats = pp.Statistics()
    with pytest.raises(AttributeError):
        stats.image = pp.LevelStatistics(threshold=1.0)  # type: ignore[misc]
