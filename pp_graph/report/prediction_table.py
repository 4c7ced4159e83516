"""Predictions of images as rows: written as CSV and JSON, and read back to know what an earlier run left."""

from __future__ import annotations

import csv
import json
import math
import unicodedata
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

FORMATS: Final = ("csv", "json")
PICTURES: Final = {"masks": ".png", "overlays": ".png", "maps": ".tiff"}
"""Folders of pictures that can be written, and what the names of the files in them end in."""
_TABLE: Final = "predictions"


@dataclass(frozen=True)
class ImagePrediction:
    """What a model says about an image.

    Attributes:
        image: Name of the image: its path in the folder that was given, or its index in an array.
        pred_score: Score, in [0, 1] when normalised; None where the model gives none.
        pred_label: Whether it is anomalous; None where the model gives no label.
        anomalous_pixels: Pixels in the mask, at the size of the model's map; None where the model gives no mask.
        anomalous_share: The same as a share of all pixels of the map, in [0, 1].
        mask: File of the mask, as a path in the output folder; None where none is written.
        overlay: The same for the image with map and mask drawn over it.
        map: The same for the anomaly map.
    """

    image: str
    pred_score: float | None
    pred_label: bool | None
    anomalous_pixels: int | None
    anomalous_share: float | None
    mask: str | None = None
    overlay: str | None = None
    map: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The row for JSON, which has no NaN and no infinities: null."""
        row = asdict(self)
        if self.pred_score is not None and not math.isfinite(self.pred_score):
            row["pred_score"] = None
        return row


COLUMNS: Final = tuple(field.name for field in fields(ImagePrediction))


def table_name(form: str) -> str:
    """Name of the file of a table in one of `FORMATS`."""
    return f"{_TABLE}.{form}"


def write_csv(file: Path, rows: Iterable[ImagePrediction]) -> None:
    """Write a table as CSV: `true` and `false`, and nothing where there is nothing to say."""
    # A file's name need not be Unicode on every system; its bytes are kept.
    with file.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in rows:
            writer.writerow([_cell(value) for value in asdict(row).values()])


def _cell(value: object) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def write_json(file: Path, about: dict[str, Any], rows: Iterable[ImagePrediction]) -> None:
    """Write a table as JSON, with what is known about the run."""
    record = {**about, "predictions": [row.to_dict() for row in rows]}
    file.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def earlier_files(folder: Path) -> list[str]:
    """Tables and pictures that an earlier run wrote to a folder, as paths in it; by what its tables say."""
    found: dict[str, None] = {}
    for form, read in (("csv", _read_csv), ("json", _read_json)):
        try:
            rows = read(folder / table_name(form))
        except (OSError, ValueError, LookupError, TypeError, csv.Error):
            continue  # not there, or not ours
        found[table_name(form)] = None
        for row in rows:
            for kind in ("mask", "overlay", "map"):
                if isinstance(row.get(kind), str) and _is_ours(row[kind]):
                    found[row[kind]] = None
    return [name for name in found if (folder / name).is_file()]


def _read_csv(file: Path) -> list[dict[str, Any]]:
    with file.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
        reader = csv.DictReader(stream)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError
        return list(reader)


def _read_json(file: Path) -> list[dict[str, Any]]:
    rows = json.loads(file.read_text(encoding="utf-8"))["predictions"]
    if any(tuple(row) != COLUMNS for row in rows):
        raise ValueError
    return list(rows)


def _is_ours(name: str) -> bool:
    """Whether a path that a table names is one that this module could have given."""
    path = PurePosixPath(name)
    return len(path.parts) > 1 and PICTURES.get(path.parts[0]) == path.suffix and ".." not in path.parts


def picture_stems(names: Sequence[str]) -> list[str]:
    """Names of pictures without their endings: those of the images, unless two would then be one.

    `a/x.png` is `a/x`; where `a/x.jpg` is there as well, both keep their endings, `a/x.png` and `a/x.jpg`. Names that
    differ in case alone count as one, as they do on some file systems. None leads out of a folder.
    """
    paths = [_inside(name) for name in names]
    plain = [path.with_suffix("") for path in paths]
    counts: dict[str, int] = {}
    for each in plain:
        counts[_key(each)] = counts.get(_key(each), 0) + 1
    endings = tuple(dict.fromkeys(PICTURES.values()))
    # A folder may be called as a picture would be: 'x.png/0.jpg' beside 'x.jpg'.
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
