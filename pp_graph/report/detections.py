"""Detections of images for people and tools: tables, COCO JSON, and boxes drawn on the images."""

from __future__ import annotations

import colorsys
import csv
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from pp_graph.data import Detections
from pp_graph.data.fitting import image_shape
from pp_graph.data.image_files import upright_size
from pp_graph.model import image_input
from pp_graph.preprocessing import Placement
from pp_graph.report.label_places import Rectangle, free_place
from pp_graph.report.prediction_table import BOX_COLUMNS, text_file
from pp_graph.report.shown_images import rgb_image

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from PIL.Image import Image

    from pp_graph.program import Predictions
    from pp_graph.running import Runner, Source

_THICKNESS: Final = 250
"""Pixels of the picture's shorter side per pixel of a box's outline."""
_HALF: Final = 128
_POINTS: Final = {"keypoints": None, "corners": None}.keys()
"""Parts of detections that are lists of points, in order."""
_OPACITY: Final = 0.45
"""Share of its class's colour in a pixel of a mask."""
_SEEN: Final = 0.25
"""Visibility above which a key point counts as visible, as in Ultralytics' pictures."""


@dataclass(frozen=True)
class ImageDetections:
    """Detections of an image.

    Attributes:
        image: Name of the image.
        size: Height and width of the image.
        found: The detections, in pixels of the image.
        overlay: File of the image with the boxes drawn on it, as a path in the output folder; None if not written.
        inside: Where the image lies in the masks of the detections: left, upper, right and lower edge, as shares of
            their width and height.
    """

    image: str
    size: tuple[int, int]
    found: Detections
    overlay: str | None = None
    inside: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)

    def mask(self, place: int, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
        """Return the mask of a detection on a picture of the image, of a height and width."""
        from PIL import Image

        mask = self.found.parts["masks"][place]
        edges = np.array(self.inside) * np.tile(mask.shape[::-1], 2)
        box = (float(edges[0]), float(edges[1]), float(edges[2]), float(edges[3]))
        resized = Image.fromarray(mask.astype(np.uint8) * 255).resize(size[::-1], Image.Resampling.BILINEAR, box)
        return np.asarray(resized) >= _HALF

    def listed(self, class_names: Sequence[str]) -> list[dict[str, Any]]:
        """Return the detections as JSON values, the highest score first."""
        return [
            {
                "class": int(index),
                "class_name": name_of(int(index), class_names),
                "score": float(str(score)),
                "box": [float(str(corner)) for corner in box],
                **self._parts(place),
            }
            for place, (box, score, index) in enumerate(
                zip(self.found.boxes, self.found.scores, self.found.classes, strict=True)
            )
        ]

    def _parts(self, place: int) -> dict[str, Any]:
        return {
            name: [[float(str(each)) for each in point] for point in self.found.parts[name][place]]
            for name in _POINTS
            if name in self.found.parts
        }


def name_of(index: int, class_names: Sequence[str]) -> str:
    """Return the name of a class, or its index where there are no names."""
    return class_names[index] if index < len(class_names) else str(index)


def write_box_csv(file: Path, rows: Sequence[ImageDetections], class_names: Sequence[str]) -> None:
    """Write a table with a row for each detection."""
    with text_file(file) as stream:
        writer = csv.writer(stream, lineterminator="\n")
        pointed = [name for name in _POINTS if any(name in row.found.parts for row in rows)]
        writer.writerow((*BOX_COLUMNS, *pointed))
        for row in rows:
            for each in row.listed(class_names):
                points = ["; ".join(" ".join(map(str, point)) for point in each.get(name, ())) for name in pointed]
                values = [row.image, each["class"], each["class_name"], each["score"], *each["box"], row.overlay or ""]
                writer.writerow([*values, *points])


def write_coco(file: Path, rows: Sequence[ImageDetections], class_names: Sequence[str]) -> None:
    """Write COCO JSON: images, categories, and the detections as annotations with a score.

    Ids of images and annotations count from 1. The id of a category is its class index plus 1.
    """
    known = len(class_names) or 1 + max((int(row.found.classes.max()) for row in rows if len(row.found)), default=-1)
    annotations: list[dict[str, Any]] = []
    for number, row in enumerate(rows, 1):
        for place, each in enumerate(row.listed(class_names)):
            left, top, right, bottom = each["box"]
            box = [left, top, right - left, bottom - top]
            pixels = row.mask(place, row.size) if "masks" in row.found.parts else None
            annotations.append({
                "id": len(annotations) + 1, "image_id": number, "category_id": each["class"] + 1, "bbox": box,
                "area": box[2] * box[3], "iscrowd": 0, "score": each["score"], **_coco_points(each.get("keypoints")),
                **_polygon(each.get("corners")),
                **({} if pixels is None else {"area": int(pixels.sum()), "segmentation": _run_lengths(pixels)}),
            })  # fmt: skip
    content = {
        "images": [
            {"id": number, "file_name": row.image, "height": row.size[0], "width": row.size[1]}
            for number, row in enumerate(rows, 1)
        ],
        "categories": [{"id": index + 1, "name": name_of(index, class_names)} for index in range(known)],
        "annotations": annotations,
    }
    file.write_text(json.dumps(content, allow_nan=False) + "\n", encoding="utf-8")


def _coco_points(points: Sequence[Sequence[float]] | None) -> dict[str, Any]:
    """Return key points as x, y and 2 for a visible or 1 for a hidden one."""
    if points is None:
        return {}
    flat = [number for x, y, *seen in points for number in (x, y, 2 if all(each > _SEEN for each in seen) else 1)]
    return {"keypoints": flat, "num_keypoints": len(points)}


def _polygon(corners: Sequence[Sequence[float]] | None) -> dict[str, Any]:
    """Return an oriented box as COCO's polygon."""
    if corners is None:
        return {}
    x, y = np.array(corners).T
    area = abs(float((x * np.roll(y, 1) - y * np.roll(x, 1)).sum())) / 2
    return {"area": area, "segmentation": [[number for corner in corners for number in corner]]}


def _run_lengths(mask: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Return a mask as COCO's run lengths, column by column: pixels outside, then inside, then outside, ..."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat, prepend=False))
    counts = np.diff(changes, prepend=0, append=flat.size)
    return {"size": list(mask.shape), "counts": counts.tolist()}


def detections_of_image(
    runner: Runner, source: Source, index: int, predictions: Predictions, place: int, overlay: str | None
) -> ImageDetections:
    """Return the detections of an image in its own pixels.

    Args:
        runner: The model.
        source: The images.
        index: Index of the image.
        predictions: Predictions of a batch.
        place: Place of the image in the batch.
        overlay: File of its overlay; None if there is none.
    """
    wanted = image_input(runner.inputs)
    assert wanted is not None
    _, height, width = image_shape(wanted)
    if source.images.files is not None:
        columns, rows = upright_size(source.images.files[index])[0]
    else:
        columns, rows = rgb_image(source, index, runner.inputs).size
    found = Detections.of_outputs(predictions, place, runner.provenance.parameters)
    preprocessing = runner.provenance.preprocessing
    at = (rows, columns), (height, width), preprocessing
    placed = Placement.of(*at, letterbox=source.images.letterbox)
    resized = preprocessing is not None and preprocessing.resize is not None
    inside = placed.shares((preprocessing.model_size if resized and preprocessing else None) or (height, width))
    placed = Placement.of_outputs(*at, letterbox=source.images.letterbox)
    parts = dict(found.parts)
    for name in _POINTS & parts.keys():
        parts[name] = placed.points_to_frame(parts[name])
    found = replace(found, boxes=placed.to_frame(found.boxes), parts=parts)
    return ImageDetections(source.images.names[index], (rows, columns), found, overlay, inside)


def overlay_detections(picture: Image, row: ImageDetections, class_names: Sequence[str]) -> Image:
    """Draw the detections of an image on a picture of it, which may be smaller."""
    scale = np.array([picture.width / row.size[1], picture.height / row.size[0]], np.float32)
    parts = dict(row.found.parts)
    for name in _POINTS & parts.keys():
        parts[name] = np.concatenate([parts[name][..., :2] * scale, parts[name][..., 2:]], -1)
    if "masks" in parts:
        picture = _draw_masks(picture, row)
    found = replace(row.found, boxes=row.found.boxes * np.tile(scale, 2), parts=parts)
    return draw_detections(picture, found, class_names)


def _draw_masks(picture: Image, row: ImageDetections) -> Image:
    """Colour the pixels of each detection, those of the highest score last."""
    from PIL import Image

    pixels = np.array(picture, np.float32)
    for place in reversed(range(len(row.found))):
        mask = row.mask(place, pixels.shape[:2])
        color, _ = _colors(int(row.found.classes[place]))
        pixels[mask] = (1 - _OPACITY) * pixels[mask] + _OPACITY * np.array(color, np.float32)
    return Image.fromarray(pixels.round().astype(np.uint8))


def draw_detections(picture: Image, found: Detections, class_names: Sequence[str]) -> Image:
    """Draw boxes on an image, each with its class and score, and the key points that are not hidden.

    Args:
        picture: The image, RGB. It is not changed.
        found: Detections in pixels of the picture.
        class_names: Names of the classes.

    Returns:
        A picture of the same size.
    """
    from PIL import ImageDraw, ImageFont

    drawn = picture.copy()
    draw = ImageDraw.Draw(drawn)
    width = max(2, min(drawn.size) // _THICKNESS)
    font = ImageFont.load_default(max(11, min(drawn.size) // 32))
    listed = list(zip(found.boxes, found.scores, found.classes, strict=True))
    # The highest score comes last, on top.
    points = found.parts.get("keypoints", np.zeros((len(found), 0, 2), np.float32))
    around = found.parts.get("corners", [None] * len(found))
    for (box, _, index), dots, corners in reversed(list(zip(listed, points, around, strict=True))):
        left, top, right, bottom = map(float, box)
        outline = (left, top, max(left, right - 1), max(top, bottom - 1))
        color, ink = _colors(int(index))
        if corners is None:
            draw.rectangle(outline, outline=color, width=width)
        else:
            draw.polygon(list(map(tuple, corners.tolist())), outline=color, width=width)
        for x, y, *seen in dots.tolist():
            if all(each > _SEEN for each in seen):
                draw.ellipse((x - width, y - width, x + width, y + width), fill=color, outline=ink)
    taken: list[Rectangle] = []
    for box, score, index in listed:
        color, ink = _colors(int(index))
        text = f"{name_of(int(index), class_names)} {score:.2f}"
        x1, y1, x2, y2 = draw.textbbox((0, 0), text, font=font)
        place = free_place(tuple(map(float, box)), (x2 - x1 + 6, y2 - y1 + 4), drawn.size, taken)
        taken.append(place)
        draw.rectangle(place, fill=color)
        draw.text((place[0] + 3 - x1, place[1] + 2 - y1), text, fill=ink, font=font)
    return drawn


def _colors(index: int) -> tuple[tuple[int, int, int], str]:
    """Return a colour for a class, and the colour of text on it."""
    # Steps of the golden ratio keep neighbouring classes apart, however many there are.
    red, green, blue = colorsys.hsv_to_rgb((0.03 + index * 0.618034) % 1, 0.85, 0.95)
    dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.55
    return (round(255 * red), round(255 * green), round(255 * blue)), "white" if dark else "black"
