"""Images with the classes they are of, to calibrate classifiers: folders by class, a table, or arrays."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from pp_graph.data.arrays import open_arrays
from pp_graph.data.images import ArrayImages, open_images
from pp_graph.errors import DataError
from pp_graph.urls import as_path

if TYPE_CHECKING:
    from pp_graph.data.image_batches import Images

TABLE: Final = "labels.csv"
NO_CLASS: Final = -1
"""Class of an image that is of none that the model knows."""


@dataclass(frozen=True)
class ClassifiedImages:
    """Images and their classes.

    Attributes:
        images: The images.
        classes: Class of each image, int64, (N,), `NO_CLASS` for one of no known class; or whether each class is
            present, bool, (N,C).
        name: Name of the file or folder; None for arrays in memory.
    """

    images: Images
    classes: npt.NDArray[Any]
    name: str | None

    @property
    def several(self) -> bool:
        """True if an image may be of several classes."""
        return self.classes.ndim == 2


ClassifiedSource = str | Path | Mapping[str, npt.ArrayLike] | ClassifiedImages


def open_classified(
    source: ClassifiedSource, count: int, names: Sequence[str] = (), **reading: Any
) -> ClassifiedImages:
    """Open images with their classes.

    Args:
        source: One of these:

            - A folder with a folder for each class, called like the class or its index. Images in a folder that is
              called otherwise are of no known class. Without names, as many folders as classes are taken in the order
              of their names.
            - A folder with a table `labels.csv` of the columns `image`, a path in the folder, and `classes`, separated
              by semicolons. An image may then be of several classes, or of none.
            - An `.npz` or a mapping of arrays `image` and `label`: class indices (N,), -1 for no known class, or 0 and
              1 for each class (N,C).
        count: Number of the model's classes.
        names: Name of each class; empty if unknown.
        reading: Further arguments of `open_images`.

    Raises:
        DataError: There are no images or classes, or a class does not exist.
    """
    if isinstance(source, ClassifiedImages):
        return source
    path = None if isinstance(source, Mapping) else as_path(source)
    if path is not None and path.is_dir():
        return _of_folder(path, count, tuple(names), reading)
    where = "the data" if path is None else f"'{path}'"
    arrays: Mapping[str, Any] = source if isinstance(source, Mapping) else open_arrays(as_path(source))
    if "label" not in arrays:
        raise DataError(
            f"Found arrays {', '.join(map(repr, arrays))} in {where}, expected 'label' beside the images: the class of "
            "each, (N,), or 0 and 1 for each class, (N,C)."
        )
    images = ArrayImages({name: np.asarray(array) for name, array in arrays.items() if name != "label"}, where)
    label = np.asarray(arrays["label"])
    shaped = label.shape in ((len(images),), (len(images), count))
    if label.dtype.kind not in "biu" or not shaped:
        raise DataError(
            f"Array 'label' in {where} holds {label.dtype} of shape {label.shape}, expected class indices "
            f"({len(images)},), or 0 and 1 for each class ({len(images)},{count})."
        )
    low, high = (NO_CLASS, count - 1) if label.ndim == 1 else (0, 1)
    if label.size and not low <= int(label.min()) <= int(label.max()) <= high:
        raise DataError(f"Array 'label' in {where} holds {label.min()} to {label.max()}, expected {low} to {high}.")
    name = None if path is None else path.name
    return ClassifiedImages(images, label.astype(np.int64 if label.ndim == 1 else np.bool_), name)


def _of_folder(folder: Path, count: int, names: tuple[str, ...], reading: dict[str, Any]) -> ClassifiedImages:
    images = open_images(folder, **reading)
    paths = [file.relative_to(images.folder or folder) for file in images.files or ()]
    index = {name: place for place, name in enumerate(names)} | {str(place): place for place in range(count)}
    if (folder / TABLE).exists():
        return ClassifiedImages(images, _of_table(folder / TABLE, paths, index, count), folder.name)
    stray = next((path for path in paths if len(path.parts) < 2), None)
    if stray is not None:
        raise DataError(
            f"Image '{stray}' lies in '{folder}' itself, expected a folder for each class, or a table {TABLE} with the "
            "columns image and classes. Sort the images into folders."
        )
    kinds = sorted({path.parts[0] for path in paths})
    if not names and not set(kinds) & set(index):
        if len(kinds) != count:
            raise DataError(
                f"Folder '{folder}' holds {len(kinds)} folders ({', '.join(kinds[:5])}), and the model has {count} "
                "classes, expected a folder for each, called by its name or index. Name the classes (--labels FILE)."
            )
        index = {kind: place for place, kind in enumerate(kinds)}
    classes = np.array([index.get(path.parts[0], NO_CLASS) for path in paths], np.int64)
    if (classes == NO_CLASS).all():
        raise DataError(
            f"Folder '{folder}' holds {', '.join(kinds[:5])}, expected folders called like the classes, "
            f"{', '.join(names[:5])}. Rename the folders."
        )
    return ClassifiedImages(images, classes, folder.name)


def _of_table(file: Path, paths: Sequence[Path], index: Mapping[str, int], count: int) -> npt.NDArray[np.bool_]:
    with file.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream)
        if not {"image", "classes"} <= set(reader.fieldnames or ()):
            raise DataError(f"Table '{file}' has the columns {reader.fieldnames}, expected image and classes.")
        rows = {row["image"]: [part.strip() for part in (row["classes"] or "").split(";")] for row in reader}
    present = np.zeros((len(paths), count), np.bool_)
    for place, path in enumerate(paths):
        listed = rows.get(path.as_posix())
        if listed is None:
            raise DataError(f"Table '{file}' does not list '{path.as_posix()}', expected every image. Add it.")
        for name in filter(None, listed):
            if name not in index:
                raise DataError(f"Table '{file}' lists the class '{name}', expected {', '.join([*index][:5])}, ...")
            present[place, index[name]] = True
    return present
