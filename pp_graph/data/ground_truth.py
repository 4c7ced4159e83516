"""Read the ground truth of detectors: COCO JSON, or YOLO's text files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from pp_graph.data.boxes import MarkedBoxes
from pp_graph.data.image_files import MAX_PIXELS, SeenFiles, check_max_pixels, find_images, upright_size
from pp_graph.data.resized_images import FileImages
from pp_graph.errors import DataError
from pp_graph.urls import as_path

_CLASSES_FILE: Final = "classes.txt"
"""Names of the classes, which labelling tools write beside YOLO's files."""
_LARGEST_SHARE: Final = 1.001
"""Largest share of the image's size: writers round."""
_Box = tuple[int, tuple[float, float, float, float], bool]
"""Class, corners, and True for a crowd."""


@dataclass(frozen=True)
class GroundTruth:
    """Images with the boxes of the objects in them.

    Attributes:
        images: The images.
        sizes: Width and height of each image in pixels.
        marked: Boxes of each image.
        class_names: Name of each class, in the order of the model's classes; empty if unknown.
        file: The file or folder of the boxes.
        notes: Remarks for the user.
    """

    images: FileImages
    sizes: tuple[tuple[int, int], ...]
    marked: tuple[MarkedBoxes, ...]
    class_names: tuple[str, ...]
    file: Path
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.marked)

    @property
    def files(self) -> tuple[Path, ...]:
        """The image files."""
        return self.images.files or ()

    @property
    def seen(self) -> SeenFiles:
        """What was noticed in the image files read so far."""
        return self.images.seen

    def part(self, start: int, stop: int) -> GroundTruth:
        """Return some of the images alone, with their boxes."""
        return replace(
            self,
            images=self.images.part(start, stop),
            sizes=self.sizes[start:stop],
            marked=self.marked[start:stop],
            notes=(),
        )

    @property
    def boxes(self) -> int:
        """Number of boxes without crowds."""
        return sum(int((~each.crowds).sum()) for each in self.marked)


def open_ground_truth(
    file: str | Path,
    images: str | Path,
    *,
    class_names: Sequence[str] = (),
    max_pixels: int | None = MAX_PIXELS,
    letterbox: bool = False,
) -> GroundTruth:
    """Open images with the boxes of the objects in them.

    Args:
        file: One of these:

            - COCO JSON with `images`, `annotations` and `categories`. Categories are matched with `class_names` by
              name; without names, the model's classes are the categories in the order of their ids.
            - A folder with YOLO's text files, one for each image under its name: a line `class x y width height` for
              each box, its centre and size as shares of the image. An image without a file holds no object.
              `classes.txt` may name the classes.
        images: Folder of the images. Those that COCO JSON does not list are left out.
        class_names: Name of each class of the model, in order; empty if unknown.
        max_pixels: Refuse image files with more pixels; None for no limit.
        letterbox: Resize images without changing their aspect ratio; see `open_images`.

    Returns:
        The images and their boxes.

    Raises:
        DataError: A file cannot be read, an image is missing or has another size than noted, a class is not one of the
            model's, or a box is impossible.
    """
    check_max_pixels(max_pixels)
    path, folder = as_path(file), as_path(images)
    if not folder.is_dir():
        raise DataError(
            f"'{folder}' is not a folder, expected the folder of the images whose boxes '{path}' holds. Check the path."
        )
    read = _open_yolo if path.is_dir() else _open_coco
    truth = read(path, folder, tuple(class_names), max_pixels)
    truth.images.letterbox = letterbox
    return truth


def _marked(boxes: Sequence[_Box]) -> MarkedBoxes:
    return MarkedBoxes(
        np.array([corners for _, corners, _ in boxes], np.float64).reshape(-1, 4),
        np.array([index for index, _, _ in boxes], np.int64),
        np.array([crowd for _, _, crowd in boxes], np.bool_),
    )


def _open_coco(path: Path, folder: Path, class_names: tuple[str, ...], max_pixels: int | None) -> GroundTruth:
    content = _read_json(path)
    categories = _by_id(content["categories"], "categories", path)
    classes = _class_of_category(categories, class_names)
    listed = _by_id(content["images"], "images", path)
    if not listed:
        raise DataError(f"Ground truth '{path}' lists no images, expected some. Export it with its images.")
    files, sizes = [], []
    for entry in listed.values():
        file, size = _coco_image(entry, folder, path, max_pixels)
        files.append(file)
        sizes.append(size)
    boxes: dict[Any, list[_Box]] = {key: [] for key in listed}
    for number, entry in enumerate(content["annotations"]):
        what = f"Annotation {entry.get('id', number) if isinstance(entry, dict) else number} of '{path}'"
        image, category, crowd = (_field(entry, key, what) for key in ("image_id", "category_id", "iscrowd"))
        if image not in boxes:
            raise DataError(
                f"{what} belongs to image {image!r}, expected the id of one of its {len(listed)} images. Add the image "
                "to 'images', or remove the annotation."
            )
        if category not in categories:
            raise DataError(
                f"{what} has category {category!r}, expected the id of one of its categories: "
                f"{', '.join(map(repr, categories))}. Add it to 'categories', or remove the annotation."
            )
        if category not in classes:
            raise DataError(
                f"{what} is a '{categories[category].get('name')}', expected a class of the model: "
                f"{', '.join(class_names)}. Correct the labels (--labels FILE), or remove these annotations."
            )
        left, top, width, height = _numbers(_field(entry, "bbox", what), what, "x, y, width, height in pixels")
        _check_size(width, height, what)
        boxes[image].append((classes[category], (left, top, left + width, top + height), bool(crowd)))
    return GroundTruth(
        FileImages(folder, files, folder=folder, max_pixels=max_pixels),
        tuple(sizes),
        tuple(map(_marked, boxes.values())),
        class_names or tuple(str(categories[key].get("name", key)) for key in classes),
        path,
        _left_out(folder, files),
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(
            f"Ground truth '{path}' cannot be read: {error}. Expected COCO JSON, or a folder with YOLO's text files."
        ) from error
    missing = [
        name
        for name in ("images", "annotations", "categories")
        if not isinstance(content, dict) or not isinstance(content.get(name), list)
    ]
    if missing:
        raise DataError(
            f"Ground truth '{path}' has no list '{missing[0]}', expected COCO JSON with images, annotations and "
            "categories. Export it as COCO (object detection)."
        )
    return dict(content)


def _by_id(entries: Sequence[Any], kind: str, path: Path) -> dict[Any, dict[str, Any]]:
    """Return the entries of a list by their ids."""
    found: dict[Any, dict[str, Any]] = {}
    for entry in entries:
        key = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(key, int | str) or key in found:
            raise DataError(
                f"'{kind}' in '{path}' has the id {key!r}, expected a number or name of its own for each entry. "
                "Correct the ids."
            )
        found[key] = entry
    return found


def _class_of_category(categories: Mapping[Any, Mapping[str, Any]], class_names: tuple[str, ...]) -> dict[Any, int]:
    """Return the model's class of each category that it has."""
    if not class_names:
        ordered = sorted(categories, key=lambda key: (isinstance(key, str), key))
        return {key: index for index, key in enumerate(ordered)}
    known = {name: index for index, name in enumerate(class_names)}
    return {key: known[each["name"]] for key, each in categories.items() if each.get("name") in known}


def _coco_image(
    entry: Mapping[str, Any], folder: Path, path: Path, max_pixels: int | None
) -> tuple[Path, tuple[int, int]]:
    """Return the file of an image and its size, checked against what the JSON notes."""
    name = _field(entry, "file_name", f"Image {entry['id']} of '{path}'")
    # The name may hold folders of the machine on which it was exported.
    file = next((each for each in (folder / name, folder / Path(name).name) if each.is_file()), None)
    if file is None:
        raise DataError(
            f"Image '{name}' of '{path}' is not in '{folder}', expected every image that it lists. Copy it there, name "
            "another folder, or remove it from the list."
        )
    size, _ = upright_size(file, max_pixels)
    noted = (entry.get("width", size[0]), entry.get("height", size[1]))
    if noted != size:
        raise DataError(
            f"Image '{file}' has {size[0]} x {size[1]} pixels, and '{path}' notes {noted[0]} x {noted[1]}, expected "
            "the size in which its boxes were marked. Use the original images, or mark these."
        )
    return file, size


def _field(entry: Any, key: str, what: str) -> Any:
    if key == "iscrowd" and isinstance(entry, dict):
        return entry.get(key, 0)
    if not isinstance(entry, dict) or key not in entry:
        raise DataError(f"{what} has no '{key}', expected COCO's fields. Export the ground truth again.")
    return entry[key]


def _numbers(given: Any, what: str, meaning: str) -> tuple[float, float, float, float]:
    numbers = given if isinstance(given, Sequence) and not isinstance(given, str) else ()
    if len(numbers) != 4 or not all(
        isinstance(each, int | float) and not isinstance(each, bool) and math.isfinite(each) for each in numbers
    ):
        raise DataError(f"{what} has the box {given!r}, expected four numbers: {meaning}. Correct it.")
    left, top, width, height = map(float, numbers)
    return left, top, width, height


def _check_size(width: float, height: float, what: str) -> None:
    if width < 0 or height < 0:
        raise DataError(
            f"{what} has a box of width {width:g} and height {height:g}, expected sizes of at least 0. Its corners may "
            "be exchanged: correct it, or remove it."
        )


def _open_yolo(path: Path, folder: Path, class_names: tuple[str, ...], max_pixels: int | None) -> GroundTruth:
    named = path / _CLASSES_FILE
    if not class_names and named.is_file():
        class_names = tuple(line.strip() for line in named.read_text("utf-8").splitlines() if line.strip())
    texts = {
        file.relative_to(path).with_suffix("").as_posix(): file for file in sorted(path.rglob("*.txt")) if file != named
    }
    images = find_images(folder).images
    stems = [file.relative_to(folder).with_suffix("").as_posix() for file in images]
    stray = next((file for stem, file in texts.items() if stem not in stems), None)
    if not texts or stray is not None:
        found = "no .txt files" if stray is None else f"'{stray}', and no such image is in '{folder}'"
        raise DataError(
            f"Folder of ground truth '{path}' holds {found}, expected a .txt for each image with objects, under the "
            "image's name. Name the folders of the texts and of their images."
        )
    sizes = tuple(upright_size(file, max_pixels)[0] for file in images)
    marked = tuple(
        _marked(_yolo_boxes(texts[stem], size, class_names) if stem in texts else ())
        for stem, size in zip(stems, sizes, strict=True)
    )
    empty = len(images) - len(texts)
    notes = (f"images without a .txt, counted as without objects: {empty} of {len(images)}",) if empty else ()
    return GroundTruth(
        FileImages(folder, images, folder=folder, max_pixels=max_pixels), sizes, marked, class_names, path, notes
    )


def _yolo_boxes(file: Path, size: tuple[int, int], class_names: tuple[str, ...]) -> list[_Box]:
    boxes: list[_Box] = []
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"Ground truth '{file}' cannot be read: {error}. Expected text in UTF-8.") from error
    for number, line in enumerate(lines, 1):
        parts = line.split()
        if not parts:
            continue
        what = f"Line {number} of '{file}'"
        if len(parts) != 5:
            raise DataError(
                f"{what} holds {len(parts)} numbers, expected 5: class, x, y, width, height. Export boxes, without "
                "polygons, angles and confidences."
            )
        try:
            index, (x, y, width, height) = int(parts[0]), map(float, parts[1:])
        except ValueError:
            raise DataError(
                f"{what} is '{line.strip()}', expected a class index and four numbers. Correct it."
            ) from None
        if index < 0 or (class_names and index >= len(class_names)):
            known = f"0 to {len(class_names) - 1}" if class_names else "0 or more"
            raise DataError(f"{what} has class {index}, expected {known}. Correct it, or the labels (--labels FILE).")
        _check_size(width, height, what)
        if not all(0 <= each <= _LARGEST_SHARE for each in (x, y, width, height)):
            raise DataError(
                f"{what} has the box {' '.join(parts[1:])}, expected shares of the image's width and height from 0 to "
                "1. Divide pixels by the image's size."
            )
        corners = (
            (x - width / 2) * size[0],
            (y - height / 2) * size[1],
            (x + width / 2) * size[0],
            (y + height / 2) * size[1],
        )
        boxes.append((index, corners, False))
    return boxes


def _left_out(folder: Path, files: Sequence[Path]) -> tuple[str, ...]:
    listed = set(files)
    others = [file for file in find_images(folder).images if file not in listed]
    return (f"images in '{folder}' that the ground truth does not list: {len(others)}",) if others else ()
