"""Tables that list image files, with labels and masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pp_graph.data.resized_images import FileImages
from pp_graph.data.tables import COLUMN_NAMES, as_label, find_column, read_table
from pp_graph.errors import DataError
from pp_graph.urls import UrlPath, absolute, as_path

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True)
class Manifest:
    """A table of image files.

    Attributes:
        path: The table.
        files: The image files, in the order of the table.
        names: Their paths as the table has them.
        labels: True for anomalous images, by file; None without a column of labels.
        masks: Mask of each image that has one.
    """

    path: Path
    files: tuple[Path, ...]
    names: tuple[str, ...]
    labels: Mapping[Path, bool] | None
    masks: Mapping[Path, Path]

    def images(self, **reading: Any) -> FileImages:
        """Return the images.

        Args:
            **reading: Keyword arguments of `FileImages`.
        """
        return FileImages(self.path.parent, self.files, names=self.names, **reading)


def _beside(table: Path, text: str) -> Path:
    found = as_path(text)
    return found if isinstance(found, UrlPath) else absolute(table).parent / found


def read_manifest(path: Path) -> Manifest:
    """Read a table of image files.

    Args:
        path: A `.csv` or `.parquet` with a column of paths, relative to the table, and perhaps one of labels and one of
            masks.

    Raises:
        DataError: The table cannot be read, has no paths, or lists a file twice; or a label is neither 0 nor 1.
        ExtraError: A `.parquet` is given, and pyarrow is not installed.
    """
    if not path.is_file():
        raise DataError(
            f"Table '{path}' does not exist, expected a .csv or .parquet that lists images. Check the path."
        )
    table = read_table(path)
    columns = {
        what: table.columns[table.header.index(name)]
        for what in ("name", "label", "mask")
        if (name := find_column(what, table.header, path)) is not None
    }
    if "name" not in columns:
        raise DataError(
            f"Table '{path}' has the columns {', '.join(map(repr, table.header)) or 'none'}, expected one of paths "
            f"under one of the names {', '.join(COLUMN_NAMES['name'])}. Rename it."
        )
    names = [str(value or "").strip() for value in columns["name"]]
    if not names:
        raise DataError(f"Table '{path}' lists no images, expected a row for each.")
    rows: dict[Path, int] = {}
    for row, name in enumerate(names, 1):
        if not name:
            raise DataError(f"'{path}', row {row}: there is no path, expected an image file. Leave the row out.")
        file = _beside(path, name)
        if file in rows:
            raise DataError(f"'{path}', row {row}: '{name}' is listed in row {rows[file]} too. Leave one of them out.")
        rows[file] = row
    labels = masks = None
    if "label" in columns:
        labels = {
            file: bool(as_label(f"'{path}', row {row}", value))
            for (file, row), value in zip(rows.items(), columns["label"], strict=True)
        }
    masks = {
        file: _beside(path, str(value).strip())
        for file, value in zip(rows, columns.get("mask", ()), strict=False)
        if value is not None and str(value).strip()
    }
    return Manifest(path, tuple(rows), tuple(names), labels, masks)
