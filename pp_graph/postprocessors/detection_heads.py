"""Heads of detectors as data: which outputs they have, how boxes and scores are read from them, and how to tell them.

To add one, write an entry in `HEADS`.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from pp_graph.errors import OutputRoleError
from pp_graph.model import OutputInfo, format_shape
from pp_graph.program import Role

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pp_graph.model import Shape
    from pp_graph.steps import BoxForm
    from pp_graph.steps.box_decoding import Level

Size = tuple[int, int] | None
"""Height and width of the model's images; None if unknown."""

RAW_CANDIDATES: Final = "raw_candidates"
RAW_SCORES: Final = "raw_scores"
RAW_BOXES: Final = "raw_boxes"
RAW_HEAT: Final = "raw_heat"
RAW_SIZES: Final = "raw_sizes"
RAW_OFFSETS: Final = "raw_offsets"
RAW_POINTS: Final = "raw_points"
RAW_PROTOTYPES: Final = "raw_prototypes"

_STRIDES: Final = (8, 16, 32)
_MOST_QUERIES: Final = 1000
"""Largest number of candidates of a head that returns final boxes or queries."""


@dataclass(frozen=True)
class Reading:
    """A head's reading of a model's outputs.

    Attributes:
        roles: Names of the outputs, by role.
        why: Reason, for messages.
    """

    roles: dict[str, str]
    why: str


@dataclass(frozen=True)
class Head:
    """A form in which detectors return boxes.

    Attributes:
        name: Name of the head, such as `yolov8`.
        title: Models that have it, with the shapes of their outputs.
        roles: Outputs that it reads.
        find: Finds these outputs among those of a model with images of a size; None if they do not fit.
        decode: How boxes are stored: as numbers of `form`, relative to cells of a grid, as offsets from the centres of
            cells in pixels, as deltas of anchors that the user gives, or as distributions of distances from centres.
        form: Form of a decoded box.
        box_start: First of the four numbers of the box among a candidate's parts.
        class_start: First class score among a candidate's parts; None if scores are an output of their own.
        objectness: Part that multiplies the scores; None without one.
        class_part: Part that holds the class index, if there is one score a candidate; None otherwise.
        activation: Function that turns the outputs into probabilities, if the model does not end in it.
        background: True if the last class means that there is no object.
        strides: Strides of the levels; those that a model has, if there are fewer.
        per_cell: Number of candidates in each cell of a level.
        centre: Centre of a cell from its corner, in strides.
        exponential: True if sizes relative to a grid are logarithms, and pairs of a map are of y, then x.
        peaks: True if only local maxima of the heat map are candidates.
        normalised: True if boxes are shares of the image's width and height.
        overlapping: True if overlapping boxes must be suppressed.
        points: Where the key points of a candidate are: after its scores, after its box as offsets from its anchor, or
            in a map of their own as shares of its box, y before x. None without.
        oriented: True if the angle of a box comes after the scores.
        masks: True if coefficients of mask prototypes come after the scores.
        extends: Head of the same outputs without what this one returns besides boxes; None if there is none.
        task: Task in the metadata of a model of Ultralytics, if sizes alone do not tell the head.
    """

    name: str
    title: str
    roles: tuple[Role, ...]
    find: Callable[[Sequence[OutputInfo], Size], Reading | None]
    decode: Literal["corners", "grid", "anchors", "deltas", "distances"] = "corners"
    form: BoxForm = "cxcywh"
    box_start: int = 0
    class_start: int | None = 4
    objectness: int | None = None
    class_part: int | None = None
    activation: Literal["none", "sigmoid", "softmax"] = "none"
    background: bool = False
    strides: tuple[int, ...] = ()
    per_cell: tuple[int, ...] = (1, 1, 1, 1)
    centre: float = 0.0
    exponential: bool = True
    peaks: bool = False
    normalised: bool = False
    overlapping: bool = True
    points: Literal["parts", "anchors", "shares"] | None = None
    oriented: bool = False
    masks: bool = False
    extends: str | None = None
    task: str | None = None


def grid_levels(size: tuple[int, int], strides: Sequence[int]) -> tuple[Level, ...]:
    """Rows, columns and stride of each level; the last cell of a row may reach over the edge."""
    return tuple((-(-size[0] // stride), -(-size[1] // stride), stride) for stride in strides)


def _cells(size: tuple[int, int], strides: Sequence[int] = _STRIDES) -> int:
    return sum(rows * columns for rows, columns, _ in grid_levels(size, strides))


def _candidates(outputs: Sequence[OutputInfo]) -> list[tuple[str, Shape]]:
    """Name and shape of each floating-point output of rank three."""
    kinds = ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE")
    return [(each.name, each.shape) for each in outputs if each.dtype in kinds and each.shape and len(each.shape) == 3]


def _only(outputs: Sequence[OutputInfo], fits: Callable[[Shape], str | None]) -> Reading | None:
    """Read the only output of rank three that fits."""
    found = [(name, why) for name, shape in _candidates(outputs) if (why := fits(shape)) is not None]
    return Reading({RAW_CANDIDATES: found[0][0]}, found[0][1]) if len(found) == 1 else None


def _find_parts_first(outputs: Sequence[OutputInfo], size: Size) -> Reading | None:
    def fits(shape: Shape) -> str | None:
        parts, count = shape[1:]
        if not isinstance(parts, int) or parts < 5 or (isinstance(count, int) and count <= parts):
            return None
        if size is not None and isinstance(count, int) and count != _cells(size):
            return None
        return f"{parts} parts of each candidate before the axis of candidates: a box and {parts - 4} classes"

    return _only(outputs, fits)


def _find_prototypes(outputs: Sequence[OutputInfo], size: Size) -> Reading | None:
    reading = _find_parts_first(outputs, size)
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


def _find_parts_last(per_cell: int, least: int) -> Callable[[Sequence[OutputInfo], Size], Reading | None]:
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


def _find_final(outputs: Sequence[OutputInfo], size: Size) -> Reading | None:
    del size

    def fits(shape: Shape) -> str | None:
        count, parts = shape[1:]
        if parts != 6 or not isinstance(count, int) or not 6 < count <= _MOST_QUERIES:
            return None
        return f"{count} final boxes of six numbers: corners, score and class"

    return _only(outputs, fits)


def _find_queries(outputs: Sequence[OutputInfo], size: Size) -> Reading | None:
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


def _find_apart(outputs: Sequence[OutputInfo], size: Size) -> Reading | None:
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


def _find_deltas(outputs: Sequence[OutputInfo], size: Size) -> Reading | None:
    del size
    three = _candidates(outputs)
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


def _find_levels(head: Literal["picodet", "blazeface"]) -> Callable[[Sequence[OutputInfo], Size], Reading | None]:
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


def _find_maps(outputs: Sequence[OutputInfo], size: Size, *, faces: bool) -> Reading | None:
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


def _level_roles(levels: int) -> tuple[Role, ...]:
    return tuple(
        role
        for level in range(levels)
        for role in (
            Role(f"{RAW_SCORES}_{level}", ("NKC",), required=level < 2, noun=f"class scores of level {level + 1}"),
            Role(f"{RAW_BOXES}_{level}", ("NKP",), required=level < 2, noun=f"boxes of level {level + 1}"),
        )
    )


_MAPS: Final = (
    Role(RAW_HEAT, ("NCHW",), required=True, noun="heat map"),
    Role(RAW_SIZES, ("NCHW",), {"C": 2}, required=True, noun="map of sizes"),
    Role(RAW_OFFSETS, ("NCHW",), {"C": 2}, required=True, noun="map of offsets"),
)


_LANDMARKS: Final = Role(RAW_POINTS, ("NCHW",), {"C": 10}, noun="map of key points")


_PROTOTYPES: Final = Role(RAW_PROTOTYPES, ("NCHW",), required=True, noun="prototypes of masks")


def _one_output(axes: str, pattern: str) -> tuple[Role, ...]:
    names = frozenset({"output", "output0", "outputs", "predictions", "detections"})
    return (Role(RAW_CANDIDATES, (axes,), required=True, names=names, noun="candidates", meaning=pattern),)


_QUERIES: Final = (
    Role(RAW_SCORES, ("NKC",), required=True, names=frozenset({"logits", "pred_logits", "scores"}), noun="class scores",
         meaning="a number for each candidate and class"),
    Role(RAW_BOXES, ("NKP",), {"P": 4}, required=True, names=frozenset({"boxes", "pred_boxes", "dets"}), noun="boxes",
         meaning="a box for each candidate"),
)  # fmt: skip

_APART: Final = (
    Role(RAW_SCORES, ("NCK",), required=True, noun="class scores", meaning="a number for each class and candidate"),
    Role(RAW_BOXES, ("NPK",), {"P": 4}, required=True, noun="boxes", meaning="a box for each candidate"),
)

HEADS: Final[dict[str, Head]] = {
    head.name: head
    for head in (
        Head("yolov8", "YOLOv8, YOLOv9, YOLO11: (N,4+C,K)", _one_output("NPK", "parts of each candidate"),
             _find_parts_first),
        Head("yolov8-pose", "YOLOv8-pose, YOLO11-pose: (N,4+C+3*J,K), J key points, as the metadata says (kpt_shape)",
             _one_output("NPK", "parts of each candidate"), _find_parts_first, points="parts", extends="yolov8",
             task="pose"),
        Head("yolov8-obb", "YOLOv8-obb, YOLO11-obb: (N,4+C+1,K), the angle last, as the metadata says (task)",
             _one_output("NPK", "parts of each candidate"), _find_parts_first, oriented=True, extends="yolov8",
             task="obb"),
        Head("yolov8-split", "YOLOv8, YOLOv9, YOLO11 before their Sigmoid: boxes (N,4,K) and logits (N,C,K)", _APART,
             _find_apart, class_start=None, activation="sigmoid"),
        Head("yolov8-seg", "YOLOv8-seg, YOLO11-seg: (N,4+C+M,K) and prototypes of masks (N,M,H/4,W/4)",
             (*_one_output("NPK", "parts of each candidate"), _PROTOTYPES), _find_prototypes, masks=True,
             extends="yolov8"),
        Head("yolov5", "YOLOv5, YOLOv7: (N,K,5+C)", _one_output("NKP", "parts of each candidate"),
             _find_parts_last(3, 6), class_start=5, objectness=4),
        Head("yolox", "YOLOX: (N,K,5+C), relative to a grid", _one_output("NKP", "parts of each candidate"),
             _find_parts_last(1, 6), decode="grid", class_start=5, objectness=4, strides=_STRIDES),
        Head("end2end", "YOLOv10, YOLO26: (N,300,6)", _one_output("NKP", "corners, score and class of each box"),
             _find_final, form="xyxy", class_start=None, class_part=5, overlapping=False),
        Head("detr", "DETR: logits (N,K,C+1) and boxes (N,K,4), with a class for no object", _QUERIES, _find_queries,
             class_start=None, activation="softmax", background=True, normalised=True, overlapping=False),
        Head("rtdetr", "RT-DETR, Deformable DETR: logits (N,K,C) and boxes (N,K,4)", _QUERIES, _find_queries,
             class_start=None, activation="sigmoid", normalised=True, overlapping=False),
        Head("ssd", "SSD: scores (N,K,C) with a background class, deltas (N,K,4) of anchors that are given", _QUERIES,
             _find_deltas, decode="deltas", class_start=None, activation="softmax"),
        Head("picodet", "PicoDet, NanoDet: scores (N,K,C) and distances (N,K,4*B) of each level", _level_roles(4),
             _find_levels("picodet"), decode="distances", class_start=None, strides=PICODET_STRIDES, centre=0.5),
        Head("blazeface", "BlazeFace: logits (N,512,1), (N,384,1) and boxes (N,512,16), (N,384,16)", _level_roles(2),
             _find_levels("blazeface"), decode="anchors", class_start=None, activation="sigmoid", per_cell=(2, 6),
             centre=0.5, points="anchors"),
        Head("centerface", "CenterFace: heat map (N,1,H/4,W/4), sizes and offsets (N,2,H/4,W/4)", (*_MAPS, _LANDMARKS),
             functools.partial(_find_maps, faces=True), decode="grid", class_start=None, strides=(4,), centre=0.5,
             points="shares"),
        Head("centernet", "CenterNet: heat map (N,C,H/4,W/4), sizes and offsets (N,2,H/4,W/4)", _MAPS,
             functools.partial(_find_maps, faces=False), decode="grid", class_start=None, activation="sigmoid",
             strides=(4,), exponential=False, peaks=True, overlapping=False),
    )
}  # fmt: skip
"""All heads, by name."""


def find_heads(outputs: Sequence[OutputInfo], size: Size, metadata: Mapping[str, str]) -> dict[str, Reading]:
    """Return the readings of a model's outputs, by head.

    Args:
        outputs: The outputs.
        size: Size of the model's images.
        metadata: Metadata of the model, where Ultralytics writes `task` and `kpt_shape`.
    """
    found = {
        name: reading
        for name, head in HEADS.items()
        if head.task in (None, metadata.get("task")) and (reading := head.find(outputs, size)) is not None
    }
    if "yolov8-pose" in found and stored_key_points(metadata) is None:
        del found["yolov8-pose"]
    extended = {HEADS[name].extends for name in found}
    return {name: reading for name, reading in found.items() if name not in extended}


def stored_key_points(metadata: Mapping[str, str]) -> tuple[int, int] | None:
    """Number of key points, and numbers of each, that Ultralytics writes into a model; None without."""
    found = re.fullmatch(r"\s*[\[(]\s*(\d+)\s*,\s*([23])\s*[\])]\s*", metadata.get("kpt_shape", ""))
    return None if found is None else (int(found[1]), int(found[2]))


def choose_head(outputs: Sequence[OutputInfo], size: Size, metadata: Mapping[str, str]) -> tuple[Head, Reading]:
    """Return the only head that fits a model's outputs; see `find_heads` for arguments.

    Raises:
        OutputRoleError: None fits, or several do.
    """
    readings = find_heads(outputs, size, metadata)
    if len(readings) == 1:
        ((name, reading),) = readings.items()
        return HEADS[name], reading
    images = "images of unknown size" if size is None else f"images of {size[0]}x{size[1]} pixels"
    listed = "\n".join(f"  '{each.name}' {format_shape(each.shape)}" for each in outputs)
    if not readings:
        known = "\n".join(f"  {head.name}: {head.title}" for head in HEADS.values())
        raise OutputRoleError(
            f"The outputs fit no head of a detector, for {images}:\n{listed}\nexpected one of:\n{known}\nName the head "
            "with head=... (--head NAME), or export the model with its input and output shapes."
        )
    fitting = "\n".join(f"  {name}: {reading.why}" for name, reading in readings.items())
    raise OutputRoleError(
        f"The outputs fit {len(readings)} heads, for {images}:\n{listed}\ncan be read as\n{fitting}\nexpected one. "
        "Name the head with head=... (--head NAME)."
    )


def named_head(outputs: Sequence[OutputInfo], size: Size, name: str, *, given: bool) -> Reading:
    """Return the reading of a head that the user named, empty if its sizes do not tell.

    Args:
        outputs: The outputs of the model.
        size: Size of its images.
        name: Name of the head.
        given: True if the user named outputs, too.

    Raises:
        OutputRoleError: The outputs fit other heads only.
    """
    own = None if given else HEADS[name].find(outputs, size)
    if own is not None:
        return own
    readings = {} if given else find_heads(outputs, size, {})
    if readings:
        listed = "\n".join(f"  '{each.name}' {format_shape(each.shape)}" for each in outputs)
        fitting = "\n".join(f"  {other}: {reading.why}" for other, reading in readings.items())
        raise OutputRoleError(
            f"head is '{name}', {HEADS[name].title}, and the outputs\n{listed}\nfit only\n{fitting}\nName one of these "
            "with head=... (--head NAME), or leave it out."
        )
    return Reading({}, "")
