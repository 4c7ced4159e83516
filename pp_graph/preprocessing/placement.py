"""Where a frame lies in the model's input, and how boxes find their way back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from pp_graph.errors import DataError
from pp_graph.preprocessing.resizing import resize

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pp_graph.preprocessing.preprocessing import Preprocessing

Array = npt.NDArray[Any]
_Size = tuple[int, int]

LETTERBOX: Final = "letterbox"
"""Resizing that keeps the aspect ratio (bilinear), and fills the rest of the model's input on both sides."""
INPUT, FRAME = "input", "frame"
"""Coordinates of boxes: pixels of the raw model's input, or of the frame before it is resized."""
COLUMNS: Final[Mapping[str, str]] = {
    "boxes": "xyxy",
    "detections": "xyxy--",
    "det_boxes": "xyxy",
    "keypoints": "xy-",
    "region_boxes": "xyxy",
    "region_centroids": "xy",
}
"""Outputs with coordinates, and what the numbers of their last axis are: `-` is none, `s` a size in any direction."""
ORIENTED: Final = "xyss-"
"""The same of oriented boxes: centre, size and angle."""
CENTROIDS: Final = "region_centroids"
_KINDS: Final = "xys-"
STAYS: Final = _KINDS.index("-")
ZEROS: Final = np.zeros(2, np.float32)
MOST: Final = np.full(2, np.finfo(np.float32).max)
"""Limit of numbers that do not end at the frame's edges."""
PADDING: Final[Mapping[str, float]] = {"u8": 114, "u16": 114 * 257, "f32": 114}
"""Gray around a letterboxed frame by element type: 114 of 255, as YOLO models are trained."""


@dataclass(frozen=True)
class Placement:
    """Where a frame lies in the model's input, in pixels.

    Attributes:
        frame: Height and width of the frame.
        size: Height and width of the frame in the model's input.
        offset: Rows above it and columns left of it.
    """

    frame: _Size
    size: _Size
    offset: _Size = (0, 0)

    @classmethod
    def letterboxed(cls, frame: _Size, model: _Size) -> Placement:
        """Place a frame in the middle, as large as its aspect ratio allows.

        Sizes are rounded half up, and an odd number of filled pixels has the smaller half above and left, as in
        Ultralytics' `LetterBox`.

        Args:
            frame: Height and width of the frame.
            model: Height and width of the model's input.
        """
        (height, width), (rows, columns) = frame, model
        if rows * width <= columns * height:
            columns = max(1, (2 * width * rows + height) // (2 * height))
        else:
            rows = max(1, (2 * height * columns + width) // (2 * width))
        return cls(frame, (rows, columns), ((model[0] - rows) // 2, (model[1] - columns) // 2))

    @classmethod
    def of(
        cls,
        frame: _Size,
        model: tuple[int | None, int | None],
        preprocessing: Preprocessing | None,
        *,
        letterbox: bool = False,
    ) -> Placement:
        """Return where an image lies in the model's input.

        Args:
            frame: Height and width of the image.
            model: Height and width of the input that is fed, None where the image keeps its own.
            preprocessing: Preprocessing in the model; None if it has none.
            letterbox: True if images are letterboxed before the model gets them.

        Raises:
            DataError: They are, and the model resizes them again.
        """
        height, width = model[0] or frame[0], model[1] or frame[1]
        if preprocessing is None or preprocessing.resize is None:
            return cls.letterboxed(frame, (height, width)) if letterbox else cls(frame, (height, width))
        if letterbox:
            raise DataError(
                f"Images are to be letterboxed, and the model resizes frames itself ({preprocessing.resize}), expected "
                "one of the two. Leave out --letterbox (letterbox=True)."
            )
        # Images are first stretched to the frames' size, if the model fixes that.
        sizes = preprocessing.model_size or (None, None)
        inner = (sizes[0] or height, sizes[1] or width)
        if preprocessing.resize != LETTERBOX:
            return cls(frame, inner)
        placed = cls.letterboxed((height, width), inner)
        return cls(frame, placed.size, placed.offset)

    @classmethod
    def of_outputs(
        cls,
        frame: _Size,
        model: tuple[int | None, int | None],
        preprocessing: Preprocessing | None,
        *,
        letterbox: bool = False,
    ) -> Placement:
        """Return where an image lies in the coordinates of an artifact's boxes; for the arguments, see `of`."""
        if preprocessing is not None and preprocessing.box_coordinates == FRAME and not letterbox:
            return cls(frame, (model[0] or frame[0], model[1] or frame[1]))
        return cls.of(frame, model, preprocessing, letterbox=letterbox)

    def to_frame(self, boxes: Array) -> npt.NDArray[np.float32]:
        """Bring corners x1, y1, x2, y2 in the model's input to pixels of the frame, and keep them inside it.

        Args:
            boxes: Corners, (...,4).
        """
        pairs = self.points_to_frame(boxes.reshape(*boxes.shape[:-1], 2, 2))
        inside = np.clip(pairs, 0, np.array(self.frame[::-1], np.float32))
        return np.asarray(inside.reshape(boxes.shape), np.float32)

    def shares(self, model: tuple[int | None, int | None]) -> tuple[float, float, float, float]:
        """Return left, upper, right and lower edge of the frame as shares of the model's input.

        Args:
            model: Height and width of the model's input, None where it takes the frame's.
        """
        (top, left), (rows, columns) = self.offset, self.size
        height, width = model[0] or rows, model[1] or columns
        return left / width, top / height, (left + columns) / width, (top + rows) / height

    def points_to_frame(self, points: Array) -> npt.NDArray[np.float32]:
        """Bring points in the model's input to pixels of the frame; they may lie outside of it.

        Args:
            points: x and y, and possibly more numbers, which stay, (...,P).
        """
        (top, left), (height, width) = self.offset, self.frame
        scale = np.array([width / self.size[1], height / self.size[0]])
        moved = (points[..., :2].astype(np.float64) - np.array([left, top])) * scale
        return np.concatenate([moved, points[..., 2:]], -1).astype(np.float32)


def columns_of(name: str, width: int) -> tuple[list[int], bool]:
    """Return what the numbers of an output's last axis are, as places in "xys-", and whether they end at the edges.

    Args:
        name: Name of an output, one of `COLUMNS`.
        width: Size of its last axis.
    """
    kinds = ORIENTED if (name, width) == ("boxes", len(ORIENTED)) else COLUMNS[name][:width]
    return list(map(_KINDS.index, kinds)), kinds.startswith("xyxy")


def in_frame(
    predictions: Mapping[str, Array],
    preprocessing: Preprocessing | None,
    feeds: Mapping[str, Array],
    map_size: _Size | None = None,
) -> dict[str, Array]:
    """Bring boxes, key points and centroids to the coordinates of the frames, in float32 as an IR does.

    Corners end at the frame's edges. The size of an oriented box grows by the mean of both directions, which differ by
    the rounding of the letterbox. A centroid is counted from the centre of the first pixel.

    Args:
        predictions: Outputs in pixels of the raw model's input, and of regions in pixels of the map. A row of zeros is
            no detection, and stays.
        preprocessing: Preprocessing of the artifact; if it leaves the coordinates, or is None, nothing changes.
        feeds: The artifact's inputs.
        map_size: Height and width of the map in which regions were found; None without regions.
    """
    if preprocessing is None or preprocessing.box_coordinates != FRAME:
        return dict(predictions)
    frames = feeds[preprocessing.input or ""]
    height, width = preprocessing.size_of(frames.shape)
    placed = Placement.of((height, width), (height, width), preprocessing)
    offset = np.array(placed.offset[::-1], np.float32)
    scale = np.array([width, height], np.float32) / np.array(placed.size[::-1], np.float32)
    edges = np.array([width, height], np.float32)
    changed = dict(predictions)
    for name in COLUMNS.keys() & predictions.keys():
        rows = predictions[name]
        columns, ends = columns_of(name, rows.shape[-1])
        per_pixel = map_pixels(preprocessing, map_size) if name.startswith("region") else np.ones(2, np.float32)
        start: Array = offset / per_pixel
        factor: Array = scale * per_pixel
        if name == CENTROIDS:
            start = start - np.float32(0.5) + np.float32(0.5) / factor
        start = np.append(start, ZEROS)
        factor = np.concatenate([factor, factor.mean(keepdims=True), np.ones(1, np.float32)])
        moved = (rows - start[columns]) * factor[columns]
        if ends:
            moved = np.clip(moved, np.append(ZEROS, -MOST)[columns], np.append(edges, MOST)[columns])
        told_by = predictions["region_boxes"] if name == CENTROIDS else rows[..., [kind < STAYS for kind in columns]]
        listed = (told_by != 0).any(axis=tuple(range(2, rows.ndim)), keepdims=True)
        changed[name] = np.where(listed, moved, rows)
    return changed


def maps_in_frame(
    predictions: Mapping[str, Array],
    axes: Mapping[str, str | None],
    preprocessing: Preprocessing | None,
    feeds: Mapping[str, Array],
) -> dict[str, Array]:
    """Bring masks and maps to the size of the frames, as an IR does; none if the preprocessing leaves them.

    Args:
        predictions: Outputs, by name.
        axes: Their axes. Those without H and W, and with candidates, stay.
        preprocessing: Preprocessing of the artifact; None if it has none.
        feeds: The artifact's inputs.
    """
    changed = dict(predictions)
    if preprocessing is None or preprocessing.map_size != FRAME:
        return changed
    height, width = preprocessing.size_of(feeds[preprocessing.input or ""].shape)
    placed = Placement.of((height, width), (height, width), preprocessing)
    model = preprocessing.model_size or (None, None)
    for name, array in predictions.items():
        known = axes.get(name) or ""
        if "H" not in known or "K" in known:
            continue
        for place, axis in enumerate("HW"):
            at = known.index(axis)
            places = map_places(placed, place, array.shape[at], int(model[place] or 0))
            array = np.take(array, places, at)  # noqa: PLW2901
        changed[name] = array
    return changed


def map_places(placed: Placement, axis: int, count: int, model: int) -> npt.NDArray[np.int64]:
    """Return the pixel of a map in which the centre of each pixel of a frame lies, along one axis.

    Args:
        placed: Where the frame lies in the model's input.
        axis: 0 for rows, 1 for columns.
        count: Pixels of the map along that axis.
        model: Pixels of the model's input along it.
    """
    length, size, before = placed.frame[axis], placed.size[axis], placed.offset[axis]
    inside = (2 * np.arange(length, dtype=np.int64) + 1) * size + 2 * length * before
    return inside * count // (2 * length * model)


def map_pixels(preprocessing: Preprocessing, map_size: _Size | None) -> npt.NDArray[np.float32]:
    """Return width and height of a pixel of a map, in pixels of the raw model's input."""
    height, width = preprocessing.model_size or (None, None)
    rows, columns = map_size or (height, width)
    return np.array([(width or 0) / (columns or 1), (height or 0) / (rows or 1)], np.float32)


def letterbox(frames: Array, height: int, width: int, padding: float) -> npt.NDArray[np.float32]:
    """Letterbox a batch.

    Args:
        frames: Frames (N,H,W,C) of any element type.
        height: Height of the model's input.
        width: Its width.
        padding: Number to fill with.

    Returns:
        Frames (N,height,width,C), not rounded to integers.
    """
    placed = Placement.letterboxed((frames.shape[1], frames.shape[2]), (height, width))
    whole = np.full((len(frames), height, width, frames.shape[3]), padding, np.float32)
    (rows, columns), (top, left) = placed.size, placed.offset
    whole[:, top : top + rows, left : left + columns] = resize(frames, rows, columns, "linear")
    return whole
