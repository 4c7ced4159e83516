"""Tables that list images, their labels and masks."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

import pp_graph as pp
from pp_graph.cli import run
from pp_graph.data import open_images, open_labelled
from pp_graph.errors import DataError, UnlabelledError
from tests.conftest import DEMO

FOLDER = DEMO / "images"


def rows_of_demo() -> list[dict[str, str]]:
    rows = []
    for file in sorted(FOLDER.rglob("*.png")):
        kind = file.parent.name
        mask = DEMO / "ground_truth" / kind / f"{file.stem}_mask.png"
        rows.append(
            {"path": str(file), "label": "good" if kind == "good" else "1", "mask": str(mask) if mask.exists() else ""}
        )
    return rows


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return path
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize("ending", [".csv", pytest.param(".parquet", marks=pytest.mark.slow)])
def test_a_table_is_the_folder_that_it_lists(tmp_path: Path, ending: str) -> None:
    table, folder = open_labelled(write(tmp_path / f"list{ending}", rows_of_demo())), open_labelled(FOLDER)
    assert np.array_equal(table.labels, folder.labels)
    for ours, theirs in zip(table.masks(0, 12, (64, 64)), folder.masks(0, 12, (64, 64)), strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or np.array_equal(ours, theirs)
    found, expected = (pp.calibrate(DEMO / "raw.onnx", data, resamples=0).statistics for data in (table, folder))
    assert (found.image, found.pixel) == (expected.image, expected.pixel)


def test_paths_are_relative_to_the_table(tmp_path: Path) -> None:
    (tmp_path / "pictures").symlink_to(FOLDER / "good")
    images = open_images(write(tmp_path / "list.csv", [{"path": "pictures/01.png"}, {"path": "pictures/00.png"}]))
    assert images.names == ("pictures/01.png", "pictures/00.png")
    with pytest.raises(UnlabelledError, match="no column of labels"):
        open_labelled(tmp_path / "list.csv")


def test_masks_alone_tell_what_is_anomalous(tmp_path: Path) -> None:
    rows = [{"path": row["path"], "mask": row["mask"]} for row in rows_of_demo()]
    labelled = open_labelled(write(tmp_path / "list.csv", rows))
    assert labelled.labels is None
    assert labelled.notes == ("images without a mask, counted as normal: 6 of 12",)
    assert [mask.any() for mask in labelled.masks(0, 12, (8, 8))] == [bool(row["mask"]) for row in rows]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "maybe"}, "row 1: the label is 'maybe', expected 0 or 1"),
        ({"path": ""}, "row 1: there is no path, expected an image file"),
        ({"path": rows_of_demo()[1]["path"]}, "is listed in row 1 too"),
        ({"mask": "absent.png"}, "absent.png"),
    ],
)
def test_errors_name_the_row_or_the_file(tmp_path: Path, change: dict[str, str], message: str) -> None:
    rows = rows_of_demo()
    rows[0] = {**rows[0], **change}
    with pytest.raises(DataError, match=message):
        open_labelled(write(tmp_path / "list.csv", rows))


def test_a_table_without_paths(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has the columns 'picture', expected one of paths"):
        open_images(write(tmp_path / "list.csv", [{"picture": "a.png"}]))
    with pytest.raises(DataError, match="does not exist"):
        open_images(tmp_path / "absent.csv")


@pytest.mark.slow
def test_on_the_command_line(tmp_path: Path, demo_ir_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = write(tmp_path / "list.csv", rows_of_demo()[:3])
    assert run(["run", str(demo_ir_path), str(table), "-o", str(tmp_path / "out"), "--save", "masks"]) == 0
    assert len(list((tmp_path / "out" / "masks").rglob("*.png"))) == 3
    assert run(["verify", str(DEMO / "raw.onnx"), str(demo_ir_path), "--data", str(table)]) == 0
    assert run(["calibrate", str(DEMO / "raw.onnx"), "--data", str(table), "-o", str(table), "--force"]) == 2
    assert "input" in capsys.readouterr().err
