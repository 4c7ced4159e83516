"""Tables about images, one row each: `.csv` and `.parquet` files."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pp_graph.errors import DataError
from pp_graph.extras import require_extra

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TABLE_ENDINGS: Final = (".csv", ".parquet")

# Accepted names of each quantity, ours first.
COLUMN_NAMES: Final = {
    "score": ("pred_score", "score", "pred_scores", "scores", "anomaly_score", "image_score"),
    "map_max": ("map_max",),
    "map": ("anomaly_map", "anomaly_maps", "map", "maps"),
    "label": ("label", "gt_label", "labels", "gt_labels", "target", "is_anomalous"),
    "mask": ("mask", "gt_mask", "masks", "gt_masks"),
    "name": ("image", "image_path", "path", "file", "filename", "name"),
}
_WORDS: Final = {
    "0": 0, "false": 0, "normal": 0, "good": 0,
    "1": 1, "true": 1, "anomalous": 1, "anomaly": 1, "abnormal": 1, "bad": 1, "defect": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """A table as it was read.

    Attributes:
        header: Column names; duplicates are possible.
        columns: Their values.
    """

    header: list[str]
    columns: list[list[object]]


def read_table(path: Path) -> Table:
    """Read a table; of a `.parquet` only the columns that we know.

    Raises:
        DataError: The file cannot be read.
        ExtraError: A `.parquet` is given, and pyarrow is not installed.
    """
    return _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_csv(path)


def find_column(what: str, present: Sequence[str], path: Path) -> str | None:
    """Return the name under which a file stores a quantity, such as `label`; None if it does not.

    Raises:
        DataError: Several names fit.
    """
    found = [name for known in COLUMN_NAMES[what] for name in present if name.lower() == known]
    if len(found) > 1 and what != "name":
        raise DataError(
            f"'{path}' holds {' and '.join(map(repr, found))}, expected one {what}. Leave out or rename the other."
        )
    return found[0] if found else None


def as_label(where: str, value: object) -> int:
    """Read a label: 1 for anomalous, 0 for normal.

    Raises:
        DataError: It is neither.
    """
    text = str(value).strip().lower()
    found = _WORDS.get(text.removesuffix(".0").removesuffix(".00"))
    if found is None:
        raise DataError(
            f"{where}: the label is {value!r}, expected 0 or 1, false or true, normal or anomalous. Correct it."
        )
    return found


def _read_csv(path: Path) -> Table:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, strict=True)
            header = [name.strip() for name in next(reader, [])]
            rows: list[list[str]] = []
            for row in reader:
                if len(row) != len(header) and row:
                    raise DataError(
                        f"'{path}', row {len(rows) + 1}: found {len(row)} fields, expected {len(header)} as in the "
                        "header."
                    )
                rows += [row] if row else []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"Table '{path}' cannot be read: {error}. Expected comma-separated text in UTF-8.") from error
    columns: list[list[object]] = [[row[index] for row in rows] for index in range(len(header))]
    return Table(header, columns)


def _read_parquet(path: Path) -> Table:
    parquet = require_extra("pyarrow.parquet", "calibration", "reading a .parquet file")
    try:
        present = parquet.read_schema(path).names
        known = {name for names in COLUMN_NAMES.values() for name in names}
        wanted = list(dict.fromkeys(name for name in present if name.lower() in known))
        read = parquet.read_table(path, columns=wanted)
        columns = dict(zip(read.column_names, (column.to_pylist() for column in read.columns), strict=False))
        return Table(list(present), [columns.get(name, []) for name in present])
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
        raise DataError(f"Table '{path}' cannot be read: {reason}. Expected a Parquet file.") from error
