"""Tables of predictions: write them as CSV and JSON, and find the files of an earlier run from them."""

from __future__ import annotations

import csv
import json
import math
import unicodedata
from dataclasses import dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final, TextIO

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

FORMATS: Final = ("csv", "json")
COCO: Final = "coco"
"""A further format, of detections only."""
PICTURES: Final = {"masks": ".png", "overlays": ".jpg", "maps": ".tiff"}
"""Folders of pictures, with the file extension of their pictures.

If several outputs have pictures of one kind, the first uses this folder, and the others use `<folder>_<output>`.
"""
_TABLE: Final = "predictions"
REGIONS_TABLE: Final = "regions.csv"
REGION_COLUMNS: Final = ("image", "region", "x1", "y1", "x2", "y2", "area", "score", "x", "y")


@dataclass(frozen=True)
class ImagePrediction:
    """Predictions for an image: a row of the table. Fields are None if the model does not return them.

    Attributes:
        image: Name of the image: its path in the input folder, or its index in an array.
        pred_score: Score, in [0, 1] if normalised.
        pred_label: True for an anomalous image.
        anomalous_pixels: Pixels in the mask, at the size of the model's map.
        anomalous_share: Share of these among all pixels of the map, in [0, 1].
        mask: File of the mask, as a path in the output folder; None if not written.
        overlay: File of the image with map and mask drawn over it.
        map: File of the anomaly map.
        further: Values of other outputs by column: a number, lists of numbers, the file of a picture, or names of
            classes.
        anomalies: True for an anomaly model. The tables of others have no columns about anomalies.
    """

    image: str
    pred_score: float | None
    pred_label: bool | None
    anomalous_pixels: int | None
    anomalous_share: float | None
    mask: str | None = None
    overlay: str | None = None
    map: str | None = None
    further: Mapping[str, Any] = field(default_factory=dict)
    anomalies: bool = True

    @property
    def cells(self) -> dict[str, Any]:
        """Values by column."""
        fixed = {name: getattr(self, name) for name in COLUMNS}
        if not self.anomalies:
            fixed = {_OTHER_NAMES.get(name, name): value for name, value in fixed.items() if value is not None}
        return {**fixed, **self.further}

    def to_dict(self) -> dict[str, Any]:
        """Return the row as JSON values; NaN and infinities become None."""
        return {name: _finite(value) for name, value in self.cells.items()}


COLUMNS: Final = tuple(column.name for column in fields(ImagePrediction) if column.name not in ("further", "anomalies"))
"""Columns of every table of an anomaly model; those of other outputs follow."""
_OTHER_NAMES: Final = {"anomalous_pixels": "mask_pixels", "anomalous_share": "mask_share"}
"""Columns of models whose masks are not about anomalies."""
_FAMILY_COLUMNS: Final = (
    "pred_class", "token_ids", "text", "length", "mask_pixels", "region_boxes", "region_count", "class_map",
    "class_masks", "class_area", "alpha", "boxes", "count",
)  # fmt: skip
"""Columns that may follow the image and its pictures in the table of a model of another family."""
BOX_COLUMNS: Final = ("image", "class", "class_name", "score", "x1", "y1", "x2", "y2", "overlay")
"""Columns of the CSV table of detections, one row for each."""
_PICTURE_COLUMNS: Final = ("mask", "overlay", "map")


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def columns_of(rows: Sequence[ImagePrediction]) -> tuple[str, ...]:
    """Return the columns of a CSV table, which has none for lists of numbers."""
    further = dict.fromkeys(name for row in rows for name in row.further)
    # Detections have a table of their own, and may be empty for all images.
    flat = [
        name for name in further if name != "detections" and not any(_is_nested(row.further.get(name)) for row in rows)
    ]
    fixed = [
        column
        for name in COLUMNS
        for column in (name, *filter(None, [_OTHER_NAMES.get(name)]))
        if (not rows and column in COLUMNS) or any(column in row.cells for row in rows)
    ]
    return (*fixed, *flat)


def _is_nested(cell: object) -> bool:
    """True for lists of anything but names, which a cell joins."""
    return isinstance(cell, list) and not all(isinstance(each, str) for each in cell)


def plain(array: npt.NDArray[Any]) -> Any:
    """Convert values for a table; a float32 becomes the shortest decimal that reads back as the same number."""
    if array.ndim:
        return [plain(value) for value in array]
    return float(str(array[()])) if array.dtype == np.float32 else array.item()


def table_name(form: str) -> str:
    """Return the file name of a table in one of `FORMATS`, or in COCO's."""
    return f"{_TABLE}.coco.json" if form == COCO else f"{_TABLE}.{form}"


def text_file(file: Path) -> TextIO:
    """Open a file to write CSV to."""
    # File names need not be valid Unicode on every system; keep their bytes.
    return file.open("w", encoding="utf-8", errors="surrogateescape", newline="")


def write_csv(file: Path, rows: Sequence[ImagePrediction]) -> None:
    """Write a table as CSV, with `true` and `false`, and an empty cell for None."""
    columns = columns_of(rows)
    with text_file(file) as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            cells = row.cells
            writer.writerow([table_cell(cells.get(name)) for name in columns])


def table_cell(value: object) -> str:
    """Return a value as a cell of a CSV table."""
    if isinstance(value, list):
        return "; ".join(value)
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def write_json(file: Path, about: dict[str, Any], rows: Iterable[ImagePrediction]) -> None:
    """Write a table as JSON, together with the fields that describe the run."""
    record = {**about, "predictions": [row.to_dict() for row in rows]}
    file.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def earlier_files(folder: Path) -> list[str]:
    """Return the tables and pictures that an earlier run wrote to a folder, as its tables list them."""
    names: dict[str, None] = {}
    for form, read in (("csv", _read_csv), ("json", _read_json)):
        try:
            rows = read(folder / table_name(form))
        except (OSError, ValueError, LookupError, TypeError, csv.Error):
            continue  # missing, or written by another program
        names[table_name(form)] = None
        for row in rows:
            for column, cell in row.items():
                may_be_picture = column in _PICTURE_COLUMNS or column not in COLUMNS
                if may_be_picture and isinstance(cell, str) and _is_picture_path(cell):
                    names[cell] = None
    if names:
        names[table_name(COCO)] = None
    if names and _is_table_of_regions(folder / REGIONS_TABLE):
        names[REGIONS_TABLE] = None
    return [name for name in names if (folder / name).is_file()]


def _is_table_of_regions(file: Path) -> bool:
    try:
        with file.open(encoding="utf-8", errors="surrogateescape") as stream:
            return stream.readline().rstrip("\n") == ",".join(REGION_COLUMNS)
    except OSError:
        return False


def write_regions(file: Path, names: Sequence[str], regions: Iterable[Sequence[Sequence[Any]]]) -> None:
    """Write a table with a row for each region, as CSV."""
    with text_file(file) as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(REGION_COLUMNS)
        for name, rows in zip(names, regions, strict=True):
            writer.writerows([name, place, *row] for place, row in enumerate(rows))


def _read_csv(file: Path) -> list[dict[str, Any]]:
    with file.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
        reader = csv.DictReader(stream)
        if not _has_columns(reader.fieldnames or ()):
            raise ValueError
        return list(reader)


def _read_json(file: Path) -> list[dict[str, Any]]:
    rows = json.loads(file.read_text(encoding="utf-8"))["predictions"]
    if not all(_has_columns(row) for row in rows):
        raise ValueError
    return list(rows)


def _has_columns(names: Iterable[str]) -> bool:
    """Return True for the columns of an anomaly model, of another family, or of an earlier version."""
    found = tuple(names)
    further = [name for name in found if name not in COLUMNS]
    return (
        found[: len(BOX_COLUMNS)] == BOX_COLUMNS
        or found[: len(COLUMNS)] == COLUMNS
        or (found[:1] == ("image",) and further[:1] in [[n] for n in _FAMILY_COLUMNS])
    )


def _is_picture_path(name: str) -> bool:
    """Return True if a path in a table could be a picture of an earlier run."""
    path = PurePosixPath(name)
    if len(path.parts) < 2 or ".." in path.parts:
        return False
    known = PICTURES.get(path.parts[0].partition("_")[0])
    return known is not None and path.suffix in (known, ".png")  # overlays were PNG once


def picture_stems(names: Sequence[str]) -> list[str]:
    """Return a unique file stem for each image's pictures.

    `a/x.png` becomes `a/x`, unless `a/x.jpg` exists too: then both keep their extensions. Names are compared without
    case, for file systems that ignore it. No stem leads out of its folder.
    """
    paths = [_inside(name) for name in names]
    plain = [path.with_suffix("") for path in paths]
    counts: dict[str, int] = {}
    for path in plain:
        counts[_key(path)] = counts.get(_key(path), 0) + 1
    endings = tuple(dict.fromkeys(PICTURES.values()))
    # A folder may have the name of a picture: 'x.png/0.jpg' beside 'x.jpg'.
    taken = {_key(parent).removesuffix(ending) for path in paths for parent in path.parents for ending in endings}
    stems = []
    for path, short in zip(paths, plain, strict=True):
        chosen = short if counts[_key(short)] == 1 and _key(short) not in taken else path
        number = 2
        while _key(chosen) in taken:
            chosen = path.with_name(f"{path.name}_{number}")
            number += 1
        taken.add(_key(chosen))
        stems.append(chosen.as_posix())
    return stems


def _inside(name: str) -> PurePosixPath:
    parts = [part for part in PurePosixPath(name).parts if part not in ("..", "/", "//", ".")]
    return PurePosixPath(*parts) if parts else PurePosixPath("image")


def _key(path: PurePosixPath) -> str:
    return unicodedata.normalize("NFC", path.as_posix()).casefold()
