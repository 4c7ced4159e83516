"""Find the outputs of a detector's head among those of a model, by axes and sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pp_graph.model import OutputInfo, Shape
    from pp_graph.steps.box_decoding import Level

Size = tuple[int, int] | None
"""Height and width of the model's images; None if unknown."""

RAW_CANDIDATES: Final = "raw_candidates"
RAW_SCORES: Final = "raw_scores"
RAW_BOXES: Final = "raw_boxes"
RAW_CLASSES: Final = "raw_classes"
RAW_COUNT: Final = "raw_count"
RAW_HEAT: Final = "raw_heat"
RAW_SIZES: Final = "raw_sizes"
RAW_OFFSETS: Final = "raw_offsets"
RAW_POINTS: Final = "raw_points"
RAW_PROTOTYPES: Final = "raw_prototypes"

STRIDES: Final = (8, 16, 32)
_MOST_QUERIES: Final = 1000
"""Largest number of candidates of a head that returns final boxes or queries."""


@dataclass(frozen=True)
class Reading:
    """A head's reading of a model's outputs.

    Attributes:
        roles: Names of the outputs, by role.
        why: Reason, for messages.
        own: True if these sizes or names are the head's own, so that other heads which read the same outputs only by
            their axes do not count.
    """

    roles: dict[str, str]
    why: str
    own: bool = False


def grid_levels(size: tuple[int, int], strides: Sequence[int]) -> tuple[Level, ...]:
    """Rows, columns and stride of each level; the last cell of a row may reach over the edge."""
    return tuple((-(-size[0] // stride), -(-size[1] // stride), stride) for stride in strides)


def _cells(size: tuple[int, int], strides: Sequence[int] = STRIDES) -> int:
    return sum(rows * columns for rows, columns, _ in grid_levels(size, strides))


def _candidates(outputs: Sequence[OutputInfo]) -> list[tuple[str, Shape]]:
    """Name and shape of each floating-point output of rank three."""
    kinds = ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE")
    return [(each.name, each.shape) for each in outputs if each.dtype in kinds and each.shape and len(each.shape) == 3]


def _only(outputs: Sequence[OutputInfo], fits: Callable[[Shape], str | None]) -> Reading | None:
    """Read the only output of rank three that fits."""
    found = [(name, why) for name, shape in _candidates(outputs) if (why := fits(shape)) is not None]
    return Reading({RAW_CANDIDATES: found[0][0]}, found[0][1]) if len(found) == 1 else None


def find_parts_first(outputs: Sequence[OutputInfo], size: Size) -> Reading | None:
    """Find parts of candidates before the axis of candidates, as of YOLOv8."""

    def fits(shape: Shape) -> str | None:
        parts, count = shape[1:]
        if not isinstance(parts, int) or parts < 5 or (isinstance(count, int) and count <= parts):
            return None
        if size is not None and isinstance(count, int) and count != _cells(size):
            return None
        return f"{parts} parts of each candidate before the axis of candidates: a box and {parts - 4} classes"

    return _only(outputs, fits)


def find_prototypes(outputs: Sequence[OutputInfo], size: Size) -> Reading | None:
    """Find candidates of YOLOv8-seg with the prototypes of their masks."""
    reading = find_parts_first(outputs, size)
    maps = [(each.name, each.shape) for each in outputs if each.shape and len(each.shape) == 4]
    if reading is None or len(maps) != 1:
        return None
    name, (_, count, *pixels) = maps[0]
    parts = dict(_candidates(outputs))[reading.roles[RAW_CANDIDATES]][1]
    if not isinstance(count, int) or not isinstance(parts, int) or parts < 5 + count:
        return None
    if size is not None and pixels != [size[0] // 4, size[1] // 4]:
        return None
    why = f"a box, {parts - 4 - count} classes and {count} coefficients of each candidate; {count} prototypes of masks"
    return Reading({**reading.roles, RAW_PROTOTYPES: name}, why)


def find_parts_last(per_cell: int, least: int) -> Callable[[Sequence[OutputInfo], Size], Reading | None]:
    """Return a function that finds candidates with objectness, several in each cell."""

    def find(outputs: Sequence[OutputInfo], size: Size) -> Reading | None:
        def fits(shape: Shape) -> str | None:
            count, parts = shape[1:]
            if not isinstance(parts, int) or parts < least or (isinstance(count, int) and count <= parts):
                return None
            expected = None if size is None else per_cell * _cells(size)
            if expected is not None and isinstance(count, int) and count != expected:
                return None
            if isinstance(count, int) and (expected is None and (count % per_cell or count <= _MOST_QUERIES)):
                return None
            cells = "one candidate" if per_cell == 1 else f"{per_cell} candidates"
            return f"{parts} parts of each candidate: a box, objectness and {parts - 5} classes; {cells} in each cell"

        return _only(outputs, fits)

    return find


def find_final(outputs: Sequence[OutputInfo], size: Size) -> Reading | None:
    """Find final boxes of six numbers."""
    del size

    def fits(shape: Shape) -> str | None:
        count, parts = shape[1:]
        if parts != 6 or not isinstance(count, int) or not 6 < count <= _MOST_QUERIES:
            return None
        return f"{count} final boxes of six numbers: corners, score and class"

    return _only(outputs, fits)


def find_queries(outputs: Sequence[OutputInfo], size: Size) -> Reading | None:
    """Find boxes and class scores of queries."""
    del size
    three = _candidates(outputs)
    boxes = [(name, shape) for name, shape in three if shape[2] == 4]
    if len(boxes) != 1 or len(three) != 2:
        return None
    (name, shape), (scores, other) = boxes[0], next(each for each in three if each != boxes[0])
    count = shape[1]
    if other[1] != count or not isinstance(other[2], int) or (isinstance(count, int) and count > _MOST_QUERIES):
        return None
    return Reading({RAW_SCORES: scores, RAW_BOXES: name}, f"a box and {other[2]} class scores for each query")


def find_named_queries(outputs: Sequence[OutputInfo], size: Size) -> Reading | None:
    """Find boxes and class scores of queries that are called `dets` and `labels`, as RF-DETR's export calls them."""
    reading = find_queries(outputs, size)
    if reading is None or [reading.roles[role] for role in (RAW_BOXES, RAW_SCORES)] != ["dets", "labels"]:
        return None
    return Reading(reading.roles, f"{reading.why}, called 'dets' and 'labels'", own=True)


def find_apart(outputs: Sequence[OutputInfo], size: Size) -> Reading | None:
    """Find boxes and logits of YOLOv8 apart."""
    three = _candidates(outputs)
    boxes = [(name, shape) for name, shape in three if shape[1] == 4]
    if len(boxes) != 1 or len(three) != 2:
        return None
    (name, shape), (scores, other) = boxes[0], next(each for each in three if each != boxes[0])
    count = shape[2]
    if other[2] != count or not isinstance(other[1], int) or not isinstance(count, int) or count <= other[1]:
        return None
    if size is not None and count != _cells(size):
        return None
    return Reading(
        {RAW_SCORES: scores, RAW_BOXES: name}, f"boxes, and {other[1]} class scores, of {count:,} candidates"
    )


def find_deltas(outputs: Sequence[OutputInfo], size: Size) -> Reading | None:
    """Find scores and deltas of anchors."""
    del size
    # A model may return its anchors, too.
    named = ("anchor", "prior")
    three = [each for each in _candidates(outputs) if not any(part in each[0].lower() for part in named)]
    boxes = [(name, shape) for name, shape in three if shape[2] == 4]
    if len(three) != 2 or not boxes:
        return None
    # With four classes, shapes do not tell scores from deltas; then a role has to.
    scores = [(name, shape) for name, shape in three if (name, shape) != boxes[0]]
    (name, (_, count, _)), (other, (_, same, classes)) = boxes[0], scores[0]
    if len(boxes) > 1 or count != same or not isinstance(count, int) or count <= _MOST_QUERIES:
        return None
    why = f"deltas of {count:,} anchors, and {classes} class scores of each"
    return Reading({RAW_SCORES: other, RAW_BOXES: name}, why)


def find_levels(head: Literal["picodet", "blazeface"]) -> Callable[[Sequence[OutputInfo], Size], Reading | None]:
    """Find scores and boxes of each level, by the number of candidates that it has for the images' size."""

    def find(outputs: Sequence[OutputInfo], size: Size) -> Reading | None:
        found = _candidates(outputs)
        if size is None or len(found) not in (4, 6, 8) or (head == "blazeface" and len(found) != 4):
            return None
        if head == "picodet":
            counts = [rows * columns for rows, columns, _ in grid_levels(size, PICODET_STRIDES)]
        else:
            counts = [2 * 16 * 16, 6 * 8 * 8]
        roles: dict[str, str] = {}
        for level, count in enumerate(counts[: len(found) // 2]):
            pair = [(name, shape[2]) for name, shape in found if shape[1] == count]
            boxes = [name for name, parts in pair if _is_box(head, parts)]
            if len(pair) != 2 or len(boxes) != 1:
                return None
            roles[f"{RAW_SCORES}_{level}"] = next(name for name, _ in pair if name != boxes[0])
            roles[f"{RAW_BOXES}_{level}"] = boxes[0]
        return Reading(
            roles, f"scores and boxes of {len(found) // 2} levels, with {counts[0]:,} candidates in the first"
        )

    return find


def _is_box(head: str, parts: object) -> bool:
    if not isinstance(parts, int):
        return False
    return parts >= 32 and parts % 4 == 0 if head == "picodet" else parts == 16


def find_maps(outputs: Sequence[OutputInfo], size: Size, *, faces: bool) -> Reading | None:
    """Find a heat map, sizes and offsets."""
    maps = [(each.name, each.shape) for each in outputs if each.shape and len(each.shape) == 4]
    if size is None or len(maps) < 3 or any(shape[2:] != (size[0] // 4, size[1] // 4) for _, shape in maps):
        return None
    heat, pairs = [name for name, shape in maps if shape[1] == 1], [name for name, shape in maps if shape[1] == 2]
    if not faces:
        heat = [name for name, shape in maps if isinstance(shape[1], int) and shape[1] > 2]
    if len(heat) != 1 or len(pairs) != 2 or (not faces and len(maps) != 3):
        return None
    roles = dict(zip((RAW_HEAT, RAW_SIZES, RAW_OFFSETS), (*heat, *pairs), strict=True))
    points = [name for name, shape in maps if shape[1] == 10]
    if faces and len(points) == 1:
        roles[RAW_POINTS] = points[0]
    return Reading(roles, f"a heat map, then sizes ('{pairs[0]}'), then offsets ('{pairs[1]}')")


PICODET_STRIDES: Final = (8, 16, 32, 64)
