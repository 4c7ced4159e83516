"""Dumped predictions: raw scores and maps with labels and masks, read in batches."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from pp_graph.data.arrays import open_archive
from pp_graph.data.tables import COLUMN_NAMES, Table, as_label, find_column, read_table
from pp_graph.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class PredictionBatch:
    """Some images' predictions.

    Attributes:
        scores: Raw scores, (N,); None where there are only maps.
        maps: Raw maps, (N,H,W) or with one channel; None where there are only scores.
        labels: Whether each image is anomalous, (N,); None where there are only masks.
        masks: Anomalous pixels, of the maps' shape; None where there are none.
        names: What each image is called; None for numbers.
    """

    scores: Array | None
    maps: Array | None
    labels: Array | None
    masks: Array | None
    names: Sequence[str] | None

    def __len__(self) -> int:
        return len(self.scores if self.scores is not None else self.maps)  # type: ignore[arg-type]


class DumpedPredictions(ABC):
    """Predictions in a file.

    Attributes:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def batches(self) -> Iterator[PredictionBatch]:
        """Read from the beginning; may be called again for another pass.

        Raises:
            DataError: The file cannot be read.
        """

    def sha256(self) -> str:
        """Hash of the file."""
        with self.path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()


def open_predictions(path: str | Path) -> DumpedPredictions:
    """Open dumped predictions.

    Args:
        path: An `.npz` with raw `pred_score` (N,) or `anomaly_map` (N,H,W), or both, and `label` (N,) or `mask`
            (N,H,W), or both; or a `.csv` or `.parquet` with a column for scores and one for labels. Other common names
            are accepted. Maps are read a few at a time.

    Raises:
        DataError: The file is missing, cannot be read, or lacks what is needed.
        ExtraError: A `.parquet` is given, and pyarrow is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"Predictions '{path}' do not exist, expected an .npz, .csv or .parquet file. Check the path.")
    kinds: dict[str, Callable[[Path], DumpedPredictions]] = {
        ".npz": _DumpedArrays,
        ".csv": lambda file: _DumpedTable(file, read_table(file)),
        ".parquet": lambda file: _DumpedTable(file, read_table(file)),
    }
    kind = kinds.get(path.suffix.lower())
    if kind is None:
        raise DataError(f"Predictions '{path}' are a '{path.suffix}' file, expected .npz, .csv or .parquet.")
    return kind(path)


def _lacks(path: Path, what: str, present: Sequence[str]) -> DataError:
    return DataError(
        f"'{path}' holds {', '.join(map(repr, present)) or 'nothing'}, expected a {what} under one of the names "
        f"{', '.join(COLUMN_NAMES[what.split(maxsplit=1)[0]])}. Rename it."
    )


_BATCH_BYTES: Final = 1 << 23


class _DumpedArrays(DumpedPredictions):
    """An `.npz` whose large arrays are read row by row."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            arrays = open_archive(path)
        except DataError as error:
            raise DataError(f"Predictions '{path}': {error}") from error
        names = {what: find_column(what, list(arrays), path) for what in ("score", "map", "label", "mask")}
        if names["score"] is None and names["map"] is None:
            raise _lacks(path, "score or map", list(arrays))
        if names["label"] is None and names["mask"] is None:
            raise _lacks(path, "label or mask", list(arrays))
        self._arrays = {what: arrays[name] for what, name in names.items() if name is not None}
        counts = {what: len(array) if array.ndim else 0 for what, array in self._arrays.items()}
        if len(set(counts.values())) > 1 or 0 in counts.values():
            listing = ", ".join(f"'{names[what]}' {array.shape}" for what, array in self._arrays.items())
            raise DataError(f"'{path}' holds {listing}, expected arrays of the same length, at least 1.")
        self._count = next(iter(counts.values()))
        row = max(math.prod(array.shape[1:]) for array in self._arrays.values())
        self._batch = max(1, _BATCH_BYTES // (4 * max(row, 1)))

    def __len__(self) -> int:
        return self._count

    def batches(self) -> Iterator[PredictionBatch]:
        for start in range(0, self._count, self._batch):
            stop = min(start + self._batch, self._count)
            score, maps, label, mask = (
                self._arrays[what][start:stop] if what in self._arrays else None
                for what in ("score", "map", "label", "mask")
            )
            yield PredictionBatch(score, maps, label, mask, None)


class _DumpedTable(DumpedPredictions):
    """A table of image scores."""

    def __init__(self, path: Path, table: Table) -> None:
        super().__init__(path)
        header = table.header
        found = {what: find_column(what, header, path) for what in ("score", "label", "name")}
        columns: dict[str, Sequence[object]] = {}
        for what, name in found.items():
            if name is not None:
                columns[what] = table.columns[header.index(name)]
            elif what != "name":
                raise _lacks(path, what, header)
        if not len(columns["score"]):
            raise DataError(f"'{path}' holds no rows, expected one row per image.")
        places = [f"'{path}', row {index + 1}" for index in range(len(columns["score"]))]
        scores = [_score(where, value) for where, value in zip(places, columns["score"], strict=True)]
        labels = [as_label(where, value) for where, value in zip(places, columns["label"], strict=True)]
        with np.errstate(over="ignore"):
            self._scores = np.array(scores).astype(np.float32)
        self._labels = np.array(labels, np.bool_)
        self._names = [str(value) for value in columns["name"]] if "name" in columns else None

    def __len__(self) -> int:
        return len(self._scores)

    def batches(self) -> Iterator[PredictionBatch]:
        yield PredictionBatch(self._scores, None, self._labels, None, self._names)


def _score(where: str, value: object) -> float:
    try:
        if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
            raise ValueError
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise DataError(
            f"{where}: the score is {value!r}, expected a number. Correct it, or leave the row out."
        ) from None
