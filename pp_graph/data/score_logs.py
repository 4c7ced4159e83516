"""Logged scores: one column of a table or array, read in batches, so that files may be larger than memory."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from pp_graph.data.arrays import open_archive
from pp_graph.data.tables import COLUMN_NAMES, as_label
from pp_graph.errors import DataError, counted
from pp_graph.extras import require_extra

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Columns = dict[str, Sequence[Any] | npt.NDArray[Any]]
    """A batch of rows: scores, and labels where there are any."""

_ROWS: Final = 1 << 16
_LONGEST: Final = 300
"""Characters of a header that a message quotes."""


@dataclass(frozen=True)
class ScoreBatch:
    """Scores of some images.

    Attributes:
        scores: The scores, float32, (N,). A missing one is NaN.
        anomalous: True for images with a label that says so, (N,); None without labels.
    """

    scores: npt.NDArray[np.float32]
    anomalous: npt.NDArray[np.bool_] | None


def read_scores(
    path: str | Path, *, column: str | None = None, labels: bool = True, quantity: str = "score"
) -> Iterator[ScoreBatch]:
    """Read the scores of a file in batches.

    Args:
        path: A `.csv` or `.parquet` with a column for scores, such as the `predictions.csv` of `pp-graph run`, a
            `.jsonl` with an object in each line, as `run` writes of videos, or an `.npz` with an array (N,). Labels may
            be in another column.
        column: Name of the column or array with the scores; None finds it by one of its usual names.
        labels: False ignores labels.
        quantity: What to find by its usual names: `score`, or `map_max`, the largest value of each map.

    Yields:
        The scores of up to 65,536 images. Empty cells, and values that float32 cannot hold, are NaN or infinite.

    Raises:
        DataError: The file is missing, damaged or of a different kind, has no such column, or a value is no number.
        ExtraError: A `.parquet` is given, and pyarrow is not installed.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(
            f"File of scores '{path}' {what}, expected a .csv, .jsonl, .parquet or .npz file. Check the path."
        )
    readers = {".csv": _read_csv, ".parquet": _read_parquet, ".npz": _read_arrays, ".jsonl": _read_lines}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"File of scores '{path}' is a '{path.suffix}' file, expected .csv, .jsonl, .parquet or .npz.")

    def choose(present: Sequence[str]) -> list[str]:
        """Return the columns to read: that of the scores, and that of the labels if there is one."""
        score = _score_column(path, present, column, quantity)
        found = [name for known in COLUMN_NAMES["label"] for name in present if name.lower() == known and name != score]
        return [score, *(found[:1] if labels else ())]

    row = 0
    for columns in reader(path, choose):
        scores, *rest = columns.values()
        read = _as_scores(path, next(iter(columns)), scores, row)
        yield ScoreBatch(read, _as_flags(path, rest[0], row, len(read)) if rest else None)
        row += len(read)


def _score_column(path: Path, present: Sequence[str], column: str | None, quantity: str) -> str:
    if column is not None:
        known: Sequence[str] = [column]
        found = [name for name in present if name == column]
    else:
        known = COLUMN_NAMES[quantity]
        found = [name for name in present if name.lower() in known]
    if len(found) == 1:
        return found[0]
    held = ", ".join(map(repr, present)) or "nothing"
    held = held if len(held) <= _LONGEST else f"{held[:_LONGEST]}…"
    if found:
        raise DataError(
            f"'{path}' holds {' and '.join(map(repr, found))}, expected one score. Choose with --column NAME "
            "(column=...)."
        )
    raise DataError(
        f"'{path}' holds {held}, expected scores under {'the name' if column else 'one of the names'} "
        f"{', '.join(known)}. Name the column: --column NAME (column=...)."
    )


def _read_csv(path: Path, choose: Callable[[Sequence[str]], list[str]]) -> Iterator[Columns]:
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as stream:
            reader = csv.reader(stream)
            header = [name.strip() for name in next(reader, [])]
            names = choose(header)
            places = [header.index(name) for name in names]
            rows: list[list[str]] = []
            for number, row in enumerate(reader):
                if row and len(row) <= max(places):
                    raise DataError(
                        f"'{path}', row {number + 1}: found {counted(len(row), 'field')}, expected {len(header)} as in "
                        "the header. Correct the row, or leave it out."
                    )
                rows += [[row[place] for place in places]] if row else []
                if len(rows) == _ROWS:
                    yield dict(zip(names, zip(*rows, strict=True), strict=True))
                    rows = []
            if rows:
                yield dict(zip(names, zip(*rows, strict=True), strict=True))
    except (OSError, csv.Error) as error:
        raise DataError(f"Table '{path}' cannot be read: {error}. Expected comma-separated text.") from error


def _read_lines(path: Path, choose: Callable[[Sequence[str]], list[str]]) -> Iterator[Columns]:
    names: list[str] = []
    rows: list[list[Any]] = []
    try:
        with path.open(encoding="utf-8", errors="surrogateescape") as stream:
            for number, line in enumerate(stream):
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise TypeError
                names = names or choose(list(row))
                missing = next((name for name in names if name not in row), None)
                if missing is not None:
                    raise DataError(
                        f"'{path}', line {number + 1}: there is no '{missing}', which the first line has. Correct the "
                        "line, or leave it out."
                    )
                rows.append([row[name] for name in names])
                if len(rows) == _ROWS:
                    yield dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
                    rows = []
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"Table '{path}' cannot be read: {error}. Expected JSON lines.") from error
    except (ValueError, TypeError) as error:
        raise DataError(
            f"'{path}', line {number + 1}: it is no JSON object, expected one a line, as pp-graph run -o FILE.jsonl "
            "writes them. Leave out the line if the run was cut off."
        ) from error
    if not names:
        choose([])
    if rows:
        yield dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


def _read_parquet(path: Path, choose: Callable[[Sequence[str]], list[str]]) -> Iterator[Columns]:
    parquet = require_extra("pyarrow.parquet", "calibration", "reading a .parquet file")
    try:
        with parquet.ParquetFile(path) as file:
            names = choose(file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=_ROWS, columns=names):
                yield {name: batch.column(name).to_numpy(zero_copy_only=False) for name in names}
    except DataError:
        raise
    except Exception as error:  # pyarrow raises many kinds for a damaged file
        reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
        raise DataError(f"Table '{path}' cannot be read: {reason}. Expected a Parquet file.") from error


def _read_arrays(path: Path, choose: Callable[[Sequence[str]], list[str]]) -> Iterator[Columns]:
    try:
        arrays = open_archive(path)
    except DataError as error:
        raise DataError(f"Scores '{path}': {error}") from error
    names = choose(list(arrays))
    for name in names:
        shape = arrays[name].shape
        if not shape or math.prod(shape[1:]) != 1:
            raise DataError(f"Array '{name}' in '{path}' has shape {shape}, expected one number per image, (N,).")
    counts = {name: len(arrays[name]) for name in names}
    if len(set(counts.values())) > 1:
        listing = " and ".join(f"{count:,} in '{name}'" for name, count in counts.items())
        raise DataError(f"'{path}' holds {listing}, expected as many scores as labels.")
    for start in range(0, counts[names[0]], _ROWS):
        yield {name: arrays[name][start : start + _ROWS].reshape(-1) for name in names}


def _as_scores(path: Path, name: str, values: Any, row: int) -> npt.NDArray[np.float32]:
    """Convert a batch to float32; empty cells become NaN."""
    array = values if isinstance(values, np.ndarray) else np.array(values)
    with np.errstate(over="ignore"):
        if array.dtype.kind == "U":
            try:
                return array.astype(np.float64).astype(np.float32)
            except ValueError:
                array = array.astype(object)  # one by one, to say which row is wrong
        if array.dtype.kind in "fiu":
            return array.astype(np.float32)
        if array.dtype.kind == "O":
            return np.array([_as_score(path, name, value, row + at) for at, value in enumerate(array)], np.float32)
    raise DataError(f"Column '{name}' of '{path}' holds values of type {array.dtype}, expected numbers.")


def _as_score(path: Path, name: str, value: object, row: int) -> float:
    try:
        if value is None or (isinstance(value, str) and not value.strip()):
            return np.nan
        if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
            raise ValueError
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise DataError(
            f"'{path}', row {row + 1}: '{name}' is {value!r}, expected a number. Correct it, leave the row out, or "
            "name another column: --column NAME (column=...)."
        ) from None


def _as_flags(path: Path, values: Any, row: int, size: int) -> npt.NDArray[np.bool_]:
    """Convert a batch of labels; an image without one is not anomalous, as far as is known."""
    known: dict[str, bool] = {"": False, "nan": False, "None": False}
    flags = np.zeros(size, np.bool_)
    for at, value in enumerate(values):
        text = str(value).strip()
        if text not in known:
            known[text] = bool(as_label(f"'{path}', row {row + at + 1}", value))
        flags[at] = known[text]
    return flags
